"""Convolution with the kept weights of a mask: what direct.py needs, built once for a mask and a shape of input.

Arrays as in dense_conv.py: x (C, H, W, N), weight (O, C/groups, kh, kw), out and g (O, Ho, Wo, N), float32.
"""
from typing import NamedTuple

import numpy as np

from . import have_numba, load, memory
from .pool import parallel

L1_BYTES = 28 << 10     # of the first-level cache, for the rows of a block of input channels
ALIGNED = 16            # a batch of a multiple of this keeps every tap on whole cache lines
WORTH = 0.75            # the largest share of kept weights at which a training step gains
WORTH_UNALIGNED = 0.5   # the same where each load crosses two cache lines
REMEMBERED = 4          # shapes of input (training, last batch, evaluation, ...) a mask's schedules are kept for


def find(weight, geometry, shape, groups):
    """The MaskedConv of a weight for inputs of this shape, made when first asked for; None where dense is faster.

    weight: a Tensor; a Parameter with a mask keeps what is made here in `plans` until its mask changes.
    """
    mask = getattr(weight, "mask", None)
    kh, kw, sy, sx, py, px, dy, dx, _, wo = geometry
    batch = shape[3]
    if (mask is None or weight.dtype != np.float32 or (groups, sy, sx) != (1, 1, 1) or min(wo, shape[2]) * batch < 16
            or py > dy * (kh - 1) or px > dx * (kw - 1) or not have_numba()
            or np.count_nonzero(mask) > mask.size * (WORTH_UNALIGNED if batch % ALIGNED else WORTH)):
        return None
    plan = weight.plans.get((geometry, shape))
    if plan is None:
        if len(weight.plans) == REMEMBERED:
            del weight.plans[next(iter(weight.plans))]
        plan = weight.plans[geometry, shape] = MaskedConv(mask, geometry, shape)
    return plan


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
    index = np.flatnonzero(kept)
    rest, kx = np.divmod(index, kw)
    rest, ky = np.divmod(rest, kh)
    output, channel = np.divmod(rest, per_group)
    if groups > 1:
        channel += output // (outputs // groups) * per_group
    return Taps(index, output, channel, ky, kx)


class Schedule:
    """Kept weights in the order in which the direct kernels meet them, for one geometry and shape of input.

    geometry: see conv.py; shape: of the input, (C, H, W, N); outputs: their number.
    """

    def __init__(self, taps, geometry, shape, outputs):
        from .tile import LANES, REGISTERS      # here, since it imports Numba
        kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
        channels, height, width, batch = shape
        self.geometry, self.out_shape = geometry, (outputs, ho, wo, batch)

        # the padded copy: planes of hp rows of wp columns; where sx > 1 a row is split into sx phases of columns, so
        # that a tap meets contiguous numbers
        self.hp = max((ho - 1) * sy + (kh - 1) * dy + 1, py + height)
        self.wp = -(-max((wo - 1) * sx + (kw - 1) * dx + 1, px + width) // sx) * sx
        self.row = self.wp * batch
        self.plane = _stride(self.hp * self.row)

        # a row of outputs in equal tiles, as long as the registers allow
        length = wo * batch
        tiles = -(-length // (REGISTERS * LANES))
        self.tile = (0,) * min(-(-length // (tiles * LANES)), length // LANES)
        self.width = len(self.tile) * LANES

        reach = kh * (self.width + (kw - 1) * batch) * 4        # bytes that a tile reads of each channel
        block = min(max(L1_BYTES // reach, 3), 8)
        blocks = -(-channels // block)
        key = taps.channel // block * outputs + taps.output
        if blocks * outputs < 1 << 16:
            key = key.astype(np.uint16)         # which NumPy sorts ten times faster
        order = np.argsort(key, kind="stable")
        phase, column = taps.kx * dx % sx, taps.kx * dx // sx
        offset = taps.channel * self.plane + taps.ky * dy * self.row + (phase * (self.wp // sx) + column) * batch
        self.offset, self.index = offset[order], taps.index[order]
        self.segments = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=blocks * outputs))])

    def pad(self, x):
        """x (C, H, W, N) in a zero-padded copy, flat."""
        channels, height, _, batch = x.shape
        sx, py, px = self.geometry[3:6]
        flat = memory.empty((channels, self.plane), x.dtype)

        def work(first, last):
            flat[first:last] = 0
            planes = flat[first:last, :self.hp * self.row].reshape(-1, self.hp, sx, self.wp // sx, batch)
            for phase in range(sx):
                start = (phase - px) % sx
                columns = x[first:last, :, start::sx]
                at = (start + px) // sx
                planes[:, py:py + height, phase, at:at + columns.shape[2]] = columns
        parallel(work, channels)
        return flat.reshape(-1)

    def forward(self, padded, weight, bias=None):
        """The convolution of an input that `pad` returned."""
        outputs, ho, wo, batch = self.out_shape
        out = memory.empty((outputs, ho, wo * batch))
        bias = np.zeros(outputs, np.float32) if bias is None else bias
        value = weight.reshape(-1)[self.index]
        convolve, stride = load("direct").convolve, self.geometry[2] * self.row
        parallel(lambda first, last: convolve(self.tile, padded, self.segments, self.offset, value, bias, stride,
                                              first, last, out), outputs)
        return out.reshape(self.out_shape)

    def grad_weight(self, padded, g, shape):
        """The gradient of a weight of this shape: of the kept ones; 0 where pruned."""
        outputs, ho, wo, batch = self.out_shape
        g = g.reshape(outputs, ho, wo * batch)
        value = np.zeros(len(self.index), np.float32)
        kernel, stride = load("direct").convolve_grad_weight, self.geometry[2] * self.row

        def work(first, last):
            part = memory.empty((last - first, self.width))
            kernel(self.tile, padded, self.segments, self.offset, g, stride, first, last, part, value)
        parallel(work, outputs)
        out = np.zeros(shape, np.float32)
        out.reshape(-1)[self.index] = value
        return out


class MaskedConv:
    """Forward and both gradients of a convolution under a mask (O, C, kh, kw), of stride 1 and without groups."""

    def __init__(self, mask, geometry, shape):
        kh, kw, _, _, py, px, dy, dx, _, _ = geometry
        outputs, channels = mask.shape[:2]
        kept = taps(mask)
        self.shape, self.mask, self.schedule = shape, mask, Schedule(kept, geometry, shape, outputs)
        # the gradient of x is the convolution of g with the flipped weight, its inputs and outputs exchanged
        flipped = Taps(kept.index, kept.channel, kept.output, kh - 1 - kept.ky, kw - 1 - kept.kx)
        back = (kh, kw, 1, 1, dy * (kh - 1) - py, dx * (kw - 1) - px, dy, dx, *shape[1:3])
        self.back = Schedule(flipped, back, self.schedule.out_shape, channels)

    def pad(self, x):
        return self.schedule.pad(x)

    def unpad(self, padded):
        """The x that `pad` was given (a copy)."""
        (py, px), (channels, height, width, batch), plan = self.schedule.geometry[4:6], self.shape, self.schedule
        planes = padded.reshape(channels, plan.plane)[:, :plan.hp * plan.row].reshape(channels, plan.hp, plan.wp, batch)
        return np.ascontiguousarray(planes[:, py:py + height, px:px + width])

    def forward(self, padded, weight, bias):
        return self.schedule.forward(padded, weight, bias)

    def grad_weight(self, padded, g):
        return self.schedule.grad_weight(padded, g, self.mask.shape)

    def grad_input(self, g, weight):
        return self.back.forward(self.back.pad(g), weight)


def _stride(numbers):
    """At least so many numbers, an odd count of 64-byte lines away from multiples of 4 KB: planes whose rows fell on
    the same sets of the cache would push each other out."""
    lines = -(-numbers // 16) | 1
    if not 4 <= lines % 64 <= 60:
        lines += 10
    return 16 * lines
