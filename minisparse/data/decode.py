"""The bytes of an image file, of any format that pillow decodes -> a square of RGB bytes."""

import functools
import io
import logging

import numpy as np

MAX_BYTES = 256 << 20           # of one image file: more is a mistake or a decompression bomb
MAX_PIXELS = 64_000_000         # of one image: the same

# Formats that pillow knows but does not decode by itself; for EPS it would start Ghostscript.
LEFT_ALONE = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


def decode(data, size):
    """The bytes of an image file -> uint8 (size, size, 3).

    Turned as its EXIF says; transparency shows white, 16 bits are scaled to 8, of an animation the first
    frame counts; then `fit`. A damaged file raises whatever makes the decoder stumble.
    """
    from PIL import Image, ImageOps
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MB")
    image = Image.open(io.BytesIO(data), formats=formats()[0])
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS // 10**6} million")
    image.draft(None, (4 * size, 4 * size))     # a large JPEG: the decoder itself takes the mean over blocks
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return fit(image.convert("RGB"), size)


def fit(image, size):
    """The central square of a pillow RGB image at size x size, as uint8 (size, size, 3).

    It shrinks by the mean over equal areas and grows by bicubic interpolation.
    """
    if image.size == (size, size):
        return np.asarray(image)
    side = min(image.size)
    block = max(side // (8 * size), 1)          # of a large image, first the mean over whole blocks
    side -= side % block
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = (left, top, left + side, top + side)
    if side < size:
        return np.asarray(image.resize((size, size), box=square))
    pixels = np.asarray(image.reduce(block, square), np.float32)
    share = _shares(len(pixels), size)
    rows = share @ pixels.reshape(len(pixels), -1)
    return np.uint8(share @ rows.reshape(size, len(pixels), 3) + 0.5)


@functools.lru_cache(16)
def _shares(old, new):
    """(new, old): how much each of `old` pixels counts in each of `new` areas, by how much of it lies there.

    (Pillow's BOX filter gives a pixel to one area alone: from 48 to 32 it averages 1 and 2 pixels by turns.)
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
def formats():
    """The formats that pillow can decode, the common ones first, and the set of their file extensions."""
    from PIL import Image
    Image.init()
    logging.getLogger("PIL").addHandler(logging.NullHandler())      # it logs to stderr what it also raises
    names = [name for name in Image.OPEN if name not in LEFT_ALONE]
    names.sort(key=lambda name: name not in ("PNG", "JPEG"))
    return names, {extension for extension, name in Image.registered_extensions().items()
                   if name in names or name == "MPO"}               # MPO: a JPEG of several pictures


def reason(error):
    """What an exception says, in one line."""
    from PIL import UnidentifiedImageError
    if isinstance(error, UnidentifiedImageError):       # its text names a BytesIO and an address
        return "unknown format, or damaged"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
