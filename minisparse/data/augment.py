"""Random views of photographs: shifted, mirrored, a little turned or zoomed, partly covered."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np


@dataclass(frozen=True)
class Augment:
    """What may happen to a training image.

    shift: up to this many whole pixels each way, borders reflected (a random crop of the padded image).
    flip: mirror left and right. Alternating, not a coin at every epoch: a coin shows half of the images the
        same way round in two epochs running, alternating shows every image both ways in every two epochs.
        It was better wherever flipping helped at all (Jordan, arXiv:2404.00498).
    rotate: up to this many degrees each way about the centre.
    zoom: enlarged or reduced up to this many times, as often one as the other (log-uniform); 1 is off.
    cutout: side in pixels of a square set to the mean colour, its centre anywhere in the image
        (DeVries and Taylor, arXiv:1708.04552); 0 is off.

    Shifts and flips copy pixels exactly; rotation and zoom interpolate.
    """

    shift: int = 4
    flip: bool = True
    rotate: float = 0.0
    cutout: int = 0
    zoom: float = 1.0

    def __post_init__(self):
        for name, kind in ("shift", Integral), ("rotate", Real), ("cutout", Integral):
            value = getattr(self, name)
            if not isinstance(value, kind) or not 0 <= value < np.inf:
                kind = "whole number" if kind is Integral else "number"
                raise ValueError(f"Augment: {name} must be a {kind} >= 0, found {value!r}")
        if not isinstance(self.zoom, Real) or not 1 <= self.zoom < np.inf:
            raise ValueError(f"Augment: zoom must be a number >= 1, found {self.zoom!r}")

    def maps(self, rng, mirrored, height, width):
        """Where the pixels of each new image come from: (B, 2, 3) float32, source (y, x) = map @ (y, x, 1).

        mirrored (B,) bool tells which images are flipped this time (when `flip` is on).
        """
        angle = np.radians(rng.uniform(-self.rotate, self.rotate, len(mirrored)))
        shift = rng.integers(-self.shift, self.shift, size=(len(mirrored), 2), endpoint=True)
        way = np.where(mirrored & self.flip, -1.0, 1.0)
        turn = np.array([[np.cos(angle), -np.sin(angle) * way], [np.sin(angle), np.cos(angle) * way]])
        turn = turn.transpose(2, 0, 1)
        if self.zoom > 1:
            turn = turn * self.zoom ** rng.uniform(-1, 1, (len(mirrored), 1, 1))
        centre = np.array([height - 1, width - 1]) / 2
        start = centre - turn @ centre + shift  # turn and zoom about the centre, then shift
        return np.concatenate([turn, start[:, :, None]], axis=2).astype(np.float32)

    def cover(self, rng, out):
        """Set one square in each image of out (C, H, W, B) to 0, the mean of normalised images, in place."""
        C, H, W, B = out.shape
        top, left = rng.integers(0, [[H], [W]], size=(2, B)) - self.cutout // 2
        y, x = np.arange(H)[:, None], np.arange(W)[:, None]
        rows, columns = (top <= y) & (y < top + self.cutout), (left <= x) & (x < left + self.cutout)
        np.copyto(out, 0, where=rows[:, None] & columns)


def check_images(caller, images):
    """ValueError unless images is a uint8 array (n, C, H, W) that is not empty."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError(f"{caller}: images must be uint8 of shape (n, C, H, W), not empty, "
                         f"found {images.dtype} {images.shape}")


def channel_stats(images):
    """(mean, std), each (C,) float64, of x / 255 over images (n, C, H, W) uint8; exact, from a histogram."""
    check_images("channel_stats", images)
    share = sum(np.stack([np.bincount(plane.ravel(), minlength=256) for plane in image]) for image in images)
    share = share / share.sum(axis=1, keepdims=True)
    value = np.arange(256) / 255
    mean = share @ value
    return mean, np.sqrt((share * (value - mean[:, None]) ** 2).sum(axis=1))
