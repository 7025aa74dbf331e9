"""Convolution with some of the weights: what direct.py needs, built once for a set of weights and a shape of input.

Arrays as in dense_conv.py: x (C, H, W, N), weight (O, C/groups, kh, kw), out and g (O, Ho, Wo, N), float32. A matrix
product is the convolution of images of one pixel.
"""
from typing import NamedTuple

import numpy as np

from . import dense_conv, have_numba, load, memory
from .pool import parallel, threads

L1_BYTES = 40 << 10     # of the first-level cache, for the rows of a block of input channels
SEGMENT_COST = 2        # in nonzeros
REMEMBERED = 4          # shapes of input (training, last batch, evaluation, ...) that plans are kept for


def remembered(plans, key, make):
    """plans[key], made when first asked for. The dict keeps REMEMBERED of them; several threads may ask."""
    plan = plans.get(key)
    if plan is None:
        for old in list(plans)[:1 - REMEMBERED]:
            plans.pop(old, None)
        plan = plans[key] = make()
    return plan


def fits(geometry, shape, dtype=np.float32):
    """Whether a DirectConv can do the convolution of inputs of this shape: else dense_conv has to.

    It takes Numba, float32, offsets of 32 bits, and where a stride keeps rows apart, rows of outputs that fill a vector
    register.
    """
    if dtype != np.float32 or not have_numba():
        return False
    from .tile import LANES     # here, since it imports Numba
    kh, kw, _, _, py, px, dy, dx, _, _ = geometry
    padded = shape[0] * (shape[1] + 2 * py + kh * dy) * (shape[2] + 2 * px + kw * dx) * shape[3]
    return padded < 1 << 31 and (geometry[2:4] == (1, 1) or geometry[-1] * shape[3] >= LANES)


def transposed(geometry, shape):
    """The geometry of the convolution, of stride 1, that takes the gradient of the output to that of the input."""
    kh, kw, _, _, py, px, dy, dx, _, _ = geometry
    return (kh, kw, 1, 1, dy * (kh - 1) - py, dx * (kw - 1) - px, dy, dx, *shape[1:3])


class Taps(NamedTuple):
    """The kept weights of a layer: where they stand in the flat weight, and their coordinates; all of one length."""

    index: np.ndarray
    output: np.ndarray
    channel: np.ndarray
    ky: np.ndarray
    kx: np.ndarray


def taps(kept, groups=1):
    """The Taps of a mask (O, C/groups, kh, kw); channel counts through all groups."""
    outputs, per_group, kh, kw = kept.shape
    index = rest = np.flatnonzero(kept)
    places = []
    for size in kw, kh, per_group:      # by `//` of 32 bits, which NumPy vectorises; divmod takes five times as long
        whole = np.asarray(rest, np.int32) // np.int32(size)
        places.append(rest - whole * np.int32(size))
        rest = whole
    kx, ky, channel = places
    output = rest
    if groups > 1:
        channel += output // (outputs // groups) * per_group
    return Taps(index, output, channel, ky, kx)


def tap_places(geometry, row, phase, batch):
    """Where each tap of a kernel begins in a padded plane, (kh kw,).

    The plane has rows of `row` numbers; where the stride sx is above 1, a row is split into sx phases of columns, each
    of `phase` pixels, so that a tap meets contiguous numbers.
    """
    kh, kw, _, sx, _, _, dy, dx, _, _ = geometry
    ky, kx = np.divmod(np.arange(kh * kw), kw)
    return ky * dy * row + (kx * dx % sx * phase + kx * dx // sx) * batch


def by_block(taps, channels, blocks, outputs):
    """(order, counts): the order of taps by block of so many channels and then by output; how many each has.

    counts: (blocks, outputs).
    """
    key = taps.channel // channels * outputs + taps.output
    if blocks * outputs < 1 << 16:
        key = key.astype(np.uint16)         # which NumPy sorts ten times faster
    return np.argsort(key, kind="stable"), np.bincount(key, minlength=blocks * outputs).reshape(blocks, outputs)


class DirectConv:
    """A convolution with kept weights, sorted as the direct kernels meet them, for one geometry and shape of input.

    geometry: see conv.py; shape: of the input, (C, H, W, N), one that `fits`; outputs: their number. `index` tells
    the order: where each kept weight stands in the flat weight.
    """

    def __init__(self, taps, geometry, shape, outputs):
        from .tile import LANES, REGISTERS      # here, since it imports Numba
        kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
        channels, height, width, batch = shape
        self.geometry, self.out_shape = geometry, (outputs, ho, wo, batch)

        # the padded copy: planes of hp rows of wp columns
        self.hp = max((ho - 1) * sy + (kh - 1) * dy + 1, py + height)
        self.wp = -(-max((wo - 1) * sx + (kw - 1) * dx + 1, px + width) // sx) * sx
        self.row = self.wp * batch
        self.step = sy * self.row

        # outputs are computed in runs: rows, or where these are short a whole plane at a time; what falls on the
        # padding between its rows, and on some numbers beyond that fill the last register, is cut off
        self.whole = batch < LANES and sy == sx == 1
        numbers = self.hp * self.row
        if self.whole:
            self.runs, self.length = 1, -(-ho * self.row // LANES) * LANES
            numbers = max(numbers, (kh - 1) * dy * self.row + (kw - 1) * dx * batch + self.length)
        else:
            self.runs, self.length = ho, wo * batch
        self.plane = plane_stride(numbers)

        # a run of outputs in equal tiles, as long as the registers allow
        tiles = -(-self.length // (REGISTERS * LANES))
        self.tile = (0,) * min(-(-self.length // (tiles * LANES)), self.length // LANES)
        self.width = len(self.tile) * LANES

        reach = kh * (self.width + (kw - 1) * batch) * 4        # bytes that a tile reads of each channel
        block = max(L1_BYTES // reach, 3)
        blocks = -(-channels // block)
        order, counts = by_block(taps, block, blocks, outputs)
        place = tap_places(geometry, self.row, self.wp // sx, batch).astype(np.int32)
        offset = taps.channel * np.int32(self.plane) + place[taps.ky * kw + taps.kx]
        self.offset, self.index = offset[order], taps.index[order]
        self.segments = np.concatenate([[0], np.cumsum(counts)])
        # of each output: its nonzeros, and what it takes to begin and end a segment; for an even split among threads
        self.costs = np.cumsum(counts.sum(axis=0) + SEGMENT_COST * blocks)

    def pad(self, x):
        """x (C, H, W, N) in a zero-padded copy, flat."""
        sx, py, px = self.geometry[3:6]
        x, flat, pad = np.ascontiguousarray(x), memory.empty((len(x), self.plane), x.dtype), load("direct").pad
        parallel(lambda first, last: pad(x[first:last], py, px, self.wp // sx, sx, flat[first:last]), len(x),
                 threads(16 * flat.size))       # to move a number takes as long as many multiplications
        return flat.reshape(-1)

    def forward(self, padded, value, bias=None):
        """The convolution of an input that `pad` returned. value: the kept weights in the order of `index`."""
        outputs = self.out_shape[0]
        out = memory.empty((outputs, self.runs, self.length))
        bias = np.zeros(outputs, np.float32) if bias is None else bias
        convolve = load("direct").convolve

        def work(first, last):
            part = memory.empty((last - first, self.width))
            convolve(self.tile, padded, self.segments, self.offset, value, bias, self.step, first, last, part, out)
        parallel(work, outputs, threads(self._multiplications), self.costs)
        if not self.whole:
            return out.reshape(self.out_shape)
        cut = memory.empty(self.out_shape)
        cut[...] = self._rows(out)
        return cut

    def grad_weight(self, padded, g):
        """The gradient of the kept weights, in the order of `index`."""
        out = np.zeros(len(self.index), np.float32)
        if self.whole:
            runs = memory.zeros((len(g), self.runs, self.length))
            self._rows(runs)[...] = g
        else:
            runs = g.reshape(len(g), self.runs, self.length)
        kernel = load("direct").convolve_grad_weight

        def work(first, last):
            part = memory.empty((last - first, self.width))
            kernel(self.tile, padded, self.segments, self.offset, runs, self.step, first, last, part, out)
        parallel(work, len(g), threads(self._multiplications), self.costs)
        return out

    @property
    def _multiplications(self):
        return len(self.index) * self.runs * self.length

    def _rows(self, planes):
        """The outputs (O, Ho, Wo, N) in an array of whole planes (O, 1, length)."""
        outputs, ho, wo, batch = self.out_shape
        return planes[:, 0, :ho * self.row].reshape(outputs, ho, self.wp, batch)[:, :, :wo]


class MaskedConv:
    """Forward and both gradients of a convolution under a mask (O, C, kh, kw), without groups."""

    def __init__(self, mask, geometry, shape):
        kh, kw = geometry[:2]
        outputs, channels = mask.shape[:2]
        kept = taps(mask)
        self.geometry, self.shape, self.mask = geometry, shape, mask
        self.direct, self.back = DirectConv(kept, geometry, shape, outputs), None
        back = transposed(geometry, shape)
        if geometry[2:4] == (1, 1) and min(back[4:6]) >= 0:
            # the gradient of x is the convolution of g with the flipped weight, its inputs and outputs exchanged
            flipped = Taps(kept.index, kept.channel, kept.output, kh - 1 - kept.ky, kw - 1 - kept.kx)
            self.back = DirectConv(flipped, back, self.direct.out_shape, channels)

    def pad(self, x):
        return self.direct.pad(x)

    def unpad(self, padded):
        """The x that `pad` was given (a copy)."""
        (sx, py, px), (channels, height, width, batch), plan = self.geometry[3:6], self.shape, self.direct
        planes = padded.reshape(channels, plan.plane)[:, :plan.hp * plan.row]
        planes = planes.reshape(channels, plan.hp, sx, plan.wp // sx, batch).swapaxes(2, 3)     # columns in order
        planes = planes.reshape(channels, plan.hp, plan.wp, batch)
        return np.ascontiguousarray(planes[:, py:py + height, px:px + width])

    def forward(self, padded, weight, bias):
        return self.direct.forward(padded, _take(weight, self.direct.index), bias)

    def grad_weight(self, padded, g):
        """The gradient of the weight: 0 where pruned."""
        out, index, value = memory.zeros(self.mask.shape), self.direct.index, self.direct.grad_weight(padded, g)
        flat = out.reshape(-1)

        def work(first, last):
            flat[index[first:last]] = value[first:last]
        parallel(work, len(index), threads(16 * len(index)))
        return out

    def grad_input(self, g, weight):
        if self.back is None:
            return dense_conv.grad_input(g, weight, self.shape, self.geometry, 1)
        return self.back.forward(self.back.pad(g), _take(weight, self.back.index))


def _take(weight, index):
    """weight.reshape(-1)[index], on the worker threads."""
    flat, out = weight.reshape(-1), np.empty(len(index), weight.dtype)
    # no index is out of range: "clip" saves NumPy a copy
    parallel(lambda first, last: np.take(flat, index[first:last], out=out[first:last], mode="clip"), len(index),
             threads(16 * len(index)))
    return out


def plane_stride(numbers):
    """At least so many numbers, an odd count of 64-byte lines away from multiples of 4 KB: planes whose rows fell on
    the same sets of the cache would push each other out."""
    lines = -(-numbers // 16) | 1
    if not 4 <= lines % 64 <= 60:
        lines += 10
    return 16 * lines
