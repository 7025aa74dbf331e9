"""One pass from stored photographs to a normalised, augmented batch."""

import numpy as np

from ._jit import jit


@jit()
def reflect(i, n):
    """The index in [0, n) that i becomes when a line of n pixels is mirrored at its first and last pixel."""
    if 0 <= i < n:
        return i
    period = max(2 * n - 2, 1)
    i = abs(i) % period
    return min(i, period - i)


@jit()
def warp(images, index, maps, scale, offset, out):
    """out[c, y, x, b] = scale[c] * p + offset[c], p being images[index[b], c] at maps[b] @ (y, x, 1).

    Between pixels p is bilinear, outside the image reflected (np.pad "reflect"). Coordinates are float64,
    values float32; a map onto whole pixels copies them exactly.

    images (n, C, H, W) uint8, index (B,) int64, maps (B, 2, 3) float32, scale and offset (C,) float32,
    out (C, H, W, B) float32. Cost: for each of the B*C*H*W numbers 4 loads and 3 interpolations,
    or 1 load where the map hits a whole pixel.
    """
    C, H, W, B = out.shape
    for first in range(0, B, 16):  # 16 images fill one 64-byte line of `out`, written while it is in cache
        for y in range(H):
            for b in range(first, min(first + 16, B)):
                image, map = images[index[b]], maps[b]
                for x in range(W):
                    source_y = map[0, 0] * y + map[0, 1] * x + map[0, 2]
                    source_x = map[1, 0] * y + map[1, 1] * x + map[1, 2]
                    y0, x0 = np.int64(np.floor(source_y)), np.int64(np.floor(source_x))
                    down, right = np.float32(source_y - y0), np.float32(source_x - x0)
                    y0, y1 = reflect(y0, H), reflect(y0 + 1, H)
                    x0, x1 = reflect(x0, W), reflect(x0 + 1, W)
                    whole = down == 0 and right == 0  # shifts and flips alone: one load, not four
                    for c in range(C):
                        pixel = np.float32(image[c, y0, x0])
                        if not whole:
                            upper = mix(pixel, image[c, y0, x1], right)
                            lower = mix(image[c, y1, x0], image[c, y1, x1], right)
                            pixel = mix(upper, lower, down)
                        out[c, y, x, b] = scale[c] * pixel + offset[c]


@jit()
def mix(a, b, share):
    """a + share * (b - a) of two pixels in float32; exactly a at share 0."""
    return np.float32(a) + share * (np.float32(b) - np.float32(a))
