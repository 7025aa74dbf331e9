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
from .tile import LANES, accumulate, accumulate_blocks, activate, activate_masked, dots, largest, largest_halved

PLAIN, RELU, GELU = 0, 1, 2     # activations that a layer may end in


@jit()
def pad(x, top, left, columns, phases, out):
    """out[c, y + top, (i + left) % phases, (i + left) // phases] = x[c, y, i], zero elsewhere.

    x: (C, H, W, N); out: (C, plane), each plane rows of `phases` times `columns` pixels of N numbers, and what is left.
    """
    channels, height, width, batch = x.shape
    line = columns * batch
    row = phases * line
    for c in range(channels):
        plane = out[c]
        plane[:top * row] = 0
        plane[(top + height) * row:] = 0
        for y in range(height):
            for phase in range(phases):
                target = plane[(top + y) * row + phase * line:][:line]
                start = (phase - left) % phases
                at, count = (start + left) // phases, (width - start + phases - 1) // phases
                target[:at * batch] = 0
                target[(at + count) * batch:] = 0
                if phases == 1:     # one long run
                    source, part = x[c, y].ravel(), target[at * batch:]
                    for j in range(len(source)):
                        part[j] = source[j]
                    continue
                for i in range(count):
                    source, part = x[c, y, start + i * phases], target[(at + i) * batch:]
                    for j in range(batch):
                        part[j] = source[j]


@jit()
def convolve(tile, x, segments, offset, value, bias, stride, first, last, part, out):
    """out[o, y, t] = bias[o] + sum over the nonzeros k of o of value[k] x[y stride + offset[k] + t], first <= o < last.

    x: the padded copy, flat; out: (O, Ho, L) with L >= T; segments (blocks O + 1,): int64; offset: int32; part:
    (last - first, T), to work in. The last tile of a row overlaps the one before it where T does not divide L. Cost:
    T / LANES multiply-adds a nonzero and tile.
    """
    outputs, height, length = out.shape
    width = LANES * len(tile)
    blocks = (len(segments) - 1) // outputs
    for y in range(height):
        for step in range((length + width - 1) // width):
            t = min(step * width, length - width)
            source = x.ctypes.data + 4 * (y * stride + t)
            for o in range(first, last):        # sums stand close together: rows of `out` lie on as many pages
                row, start = part[o - first], bias[o]
                for j in range(width):
                    row[j] = start
            for b in range(blocks):
                for o in range(first, last):
                    begin, end = segments[b * outputs + o], segments[b * outputs + o + 1]
                    if begin < end:
                        accumulate(tile, source, offset.ctypes.data, value.ctypes.data, begin, end,
                                   part.ctypes.data + 4 * width * (o - first))
            for o in range(first, last):
                row, target = part[o - first], out[o, y, t:t + width]
                for j in range(width):
                    target[j] = row[j]


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
def _activate(activation, x, scale, shift, out, count):
    if activation == GELU:
        activate((0, 0), x, scale, shift, out, count)
    elif activation == RELU:
        activate((0,), x, scale, shift, out, count)
    else:
        activate((), x, scale, shift, out, count)


@jit(inline="always")
def _activate_masked(activation, x, scale, shift, mask, out, count):
    if activation == GELU:
        activate_masked((0, 0), x, scale, shift, mask, out, count)
    elif activation == RELU:
        activate_masked((0,), x, scale, shift, mask, out, count)
    else:
        activate_masked((), x, scale, shift, mask, out, count)


@jit(inline="always")
def _window(x, pitch, batch, pool, scratch, out):
    """out[n] = the largest of pool x pool pixels of `batch` numbers: the largest of 2 x 2, of these again, ..."""
    for n in range(pool - 1, 0, -1):
        target = out if n == 1 else scratch
        for r in range(n):
            largest(x + 4 * r * pitch, batch, pitch, target + 4 * r * n * batch, n * batch)
        x, pitch = scratch, n * batch


@jit()
def _finish(x, size, readable, rows, pitch, count, batch, ending, scale, shift, room, y, writable, stride):
    """What `finish_layer` says of one output, whose sums are at x; y: where its images begin. room: see `_room`.

    Of the numbers at x `size` are this output's own, `readable` may be read; at y `writable` may be written, beyond the
    rows' end with zeros alone. All are addresses: with arrays the counting of references would take longer than the
    work.
    """
    pool, early, activation = ending
    mask, ready, buffer, scratch = room
    one, zero = np.float32(1), np.float32(0)
    width, height = count // pool, rows // pool
    if not height:
        return
    if early:           # whole registers where they are this output's own
        _activate(activation, x, scale, shift, x, min(-(-rows * pitch // LANES) * LANES, size))
        activation, scale, shift = PLAIN, one, zero
    if batch >= LANES:
        for r in range(height):
            source = x + 4 * r * pool * pitch
            if pool > 1:
                for i in range(0, width, batch):
                    _window(source + 4 * pool * i, pitch, batch, pool, scratch, buffer + 4 * i)
                source = buffer
            _activate(activation, source, scale, shift, y + 4 * r * stride, width)
        return
    # For few images a row is short: all rows at a time, `stride` apart, with what lies between them.
    source, end = ready, (height - 1) * stride + width
    if pool == 2 and batch == 1 and (rows - 1) * pitch + 2 * (width + LANES) <= readable:
        for r in range(height):
            largest_halved(x + 8 * r * pitch, pitch, ready + 4 * r * stride, width)
    elif pool > 1:      # at every place, and then the first of each window
        window, n = x, rows * pitch
        for _ in range(pool - 1):
            n -= pitch + batch
            registers = -(-n // LANES) * LANES
            largest(window, batch, pitch, buffer, registers if registers + pitch + batch <= readable else n)
            window = buffer
        for r in range(height):
            for i in range(0, width, batch):
                activate((), buffer + 4 * pool * (r * pitch + i), one, zero, ready + 4 * (r * stride + i), batch)
    elif pitch == stride and end + LANES <= readable:
        source = x
    else:
        for r in range(height):
            activate((), x + 4 * r * pitch, one, zero, ready + 4 * r * stride, width)
    # Whole registers, unless they would reach into the next plane.
    target = y if -(-end // LANES) * LANES <= writable else ready
    _activate_masked(activation, source, scale, shift, mask, target, end)
    if target == ready:
        activate((), ready, one, zero, y, end)


@jit(inline="always")
def _room(size, rows, count, stride, pool):
    """(memory that `_finish` works in, addresses in it).

    A mask, which has all bits where one of so many rows is and none in the padding between them; the rows as they will
    be stored; the largest numbers at all places, or of the windows of a row; and those on the way to them.
    """
    length, places = rows // pool * stride + 2 * LANES, size + 2 * LANES
    memory = np.zeros(2 * (length + places), np.float32)
    mask = memory[:length].view(np.int32)
    for r in range(rows // pool):
        mask[r * stride:r * stride + count // pool] = -1
    first = memory.ctypes.data
    return memory, (first, first + 4 * length, first + 8 * length, first + 8 * length + 4 * places)


@jit()
def finish_layer(sums, rows, pitch, count, batch, ending, scale, shift, first, last, out, plane, stride, place):
    """out[place + o plane + y stride + j] = what the layer makes of sums[o, y pitch + j], for first <= o < last.

    ending: (pool, early, activation). Sums are scaled and shifted, activated, and the largest of each pool x pool
    pixels of `batch` numbers is kept; pooling comes first unless `early`. Each row has `count` numbers of sense, a
    multiple of pool batch. out: flat. The sums are lost.
    """
    size = sums.shape[1]
    if size == plane == 1:      # a vector: the numbers of all outputs side by side
        for o in range(first, last):
            v = scale[o] * sums[o, 0] + shift[o]
            if ending[2] == GELU:
                v = gelu_of(v)
            elif ending[2] == RELU and v < 0:
                v = np.float32(0)
            out[place + o] = v
        return
    memory, room = _room(size, rows, count, stride, ending[0])
    for o in range(first, last):
        _finish(sums.ctypes.data + 4 * o * size, size, sums.size - o * size, rows, pitch, count, batch, ending,
                scale[o], shift[o], room, out.ctypes.data + 4 * (place + o * plane), plane - place, stride)
    memory[0] = 0       # an array is freed after its last use, whatever its address is used for


@jit()
def convolve_layer(tile, x, shifts, window, segments, offset, value, walk, batch, ending, scale, shift, first, last,
                   sums, out, plane, stride, place):
    """A convolution, and all that `finish_layer` does, one tile of sums after the other while it is in the cache.

    sums[o, h pitch + j] = sum over the nonzeros k of o of value[k, o % B] x[(band rows + h) step + t + offset[k] + j]

    for the tiles (band, t) of `walk` = (bands, rows, step, length, width, pitch, whole, row, total, count): `bands`
    times `rows` rows of `length` numbers, in tiles of `width` numbers; the last one overlaps the one before it.
    pitch >= width: a row of a tile, filled up to whole registers. Where `whole` is not 0, length is that of a plane,
    whose `total` rows begin `row` numbers apart, and a tile is so many of these rows. count: see `finish_layer`.

    Where there are `shifts` (int64), the nonzeros of a block read copies of x instead, window = (channels of a block,
    of x, plane of x, span): for channel c of block b and shift i

    copy[(c len(shifts) + i) span + j] = x[t + (b channels + c) plane + shifts[i] + j], 0 <= j < span.

    x, out: flat; tile: nested tuples (B, H, R), offset and value: of the nonzeros, see tile.accumulate_blocks;
    segments: of groups of B outputs, first <= group < last; sums: (O, rows pitch), to work in.
    """
    bands, rows, step, length, width, pitch, whole, row, total, count = walk
    channels, depth, x_plane, span = window
    block, height, registers = len(tile), len(tile[0]), LANES * len(tile[0][0])
    groups = len(sums) // block
    blocks = (len(segments) - 1) // groups
    pool, size = ending[0], rows * pitch
    memory, room = _room(size, max(whole, rows), count, stride, pool)
    copies = np.empty(channels * len(shifts) * span + LANES, np.float32)
    copy = (copies.ctypes.data + 4 * LANES - 1) // (4 * LANES) * (4 * LANES)
    one, zero = np.float32(1), np.float32(0)
    for band in range(bands):
        for i in range((length + width - 1) // width):
            t = min(i * width, length - width)
            source = x.ctypes.data + 4 * (band * rows * step + t)
            if whole:
                lines, apart, begins = min(whole, total - i * whole), row, place + i * (whole // pool) * stride
            else:
                lines, apart, begins = rows, pitch, place + band * (rows // pool) * stride + t // pool
            # the mask of the room is that of a full tile: after fewer rows it would let through what is none of theirs
            writable = plane - begins if lines == max(whole, rows) else 0
            for b in range(blocks):
                for c in range(b * channels, min((b + 1) * channels, depth) if len(shifts) else 0):
                    for s in range(len(shifts)):
                        to = copy + 4 * ((c - b * channels) * len(shifts) + s) * span
                        activate((), source + 4 * (c * x_plane + shifts[s]), one, zero, to, span)
                base = copy if len(shifts) else source
                for g in range(first, last):
                    begin, end = segments[b * groups + g], segments[b * groups + g + 1]
                    target = sums.ctypes.data + 4 * g * block * size
                    for h in range(0, rows if begin < end or b == 0 else 0, height):
                        for j in range(0, pitch, registers):
                            accumulate_blocks(tile, base + 4 * (h * step + j), step, offset, value, begin, end,
                                              target + 4 * (h * pitch + j), pitch, size, b == 0)
                    if b < blocks - 1:
                        continue
                    for o in range(g * block, (g + 1) * block):     # while the sums are near
                        _finish(sums.ctypes.data + 4 * o * size, size, sums.size - o * size, lines, apart, count, batch,
                                ending, scale[o], shift[o], room, out.ctypes.data + 4 * (begins + o * plane),
                                writable, stride)
    memory[0] = copies[0] = 0       # an array is freed after its last use, whatever its address is used for
