"""The vector micro-kernels, in LLVM IR: the one place that knows how wide the processor's registers are.

Numba vectorises a loop over an array, but keeps no array in registers while another loop runs. Here a tile of the
output stays in vector registers while all the nonzeros of a row pass by: per nonzero one broadcast, and one
multiply-add with a memory operand for each register.

A tile is R registers of LANES float32 numbers. R is told by the length of the tuple `tile` = (0,) * R, so that one
source serves every width and Numba caches each of them. Addresses are whole numbers (array.ctypes.data).
"""
import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic


def _registers():
    """(float32 numbers in a vector register, registers that a tile may take), leaving some for operands."""
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME == "generic" else llvm.get_host_cpu_features().flatten()
    if "+avx512f" in features:
        return 16, 16       # of 32: longer tiles gain nothing
    if "+avx" in features:
        return 8, 12        # of 16
    return 4, 12            # SSE: of 16; NEON: of 32


LANES, REGISTERS = _registers()

f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
vector = ir.VectorType(f32, LANES)


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


@intrinsic
def accumulate(typing_context, tile, x, offset, value, first, last, out):
    """out[j] += sum over first <= k < last of value[k] x[offset[k] + j], for j in a tile.

    x, value, out: addresses of float32 numbers, offset: of int64 ones.
    """
    def generate(context, builder, signature, arguments):
        x, offset, value, out = (_pointer(builder, a, kind) for a, kind in
                                 zip((*arguments[1:4], arguments[6]), (f32, i64, f32, f32)))
        at = [ir.Constant(i64, LANES * r) for r in range(tile.count)]

        def body(k, sums):
            factor = _broadcast(builder, builder.load(builder.gep(value, [k])))
            source = builder.gep(x, [builder.load(builder.gep(offset, [k]))])
            return [_multiply_add(builder, factor, _load(builder, source, a), s) for a, s in zip(at, sums)]
        sums = _loop(builder, arguments[4], arguments[5], [_load(builder, out, a) for a in at], body)
        for a, s in zip(at, sums):
            _store(builder, s, out, a)
        return context.get_dummy_value()
    return types.void(tile, *[types.intp] * 6), generate


@intrinsic
def dots(typing_context, tile, x, offset, g, first, last, out):
    """out[k] += sum over j in a tile of g[j] x[offset[k] + j], for first <= k < last: the transpose of accumulate.

    x, g, out: addresses of float32 numbers, offset: of int64 ones. The tile of g stays in registers.
    """
    def generate(context, builder, signature, arguments):
        x, offset, g, out = (_pointer(builder, a, kind) for a, kind in
                             zip((*arguments[1:4], arguments[6]), (f32, i64, f32, f32)))
        at = [ir.Constant(i64, LANES * r) for r in range(tile.count)]
        factors = [_load(builder, g, a) for a in at]

        def body(k, _):
            source = builder.gep(x, [builder.load(builder.gep(offset, [k]))])
            # two sums, since each multiply-add has to wait for the one before it
            sums = [ir.Constant(vector, [0.0] * LANES)] * 2
            for i, (a, factor) in enumerate(zip(at, factors)):
                sums[i % 2] = _multiply_add(builder, factor, _load(builder, source, a), sums[i % 2])
            total, lanes = builder.fadd(*sums), LANES
            while lanes > 1:
                lanes //= 2
                low, high = (builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(i32, lanes),
                             list(range(start, start + lanes)))) for start in (0, lanes))
                total = builder.fadd(low, high)
            number = builder.extract_element(total, ir.Constant(i32, 0))
            target = builder.gep(out, [k])
            builder.store(builder.fadd(builder.load(target), number), target)
            return []
        _loop(builder, arguments[4], arguments[5], [], body)
        return context.get_dummy_value()
    return types.void(tile, *[types.intp] * 6), generate
