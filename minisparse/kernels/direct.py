"""Direct sparse convolution: every nonzero of the weight meets the output tiles that it reaches, in registers.

The input lies in a zero-padded copy, so that a nonzero is one value and one constant offset. Nonzeros are sorted by
block of input channels and then by output channel: the rows that a block reads stay in the first-level cache while all
the outputs pass by. A segment is the run of nonzeros of one block and one output: segments[b O + o] is its begin.
sparse_conv.py builds all this for training, inference.py for inference. float32 only. tile: (0,) * R, for a tile of
T = R LANES numbers (tile.py).
"""
import numpy as np

from ._jit import jit
from .activation import gelu_of
from .tile import LANES, accumulate, dots

PLAIN, RELU, GELU = 0, 1, 2     # activations that a layer may end in


@jit()
def convolve(tile, x, segments, offset, value, bias, stride, first, last, out):
    """out[o, y, t] = bias[o] + sum over the nonzeros k of o of value[k] x[y stride + offset[k] + t], first <= o < last.

    x: the padded copy, flat; out: (O, Ho, L) with L >= T; segments (blocks O + 1,): int64; offset: int32. The last tile of a
    row overlaps the one before it where T does not divide L. Cost: T / LANES multiply-adds a nonzero and tile.
    """
    outputs, height, length = out.shape
    width = LANES * len(tile)
    blocks = (len(segments) - 1) // outputs
    for y in range(height):
        for step in range((length + width - 1) // width):
            t = min(step * width, length - width)
            source = x.ctypes.data + 4 * (y * stride + t)
            for o in range(first, last):
                out[o, y, t:t + width] = bias[o]
            for b in range(blocks):
                for o in range(first, last):
                    begin, end = segments[b * outputs + o], segments[b * outputs + o + 1]
                    if begin < end:
                        accumulate(((tile,),), source, 0, offset.ctypes.data, value.ctypes.data, begin, end,
                                   out.ctypes.data + 4 * ((o * height + y) * length + t), 0, 0)


@jit()
def convolve_grad_weight(tile, x, segments, offset, g, stride, first, last, part, out):
    """out[k] += sum over y, t of g[o, y, t] x[y stride + offset[k] + t] for the nonzeros k of the outputs o.

    Shapes as in `convolve`; g: (O, Ho, L); out: (nonzeros,); part: (last - first, T), to work in. Only the kept
    weights get a gradient. Cost: one dot product of T numbers a nonzero and tile.
    """
    outputs, height, length = g.shape
    width = LANES * len(tile)
    blocks = (len(segments) - 1) // outputs
    for y in range(height):
        for step in range((length + width - 1) // width):
            t = min(step * width, length - width)
            done = step * width - t         # numbers of an overlapping last tile that have been counted
            source = x.ctypes.data + 4 * (y * stride + t)
            for o in range(first, last):        # a copy: rows of g lie far apart and would meet in the cache
                row, values = part[o - first], g[o, y, t:t + width]
                for j in range(width):
                    row[j] = values[j]
                for j in range(done):
                    row[j] = 0
            for b in range(blocks):
                for o in range(first, last):
                    begin, end = segments[b * outputs + o], segments[b * outputs + o + 1]
                    if begin < end:
                        dots(tile, source, offset.ctypes.data, part.ctypes.data + 4 * width * (o - first), begin, end,
                             out.ctypes.data)


# --- inference: a layer with all that follows it --------------------------------------------------------------
@jit(inline="always")
def _larger(a, b):
    """The larger one; NaN wins."""
    return a if a > b or a != a else b


@jit(fastmath={"contract"})
def _activate(x, scale, shift, activation, out):
    """out = activation(scale x + shift)."""
    if activation == GELU:
        for i in range(len(x)):
            out[i] = gelu_of(scale * x[i] + shift)
    elif activation == RELU:
        for i in range(len(x)):
            v = scale * x[i] + shift
            out[i] = np.float32(0) if v < 0 else v
    else:
        for i in range(len(x)):
            out[i] = scale * x[i] + shift


@jit()
def _finish(sums, rows, pitch, count, batch, ending, scale, shift, lines, out, at, stride, places):
    """Rows of sums of one output -> pooled, activated, and stored at `at` in each of the places of `out`.

    sums: rows of `count` numbers, `pitch` apart; `stride`: between the rows stored; lines: (3, count), to work in.
    """
    pool, early, activation = ending
    for y in range(rows // pool):
        done = lines[2, :count // pool]
        if pool == 1:
            _activate(sums[y * pitch:][:count], scale, shift, activation, done)
        else:
            best = lines[0, :count]
            for k in range(pool):       # down the columns
                row = sums[(y * pool + k) * pitch:][:count]
                if early:
                    _activate(row, scale, shift, activation, lines[1, :count])
                    row = lines[1, :count]
                if k == 0:
                    best[:] = row
                else:
                    for j in range(count):
                        best[j] = _larger(best[j], row[j])
            pooled = done if early else lines[1, :count // pool]
            if batch == 1 and pool == 2:        # neighbours: the compiler takes the even and the odd numbers apart
                for i in range(len(pooled)):
                    pooled[i] = _larger(best[2 * i], best[2 * i + 1])
            else:
                for i in range(count // pool // batch):     # along the row
                    target = pooled[i * batch:][:batch]
                    target[:] = best[i * pool * batch:][:batch]
                    for k in range(1, pool):
                        other = best[(i * pool + k) * batch:][:batch]
                        for j in range(batch):
                            target[j] = _larger(target[j], other[j])
            if not early:
                _activate(pooled, scale, shift, activation, done)
        for place in places:
            target = out[place + at + y * stride:][:len(done)]
            for j in range(len(done)):
                target[j] = done[j]


@jit()
def finish_layer(sums, rows, pitch, count, batch, ending, scale, shift, first, last, out, plane, stride, places):
    """out[place + o plane + y stride + j] = what the layer makes of sums[o, y pitch + j], for first <= o < last.

    ending: (pool, early, activation). Sums are scaled and shifted, activated, and the largest of each pool x pool pixels
    of `batch` numbers is kept; pooling comes first unless `early`. Each row has `count` numbers of sense, a multiple of
    pool batch. out: flat; places: int64, the copies of the output that the next layer wants.
    """
    lines = np.empty((3, count), np.float32)
    for o in range(first, last):
        _finish(sums[o], rows, pitch, count, batch, ending, scale[o], shift[o], lines, out, o * plane, stride, places)


@jit()
def convolve_layer(tile, x, segments, offset, value, walk, batch, ending, scale, shift, first, last, sums, out, plane,
                   stride, places):
    """A convolution, and all that `finish_layer` does, one tile of sums after the other while it is in the cache.

    sums[o, h pitch + j] = sum over the nonzeros k of o of value[k] x[(band rows + h) step + t + offset[k] + j]

    for the tiles (band, t) of `walk` = (bands, rows, step, length, width, pitch, whole, row, count): `bands` times `rows`
    rows of `length` numbers, in tiles of `width` numbers; the last one overlaps the one before it. pitch >= width: a row
    of a tile, filled up to whole registers. Where `whole` is not 0 there is one tile, a plane of `whole` rows, which
    begin `row` numbers apart. count: see `finish_layer`.

    x, out: flat; tile: nested tuples (B, H, R), see tile.accumulate; segments: of groups of B outputs, first <= group <
    last; value: (nonzeros B,); sums: (O, rows pitch), to work in.
    """
    bands, rows, step, length, width, pitch, whole, row, count = walk
    block, height, registers = len(tile), len(tile[0]), LANES * len(tile[0][0])
    groups = len(sums) // block
    blocks = (len(segments) - 1) // groups
    pool = ending[0]
    lines = np.empty((3, count), np.float32)
    for band in range(bands):
        for i in range((length + width - 1) // width):
            t = min(i * width, length - width)
            source = x.ctypes.data + 4 * (band * rows * step + t)
            sums[first * block:last * block] = 0
            for b in range(blocks):
                for g in range(first, last):
                    begin, end = segments[b * groups + g], segments[b * groups + g + 1]
                    if begin == end:
                        continue
                    target = sums.ctypes.data + 4 * g * block * rows * pitch
                    for h in range(0, rows, height):
                        for j in range(0, pitch, registers):
                            accumulate(tile, source + 4 * (h * step + j), step, offset.ctypes.data, value.ctypes.data,
                                       begin, end, target + 4 * (h * pitch + j), pitch, rows * pitch)
            for o in range(first * block, last * block):
                if whole:
                    _finish(sums[o], whole, row, count, batch, ending, scale[o], shift[o], lines, out, o * plane,
                            stride, places)
                else:
                    _finish(sums[o], rows, pitch, count, batch, ending, scale[o], shift[o], lines, out,
                            o * plane + band * (rows // pool) * stride + t // pool, stride, places)
