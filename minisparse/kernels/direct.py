"""Direct sparse convolution: every nonzero of the weight meets the output tiles that it reaches, in registers.

The input lies in a zero-padded copy, so that a nonzero is one value and one constant offset. Nonzeros are sorted by
block of input channels and then by output channel: the rows that a block reads stay in the first-level cache while all
the outputs pass by. A segment is the run of nonzeros of one block and one output: segments[b O + o] is its begin.
sparse_conv.py builds all this. float32 only. tile: (0,) * R, for a tile of T = R LANES numbers (tile.py).
"""
from ._jit import jit
from .tile import LANES, accumulate, dots


@jit()
def convolve(tile, x, segments, offset, value, bias, stride, first, last, out):
    """out[o, y, t] = bias[o] + sum over the nonzeros k of o of value[k] x[y stride + offset[k] + t], first <= o < last.

    x: the padded copy, flat; out: (O, Ho, L) with L >= T; segments (blocks O + 1,), offset: int64. The last tile of a
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
                        accumulate(tile, source, offset.ctypes.data, value.ctypes.data, begin, end,
                                   out.ctypes.data + 4 * ((o * height + y) * length + t))


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
