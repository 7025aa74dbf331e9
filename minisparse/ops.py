"""Arithmetic, elementwise functions, comparisons, and changes in place.

An operator is one function: the value first, then for each differentiable input its vector-Jacobian product
(vjp), which takes g, the gradient of the result, to the gradient of that input. NumPy keeps the memory order
of what it is given, so values and gradients keep it too.
"""
import functools
import inspect
import math

import numpy as np

from .tensor import Tensor, is_grad_enabled, is_recording

CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2}     # of a dtype's kind: bool < integer < float
NUMBERS = (bool, int, float, np.generic)


# --- what makes a function an operator --------------------------------------------------------------------
def operator(function):
    """The function without numpy's warnings (as in torch inf and NaN are values), and with torch's errors."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args, **options):
        for option in options:
            if option not in known:
                raise NotImplementedError(f"{function.__name__}: there is no option {option!r}, only {known}")
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


class LeftOut(NotImplementedError, AttributeError):
    """A name of torch's, or of nobody's, that does not exist here: not implemented, and absent for hasattr."""

    def __init__(self, owner, name):
        super().__init__(f"{owner} has no attribute {name!r} (not all of torch's names are here)")


def left_out(tensor, name):
    raise LeftOut("Tensor", name)


Tensor.__getattr__ = left_out


def result_type(*operands):
    """torch's rule: of bool < int < float the widest wins; in it arrays rule over 0-d, 0-d over numbers."""
    first = operands[0]
    if all(isinstance(x, Tensor) and x.dtype == first.dtype for x in operands):
        return first.dtype      # the usual case, at once
    ranked = []
    for x in operands:
        if isinstance(x, (Tensor, np.ndarray)):
            ranked.append((CATEGORY[x.dtype.kind], 2 if x.ndim else 1, x.dtype))
        elif isinstance(x, (complex, np.complexfloating)):
            raise NotImplementedError(f"complex numbers are not supported, got {x!r}")
        elif isinstance(x, NUMBERS):
            category = CATEGORY[np.asarray(x).dtype.kind]
            ranked.append((category, 0, np.dtype((np.bool_, np.int64, np.float32)[category])))
        else:
            raise TypeError(f"expected numbers or tensors, got {type(x).__name__}")
    top = max(rank[:2] for rank in ranked)
    return np.result_type(*(dtype for *rank, dtype in ranked if tuple(rank) == top))


def promote(*operands, floating=False):
    """The operands as Tensors of one dtype (by result_type; at least float32 if floating)."""
    dtype = result_type(*operands)
    if floating and dtype.kind != "f":
        dtype = np.dtype(np.float32)
    # a number that an integer dtype does not hold wraps round, as in torch
    return [cast(x, dtype) if isinstance(x, Tensor) else Tensor(np.asarray(x).astype(dtype)) for x in operands]


def unbroadcast(g, shape):
    """Sum g over the axes that broadcasting stretched, back to `shape`: the vjp of broadcasting."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(g.shape) if i < extra or (shape[i - extra] == 1 and n != 1))
    return g.sum(axis=stretched, keepdims=True).reshape(shape)


def only_where(mask, g):
    """g where the mask holds, else 0: the vjp of a choice. Not a product, since 0 times an infinite g is no number."""
    return np.where(mask, g, g.dtype.type(0))


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
        slope = exponent * a.data ** (exponent - 1)
        return unbroadcast(g * np.where(b.data == 0, 0, slope), a.shape)

    def power(g):
        slope = y * np.log(a.data)
        return unbroadcast(g * np.where((a.data == 0) & (b.data >= 0), 0, slope), b.shape)
    return Tensor.from_op("pow", y, (a, base), (b, power))


def extremum(name, f):
    def function(a, b):
        a, b = promote(a, b)
        y = f(a.data, b.data)

        def share(g, x):
            return unbroadcast(np.where(a.data == b.data, g / 2, only_where(x.data == y, g)), x.shape)
        return Tensor.from_op(name, y, (a, lambda g: share(g, a)), (b, lambda g: share(g, b)))
    return named(name, function, f"The {name} of a and b, elementwise; where they tie, each gets half of g.")


maximum = extremum("maximum", np.maximum)
minimum = extremum("minimum", np.minimum)


@method
def clamp(a, min=None, max=None):
    """a limited to [min, max], numbers or tensors. At the bounds themselves the gradient passes to a."""
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    sides = [(min, np.maximum, np.less), (max, np.minimum, np.greater)]
    sides = [side for side in sides if side[0] is not None]
    a, *bounds = promote(a, *(side[0] for side in sides))
    y = a.data
    for bound, (_, limit, _) in zip(bounds, sides):
        y = limit(y, bound.data)

    def vjp(bound, beyond):
        return lambda g: unbroadcast(only_where(beyond(a.data, bound.data), g), bound.shape)
    return Tensor.from_op("clamp", y, (a, lambda g: unbroadcast(only_where(y == a.data, g), a.shape)),
                          *((bound, vjp(bound, beyond)) for bound, (_, _, beyond) in zip(bounds, sides)))


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
    """a where the bool tensor `condition` holds, else b; without a and b the indices where it holds."""
    if condition.dtype != np.bool_:
        raise RuntimeError(f"where: the condition must be a bool tensor, it is {condition.dtype}")
    if a is None and b is None:
        return tuple(Tensor(index) for index in np.nonzero(condition.data))
    a, b = promote(a, b)
    c = condition.data
    return Tensor.from_op("where", np.where(c, a.data, b.data),
                          (a, lambda g: unbroadcast(np.where(c, g, 0), a.shape)),
                          (b, lambda g: unbroadcast(np.where(c, 0, g), b.shape)), (condition, None))


@method
def neg(a):
    """-a."""
    return Tensor.from_op("neg", np.negative(a.data), (a, lambda g: -g))


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
square = elementwise("square", np.square, lambda x, y: 2 * x, floating=False)
abs = elementwise("abs", np.abs, lambda x, y: np.sign(x), floating=False)
sign = elementwise("sign", np.sign, lambda x, y: 0, floating=False)
floor = elementwise("floor", np.floor, lambda x, y: 0, floating=False)
ceil = elementwise("ceil", np.ceil, lambda x, y: 0, floating=False)
round = elementwise("round", np.round, lambda x, y: 0, floating=False)


# --- comparisons and logic: no gradients ------------------------------------------------------------------
def plain(name, f):
    def function(*operands):
        return Tensor(f(*(x.data for x in promote(*operands))))
    return named(name, function, f"numpy.{f.__name__}, elementwise with broadcasting. No gradient.")


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


# --- changes in place -------------------------------------------------------------------------------------
def fits(name, a, value):
    """RuntimeError unless value can be stored in a: same shape, and no dtype of a wider category."""
    if value.shape != a.shape:
        raise RuntimeError(f"{name}: a result of shape {value.shape} does not fit into shape {a.shape}")
    if CATEGORY[value.dtype.kind] > CATEGORY[a.dtype.kind]:
        raise RuntimeError(f"{name}: a result of dtype {value.dtype} does not fit into dtype {a.dtype}")


def in_place(function):
    """a.function_(...): function(a, ...) written over a, which is returned. It is never part of a record."""
    name = function.__name__ + "_"

    @functools.wraps(function)
    def change(a, *args, **options):
        value = function(a, *args, **options)
        fits(name, a, value)
        if value.requires_grad and not a.requires_grad:
            raise NotImplementedError(f"{name}: a change in place is not recorded; use {function.__name__}")
        a.change()
        np.copyto(a.data, value.data, casting="unsafe")
        a.apply_mask()
        return a
    change.__name__ = name
    return method(change)


def augmented(function):
    """a += b and the like: in place, as in torch; but where the step must be recorded a is bound to a new
    tensor, because a record may need the value that was there. Another name of the old one, or a view, does not follow
    then: write a + b where there is one."""
    change = in_place(function)

    def assign(a, b):
        recorded = not a.is_leaf or isinstance(b, Tensor) and b.requires_grad and not a.requires_grad
        if not (recorded and is_grad_enabled() or is_recording()):
            return change(a, b)
        value = function(a, b)
        fits(function.__name__, a, value)
        return cast(value, a.dtype)
    return assign


# --- the same as Python's operators -----------------------------------------------------------------------
def infix(function):
    """The function between a and b; where b is no tensor or number Python asks b (and x == None is False)."""
    def apply(a, b):
        return function(a, b) if isinstance(b, (Tensor, np.ndarray, complex, *NUMBERS)) else NotImplemented
    return apply


for _name, _function in {"add": add, "sub": sub, "mul": mul, "truediv": div, "pow": pow,
                         "floordiv": floor_divide, "mod": remainder,
                         "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor}.items():
    setattr(Tensor, f"__{_name}__", infix(_function))
    setattr(Tensor, f"__r{_name}__", lambda a, b, function=_function: function(b, a))
    setattr(Tensor, f"__i{_name}__", augmented(_function))
for _function in (eq, ne, lt, le, gt, ge):
    setattr(Tensor, f"__{_function.__name__}__", infix(_function))
for _function in (clamp, clamp_min, clamp_max, abs, neg, exp, sqrt, round):
    in_place(_function)
Tensor.__neg__, Tensor.__abs__, Tensor.__invert__, Tensor.__pos__ = neg, abs, bitwise_not, lambda a: a
