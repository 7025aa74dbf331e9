"""What every kernel means, in plain NumPy; same names and signatures as the Numba files."""
import numpy as np


def warp(images, index, maps, scale, offset, out):
    """out[c, y, x, b] = scale[c] * p + offset[c], p being images[index[b], c] at maps[b] @ (y, x, 1).

    Here: coordinates as one matrix product, reflection by looking up a padded list of indices, and p as the
    weighted sum of four corners.
    """
    C, H, W, B = out.shape
    pixels = np.stack([*np.mgrid[:H, :W], np.ones((H, W))]).reshape(3, H * W)
    for b in range(B):
        source = maps[b] @ pixels
        corner = np.floor(source).astype(np.int64)
        reach = 1 + max(abs(corner.min()), corner.max() + 1)
        rows, columns = (np.pad(np.arange(n), reach, mode="reflect") for n in (H, W))
        image, total = images[index[b]], 0
        for y, x in (0, 0), (0, 1), (1, 0), (1, 1):
            weight = np.prod(1 - np.abs(source - corner - [[y], [x]]), axis=0)
            total = total + weight * image[:, rows[corner[0] + y + reach], columns[corner[1] + x + reach]]
        out[..., b] = (scale[:, None] * total + offset[:, None]).reshape(C, H, W)
