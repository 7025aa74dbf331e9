"""Batch normalisation on (C, M) arrays: a channel is one contiguous run of M = H W N numbers.

Sums may be reordered by the compiler (reassoc), without which they would not be vectorised; runs of BLOCK
numbers are summed in the array's precision and the runs in double precision, so M may be large.
"""
from ._jit import jit

BLOCK = 4096


@jit(fastmath={"reassoc", "contract"})
def moments(x, mean, variance):
    """mean[c] and (biased) variance[c] of each row of x. Two passes over a row, which stays in the cache."""
    channels, count = x.shape
    for c in range(channels):
        total = 0.0
        for start in range(0, count, BLOCK):
            part, xs = x.dtype.type(0), x[c, start:start + BLOCK]
            for i in range(len(xs)):
                part += xs[i]
            total += part
        center = x.dtype.type(total / count)
        squares = 0.0
        for start in range(0, count, BLOCK):
            part, xs = x.dtype.type(0), x[c, start:start + BLOCK]
            for i in range(len(xs)):
                part += (xs[i] - center) * (xs[i] - center)
            squares += part
        mean[c] = center
        variance[c] = squares / count


@jit(fastmath={"reassoc", "contract"})
def gradient_sums(g, x, mean, sum_g, sum_gx):
    """sum_g[c] = sum of g, sum_gx[c] = sum of g (x - mean[c]), over each row."""
    channels, count = x.shape
    for c in range(channels):
        total_g = total_gx = 0.0
        for start in range(0, count, BLOCK):
            gs, xs = g[c, start:start + BLOCK], x[c, start:start + BLOCK]
            part_g = part_gx = x.dtype.type(0)
            for i in range(len(gs)):
                part_g += gs[i]
                part_gx += gs[i] * (xs[i] - mean[c])
            total_g += part_g
            total_gx += part_gx
        sum_g[c] = total_g
        sum_gx[c] = total_gx


@jit(fastmath={"contract"})
def scale_shift(x, scale, shift, out):
    """out = scale[c] x + shift[c]."""
    for c in range(len(x)):
        a, b, source, target = scale[c], shift[c], x[c], out[c]
        for i in range(len(source)):
            target[i] = a * source[i] + b


@jit(fastmath={"contract"})
def combine(g, x, a, b, shift, out):
    """out = a[c] g + b[c] x + shift[c]."""
    for c in range(len(x)):
        p, q, r, gs, xs, target = a[c], b[c], shift[c], g[c], x[c], out[c]
        for i in range(len(xs)):
            target[i] = p * gs[i] + q * xs[i] + r
