"""MNIST (LeCun, Cortes, Burges 1998) and sets in its format: IDX files, plain or gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from .download import download as fetch
from .errors import DataError
from .images import ImageSet

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MAX_COUNT = 1_000_000           # a header that promises more images is damaged


def read_mnist(folder, download=False):
    """(train, test) from the four IDX files in `folder`: images uint8 (n, 1, 28, 28), classes "0" to "9".

    The files are train-images-idx3-ubyte and so on, with or without .gz. With `download` the missing ones are
    fetched into the folder and their sha256 is checked (12 MB in all). DataError.
    """
    paths = [_find(Path(folder), name, download) for name in SHA256]
    return _pair(*paths[:2]), _pair(*paths[2:])


def _find(folder, name, download):
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.exists():
            return path
    if not download:
        raise DataError(f"{folder / name}: no such file, with or without .gz.\n"
                        f"Name the right folder, or allow the download (--download, or download=True) of {URL}.")
    fetch(URL + name, folder / name, SHA256[name])
    return folder / name


def _pair(images_path, labels_path):
    images, labels = _read_idx(images_path, (28, 28)), _read_idx(labels_path, ())
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} of {images_path.name}.\n"
                        "The two files do not belong together: download both again.")
    if (largest := labels.max()) > 9:
        raise DataError(f"{labels_path}: a label is {largest}, expected 0 to 9.\nDownload the file again.")
    names = [f"{images_path.name}[{i}]" for i in range(len(labels))]
    return ImageSet(images[:, None], labels.astype(np.int64), tuple("0123456789"), names)


def _read_idx(path, shape):
    """An IDX file of bytes -> uint8 (count, *shape). Big-endian header: 0x800 + dimensions, count, *shape."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rb") as file:
            header = np.frombuffer(file.read(8 + 4 * len(shape)), ">u4").tolist()
            count = header[1] if len(header) > 1 else 0
            if header != [0x801 + len(shape), count, *shape] or not 0 < count <= MAX_COUNT:
                raise ValueError(f"header {header}, expected {[0x801 + len(shape), 'count', *shape]}")
            size = count * int(np.prod(shape))
            data = file.read(size + 1)          # one more, to notice a file that is too long
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: not the IDX file expected, or damaged: {error}.\n"
                        "Download it again.") from None
    if len(data) != size:
        found = "more" if len(data) > size else len(data)
        raise DataError(f"{path}: {found} bytes of data, expected {size}.\nDownload it again.")
    return np.frombuffer(data, np.uint8).reshape(count, *shape).copy()
