"""Photographs: a folder, or a zip, of class folders -> arrays.

    photos/dog/1.jpg ...  photos/cat/1.png ...        split here: a fixed share of each class is for testing
    photos/train/dog/...  photos/test/dog/...         split already

A zip is read where it lies: nothing in it is ever unpacked to disk. Files whose extension pillow does not know, hidden
files and files outside the class folders are ignored; every other file must be an image.
"""

import functools
import io
import itertools
import os
import stat
import warnings
import zipfile
from dataclasses import dataclass, field

import numpy as np

from .errors import DataError

MAX_BYTES = 256 << 20           # of one image file, unpacked: more is a mistake or a decompression bomb
MAX_PIXELS = 64_000_000         # of one image: the same

# Formats that pillow names but does not decode by itself; EPS would start Ghostscript on a stranger's file.
UNSAFE_FORMATS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


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

    Without them `test_share` of every class (at least one image), drawn with `seed`, is for testing. An image is turned
    as its EXIF says, cropped to its central square and brought to size x size: by an area filter where it shrinks, by
    bicubic interpolation where it grows. Transparency shows white, 16 bits are scaled to 8, of an animation the first
    frame counts. With `skip_bad`, files that cannot be read do not end the reading but are listed in train.left_out
    (the test set's too). DataError.
    """
    source = _open(path, skip_bad)
    parts = _layout(source)
    classes = tuple(sorted(set().union(*parts.values())))
    for part, folders in parts.items():
        if missing := [name for name in classes if name not in folders]:
            raise DataError(f"{path}: {part}/ has no class folder {', '.join(missing)}, which the other part has.\n"
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
    """A set from another source, all of it (train/ and test/ alike), labelled by the training set's `classes`.

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


# -- where the files are ----------------------------------------------------------------------------------------------

class _Source:
    """What is in a folder or a zip: `names`, relative and with "/" (a folder's own name ends in it), and read(name)."""

    def __init__(self, path, skip_bad):
        self.path, self.skip_bad, self.names, self.left_out = path, skip_bad, [], []

    def reject(self, name, reason):
        name = name if name.isprintable() else ascii(name)
        if not self.skip_bad:
            raise DataError(f"{self.path}: {name}: {reason}.\n"
                            "Replace or remove it, or leave out bad images (--skip-bad-images, skip_bad=True).")
        self.left_out.append(f"{name}: {reason}")


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
            self.names += [above + name + "/" for name in subfolders] + [above + name for name in files]

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
            raise DataError(f"{path}: neither a folder nor a zip that can be read ({_line(error)}).\n"
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
    """{part: {class: [names of its images]}}; the parts are "train" and "test", or "" where the set is not split."""
    extensions = _formats()[1]
    paths, seen = [], set()
    for name in source.names:
        if reason := _odd(name) or (name in seen and "the name of two files"):
            source.reject(name, reason)
            continue
        seen.add(name)
        parts = name.split("/")
        visible = list(itertools.takewhile(lambda part: not part.startswith(".") and part != "__MACOSX", parts))
        paths.append((parts if visible == parts else visible + [""], name))     # its folder still counts

    def is_image(parts):
        return os.path.splitext(parts[-1])[1].lower() in extensions

    def wrapped(paths):     # one folder around everything, with folders and no images in it
        inside = [parts for parts, _ in paths if len(parts) > 1]
        return (len({parts[0] for parts in inside}) == 1 and any(len(parts) > 2 for parts in inside)
                and not any(len(parts) == 2 and is_image(parts) for parts in inside))

    while wrapped(paths):
        paths = [(parts[1:], name) for parts, name in paths if len(parts) > 1]

    tops = sorted({parts[0] for parts, _ in paths if len(parts) > 1})
    split = [top.lower() for top in tops] == ["test", "train"]
    if not split and {"test", "train"} & {top.lower() for top in tops}:
        raise DataError(f"{source.path}: its folders are {', '.join(tops[:10])}.\n"
                        "Give train/ and test/ with class folders in them, or class folders alone.")
    layout = {"train": {}, "test": {}} if split else {"": {}}
    for parts, name in sorted(paths):
        part = parts.pop(0).lower() if split else ""
        if len(parts) > 1:
            files = layout[part].setdefault(parts[0], [])
            if is_image(parts):
                files.append(name)
    for part, folders in layout.items():
        if not folders:
            raise DataError(f"{source.path}: no class folders{' in ' + part + '/' if part else ''}.\n"
                            "Images belong in one folder for each class, such as dog/1.jpg and cat/1.jpg.")
        for folder, files in folders.items():
            if not files:
                raise DataError(f"{source.path}: the class folder {part + '/' if part else ''}{folder} has no images, "
                                "by their extensions.\nAdd images or remove the folder.")
    return layout


def _odd(name):
    """Why a name is not a plain relative path, or None. Nothing is unpacked, but such a file means no good."""
    if not name.isprintable():
        return "a name with unprintable characters"
    if "\\" in name or ":" in name.split("/")[0]:
        return "a name with a backslash or a drive"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "an absolute path, or one with an empty, '.' or '..' part"


# -- the images -------------------------------------------------------------------------------------------------------

def _read(source, folders, classes, size):
    """Decode {class: [names]} into one ImageSet, in that order."""
    rows, labels, names = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # pillow's doubts about odd metadata; what it cannot read, it raises
        for folder in sorted(folders):
            before = len(rows)
            for name in folders[folder]:
                try:
                    rows.append(_decode(source.read(name), size))
                except Exception as error:      # decoders raise whatever a damaged file makes them trip over
                    source.reject(name, f"no image that can be read: {_line(error)}")
                else:
                    labels.append(classes.index(folder))
                    names.append(name)
            if len(rows) == before:
                raise DataError(f"{source.path}: no image of the class {folder} can be read (the last: "
                                f"{source.left_out[-1]}).\nReplace them or remove the folder.")
    images = np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2))
    return ImageSet(images, np.array(labels, np.int64), classes, names)


def _decode(data, size):
    """The bytes of an image file -> uint8 (size, size, 3)."""
    from PIL import Image, ImageOps
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MB")
    image = Image.open(io.BytesIO(data), formats=_formats()[0])
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million")
    image.draft(None, (4 * size, 4 * size))     # JPEG: let the decoder average whole blocks of a large picture
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return fit(image.convert("RGB"), size)


def fit(image, size):
    """The central square of a pillow RGB image at size x size, as uint8 (size, size, 3).

    It shrinks by the mean over equal areas, grows by bicubic interpolation.
    """
    if image.size == (size, size):
        return np.asarray(image)
    side = min(image.size)
    block = max(side // (8 * size), 1)      # of a large image, first the mean over whole blocks
    side -= side % block
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = (left, top, left + side, top + side)
    if side < size:
        return np.asarray(image.resize((size, size), box=square))
    pixels = np.asarray(image.reduce(block, square), np.float32)
    share = _shares(len(pixels), size)
    rows = share @ pixels.reshape(len(pixels), -1)
    return np.uint8(share @ rows.reshape(size, len(pixels), 3) + 0.5)


@functools.cache
def _shares(old, new):
    """(new, old): how much each of `old` pixels counts in each of `new` areas, by how much of it lies there.

    (Pillow's BOX filter gives every pixel to one area alone: from 48 to 32 it averages 1 and 2 pixels by turns.)
    """
    edges = np.linspace(0, old, new + 1)[:, None]
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return (overlap.clip(0) * (new / old)).astype(np.float32)


def _eight_bits(image):
    """Grey of 16 bits (pillow's "I;16", or "I"), or float from 0 to 1 or to 255 -> 8 bits."""
    from PIL import Image
    pixels = np.asarray(image).astype(np.float32)
    white = 65535 if image.mode[0] == "I" else 1 if pixels.max() <= 1 else 255
    if not (pixels.min() >= 0 and pixels.max() <= white):
        raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g}, expected 0 to {white}")
    return Image.fromarray(np.uint8(pixels * (255 / white) + 0.5))


@functools.cache
def _formats():
    """The formats that pillow can decode, the common ones first, and the set of their file extensions."""
    from PIL import Image
    Image.init()
    formats = [name for name in Image.OPEN if name not in UNSAFE_FORMATS]
    formats.sort(key=lambda name: name not in ("PNG", "JPEG"))
    return formats, {extension for extension, name in Image.registered_extensions().items()
                     if name in formats or name == "MPO"}       # MPO: a JPEG of several pictures


def _split(source, images, seed, test_share):
    """Stratified: the same share of every class for testing, in (train, test)."""
    rng = np.random.default_rng(seed)
    testing = np.zeros(len(images), bool)
    for label, name in enumerate(images.classes):
        where = np.flatnonzero(images.labels == label)
        if len(where) < 2:
            raise DataError(f"{source.path}: the class {name} has a single image; one to train on and one to test on are "
                            "needed.\nAdd images or remove the folder.")
        count = min(max(round(test_share * len(where)), 1), len(where) - 1)
        testing[rng.permutation(where)[:count]] = True
    return images.subset(np.flatnonzero(~testing)), images.subset(np.flatnonzero(testing))


def _line(error):
    """An exception in one line."""
    from PIL import UnidentifiedImageError
    if isinstance(error, UnidentifiedImageError):       # its text names a BytesIO and an address
        return "unknown format, or damaged"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
