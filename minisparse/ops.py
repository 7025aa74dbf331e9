"""Arithmetic, elementwise functions, comparisons, reductions and matrix products on Tensors.

An operator is one function: the value first, then for each differentiable input its vector-Jacobian product
(vjp), which takes g, the gradient of the result, to the gradient of that input. NumPy keeps the memory order
of what it is given, so values and gradients keep it too.
"""
import builtins
import collections
import functools
import inspect
import math
import string

import numpy as np

from .tensor import Tensor, is_grad_enabled

CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2}     # of a dtype's kind: bool < integer < float
ValuesIndices = collections.namedtuple("ValuesIndices", "values indices")


# --- what makes a function an operator --------------------------------------------------------------------
def operator(function):
    """The function without numpy's warnings (inf and NaN are values, as in torch), and with torch's errors."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args, **options):
        for option in options:
            if option not in known:
                raise NotImplementedError(f"{function.__name__}: no option {option!r} (there are {', '.join(known)})")
        try:
            with np.errstate(all="ignore"):
                return function(*args, **options)
        except np.exceptions.AxisError:     # an IndexError, as in torch
            raise
        except ValueError as error:         # numpy's, where shapes do not fit; a RuntimeError in torch
            raise RuntimeError(f"{function.__name__}: {error}") from None
    return checked


def method(function):
    """An operator that is a method of Tensor as well."""
    function = operator(function)
    setattr(Tensor, function.__name__, function)
    return function


def named(name, function, doc):
    """A method of Tensor made by a factory."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return method(function)


def result_type(*operands):
    """torch's rule: the widest category (bool < int < float) wins; within it arrays rule over 0-d over numbers."""
    ranked = []
    for x in operands:
        if isinstance(x, (Tensor, np.ndarray)):
            ranked.append((CATEGORY[x.dtype.kind], 2 if x.ndim else 1, x.dtype))
        elif isinstance(x, (complex, np.complexfloating)):
            raise NotImplementedError(f"complex numbers are not supported, got {x!r}")
        elif isinstance(x, (bool, int, float, np.generic)):
            category = CATEGORY[np.asarray(x).dtype.kind]
            ranked.append((category, 0, np.dtype((np.bool_, np.int64, np.float32)[category])))
        else:
            raise TypeError(f"expected numbers or tensors, got {type(x).__name__}")
    top = builtins.max(rank[:2] for rank in ranked)
    return np.result_type(*(dtype for *rank, dtype in ranked if tuple(rank) == top))


def promote(*operands, floating=False):
    """The operands as Tensors of one dtype (by result_type; at least float32 if floating)."""
    dtype = result_type(*operands)
    if floating and dtype.kind != "f":
        dtype = np.dtype(np.float32)
    return [cast(x, dtype) if isinstance(x, Tensor) else Tensor(np.asarray(x, dtype)) for x in operands]


def unbroadcast(g, shape):
    """Sum g over the axes that broadcasting stretched, back to `shape`: the vjp of broadcasting."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(g.shape) if i < extra or (shape[i - extra] == 1 and n != 1))
    return g.sum(axis=stretched, keepdims=True).reshape(shape)


def cast(a, dtype):
    """a as another dtype; the gradient is cast back."""
    dtype = np.dtype(dtype)
    if a.dtype == dtype:
        return a
    if dtype.kind not in CATEGORY:
        raise NotImplementedError(f"tensors of dtype {dtype} are not supported")
    value = a.data.astype(dtype)
    if dtype.kind != "f" or a.dtype.kind != "f":
        return Tensor(value)
    return Tensor.from_op("cast", value, (a, lambda g: g.astype(a.dtype)))


# --- arithmetic -------------------------------------------------------------------------------------------
@method
def add(a, b, alpha=1):
    """a + alpha * b, with broadcasting."""
    if alpha != 1:
        b = mul(b, alpha)
    a, b = promote(a, b)
    return Tensor.from_op("add", a.data + b.data,
                          (a, lambda g: unbroadcast(g, a.shape)),
                          (b, lambda g: unbroadcast(g, b.shape)))


@method
def sub(a, b, alpha=1):
    """a - alpha * b, with broadcasting."""
    if alpha != 1:
        b = mul(b, alpha)
    a, b = promote(a, b)
    return Tensor.from_op("sub", a.data - b.data,
                          (a, lambda g: unbroadcast(g, a.shape)),
                          (b, lambda g: unbroadcast(-g, b.shape)))


@method
def mul(a, b):
    """a * b, elementwise with broadcasting."""
    a, b = promote(a, b)
    return Tensor.from_op("mul", a.data * b.data,
                          (a, lambda g: unbroadcast(g * b.data, a.shape)),
                          (b, lambda g: unbroadcast(g * a.data, b.shape)))


@method
def div(a, b):
    """a / b, elementwise; integers give float32."""
    a, b = promote(a, b, floating=True)
    y = a.data / b.data
    return Tensor.from_op("div", y,
                          (a, lambda g: unbroadcast(g / b.data, a.shape)),
                          (b, lambda g: unbroadcast(-g * y / b.data, b.shape)))


@method
def floor_divide(a, b):
    """The greatest whole number <= a / b. It has no gradient, as in torch."""
    a, b = promote(a, b)
    no_integer_zero(b)

    def vjp(g):
        raise NotImplementedError("floor_divide has no gradient")
    return Tensor.from_op("floor_divide", np.floor_divide(a.data, b.data), (a, vjp), (b, vjp))


@method
def remainder(a, b):
    """a - b * floor(a / b): it has the sign of b."""
    a, b = promote(a, b)
    no_integer_zero(b)
    return Tensor.from_op("remainder", np.remainder(a.data, b.data),
                          (a, lambda g: unbroadcast(g, a.shape)),
                          (b, lambda g: unbroadcast(-g * np.floor(a.data / b.data), b.shape)))


def no_integer_zero(divisor):
    if divisor.dtype.kind != "f" and not divisor.data.all():
        raise RuntimeError("division of integers by zero")


@method
def pow(a, b):
    """a ** b. The slope in a where b = 0, and the slope in b where a = 0 <= b, are 0."""
    a, b = promote(a, b)
    exponent = b.data if b.ndim else b.data.item()      # numpy has fast ways for the numbers 2, 1 and 0.5
    y = a.data ** exponent

    def base(g):
        return unbroadcast(g * np.where(b.data == 0, 0, exponent * a.data ** (exponent - 1)), a.shape)

    def power(g):
        return unbroadcast(g * np.where((a.data == 0) & (b.data >= 0), 0, y * np.log(a.data)), b.shape)
    return Tensor.from_op("pow", y, (a, base), (b, power))


def extremum(name, f):
    def function(a, b):
        a, b = promote(a, b)
        y = f(a.data, b.data)

        def vjp(x):
            return lambda g: unbroadcast(np.where(a.data == b.data, g / 2, g * (x.data == y)), x.shape)
        return Tensor.from_op(name, y, (a, vjp(a)), (b, vjp(b)))
    return named(name, function, f"The {name} of a and b, elementwise; where they tie, each gets half of g.")


maximum = extremum("maximum", np.maximum)
minimum = extremum("minimum", np.minimum)


@method
def clamp(a, min=None, max=None):
    """a limited to [min, max], numbers or tensors. At the bounds themselves the gradient passes to a."""
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    sides = [side for side in ((min, np.maximum, np.less), (max, np.minimum, np.greater)) if side[0] is not None]
    a, *bounds = promote(a, *(side[0] for side in sides))
    y, edges = a.data, []
    for bound, (_, limit, outside) in zip(bounds, sides):
        y = limit(y, bound.data)
        edges.append((bound, lambda g, b=bound, outside=outside: unbroadcast(g * outside(a.data, b.data), b.shape)))
    return Tensor.from_op("clamp", y, (a, lambda g: unbroadcast(g * (y == a.data), a.shape)), *edges)


@method
def clamp_min(a, min):
    """a, at least min."""
    return clamp(a, min=min)


@method
def clamp_max(a, max):
    """a, at most max."""
    return clamp(a, max=max)


@operator
def where(condition, a=None, b=None):
    """a where the bool tensor `condition` holds, b elsewhere; with the condition alone, the indices where it holds."""
    if condition.dtype != np.bool_:
        raise RuntimeError(f"where: the condition must be a bool tensor, it is {condition.dtype}")
    if a is None and b is None:
        return tuple(Tensor(index) for index in np.nonzero(condition.data))
    a, b = promote(a, b)
    c = condition.data
    return Tensor.from_op("where", np.where(c, a.data, b.data),
                          (a, lambda g: unbroadcast(np.where(c, g, 0), a.shape)),
                          (b, lambda g: unbroadcast(np.where(c, 0, g), b.shape)), (condition, None))


# --- functions of one number ------------------------------------------------------------------------------
def elementwise(name, f, slope, floating=True):
    """The operator y = f(x) for each element, with dy/dx = slope(x, y)."""
    def function(a):
        if floating:
            a, = promote(a, floating=True)
        y = f(a.data)
        return Tensor.from_op(name, y, (a, lambda g: g * slope(a.data, y)))
    return named(name, function, f"{name}(x) of each element.")


exp = elementwise("exp", np.exp, lambda x, y: y)
expm1 = elementwise("expm1", np.expm1, lambda x, y: y + 1)
log = elementwise("log", np.log, lambda x, y: 1 / x)
log2 = elementwise("log2", np.log2, lambda x, y: 1 / (x * math.log(2)))
log1p = elementwise("log1p", np.log1p, lambda x, y: 1 / (1 + x))
sqrt = elementwise("sqrt", np.sqrt, lambda x, y: 0.5 / y)
rsqrt = elementwise("rsqrt", lambda x: 1 / np.sqrt(x), lambda x, y: -0.5 * y / x)
reciprocal = elementwise("reciprocal", np.reciprocal, lambda x, y: -y * y)
sin = elementwise("sin", np.sin, lambda x, y: np.cos(x))
cos = elementwise("cos", np.cos, lambda x, y: -np.sin(x))
neg = elementwise("neg", np.negative, lambda x, y: -1, floating=False)
square = elementwise("square", np.square, lambda x, y: 2 * x, floating=False)
abs = elementwise("abs", np.abs, lambda x, y: np.sign(x), floating=False)
sign = elementwise("sign", np.sign, lambda x, y: 0, floating=False)
floor = elementwise("floor", np.floor, lambda x, y: 0, floating=False)
ceil = elementwise("ceil", np.ceil, lambda x, y: 0, floating=False)
round = elementwise("round", np.round, lambda x, y: 0, floating=False)


# --- comparisons and logic: no gradients ------------------------------------------------------------------
def plain(name, f):
    return named(name, lambda *operands: Tensor(f(*(x.data for x in promote(*operands)))),
                 f"numpy.{f.__name__} of each element (of two tensors: with broadcasting). It has no gradient.")


eq, ne = plain("eq", np.equal), plain("ne", np.not_equal)
lt, le = plain("lt", np.less), plain("le", np.less_equal)
gt, ge = plain("gt", np.greater), plain("ge", np.greater_equal)
logical_and, logical_or = plain("logical_and", np.logical_and), plain("logical_or", np.logical_or)
logical_xor, logical_not = plain("logical_xor", np.logical_xor), plain("logical_not", np.logical_not)
bitwise_and, bitwise_or = plain("bitwise_and", np.bitwise_and), plain("bitwise_or", np.bitwise_or)
bitwise_xor, bitwise_not = plain("bitwise_xor", np.bitwise_xor), plain("bitwise_not", np.bitwise_not)
isnan, isinf, isfinite = plain("isnan", np.isnan), plain("isinf", np.isinf), plain("isfinite", np.isfinite)


@method
def equal(a, b):
    """Whether a and b have the same shape and elements (a Python bool)."""
    return np.array_equal(a.data, b.data)


@method
def allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether |a - b| <= atol + rtol * |b| everywhere (a Python bool)."""
    return np.allclose(a.data, b.data, rtol, atol, equal_nan)


# --- reductions -------------------------------------------------------------------------------------------
def axes(dim):
    """numpy's `axis` for torch's `dim`, where an empty list means all dimensions."""
    return tuple(dim) or None if isinstance(dim, (tuple, list)) else dim


def reduced(name, a, y, dim, keepdim, vjp, *edges):
    """The result of a reduction. y and the g that vjp gets still have the reduced dimensions, of length 1."""
    value = y if keepdim else y.squeeze(axis=axes(dim))
    return Tensor.from_op(name, value, (a, lambda g: vjp(g.reshape(y.shape))), *edges)


@method
def sum(a, dim=None, keepdim=False, dtype=None):
    """The sum over the dimensions `dim` (an int, several, or None for all). Integers and bools sum in int64."""
    a = cast(a, dtype or (np.int64 if a.dtype.kind in "biu" else a.dtype))
    y = a.data.sum(axis=axes(dim), keepdims=True)
    return reduced("sum", a, y, dim, keepdim, lambda g: np.broadcast_to(g, a.shape))


def center(name, a, dim):
    """(mean over dim with the dimensions kept, number of elements in each mean)."""
    if a.dtype.kind != "f":
        raise RuntimeError(f"{name}: expected a floating point tensor, got {a.dtype}")
    total = a.data.sum(axis=axes(dim), keepdims=True)
    count = a.data.size // builtins.max(total.size, 1)
    return total / count if count else np.full_like(total, np.nan), count


@method
def mean(a, dim=None, keepdim=False, dtype=None):
    """The mean over the dimensions `dim`."""
    a = cast(a, dtype or a.dtype)
    y, count = center("mean", a, dim)
    return reduced("mean", a, y, dim, keepdim, lambda g: np.broadcast_to(g / count, a.shape))


def spread(name, f, slope):
    """var or std: y = f(variance), with dy / d variance = slope(y)."""
    def function(a, dim=None, unbiased=None, keepdim=False, correction=1):
        if isinstance(dim, bool):       # torch allows x.var(False)
            dim, unbiased = None, dim
        if unbiased is not None:
            correction = int(unbiased)
        mean, count = center(name, a, dim)
        freedom = np.asarray(builtins.max(count - correction, 0), a.dtype)
        y = f(np.square(a.data - mean).sum(axis=axes(dim), keepdims=True) / freedom)
        return reduced(name, a, y, dim, keepdim, lambda g: g * slope(y) * 2 / freedom * (a.data - mean))
    return named(name, function, f"The {name} over `dim`: squares are divided by n - correction (unbiased: n - 1).")


var = spread("var", lambda v: v, lambda y: 1)
std = spread("std", np.sqrt, lambda y: np.where(y == 0, 0, 0.5 / y))


def along(a, index, dim):
    """(the elements of a at index along dim, the vjp of that where no element is taken twice)."""
    def vjp(g):
        grad = np.zeros_like(a.data)
        np.put_along_axis(grad, index, g, dim)
        return grad
    return np.take_along_axis(a.data, index, dim), vjp


def largest(name, f, arg, pairwise):
    """(amax, max, argmax), or the same for the smallest."""
    def spread_out(a, dim=None, keepdim=False):
        y = f(a.data, axis=axes(dim), keepdims=True)

        def vjp(g):
            ties = (a.data == y).astype(a.dtype)
            return g / ties.sum(axis=axes(dim), keepdims=True) * ties
        return reduced("a" + name, a, y, dim, keepdim, vjp)

    def indexed(a, dim=None, keepdim=False):
        if isinstance(dim, Tensor):
            return pairwise(a, dim)
        if dim is None:
            return spread_out(a)
        index = arg(a.data, axis=dim, keepdims=True)
        y, vjp = along(a, index, dim)
        indices = Tensor(index if keepdim else index.squeeze(axis=dim))
        return ValuesIndices(reduced(name, a, y, dim, keepdim, vjp, (indices, None)), indices)

    def position(a, dim=None, keepdim=False):
        return Tensor(arg(a.data, axis=dim, keepdims=keepdim))
    return (named("a" + name, spread_out, f"The {name} over `dim`; ties share the gradient evenly."),
            named(name, indexed, f"Without dim the {name} of all (ties share the gradient); with dim (values, indices) "
                                 f"along it; with a tensor, elementwise."),
            named("arg" + name, position, f"Where the {name} is, the first one at ties (dim None: in the flat tensor)."))


amax, max, argmax = largest("max", np.max, np.argmax, maximum)
amin, min, argmin = largest("min", np.min, np.argmin, minimum)


@method
def prod(a, dim=None, keepdim=False):
    """The product over one dimension, or over all."""
    y = a.data.prod(axis=dim, keepdims=True)

    def vjp(g):     # each factor times the product of those before it and of those after it: no division by zeros
        x = a.data.reshape(1, -1) if dim is None else np.moveaxis(a.data, dim, -1)
        one = np.ones_like(x[..., :1])
        before = np.cumprod(np.concatenate([one, x[..., :-1]], -1), -1)
        after = np.cumprod(np.concatenate([one, x[..., :0:-1]], -1), -1)[..., ::-1]
        others = before * after
        return g * (others.reshape(a.shape) if dim is None else np.moveaxis(others, -1, dim))
    return reduced("prod", a, y, dim, keepdim, vjp)


@method
def logsumexp(a, dim, keepdim=False):
    """log(sum(exp(a))) over `dim`, without overflow."""
    a, = promote(a, floating=True)
    top = a.data.max(axis=axes(dim), keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    y = np.log(np.exp(a.data - top).sum(axis=axes(dim), keepdims=True)) + top
    return reduced("logsumexp", a, y, dim, keepdim, lambda g: g * np.exp(a.data - y))


@method
def norm(a, p=2, dim=None, keepdim=False):
    """The p-norm of the elements over `dim`: (sum |a|^p)^(1/p); "fro" is 2, inf and -inf are max |a| and min |a|."""
    p = 2 if p == "fro" else p
    if not isinstance(p, (int, float)) or p == 0:
        raise NotImplementedError(f"norm: p = {p!r} is not supported")
    if math.isinf(p):
        return (amax if p > 0 else amin)(abs(a), dim, keepdim)
    y = (np.abs(a.data) ** p).sum(axis=axes(dim), keepdims=True) ** (1 / p)

    def vjp(g):
        slope = np.sign(a.data) * (np.abs(a.data) / y) ** (p - 1)
        return g * np.where((a.data == 0) | (y == 0), 0, slope)
    return reduced("norm", a, y, dim, keepdim, vjp)


@method
def cumsum(a, dim):
    """Running sums along `dim`. Integers and bools sum in int64."""
    y = np.cumsum(a.data, axis=dim, dtype=np.int64 if a.dtype.kind in "biu" else a.dtype)
    return Tensor.from_op("cumsum", y, (a, lambda g: np.copy(np.flip(np.cumsum(np.flip(g, dim), axis=dim), dim))))


@method
def any(a, dim=None, keepdim=False):
    """Whether any element over `dim` is true (not zero)."""
    return Tensor(a.data.any(axis=axes(dim), keepdims=keepdim))


@method
def all(a, dim=None, keepdim=False):
    """Whether all elements over `dim` are true (not zero)."""
    return Tensor(a.data.all(axis=axes(dim), keepdims=keepdim))


@method
def count_nonzero(a, dim=None):
    """How many elements over `dim` are not zero."""
    return Tensor(np.count_nonzero(a.data, axis=axes(dim)))


# --- products ---------------------------------------------------------------------------------------------
@method
def matmul(a, b):
    """The matrix product over the last two dimensions; those before broadcast. A vector is a row (left) or a column."""
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: the tensors must have one dtype, they are {a.dtype} and {b.dtype}")
    value = np.matmul(a.data, b.data)
    x = a.data if a.ndim > 1 else a.data[None]
    y = b.data if b.ndim > 1 else b.data[:, None]

    def matrices(g):
        g = g if b.ndim > 1 else g[..., None]
        return g if a.ndim > 1 else np.expand_dims(g, -2)

    def left(g):
        return unbroadcast(matrices(g) @ y.swapaxes(-1, -2), x.shape).reshape(a.shape)

    def right(g):
        g = matrices(g)
        if y.ndim == 2:     # one product instead of a sum of many
            return (x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])).reshape(b.shape)
        return unbroadcast(x.swapaxes(-1, -2) @ g, y.shape)
    return Tensor.from_op("matmul", value, (a, left), (b, right))


def product(name, left, right):
    def function(a, b):
        if (a.ndim, b.ndim) != (left, right):
            raise RuntimeError(f"{name}: expected {left}-D and {right}-D tensors, got shapes {a.shape} and {b.shape}")
        return matmul(a, b)
    return named(name, function, f"matmul of a {left}-D and a {right}-D tensor, nothing else.")


dot, mv, mm, bmm = product("dot", 1, 1), product("mv", 2, 1), product("mm", 2, 2), product("bmm", 3, 3)


@method
def outer(a, b):
    """The products of all pairs of elements of two vectors: (len(a), len(b))."""
    if (a.ndim, b.ndim) != (1, 1):
        raise RuntimeError(f"outer: expected two vectors, got shapes {a.shape} and {b.shape}")
    return mul(a[:, None], b)


@operator
def einsum(equation, *operands):
    """Einstein's sum, as numpy.einsum, for an equation in letters such as "bij,bjk->bik" ("..." allowed)."""
    arrays = [x.data for x in operands]
    inputs, output = explicit(equation.replace(" ", ""), [x.ndim for x in operands])

    def vjp(i):
        own, others = inputs[i], inputs[:i] + inputs[i + 1:]
        length = dict(zip(own, operands[i].shape))
        letters = "".join(length)       # without repetition: a letter that comes twice reads a diagonal
        known = [x for x in letters if x in output or builtins.any(x in other for other in others)]

        def product(g):
            grad = np.einsum(",".join([output, *others]) + "->" + "".join(known),
                             g, *arrays[:i], *arrays[i + 1:], optimize=True)
            stretched = tuple(axis for axis, x in enumerate(known) if length[x] == 1)
            grad = np.expand_dims(grad.sum(axis=stretched, keepdims=True),
                                  [axis for axis, x in enumerate(letters) if x not in known])
            out = np.zeros(operands[i].shape, g.dtype)
            np.einsum(own + "->" + letters, out)[...] = grad    # written through a view, with broadcasting
            return out
        return product
    return Tensor.from_op("einsum", np.einsum(",".join(inputs) + "->" + output, *arrays, optimize=True),
                          *((x, vjp(i)) for i, x in enumerate(operands)))


def explicit(equation, ndims):
    """([letters of each operand], letters of the result), with letters of its own for every "..."."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ndims):
        raise RuntimeError(f"einsum: {equation!r} is for {len(inputs)} tensors, got {len(ndims)}")
    free = [x for x in string.ascii_letters if x not in equation]
    counts = [ndim - len(letters.replace("...", "")) for letters, ndim in zip(inputs, ndims)]
    inputs = [letters.replace("...", "".join(free[:n][::-1])) for letters, n in zip(inputs, counts)]
    batch = "".join(free[:builtins.max(counts)][::-1]) if "..." in left else ""
    if not arrow:
        output = batch + "".join(sorted(x for x in set(left) - set(",.") if left.count(x) == 1))
    return inputs, output.replace("...", batch)


# --- changes in place -------------------------------------------------------------------------------------
def fits(name, a, value):
    """RuntimeError unless value can be stored in a: same shape, and no dtype of a wider category."""
    if value.shape != a.shape:
        raise RuntimeError(f"{name}: a result of shape {value.shape} does not fit into a tensor of shape {a.shape}")
    if CATEGORY[value.dtype.kind] > CATEGORY[a.dtype.kind]:
        raise RuntimeError(f"{name}: a result of dtype {value.dtype} does not fit into a tensor of dtype {a.dtype}")


def in_place(function):
    """a.function_(...): a becomes function(a, ...) in its own memory; returns a. It is never part of a record."""
    name = function.__name__ + "_"

    @functools.wraps(function)
    def change(a, *args, **options):
        value = function(a, *args, **options)
        fits(name, a, value)
        if value.requires_grad and not a.requires_grad:
            raise NotImplementedError(f"{name}: a change in place cannot be recorded; use {function.__name__}")
        a.change()
        np.copyto(a.data, value.data, casting="unsafe")
        return a
    change.__name__ = name
    return method(change)


def augmented(function):
    """a += b and the like: in place as in torch, but out of place (a is rebound) where the step must be recorded."""
    change = in_place(function)

    def assign(a, b):
        if not is_grad_enabled() or a.is_leaf and (a.requires_grad or not getattr(b, "requires_grad", False)):
            return change(a, b)
        value = function(a, b)
        fits(function.__name__, a, value)
        return cast(value, a.dtype)
    return assign


# --- the same as Python's operators -----------------------------------------------------------------------
def comparison(function):
    """x == None is False rather than an error."""
    def compare(a, b):
        return function(a, b) if isinstance(b, (Tensor, np.ndarray, np.generic, bool, int, float)) else NotImplemented
    return compare


for _name, _function in {"add": add, "sub": sub, "mul": mul, "truediv": div, "floordiv": floor_divide, "mod": remainder,
                         "pow": pow, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor}.items():
    setattr(Tensor, f"__{_name}__", _function)
    setattr(Tensor, f"__r{_name}__", lambda a, b, function=_function: function(b, a))
    setattr(Tensor, f"__i{_name}__", augmented(_function))
Tensor.__matmul__ = matmul
for _function in (eq, ne, lt, le, gt, ge):
    setattr(Tensor, f"__{_function.__name__}__", comparison(_function))
for _function in (clamp, clamp_min, clamp_max, abs, neg, exp, sqrt, round):
    in_place(_function)
Tensor.__neg__, Tensor.__abs__, Tensor.__invert__, Tensor.__pos__ = neg, abs, bitwise_not, lambda a: a
