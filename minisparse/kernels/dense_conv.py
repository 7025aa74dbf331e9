"""Dense convolution: im2col, one matrix product, and the output is in place; in tiles that stay in the cache.

Arrays: x (C, H, W, N), weight (O, C/groups, kh, kw), out and g (O, Ho, Wo, N), all C-contiguous. With columns
(C kh kw, pixels N) the three products of a layer are

    out = weight @ columns        grad_weight = g @ columns.T        grad_columns = weight.T @ g

and col2im takes grad_columns to grad_x. Geometry: see conv.py.
"""
import numpy as np

from . import load, memory
from .pool import parallel

TILE = 1 << 20          # numbers of a tile of columns: large enough for BLAS, small enough for the outer cache


def _tiles(x, geometry, first, last):
    """Ranges of output pixels whose columns are about TILE numbers."""
    kh, kw = geometry[:2]
    step = max(1, TILE // max(1, x.shape[0] * kh * kw * x.shape[3]))
    return [(i, min(i + step, last)) for i in range(first, last, step)]


def _columns(x, geometry, first, last):
    """im2col of the output pixels first..last; where columns and image are the same array, that array."""
    kh, kw, sy, sx, py, px, *_, ho, wo = geometry
    channels, height, width, batch = x.shape
    if (kh, kw, sy, sx, py, px) == (1, 1, 1, 1, 0, 0) and (ho, wo) == (height, width):
        return x.reshape(channels, -1)[:, first * batch:last * batch]
    columns = memory.empty((channels * kh * kw, (last - first) * batch), x.dtype)
    load("conv").im2col(x, geometry, first, last, columns)
    return columns


def _groups(groups, *arrays):
    """The arrays cut along their first axis: [(part of each array), ...], one entry a group."""
    return zip(*(np.split(a, groups) for a in arrays))


def forward(x, weight, bias, geometry, groups, limit=None):
    """out[o, y, x, n] = bias[o] + sum over (c, ky, kx) of weight[o, c, ky, kx] x[c, ...]; bias may be None.

    limit: of the number of threads.
    """
    ho, wo = geometry[-2:]
    outputs, batch = len(weight), x.shape[3]
    out = memory.empty((outputs, ho, wo, batch), x.dtype)
    flat, matrix = out.reshape(outputs, -1), weight.reshape(outputs, -1)

    def work(first, last):
        for xg, wg, og in _groups(groups, x, matrix, flat):
            for i, j in _tiles(xg, geometry, first, last):
                np.matmul(wg, _columns(xg, geometry, i, j), out=og[:, i * batch:j * batch])
        if bias is not None:
            flat[:, first * batch:last * batch] += bias[:, None]
    parallel(work, ho * wo, limit)
    return out


def grad_weight(x, g, shape, geometry, groups):
    """The gradient of the weight (its shape is `shape`). Each worker sums over its own pixels."""
    outputs, batch = len(g), x.shape[3]
    flat = g.reshape(outputs, -1)

    def work(first, last):
        total = np.zeros((outputs, shape[1] * shape[2] * shape[3]), x.dtype)
        for xg, gg, tg in _groups(groups, x, flat, total):
            for i, j in _tiles(xg, geometry, first, last):
                tg += gg[:, i * batch:j * batch] @ _columns(xg, geometry, i, j).T
        return total
    first, *others = parallel(work, geometry[-2] * geometry[-1])
    for other in others:
        first += other
    return first.reshape(shape)


def grad_input(g, weight, shape, geometry, groups):
    """The gradient of x (its shape is `shape`). Each worker owns a range of input channels."""
    outputs, batch = len(g), shape[3]
    flat = g.reshape(outputs, -1)
    per_group = weight.shape[1]
    taps = geometry[0] * geometry[1]
    out = memory.zeros(shape, g.dtype)
    pixels = geometry[-2] * geometry[-1]

    def work(first, last):
        for group, (wg, gg) in enumerate(_groups(groups, weight.reshape(outputs, -1), flat)):
            low, high = (min(max(c - group * per_group, 0), per_group) for c in (first, last))
            if low == high:
                continue
            part = out[group * per_group + low:group * per_group + high]
            matrix = wg.T[low * taps:high * taps]
            for i, j in _tiles(part, geometry, 0, pixels):
                columns = memory.empty((len(matrix), (j - i) * batch), g.dtype)
                np.matmul(matrix, gg[:, i * batch:j * batch], out=columns)
                load("conv").col2im(columns, geometry, i, j, part)
    parallel(work, shape[0])
    return out
