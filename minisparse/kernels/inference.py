"""A layer of an inference model: a convolution with the pooling and activation that follow it, for one input shape.

Arrays as in sparse_conv.py, but inputs and outputs live in Images: planes with room for the zero padding that their
reader wants, written by the layer before. A fully connected layer is the convolution of images of one pixel.

With 16 images or more a run of numbers is a row of pixels times the batch. With fewer, it is several rows or a whole
plane, pixels that fall on the padding between the rows included, and taps would begin at any place in a cache line,
which costs half of the speed: what a tile needs of a block of channels is copied into the first-level cache, once
for each place that occurs, shifted so that every tap is aligned.
"""
import copy
import math
from typing import NamedTuple

import numpy as np

from . import dense_conv, have_numba, load
from .pool import parallel
from .sparse_conv import by_block, plane_stride, tap_places, taps

L1_BYTES, L2_BYTES = 24 << 10, 512 << 10    # of the caches: for the inputs of a block of channels, for a tile of sums
COPY_BYTES = 32 << 10   # of the first-level cache for copies, which stand side by side
SEGMENT = 8             # nonzeros that a visit of a tile of sums should bring, at least; from copies twice as many
TILE_CYCLES = 100       # that the ending of an output takes in each tile, at least
VISIT = 160             # multiply-adds that it should bring where pixels stand side by side
VISIT_CYCLES = 35       # that a visit takes beside its products and sums
# the cost of products, measured: multiply-adds in a cycle, if the product is wide, half as many if it is NARROW, and
# of a matrix with a vector, as fast as the matrix arrives; cycles to copy a number to the column matrix, and to
# begin with a row
DENSE_RATE, NARROW, VECTOR_RATE, COPY_CYCLES, COPY_BEGIN = 26, 40, 3, 0.5, 150
STREAM_BYTES = 5        # of the nonzeros that arrive in a cycle, once a call, from beyond the second cache
WORTH = 300_000         # cycles that a layer must take for a second thread to pay: it wakes after some ten thousand
BLOCK = 4               # outputs that share a mask in the pattern with a kernel of its own


class Ending(NamedTuple):
    """What follows a layer's sums: scale (O,) and shift (O,), pooling, an activation (see direct.py).

    early: the activation comes before the pooling. Each pool x pool pixels become one; what is left over is dropped.
    """

    scale: np.ndarray
    shift: np.ndarray
    pool: int = 1
    activation: int = 0
    early: bool = False

    @property
    def code(self):
        return self.pool, int(self.early), self.activation


class Images:
    """Memory for images (C, H, W, N) in padded planes, zero where nobody writes. `view` is the images themselves.

    start: of the first pixel in its plane; row, plane: the distances; tail: how many numbers beyond the last plane may
    be read.
    """

    def __init__(self, shape, start=0, row=None, plane=None, tail=0):
        channels, height, width, batch = self.shape = shape
        self.row = row or width * batch
        self.plane = plane or height * self.row
        self.reader = None              # the layer that it is padded for
        self.start = start
        self.flat = _aligned(channels * self.plane + tail)

    @property
    def view(self):
        """The images themselves, as a strided view."""
        strides = tuple(4 * n for n in (self.plane, self.row, self.shape[3], 1))
        return np.lib.stride_tricks.as_strided(self.flat[self.start:], self.shape, strides)

    def flatten(self):
        """The same memory (without padding) as images (C H W, 1, 1, N) of one pixel."""
        channels, height, width, batch = self.shape
        flat = copy.copy(self)
        flat.shape, flat.row, flat.plane = (channels * height * width, 1, 1, batch), batch, batch
        return flat


def _rounded(number, unit):
    """Up to a multiple of the unit."""
    return -(-number // unit) * unit


def _aligned(numbers):
    """So many zeros, on a 64-byte boundary."""
    raw = np.zeros(numbers + 16, np.float32)
    first = -(raw.ctypes.data // 4) % 16
    return raw[first:first + numbers]


def fits(geometry, shape):
    """Whether a DirectLayer can do this convolution of inputs (C, H, W, N)."""
    if not have_numba():
        return False
    from .tile import LANES
    kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
    channels, height, width, batch = shape
    rows, columns = max(ho * sy, height) + kh * dy + py, max(wo * sx, width) + kw * dx + 2 * px + LANES
    # offsets have 32 bits
    return (sy == sx == 1 or wo * batch >= LANES) and channels * rows * columns * batch < 1 << 31


def _shared(work, count, cycles, costs=None):
    """A function of the number of threads that runs work(first, last) over range(count), see pool.parallel."""
    def run(limit):
        if limit == 1 or cycles <= WORTH:       # `parallel` itself takes as long as a small layer
            work(0, count)
        else:
            parallel(work, count, limit, costs)
    return run


class DirectLayer:
    """One layer by the direct kernel, which passes over zeros.

    weight: (O, C/groups, kh, kw); block: so many outputs at a time, at the places where any of them has a weight.
    `cycles` estimates its cost, which does not depend on the machine's mood: the same model gets the same kernels.
    """

    def __init__(self, weight, groups, geometry, shape, ending, block=1):
        from .tile import BLOCK_REGISTERS, LANES, REGISTERS
        kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
        channels, height, width, batch = shape
        self.name = "direct" if block == 1 else f"block {block}x1"
        self.outputs, self.block, self.ending = len(weight), block, ending
        self.weight, self.groups, self.geometry, self.shape = weight, groups, geometry, shape
        pool = ending.pool
        self.out_shape = (self.outputs, ho // pool, wo // pool, batch)
        ho, wo = ho // pool * pool, wo // pool * pool       # what pooling drops is not computed
        whole = batch < LANES and sy == sx == 1

        # the padded planes; in whole planes the padding at the right of a row is that at the left of the next one
        right = max((wo - 1) * sx + (kw - 1) * dx + 1 - px - width, 0)
        columns = max(width + max(px, right), wo) if whole else width + px + right
        if whole:       # rows of whole registers have fewer shifts of the taps: they are worth a little more padding
            wider = next(n for n in range(columns, columns + LANES) if n * batch % LANES == 0)
            columns = wider if wider <= 1.15 * columns else columns
        self.phase = -(-columns // sx)      # where sx > 1 a row is split into sx phases of columns, each contiguous
        self.row = self.phase * sx * batch
        self.height = max((ho - 1) * sy + (kh - 1) * dy + 1, py + height)
        numbers = px * batch + self.height * self.row
        # its input is a matrix (C, N), without any padding
        self.features = kh == kw == height == width == ho == wo == 1 and py == px == 0
        if self.features:
            self.plane = batch
        elif whole:     # the last row of pixels may be written in whole registers
            end = py * self.row + px * batch + _rounded((height - 1) * self.row + width * batch, LANES)
            self.plane = _rounded(max(numbers, end), LANES)
        else:
            self.plane = plane_stride(numbers)
        # where each tap begins: in the plane, or in the copy that aligns it
        self.tap = tap_places(geometry, self.row, self.phase, batch)
        self.shifts, copy = np.unique(self.tap % LANES, return_inverse=True) if whole else (np.zeros(0, int), 0)
        if whole:
            self.tap -= self.shifts[copy]

        # tiles: as large as the caches allow, whole windows of the pooling, and of least cost; and for each of them
        # how many channels make a block
        self.pattern = (weight != 0).reshape(self.outputs // block, block, *weight.shape[1:]).any(axis=1)
        self.kept = np.count_nonzero(self.pattern)
        density = max(self.kept / self.pattern.size * weight[0, 0].size, 1e-9)     # nonzeros of an output and channel
        length = ho * self.row if whole else wo * batch
        cache = COPY_BYTES if whole else L1_BYTES
        rows, unit = 1 if whole else pool, LANES
        if whole:
            unit = math.lcm(pool * self.row, LANES)         # rows of pixels, whose begin is aligned
        elif pool > 1:
            unit = pool * batch
        budget = (REGISTERS if block == 1 else BLOCK_REGISTERS) // block
        lines = rows if rows <= budget else 1               # rows of a tile of registers
        units, options = -(-length // unit), []
        self.bands = 1 if whole else ho // rows
        for parts in range(1, min(units, 64) + 1):
            wide = min(-(-units // parts) * unit, length)
            reach = 4 * len(self.shifts) * (_rounded(wide, LANES) + int(self.tap.max()))
            if not whole:
                reach = 4 * ((rows - 1) * sy + kh) * (wide + (kw - 1) * dx * batch)
            excess = max(1, 3 * reach / cache, 4 * self.outputs * rows * wide / L2_BYTES)
            for registers in range(1, budget // lines + 1):
                tile = block * lines * registers
                segment = max(2 * SEGMENT, VISIT // tile) if whole else SEGMENT
                several = int(min(channels, max(cache // reach, segment / density, 1)))
                pieces = self.bands * -(-length // wide)
                tiles = pieces * (rows // lines) * -(-wide // (registers * LANES))
                visits = tiles * -(-channels // several) * len(self.pattern)
                arrival = (2 + 4 * block) / STREAM_BYTES
                products = self.kept * max(tiles * self._cycles(block, lines * registers), arrival)
                cycles = products + visits * tile / 2
                weighed = products      # long rows have longer visits, which do not matter
                if whole:
                    cycles += visits * VISIT_CYCLES
                    weighed = cycles + pieces * self.outputs * TILE_CYCLES
                options.append((excess, weighed, parts, registers, wide, several, cycles))
        *_, registers, wide, self.channels, self.cycles = min(options)
        self.tile = (((0,) * registers,) * lines,) * block
        pitch = _rounded(wide, registers * LANES)
        length = _rounded(length, wide) if whole else length
        self.walk = (self.bands, rows, sy * self.row, length, wide, pitch,
                     *((wide // self.row, self.row, ho, wo * batch) if whole else (0, 0, 0, wide)))

        self.multiplications = self.kept * block * ho * wo * batch
        self.blocks = -(-channels // self.channels)
        # the copies of a channel stand side by side
        self.span = pitch + int(self.tap.max())
        if whole:
            self.tap += copy * self.span
        end = length - wide + (int(self.shifts.max()) + self.span if whole else
                               int(self.tap.max()) + (ho - 1) * sy * self.row + pitch)
        self.tail = max(0, end - self.plane)
        self.window = self.channels, channels, self.plane, self.span

    @staticmethod
    def _cycles(block, registers):
        """Of a nonzero and a tile, measured: each multiply-add takes a load, or four of them share one."""
        if block == 1:
            return 0.72 * registers + 0.8
        return max(0.55 * block * registers, (registers + block + 1) / 2)

    @property
    def takes_padded(self):
        """Whether the layer before can write straight into `images()`."""
        return self.geometry[3] == 1 and not self.features

    def images(self):
        """The memory for its input."""
        py, px = self.geometry[4:6]
        images = Images(self.shape, py * self.row + px * self.shape[3], self.row, self.plane, self.tail)
        images.reader = self
        return images

    def write(self, x, images):
        """Copy x (C, H, W, N) into its padded planes."""
        channels, height, _, batch = self.shape
        sx, py, px = self.geometry[3:6]
        if sx == 1:
            images.view[...] = x
            return
        planes = images.flat[:channels * self.plane].reshape(channels, self.plane)[:, :self.height * self.row]
        planes = planes.reshape(channels, self.height, sx, self.phase, batch)
        for phase in range(sx):
            start = (phase - px) % sx
            columns = x[:, :, start::sx]
            at = (start + px) // sx
            planes[:, py:py + height, phase, at:at + columns.shape[2]] = columns

    def prepare(self):
        """Sort the nonzeros. Until now all was about the cost."""
        kept = taps(self.pattern, self.groups)
        groups = self.outputs // self.block
        order, counts = by_block(kept, self.channels, self.blocks, groups)
        width = self.weight.shape[3]
        offset = self.tap[kept.ky * width + kept.kx]
        if len(self.shifts):
            offset += kept.channel % self.channels * len(self.shifts) * self.span
        else:
            offset += kept.channel * self.plane
        self.segments = np.concatenate([[0], np.cumsum(counts)])
        blocks = self.weight.reshape(groups, self.block, -1)
        inside = kept.index % blocks.shape[2]
        # what is short arrives sooner from the memory
        self.offset = offset[order].astype(np.uint16 if offset.max(initial=0) < 1 << 16 else np.int32)
        self.value = blocks[kept.output, :, inside][order]
        # what the groups of outputs cost together, for threads to share: the work on sums counts as some nonzeros
        self.costs = np.cumsum(counts.sum(axis=0) + 8 * self.blocks)
        self.kernel = load("direct").convolve_layer

    def bind(self, x, out):
        """A function of the number of threads that takes Images x, padded or not, to Images out."""
        ending, count = self.ending, self.outputs // self.block
        sums = _aligned(self.outputs * self.walk[1] * self.walk[5]).reshape(self.outputs, -1)
        padded = x if x.reader is self or self.features else self.images()
        costs = self.costs if self.cycles > 4 * WORTH else None     # shares by cost take some time themselves

        def work(first, last):
            self.kernel(self.tile, padded.flat, self.shifts, self.window, self.segments, self.offset, self.value,
                        self.walk, self.shape[3], ending.code, ending.scale, ending.shift, first, last, sums, out.flat,
                        out.plane, out.row, out.start)

        share = _shared(work, count, self.cycles, costs)
        if padded is x:
            return share

        def run(limit):
            self.write(x.view, padded)
            share(limit)
        return run


class DenseLayer:
    """One layer by matrix products (im2col where the kernel has more than one pixel), zeros included."""

    name = "dense"
    takes_padded = False

    def __init__(self, weight, groups, geometry, shape, ending):
        self.weight, self.groups, self.geometry, self.ending = weight, groups, geometry, ending
        self.batch, self.size = shape[3], geometry[-2:]
        height, width = self.size
        self.out_shape = (len(weight), height // ending.pool, width // ending.pool, self.batch)
        self.width = height * width * self.batch
        # a plain product where the columns are the images themselves
        self.product = groups == 1 and geometry[:6] == (1, 1, 1, 1, 0, 0) and self.size == shape[1:3]
        self.multiplications = weight.size * self.width
        copied = 0 if self.product else weight[0].size * groups * self.width
        # narrow products wait for the memory of the weights, short copies for their begin
        rate = DENSE_RATE * self.width / (self.width + NARROW)
        if self.width == 1:
            rate = VECTOR_RATE
        self.cycles = self.multiplications / rate + copied * (COPY_CYCLES + COPY_BEGIN / (width * self.batch))

    def prepare(self):
        self.finish = load("direct").finish_layer

    def bind(self, x, out):
        """A function of the number of threads that takes Images x, without padding, to Images out."""
        outputs, (height, width), ending = len(self.weight), self.size, self.ending
        matrix, columns = self.weight.reshape(outputs, -1), x.view.reshape(len(x.view), -1)
        products = _aligned(outputs * self.width).reshape(outputs, self.width) if self.product else None
        row = width * self.batch
        count = row // (ending.pool * self.batch) * ending.pool * self.batch

        worth = self.cycles > WORTH

        def run(limit):
            limit = limit if worth else 1
            sums = products
            if not self.product:
                sums = dense_conv.forward(x.view, self.weight, None, self.geometry, self.groups, limit)
                sums = sums.reshape(outputs, -1)

            def work(first, last):
                if self.product:
                    np.matmul(matrix[first:last], columns, out=sums[first:last])
                self.finish(sums, height, row, count, self.batch, ending.code, ending.scale, ending.shift, first,
                            last, out.flat, out.plane, out.row, out.start)
            parallel(work, outputs, limit)
        return run


class VectorLayer:
    """A fully connected layer on a single vector by the rows of its nonzeros (CSR)."""

    name = "csr"
    takes_padded = False

    def __init__(self, weight, ending):
        self.weight, self.ending, self.out_shape = weight.reshape(len(weight), -1), ending, (len(weight), 1, 1, 1)
        self.multiplications = np.count_nonzero(weight)
        self.cycles = self.multiplications + 5 * len(weight)

    def prepare(self):
        row, column = np.nonzero(self.weight)
        self.crow = np.searchsorted(row, np.arange(len(self.weight) + 1)).astype(np.uint64)
        self.column, self.value = column.astype(np.uint32), self.weight[row, column]      # half of the memory
        self.kernel, self.finish = load("csr").multiply_vector, load("direct").finish_layer

    def bind(self, x, out):
        vector, sums, ending = x.view.reshape(-1), np.zeros(len(self.weight), np.float32), self.ending

        def work(first, last):
            self.kernel(self.crow[first:last + 1], self.column, self.value, vector, sums[first:last])
            self.finish(sums[:, None], 1, 1, 1, 1, ending.code, ending.scale, ending.shift, first, last, out.flat,
                        out.plane, out.row, out.start)
        return _shared(work, len(self.weight), self.cycles)


def choices(weight, groups, geometry, shape, ending):
    """The layer objects that can do a convolution with its ending, for inputs of this shape."""
    found = [DenseLayer(weight, groups, geometry, shape, ending)]
    if shape[1:] == (1, 1, 1) and weight[0, 0].size == groups == 1 and geometry[4:6] == (0, 0):
        found.append(VectorLayer(weight, ending))
    elif fits(geometry, shape):
        found.append(DirectLayer(weight, groups, geometry, shape, ending))
        if len(weight) // groups % BLOCK == 0:
            found.append(DirectLayer(weight, groups, geometry, shape, ending, BLOCK))
    return found


def cheapest(*layer):
    """The one of the `choices` of least estimated cost."""
    return min(choices(*layer), key=lambda found: found.cycles)
