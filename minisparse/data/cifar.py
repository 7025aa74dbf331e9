"""CIFAR-10 (Krizhevsky 2009), the official binary edition: records of a label and 3 x 32 x 32 bytes."""

import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from .decode import fit
from .download import download as fetch, sha256
from .errors import DataError
from .images import ImageSet

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
FILES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
RECORDS, BYTES = 10_000, 1 + 3 * 32 * 32        # in a file; of a record


def read_cifar10(folder=None, download=False, size=32, classes=ANIMALS):
    """(train, test) of CIFAR-10: 5000 and 1000 images a class, of the `classes` named (None: all ten).

    `folder` (default ~/.cache/minisparse) holds data_batch_1.bin ... test_batch.bin, by themselves or in
    cifar-10-batches-bin/, or cifar-10-binary.tar.gz, whose sha256 is checked. With `download`, the latter is
    fetched into the folder when none of them is there (162 MB). Images are brought to size x size. DataError.
    """
    classes = CLASSES if classes is None else tuple(classes)
    if unknown := [name for name in classes if name not in CLASSES]:
        raise DataError(f"CIFAR-10 has no class {', '.join(unknown)}; it has {', '.join(CLASSES)}.")
    blocks = _blocks(Path(folder or Path.home() / ".cache" / "minisparse"), download)
    sets = [_parse(where, block, classes, size) for where, block in blocks]
    return _join(sets[:5]), _join(sets[5:])


def _blocks(folder, download):
    """[(where it is, its bytes)] of the six files, in the order of FILES."""
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / FILES[0]).exists():
            try:
                return [(place / name, (place / name).read_bytes()) for name in FILES]
            except OSError as error:
                raise DataError(f"CIFAR-10: {error}.\n"
                                "All six .bin files are needed: unpack them again.") from None
    archive = folder / os.path.basename(URL)
    if not archive.exists():
        if not download:
            raise DataError(f"{folder}: neither {FILES[0]} nor {archive.name} is in this folder.\n"
                            f"Name the right folder, or allow the download (--download) of {URL}.")
        fetch(URL, archive, SHA256)
    elif (found := sha256(archive)) != SHA256:
        raise DataError(f"{archive}: sha256 is {found}, not {SHA256}: damaged, or not the official file.\n"
                        "Remove it and download it again.")
    try:
        with tarfile.open(archive) as tar:
            return [(f"{archive}: {name}", tar.extractfile(f"cifar-10-batches-bin/{name}").read())
                    for name in FILES]
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{archive}: {error}.\nRemove it and download it again.") from None


def _parse(where, block, classes, size):
    """The bytes of one file -> the images of `classes`."""
    if len(block) != RECORDS * BYTES:
        raise DataError(f"{where}: {len(block)} bytes, expected {RECORDS * BYTES}.\n"
                        "The file is cut off, or not of the binary edition: unpack it again.")
    records = np.frombuffer(block, np.uint8).reshape(RECORDS, BYTES)
    if (largest := records[:, 0].max()) > 9:
        raise DataError(f"{where}: a label is {largest}, expected 0 to 9.\n"
                        "The file is damaged: unpack it again.")
    label_of = np.full(10, -1)
    label_of[[CLASSES.index(name) for name in classes]] = np.arange(len(classes))
    labels = label_of[records[:, 0]]
    kept = np.flatnonzero(labels >= 0)
    images = records[kept, 1:].reshape(-1, 3, 32, 32)
    if size != 32:
        from PIL import Image
        resized = [fit(Image.fromarray(image), size) for image in images.transpose(0, 2, 3, 1)]
        images = np.stack(resized).transpose(0, 3, 1, 2)
    names = [f"{where}[{i}]" for i in kept]
    return ImageSet(images, labels[kept], classes, names)


def _join(sets):
    return ImageSet(np.ascontiguousarray(np.concatenate([part.images for part in sets])),
                    np.concatenate([part.labels for part in sets]), sets[0].classes,
                    [name for part in sets for name in part.names])
