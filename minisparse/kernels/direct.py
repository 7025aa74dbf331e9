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
ZERO, ONE, TWO = (np.uint64(i) for i in range(3))       # beside unsigned numbers; a signed one would make a float


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
def _activate(x, begin, count, scale, shift, activation, out, to):
    """out[to + j] = activation(scale x[begin + j] + shift) for j < count."""
    if activation == GELU:
        for j in range(count):
            out[to + j] = gelu_of(scale * x[begin + j] + shift)
    elif activation == RELU:
        for j in range(count):
            v = scale * x[begin + j] + shift
            out[to + j] = np.float32(0) if v < 0 else v
    else:
        for j in range(count):
            out[to + j] = scale * x[begin + j] + shift


@jit(fastmath={"contract"})
def _activate_in_place(x, begin, count, scale, shift, activation):
    """The same into x itself; one array, so that the compiler sees that nothing overlaps."""
    if activation == GELU:
        for j in range(count):
            x[begin + j] = gelu_of(scale * x[begin + j] + shift)
    elif activation == RELU:
        for j in range(count):
            v = scale * x[begin + j] + shift
            x[begin + j] = np.float32(0) if v < 0 else v
    else:
        for j in range(count):
            x[begin + j] = scale * x[begin + j] + shift


@jit()
def _pool(x, begin, pitch, count, batch, pool, out, to):
    """out[to + i batch + n] = the largest of x[begin + ky pitch + (i pool + kx) batch + n] over ky, kx < pool.

    count: of numbers in a row of x.
    """
    if pool == TWO:
        second = begin + pitch
        for i in range(count // TWO // batch):
            for n in range(batch):
                left = TWO * i * batch + n
                out[to + i * batch + n] = _larger(_larger(x[begin + left], x[begin + left + batch]),
                                                  _larger(x[second + left], x[second + left + batch]))
    else:
        for i in range(count // pool // batch):
            for ky in range(pool):
                for kx in range(pool):
                    start, place = begin + ky * pitch + (i * pool + kx) * batch, to + i * batch
                    if ky + kx == ZERO:
                        for n in range(batch):
                            out[place + n] = x[start + n]
                    else:
                        for n in range(batch):
                            out[place + n] = _larger(out[place + n], x[start + n])


# All whole numbers in what follows are unsigned, which spares the compiler a test for negative indices.
@jit()
def _finish_rows(sums, begin, rows, pitch, count, batch, ending, scale, shift, line, out, at, stride):
    """Rows of sums of one output, from `begin` on, `pitch` apart -> pooled, activated, and stored in out[at + y stride].

    Where a batch fills registers, each row is long enough by itself. line: to work in, as long as the rows together.
    """
    pool, early, activation = ending
    for y in range(rows // pool):
        top, to = begin + y * pool * pitch, at + y * stride
        if pool == ONE:
            _activate(sums, top, count, scale, shift, activation, out, to)
        elif early:
            for k in range(pool):
                _activate_in_place(sums, top + k * pitch, count, scale, shift, activation)
            _pool(sums, top, pitch, count, batch, pool, line, ZERO)
            for j in range(count // pool):
                out[to + j] = line[j]
        else:
            _pool(sums, top, pitch, count, batch, pool, line, ZERO)
            _activate(line, ZERO, count // pool, scale, shift, activation, out, to)


@jit()
def _finish_plane(sums, begin, rows, pitch, count, batch, ending, scale, shift, line, out, at, stride):
    """The same for few images: all rows at a time, with what lies between them, since each by itself is short."""
    pool, early, activation = ending
    width, size = count // pool, rows * pitch
    if pool == ONE or early:
        _activate_in_place(sums, begin, size, scale, shift, activation)
    if pool == ONE:
        for y in range(rows):
            for j in range(count):
                out[at + y * stride + j] = sums[begin + y * pitch + j]
        return
    if pool == TWO:
        below = begin + pitch
        for j in range(size - pitch - batch):       # the largest at every place, of which one in four is taken
            line[j] = _larger(_larger(sums[begin + j], sums[begin + j + batch]),
                              _larger(sums[below + j], sums[below + j + batch]))
        for y in range(rows // TWO):
            for i in range(width // batch):
                for n in range(batch):
                    line[y * width + i * batch + n] = line[TWO * (y * pitch + i * batch) + n]
    else:
        for y in range(rows // pool):
            _pool(sums, begin + y * pool * pitch, pitch, count, batch, pool, line, y * width)
    if not early:
        _activate_in_place(line, ZERO, rows // pool * width, scale, shift, activation)
    for y in range(rows // pool):
        for j in range(width):
            out[at + y * stride + j] = line[y * width + j]


@jit()
def _finish(sums, begin, rows, pitch, count, batch, ending, scale, shift, line, out, at, stride, places):
    """One or the other, into all places of `out`."""
    first = places[0] + at
    if batch < LANES:
        _finish_plane(sums, begin, rows, pitch, count, batch, ending, scale, shift, line, out, first, stride)
    else:
        _finish_rows(sums, begin, rows, pitch, count, batch, ending, scale, shift, line, out, first, stride)
    if rows < ending[0]:
        return
    size = (rows // ending[0] - ONE) * stride + count // ending[0]
    for i in range(1, len(places)):     # with the padding between the rows, which is zero in each place
        copy = places[i] + at
        for j in range(size):
            out[copy + j] = out[first + j]


@jit()
def finish_layer(sums, rows, pitch, count, batch, ending, scale, shift, first, last, out, plane, stride, places):
    """out[place + o plane + y stride + j] = what the layer makes of sums[o, y pitch + j], for first <= o < last.

    ending: (pool, early, activation). Sums are scaled and shifted, activated, and the largest of each pool x pool pixels
    of `batch` numbers is kept; pooling comes first unless `early`. Each row has `count` numbers of sense, a multiple of
    pool batch. out: flat; places: uint64, the copies of the output that the next layer wants.
    """
    flat, size = sums.reshape(-1), np.uint64(sums.shape[1])
    if size == plane == 1:      # a vector: the numbers of all outputs side by side
        _finish_vector(flat, scale, shift, ending[2], np.uint64(first), np.uint64(last), out, places[0])
        return
    line = np.empty(size, np.float32)
    for o in range(np.uint64(first), np.uint64(last)):
        _finish(flat, o * size, np.uint64(rows), np.uint64(pitch), np.uint64(count), np.uint64(batch), _unsigned(ending),
                scale[o], shift[o], line, out, o * np.uint64(plane), np.uint64(stride), places)


@jit(fastmath={"contract"})
def _finish_vector(x, scale, shift, activation, first, last, out, place):
    if activation == GELU:
        for o in range(first, last):
            out[place + o] = gelu_of(scale[o] * x[o] + shift[o])
    elif activation == RELU:
        for o in range(first, last):
            v = scale[o] * x[o] + shift[o]
            out[place + o] = np.float32(0) if v < 0 else v
    else:
        for o in range(first, last):
            out[place + o] = scale[o] * x[o] + shift[o]


@jit(inline="always")
def _unsigned(ending):
    pool, early, activation = ending
    return np.uint64(pool), early, activation


@jit()
def convolve_layer(tile, x, segments, offset, value, walk, batch, ending, scale, shift, first, last, sums, out, plane,
                   stride, places):
    """A convolution, and all that `finish_layer` does, one tile of sums after the other while it is in the cache.

    sums[o, h pitch + j] = sum over the nonzeros k of o of value[k] x[(band rows + h) step + t + offset[k] + j]

    for the tiles (band, t) of `walk` = (bands, rows, step, length, width, pitch, whole, row, total, count): `bands` times
    `rows` rows of `length` numbers, in tiles of `width` numbers; the last one overlaps the one before it. pitch >= width:
    a row of a tile, filled up to whole registers. Where `whole` is not 0, length is that of a plane, whose `total` rows
    begin `row` numbers apart, and a tile is so many of these rows. count: see `finish_layer`.

    x, out: flat; tile: nested tuples (B, H, R), see tile.accumulate; segments: of groups of B outputs, first <= group <
    last; value: (nonzeros B,); sums: (O, rows pitch), to work in.
    """
    bands, rows, step, length, width, pitch, whole, row, total, count = walk
    block, height, registers = len(tile), len(tile[0]), LANES * len(tile[0][0])
    groups = len(sums) // block
    blocks = (len(segments) - 1) // groups
    pool, size, flat = ending[0], rows * pitch, sums.reshape(-1)
    line = np.empty(size, np.float32)
    for band in range(bands):
        for i in range((length + width - 1) // width):
            t = min(i * width, length - width)
            source = x.ctypes.data + 4 * (band * rows * step + t)
            for j in range(np.uint64(first * block * size), np.uint64(last * block * size)):
                flat[j] = 0
            for b in range(blocks):
                for g in range(first, last):
                    begin, end = segments[b * groups + g], segments[b * groups + g + 1]
                    if begin == end:
                        continue
                    target = sums.ctypes.data + 4 * g * block * size
                    for h in range(0, rows, height):
                        for j in range(0, pitch, registers):
                            accumulate(tile, source + 4 * (h * step + j), step, offset.ctypes.data, value.ctypes.data,
                                       begin, end, target + 4 * (h * pitch + j), pitch, size)
            if whole:
                finished, apart, at = min(whole, total - i * whole), row, i * (whole // pool) * stride
            else:
                finished, apart, at = rows, pitch, band * (rows // pool) * stride + t // pool
            for o in range(first * block, last * block):
                _finish(flat, np.uint64(o * size), np.uint64(finished), np.uint64(apart), np.uint64(count),
                        np.uint64(batch), _unsigned(ending), scale[o], shift[o], line, out, np.uint64(o * plane + at),
                        np.uint64(stride), places)
