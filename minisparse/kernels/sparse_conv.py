"""Sparse convolution and matrix product for inference: the nonzeros of a weight, each with an offset into the input.

On a zero-padded image (C, Hp, Wp, N) the tap (c, ky, kx) of an output row is that row's start plus a constant offset,
so a sparse convolution is a sparse matrix product whose columns are offsets, with no columns to build (csr.py). Padding
serves all the edges.
"""
from typing import NamedTuple

import numpy as np

from . import load, memory
from .pool import parallel

NARROW = 16     # below this batch a row of pixels is too short a run, and whole planes are computed at once


class Taps(NamedTuple):
    """A weight (O, C/groups, kh, kw) by its nonzeros in CSR order: the rows are outputs."""

    shape: tuple
    indptr: np.ndarray      # (O + 1,) int64
    channel: np.ndarray     # (nnz,) int64, of the whole input
    ky: np.ndarray
    kx: np.ndarray
    value: np.ndarray       # (nnz,)


def taps(weight, groups=1):
    """The Taps of a dense weight array."""
    o, c, ky, kx = np.nonzero(weight)
    outputs, per_group = weight.shape[:2]
    indptr = np.searchsorted(o, np.arange(outputs + 1)).astype(np.int64)
    return Taps(weight.shape, indptr, c + o // (outputs // groups) * per_group, ky, kx, weight[o, c, ky, kx])


def pad(x, geometry):
    """x (C, H, W, N) in a flat zero-padded copy, its planes (Hp, Wp, N), and Hp, Wp.

    Where sx > 1, the columns of a padded row are split into sx phases, so that a tap still meets a contiguous run.
    """
    kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
    channels, height, width, batch = x.shape
    hp = max((ho - 1) * sy + (kh - 1) * dy + 1, py + height)
    wp = -(-max((wo - 1) * sx + (kw - 1) * dx + 1, px + width) // sx) * sx
    planes = memory.zeros((channels, hp, sx, wp // sx, batch), x.dtype)
    for phase in range(sx):
        first = (phase - px) % sx
        part = x[:, :, first::sx]
        at = (first + px) // sx
        planes[:, py:py + height, phase, at:at + part.shape[2]] = part
    return planes.reshape(-1), hp, wp


def forward(x, taps, bias, geometry):
    """Convolution of x (C, H, W, N) with the nonzeros of a weight; bias (O,). Returns (O, Ho, Wo, N)."""
    kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
    batch = x.shape[3]
    flat, hp, wp = pad(x, geometry)
    column = taps.kx * dx
    offset = (((taps.channel * hp + taps.ky * dy) * sx + column % sx) * (wp // sx) + column // sx) * batch
    outputs = taps.shape[0]
    gather = load("csr").gather_rows
    if batch < NARROW and sy == sx == 1:
        # one run over all rows; what falls on the padding between two rows is cut off
        out = memory.empty((outputs, 1, ho * wp * batch), x.dtype)
        out[...] = bias[:, None, None]
        starts = np.zeros(1, np.int64)
        length = ((ho - 1) * wp + wo) * batch

        def work(first, last):
            gather(taps.indptr[first:last + 1], offset, taps.value, flat, starts, out[first:last, :, :length])
        parallel(work, outputs)
        return np.ascontiguousarray(out.reshape(outputs, ho, wp, batch)[:, :, :wo])
    out = memory.empty((outputs, ho, wo * batch), x.dtype)
    out[...] = bias[:, None, None]
    starts = np.arange(ho) * (sy * wp * batch)
    parallel(lambda first, last: gather(taps.indptr, offset, taps.value, flat, starts[first:last], out[:, first:last]),
             ho)
    return out.reshape(outputs, ho, wo, batch)


def product(x, taps, bias):
    """weight @ x + bias with the nonzeros of a weight (M, K, 1, 1); x (K, N). Returns (M, N)."""
    out = memory.empty((taps.shape[0], 1, x.shape[1]), x.dtype)
    out[...] = bias[:, None, None]
    gather, offset, starts = load("csr").gather_rows, taps.channel * x.shape[1], np.zeros(1, np.int64)
    flat = x.reshape(-1)
    parallel(lambda first, last: gather(taps.indptr[first:last + 1], offset, taps.value, flat, starts, out[first:last]),
             len(out), limit=None if len(taps.value) * x.shape[1] > 1 << 20 else 1)
    return out[:, 0]
