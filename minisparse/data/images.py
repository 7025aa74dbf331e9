"""Photographs: a folder, or a zip, of class folders -> arrays.

    photos/dog/1.jpg ...  photos/cat/1.png ...     not split: a share of each class is set aside for testing
    photos/train/dog/...  photos/test/dog/...      split already

A zip is read where it lies: nothing in it is ever unpacked to disk. Ignored are hidden files, files outside
the class folders and files whose extension pillow does not know; every other file must be an image.
"""

import itertools
import os
import stat
import warnings
import zipfile
from dataclasses import dataclass, field

import numpy as np

from .decode import MAX_BYTES, decode, formats, reason
from .errors import DataError


@dataclass
class ImageSet:
    """Labelled images in memory.

    images    uint8 (n, 3, S, S), C-contiguous (MNIST: one channel)
    labels    int64 (n,), an index into classes
    classes   the class names
    names     where each image came from, for reports
    left_out  files that could not be used, each with the reason (empty unless skip_bad was asked for)
    """
    images: np.ndarray
    labels: np.ndarray
    classes: tuple
    names: list
    left_out: list = field(default_factory=list)

    def __len__(self):
        return len(self.labels)

    def subset(self, index):
        """The images at `index` (integers), in that order."""
        return ImageSet(self.images[index], self.labels[index], self.classes,
                        [self.names[i] for i in index], self.left_out)


def read_images(path, size=32, seed=0, test_share=0.2, skip_bad=False):
    """(train, test) from a folder or zip of class folders, with or without train/ and test/ above them.

    Without them `test_share` of every class (at least one image), drawn with `seed`, is for testing. Images
    are cropped to the central square and brought to size x size (see decode). With `skip_bad`, files that
    cannot be read do not end the reading but are listed in train.left_out (the test set's too). DataError; ValueError
    for a size below 1, or a share outside (0, 1).
    """
    if not isinstance(size, int) or size < 1 or not 0 < test_share < 1:
        raise ValueError(f"read_images: size must be a whole number, at least 1, and test_share lie between 0 and 1, "
                         f"got {size} and {test_share}")
    source = _open(path, skip_bad)
    parts = _layout(source)
    classes = tuple(sorted(set().union(*parts.values())))
    for part, folders in parts.items():
        if missing := [name for name in classes if name not in folders]:
            raise DataError(f"{path}: {part}/ has no class folder {', '.join(missing)}, the other part has.\n"
                            "train/ and test/ must have the same classes.")
    if len(classes) < 2:
        raise DataError(f"{path}: only one class folder, {classes[0]}. Training needs at least two classes.")
    if "train" in parts:
        train = _read(source, parts["train"], classes, size)
        test = _read(source, parts["test"], classes, size)
    else:
        train, test = _split(source, _read(source, parts[""], classes, size), seed, test_share)
    train.left_out = source.left_out
    return train, test


def read_validation(path, classes, size=32, skip_bad=False):
    """A set from another source, all of it (train/ and test/ alike), labelled by the `classes` of training.

    It may lack classes, but has none that training does not know. Images as in `read_images`. DataError.
    """
    source = _open(path, skip_bad)
    merged = {}
    for folders in _layout(source).values():
        for name, files in folders.items():
            merged[name] = merged.get(name, []) + files
    if unknown := sorted(set(merged) - set(classes)):
        raise DataError(f"{path}: training does not know the class {', '.join(unknown)}; it knows "
                        f"{', '.join(classes)}.\nRename or remove the folder.")
    images = _read(source, merged, tuple(classes), size)
    images.left_out = source.left_out
    return images


class _Source:
    """A folder or a zip: `names`, relative and with "/" (a folder's own name ends in it), and read(name)."""

    def __init__(self, path, skip_bad):
        self.path, self.skip_bad, self.names, self.left_out = path, skip_bad, [], []

    def reject(self, name, why):
        name = name if name.isprintable() else ascii(name)
        if not self.skip_bad:
            raise DataError(f"{self.path}: {name}: {why}.\n"
                            "Replace or remove it, or leave out all that are bad (--skip-bad-images).")
        self.left_out.append(f"{name}: {why}")


class _Folder(_Source):
    def __init__(self, path, skip_bad):
        super().__init__(path, skip_bad)
        seen = set()
        for folder, subfolders, files in os.walk(path, followlinks=True):
            if os.path.realpath(folder) in seen:        # a link back up
                subfolders.clear()
                continue
            seen.add(os.path.realpath(folder))
            above = os.path.relpath(folder, path).replace(os.sep, "/") + "/"
            above = "" if above == "./" else above
            self.names += [f"{above}{name}/" for name in subfolders] + [above + name for name in files]

    def read(self, name):
        path = os.path.join(self.path, name)
        if not stat.S_ISREG(os.stat(path).st_mode):     # reading a pipe would wait for ever
            raise OSError("not a regular file")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)


class _Zip(_Source):
    def __init__(self, path, skip_bad):
        super().__init__(path, skip_bad)
        try:
            self.zip = zipfile.ZipFile(path)
            self.names = self.zip.namelist()
        except Exception as error:      # a damaged directory makes zipfile raise whatever it trips over
            raise DataError(f"{path}: neither a folder nor a zip that can be read ({reason(error)}).\n"
                            "Give a folder or a zip of class folders.") from None

    def read(self, name):       # zipfile stops at the size that the entry declares, and checks its CRC
        with self.zip.open(name) as file:
            return file.read(MAX_BYTES + 1)


def _open(path, skip_bad):
    path = os.fspath(path)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder. Give a folder or a zip of class folders.")
    return _Folder(path, skip_bad) if os.path.isdir(path) else _Zip(path, skip_bad)


def _layout(source):
    """{part: {class: [names of its images]}}: parts "train" and "test", or "" for a set not split."""
    paths, seen = [], set()             # paths: (the parts of a name, the name)
    for name in source.names:
        if why := _odd(name) or (name in seen and "the name of two files"):
            source.reject(name, why)
            continue
        seen.add(name)
        parts = name.split("/")
        visible = list(itertools.takewhile(lambda part: part[:1] != "." and part != "__MACOSX", parts))
        paths.append((parts if visible == parts else visible + [""], name))     # its folder still counts

    while _wrapped(paths):
        paths = [(parts[1:], name) for parts, name in paths if len(parts) > 1]

    tops = sorted({parts[0] for parts, _ in paths if len(parts) > 1})
    split = [top.lower() for top in tops] == ["test", "train"]
    if not split and {"test", "train"} & {top.lower() for top in tops}:
        raise DataError(f"{source.path}: its folders are {', '.join(tops[:10])}.\n"
                        "Give train/ and test/ with class folders in them, or class folders alone.")
    layout = {"train": {}, "test": {}} if split else {"": {}}
    for parts, name in sorted(paths):
        part = parts.pop(0).lower() if split and len(parts) > 1 else ""
        if len(parts) > 1:
            files = layout[part].setdefault(parts[0], [])
            if _is_image(parts):
                files.append(name)
    for part, folders in layout.items():
        within = f"{part}/" if part else ""
        if not folders:
            raise DataError(f"{source.path}: no class folders in {within or 'it'}.\n"
                            "Images belong in one folder for each class, such as dog/1.jpg and cat/1.jpg.")
        if empty := [folder for folder, files in folders.items() if not files]:
            raise DataError(f"{source.path}: {within}{empty[0]} has no images (by their extensions).\n"
                            "Add images or remove the folder.")
    return layout


def _odd(name):
    """Why a name is not a plain relative path, or None. Nothing is unpacked, but such a file is no good."""
    if not name.isprintable():
        return "a name with unprintable characters"
    if "\\" in name or ":" in name.split("/")[0]:
        return "a name with a backslash or a drive"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "an absolute path, or one with an empty, '.' or '..' part"


def _is_image(parts):
    return os.path.splitext(parts[-1])[1].lower() in formats()[1]


def _wrapped(paths):
    """Is there one folder around everything, as zips often have, with folders and no images in it?"""
    inside = [parts for parts, _ in paths if len(parts) > 1]
    return (len({parts[0] for parts in inside}) == 1 and any(len(parts) > 2 for parts in inside)
            and not any(len(parts) == 2 and _is_image(parts) for parts in inside))


def _read(source, folders, classes, size):
    """Decode {class: [names]} into one ImageSet, in that order."""
    rows, labels, names = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # pillow's doubts about metadata; what it cannot read, it raises
        for folder in sorted(folders):
            before = len(rows)
            for name in folders[folder]:
                try:
                    rows.append(decode(source.read(name), size))
                except Exception as error:      # decoders raise whatever a damaged file makes them trip over
                    source.reject(name, f"no image that can be read: {reason(error)}")
                else:
                    labels.append(classes.index(folder))
                    names.append(name)
            if len(rows) == before:
                raise DataError(f"{source.path}: no image of the class {folder} can be read (the last: "
                                f"{source.left_out[-1]}).\nReplace them or remove the folder.")
    images = np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2))
    return ImageSet(images, np.array(labels, np.int64), classes, names)


def _split(source, images, seed, test_share):
    """Stratified: the same share of every class for testing, in (train, test)."""
    rng = np.random.default_rng(seed)
    testing = np.zeros(len(images), bool)
    for label, name in enumerate(images.classes):
        where = np.flatnonzero(images.labels == label)
        if len(where) < 2:
            raise DataError(f"{source.path}: the class {name} has a single image: training needs one and "
                            "testing another.\nAdd images or remove the folder.")
        count = min(max(round(test_share * len(where)), 1), len(where) - 1)
        testing[rng.permutation(where)[:count]] = True
    return images.subset(np.flatnonzero(~testing)), images.subset(np.flatnonzero(testing))
