"""Batch normalisation on (C, M) arrays: a channel is one contiguous run of M = H W N numbers.

Sums may be reordered by the compiler (reassoc), without which they would not be vectorised; runs of BLOCK
numbers are summed in the array's precision and the runs in double precision, so M may be large.
"""
import numpy as np

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


# --- both passes over a row while it is in the cache -----------------------------------------------------------
@jit()
def normalize(x, weight, bias, eps, mean, variance, out):
    """The moments of each row of x, and out = (x - mean) / sqrt(variance + eps) weight + bias."""
    for c in range(len(x)):
        one = slice(c, c + 1)
        moments(x[one], mean[one], variance[one])
        scale = weight[one] / np.sqrt(variance[one] + eps)
        scale_shift(x[one], scale, bias[one] - mean[one] * scale, out[one])


@jit()
def normalize_grad(g, x, mean, scale, inverse, sum_g, sum_gx, out):
    """The sums of `gradient_sums`, and out = scale (g - mean(g) - xhat mean(g xhat)), xhat = (x - mean) inverse."""
    count = x.dtype.type(x.shape[1])
    for c in range(len(x)):
        one = slice(c, c + 1)
        gradient_sums(g[one], x[one], mean[one], sum_g[one], sum_gx[one])
        slope = -scale[one] * inverse[one] * inverse[one] * sum_gx[one] / count
        combine(g[one], x[one], scale[one], slope, -scale[one] * sum_g[one] / count - slope * mean[one], out[one])
