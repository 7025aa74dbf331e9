"""The vector micro-kernels, in LLVM IR: the one place that knows how wide the processor's registers are.

Numba vectorises a loop over an array, but keeps no array in registers while another loop runs. Here a tile of the
output stays in vector registers while all the nonzeros of a row pass by: per nonzero one broadcast, and one
multiply-add with a memory operand for each register.

A tile is R registers of LANES float32 numbers. R is told by the length of the tuple `tile` = (0,) * R, so that one
source serves every width and Numba caches each of them. Addresses are whole numbers (array.ctypes.data). In inference
a tile may have several rows, and several outputs at once: the tuple is nested.
"""
import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic


def _registers():
    """(float32 numbers in a vector register, registers that a tile may take, the same for a tile of four outputs,
    dot products that are summed up at once beside a tile).

    All leave some for operands.
    """
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME == "generic" else llvm.get_host_cpu_features().flatten()
    if "+avx512f" in features:
        return 16, 16, 20, 8    # of 32: longer tiles gain nothing
    if "+avx" in features:
        return 8, 12, 8, 2      # of 16
    return 4, 12, 8, 2          # SSE: of 16; NEON: of 32


LANES, REGISTERS, BLOCK_REGISTERS, TOGETHER = _registers()

AHEAD = 2048        # bytes of the stream of nonzeros to ask for ahead of their use: it is read once

f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
vector, integers = ir.VectorType(f32, LANES), ir.VectorType(i32, LANES)


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, base, index):
    """LANES numbers from base[index], at any alignment."""
    pointer = builder.bitcast(builder.gep(base, [index]), vector.as_pointer())
    value = builder.load(pointer)
    value.align = 4
    return value


def _store(builder, value, base, index):
    builder.store(value, builder.bitcast(builder.gep(base, [index]), vector.as_pointer())).align = 4


def _broadcast(builder, number):
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(i32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(i32, LANES), [0] * LANES))


def _multiply_add(builder, a, b, c):
    """a * b + c: one instruction where the processor has it."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _loop(builder, first, last, start, body):
    """for k in first..last: values = body(k, values), from `start`; the final values. They live in registers."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(i64)
    k.add_incoming(first, before)
    values = [builder.phi(vector) for _ in start]
    for value, initial in zip(values, start):
        value.add_incoming(initial, before)
    builder.cbranch(builder.icmp_signed("<", k, last), inside, after)
    builder.position_at_end(inside)
    new = body(k, values)
    k.add_incoming(builder.add(k, ir.Constant(i64, 1)), builder.block)
    for value, changed in zip(values, new):
        value.add_incoming(changed, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def _prefetch(builder, base, index):
    """Ask for the cache line AHEAD bytes after base[index]. It may lie beyond an array: nothing is read in earnest."""
    place = builder.bitcast(builder.gep(base, [index]), ir.IntType(8).as_pointer())
    place = builder.gep(place, [ir.Constant(i64, AHEAD)])
    kind = ir.FunctionType(ir.VoidType(), [place.type, i32, i32, i32])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [place, *(ir.Constant(i32, n) for n in (0, 3, 1))])       # to read, nearest cache, data


@intrinsic
def accumulate(typing_context, tile, x, offset, value, first, last, out):
    """out[j] += sum over first <= k < last of value[k] x[offset[k] + j], for j in a tile.

    x, value, out: addresses of float32 numbers, offset: of int32 ones.
    """
    def generate(context, builder, signature, arguments):
        x, offset, value, out = (_pointer(builder, a, kind) for a, kind in
                                 zip((*arguments[1:4], arguments[6]), (f32, i32, f32, f32)))
        at = [ir.Constant(i64, LANES * r) for r in range(tile.count)]

        def body(k, sums):
            factor = _broadcast(builder, builder.load(builder.gep(value, [k])))
            source = builder.gep(x, [builder.sext(builder.load(builder.gep(offset, [k])), i64)])
            return [_multiply_add(builder, factor, _load(builder, source, a), s) for a, s in zip(at, sums)]
        sums = _loop(builder, arguments[4], arguments[5], [_load(builder, out, a) for a in at], body)
        for a, s in zip(at, sums):
            _store(builder, s, out, a)
        return context.get_dummy_value()
    return types.void(tile, *[types.intp] * 6), generate


@intrinsic
def accumulate_blocks(typing_context, tile, x, row, offset, value, first, last, out, pitch, block, fresh):
    """out[b, h, j] += sum over first <= k < last of value[k, b] x[offset[k] + h row + j], for (b, h, j) in a tile.

    tile: nested tuples of B, H and R numbers, for j < R LANES. One load of x serves B outputs. offset (K,): uint16 or
    int32, value (K, B): float32, arrays. x, out: addresses of float32 numbers; out[b, h] begins at out + b block +
    h pitch. fresh (bool): the sums begin at 0, whatever stands there.
    """
    blocks, rows, registers = tile.count, tile.dtype.count, tile.dtype.dtype.count
    places = [(b, h, r) for b in range(blocks) for h in range(rows) for r in range(registers)]
    # a multiply-add has to wait for the one before it on the same sum: few sums are doubled, and added up at the end
    copies = -(-8 // len(places))
    group = 16 // blocks            # nonzeros whose values fill a cache line

    def generate(context, builder, signature, arguments):
        x, out = (_pointer(builder, arguments[i], f32) for i in (1, 7))
        row, first, last, pitch, block, fresh = (arguments[i] for i in (2, 5, 6, 8, 9, 10))
        offset, value = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (3, 4))
        extend = builder.sext if signature.args[3].dtype.signed else builder.zext

        def number(n):
            return ir.Constant(i64, n)
        sources = [builder.gep(x, [builder.mul(row, number(h))]) for h in range(rows)]
        targets = [builder.gep(out, [builder.add(builder.mul(block, number(b)), builder.mul(pitch, number(h)))])
                   for b in range(blocks) for h in range(rows)]
        targets = [(target, number(LANES * r)) for target in targets for r in range(registers)]

        def nonzero(k):
            """Its offset, and its values in all lanes."""
            values = builder.gep(value, [builder.mul(k, number(blocks))])
            # each value is loaded from memory into all lanes: only multiply-adds then need the arithmetic ports
            return (extend(builder.load(builder.gep(offset, [k])), i64),
                    [_broadcast(builder, builder.load(builder.gep(values, [number(b)]))) for b in range(blocks)])

        def add_products(k, sums):
            at, factors = nonzero(k)
            numbers = {(h, r): _load(builder, builder.gep(sources[h], [at]), number(LANES * r))
                       for h in range(rows) for r in range(registers)}
            return [_multiply_add(builder, factors[b], numbers[h, r], s) for (b, h, r), s in zip(places, sums)]

        zero, n = ir.Constant(vector, [0.0] * LANES), len(places)
        sums = [builder.select(fresh, zero, _load(builder, *target)) for target in targets]
        times = builder.sdiv(builder.sub(last, first), number(group))

        def several(i, sums):
            k, sums = builder.add(first, builder.mul(i, number(group))), list(sums)
            _prefetch(builder, value, builder.mul(k, number(blocks)))
            _prefetch(builder, offset, k)
            for c in range(group):
                part = slice(c % copies * n, (c % copies + 1) * n)
                sums[part] = add_products(builder.add(k, number(c)), sums[part])
            return sums
        parts = _loop(builder, number(0), times, sums + [zero] * (n * (copies - 1)), several)
        sums = parts[:n]
        for c in range(1, copies):
            sums = [builder.fadd(a, b) for a, b in zip(sums, parts[c * n:(c + 1) * n])]
        first = builder.add(first, builder.mul(times, number(group)))
        for s, target in zip(_loop(builder, first, last, sums, add_products), targets):
            _store(builder, s, *target)
        return context.get_dummy_value()
    return types.void(tile, types.intp, types.intp, offset, value, *[types.intp] * 5, types.boolean), generate


def _totals(builder, vectors):
    """The sums of the numbers of each vector, in one vector of as many lanes; their count is a power of 2.

    Pairs are merged into one vector, which holds parts of the sums of both, and its halves are added: fewer steps than
    for one after the other.
    """
    def halves(a, b, parts, lanes):
        """Of vectors (parts, lanes) the lower and the upper halves of the lanes, those of a and then those of b."""
        both = [list(range(p * lanes, (p + 1) * lanes)) for p in range(parts if a is b else 2 * parts)]
        for half in slice(0, lanes // 2), slice(lanes // 2, lanes):
            places = [i for part in both for i in part[half]]
            yield builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(i32, len(places)), places))
    parts, lanes = 1, LANES
    while lanes > 1:
        if len(vectors) > 1:
            vectors = [builder.fadd(*halves(a, b, parts, lanes)) for a, b in zip(vectors[::2], vectors[1::2])]
            parts *= 2
        else:
            vectors = [builder.fadd(*halves(vectors[0], vectors[0], parts, lanes))]
        lanes //= 2
    return vectors[0]


@intrinsic
def dots(typing_context, tile, x, offset, g, first, last, out):
    """out[k] += sum over j in a tile of g[j] x[offset[k] + j], for first <= k < last: the transpose of accumulate.

    x, g, out: addresses of float32 numbers, offset: of int32 ones. The tile of g stays in registers.
    """
    def generate(context, builder, signature, arguments):
        x, offset, g, out = (_pointer(builder, a, kind) for a, kind in
                             zip((*arguments[1:4], arguments[6]), (f32, i32, f32, f32)))
        at = [ir.Constant(i64, LANES * r) for r in range(tile.count)]
        factors = [_load(builder, g, a) for a in at]

        def add(k, count):
            """The dot products of `count` nonzeros from k on, side by side."""
            sources = [builder.gep(offset, [builder.add(k, ir.Constant(i64, i))]) for i in range(count)]
            sources = [builder.gep(x, [builder.sext(builder.load(s), i64)]) for s in sources]
            # at least two sums at a time, since each multiply-add has to wait for the one before it
            copies = max(1, 2 // count)
            sums = [[ir.Constant(vector, [0.0] * LANES)] * copies for _ in sources]
            for i, (a, factor) in enumerate(zip(at, factors)):
                for source, s in zip(sources, sums):
                    s[i % copies] = _multiply_add(builder, factor, _load(builder, source, a), s[i % copies])
            total = _totals(builder, [builder.fadd(*s) if copies > 1 else s[0] for s in sums])
            target = builder.bitcast(builder.gep(out, [k]), total.type.as_pointer())
            before = builder.load(target)
            before.align = 4
            builder.store(builder.fadd(before, total), target).align = 4

        first, last = arguments[4:6]
        times = builder.sdiv(builder.sub(last, first), ir.Constant(i64, TOGETHER))
        rest = builder.add(first, builder.mul(times, ir.Constant(i64, TOGETHER)))

        def several(i, _):
            add(builder.add(first, builder.mul(i, ir.Constant(i64, TOGETHER))), TOGETHER)
            return []

        def one(k, _):
            add(k, 1)
            return []
        _loop(builder, ir.Constant(i64, 0), times, [], several)
        _loop(builder, rest, last, [], one)
        return context.get_dummy_value()
    return types.void(tile, *[types.intp] * 6), generate


# --- what follows a convolution: passes over memory as wide as the registers -----------------------------------
# They are written out since the compiler's own vectors are half as wide on some processors. x, out: addresses, which
# may be the same; count: in numbers.
def _constant(kind, number):
    return ir.Constant(kind, [number] * LANES if kind == vector else number)


def _larger(builder, a, b):
    """The larger number of each pair; NaN wins."""
    first = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
    return builder.select(first, a, b)


def _polynomial(builder, x, *coefficients):
    value = _constant(x.type, coefficients[0])
    for c in coefficients[1:]:
        value = _multiply_add(builder, value, x, _constant(x.type, c))
    return value


# The normal distribution function is 1/2 + z P(2 z^2 / FAR^2 - 1), -FAR <= z <= FAR: the coefficients of P, the highest
# power first, of least error of z times it (3e-7). Without the exponential and the division of activation.gelu_of it
# takes half of the time; what single precision and the far ends add keeps the error below 2.5e-6 for |x| < 8.
FAR = 5.0
CENTRE = (4.9297003e-4, -1.5141546e-3, 2.0018591e-3, -2.9156713e-3, 6.1654315e-3, -1.0973233e-2, 1.6497656e-2,
          -2.3336730e-2, 3.1426230e-2, -4.0432950e-2, 5.1521421e-2, -7.0296652e-2, 1.4136378e-1)


def _gelu(builder, x):
    """x Phi(x); 0 below -FAR, so that nothing far away ends in subnormal numbers, see activation.py."""
    far, negative = (_constant(x.type, number) for number in (FAR, -FAR))
    z = builder.select(builder.fcmp_ordered("<", x, far), x, far)
    z = builder.select(builder.fcmp_ordered(">", z, negative), z, negative)
    u = _multiply_add(builder, builder.fmul(z, z), _constant(x.type, 2 / FAR ** 2), _constant(x.type, -1.0))
    normal = _multiply_add(builder, z, _polynomial(builder, u, *CENTRE), _constant(x.type, 0.5))
    return builder.select(builder.fcmp_ordered("<", x, negative), _constant(x.type, 0.0), builder.fmul(x, normal))


def _relu(builder, x):
    return builder.select(builder.fcmp_ordered("<", x, _constant(x.type, 0.0)), _constant(x.type, 0.0), x)


def _over(builder, count, body):
    """body(kind, j) for j = 0, LANES, ... with kind = vector, and for the rest with kind = f32, one number each."""
    def passes(first, last, kind, size):
        def step(k, _):
            body(kind, builder.mul(k, ir.Constant(i64, size)))
            return []
        _loop(builder, first, last, [], step)
    times = builder.sdiv(count, ir.Constant(i64, LANES))
    passes(ir.Constant(i64, 0), times, vector, LANES)
    passes(builder.mul(times, ir.Constant(i64, LANES)), count, f32, 1)


def _read(builder, base, index, kind):
    return _load(builder, base, index) if kind == vector else builder.load(builder.gep(base, [index]))


def _write(builder, value, base, index):
    if value.type == vector:
        _store(builder, value, base, index)
    else:
        builder.store(value, builder.gep(base, [index]))


@intrinsic
def activate(typing_context, function, x, scale, shift, out, count):
    """out[j] = f(scale x[j] + shift); function: () for none, (0,) for ReLU, (0, 0) for GELU."""
    f = [lambda builder, v: v, _relu, _gelu][function.count]

    def generate(context, builder, signature, arguments):
        _, x, scale, shift, out, count = arguments
        x, out = _pointer(builder, x, f32), _pointer(builder, out, f32)
        numbers = {f32: (scale, shift), vector: (_broadcast(builder, scale), _broadcast(builder, shift))}

        def body(kind, j):
            a, b = numbers[kind]
            _write(builder, f(builder, _multiply_add(builder, a, _read(builder, x, j, kind), b)), out, j)
        _over(builder, count, body)
        return context.get_dummy_value()
    return types.void(function, types.intp, types.float32, types.float32, types.intp, types.intp), generate


@intrinsic
def activate_masked(typing_context, function, x, scale, shift, mask, out, count):
    """activate, of which the bits of `mask` remain; count is rounded up to whole registers.

    mask: address of int32 numbers.
    """
    f = [lambda builder, v: v, _relu, _gelu][function.count]

    def generate(context, builder, signature, arguments):
        _, x, scale, shift, mask, out, count = arguments
        x, mask, out = (_pointer(builder, a, kind) for a, kind in ((x, f32), (mask, f32), (out, f32)))
        scale, shift = _broadcast(builder, scale), _broadcast(builder, shift)

        def body(k, _):
            j = builder.mul(k, ir.Constant(i64, LANES))
            v = f(builder, _multiply_add(builder, scale, _load(builder, x, j), shift))
            bits = [builder.bitcast(a, integers) for a in (v, _load(builder, mask, j))]
            _store(builder, builder.bitcast(builder.and_(*bits), vector), out, j)
            return []
        times = builder.sdiv(builder.add(count, ir.Constant(i64, LANES - 1)), ir.Constant(i64, LANES))
        _loop(builder, ir.Constant(i64, 0), times, [], body)
        return context.get_dummy_value()
    return types.void(function, types.intp, types.float32, types.float32, *[types.intp] * 3), generate


@intrinsic
def largest_halved(typing_context, x, below, out, count):
    """out[j] = the largest of x[2 j], x[2 j + 1] and what lies `below` them; count is rounded up to whole registers."""
    def generate(context, builder, signature, arguments):
        x, below, out, count = arguments
        x, out = _pointer(builder, x, f32), _pointer(builder, out, f32)
        second = builder.gep(x, [below])
        even, odd = (ir.Constant(ir.VectorType(i32, LANES), list(range(start, 2 * LANES, 2))) for start in (0, 1))

        def body(k, _):
            j = builder.mul(k, ir.Constant(i64, LANES))
            at = builder.mul(k, ir.Constant(i64, 2 * LANES))
            halves = [_larger(builder, *(_load(builder, row, builder.add(at, ir.Constant(i64, n)))
                                         for row in (x, second))) for n in (0, LANES)]
            pairs = [builder.shuffle_vector(*halves, lanes) for lanes in (even, odd)]
            _store(builder, _larger(builder, *pairs), out, j)
            return []
        times = builder.sdiv(builder.add(count, ir.Constant(i64, LANES - 1)), ir.Constant(i64, LANES))
        _loop(builder, ir.Constant(i64, 0), times, [], body)
        return context.get_dummy_value()
    return types.void(*[types.intp] * 4), generate


@intrinsic
def largest(typing_context, x, right, below, out, count):
    """out[j] = the largest of x[j], x[j + right], x[j + below] and x[j + below + right]."""
    def generate(context, builder, signature, arguments):
        x, right, below, out, count = arguments
        x, out = _pointer(builder, x, f32), _pointer(builder, out, f32)
        second = builder.gep(x, [below])

        def body(kind, j):
            pairs = [_larger(builder, _read(builder, row, j, kind), _read(builder, row, builder.add(j, right), kind))
                     for row in (x, second)]
            _write(builder, _larger(builder, *pairs), out, j)
        _over(builder, count, body)
        return context.get_dummy_value()
    return types.void(*[types.intp] * 5), generate
