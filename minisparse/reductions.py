"""Reductions: sums, means, extremes, norms over some dimensions, and running sums."""
import builtins
import collections
import math

import numpy as np

from .ops import abs, cast, maximum, method, minimum, named, only_where, promote
from .tensor import Tensor

ValuesIndices = collections.namedtuple("ValuesIndices", "values indices")


def axes(dim):
    """numpy's `axis` for torch's `dim`, where an empty list means all dimensions."""
    return tuple(dim) or None if isinstance(dim, (tuple, list)) else dim


def reduced(name, a, y, dim, keepdim, vjp, *edges):
    """The result of a reduction. y, and the g that vjp gets, still have the reduced dimensions (length 1)."""
    value = y if keepdim else y.squeeze(axis=axes(dim))
    return Tensor.from_op(name, value, (a, lambda g: vjp(g.reshape(y.shape))), *edges)


@method
def sum(a, dim=None, keepdim=False, dtype=None):
    """The sum over the dimensions `dim`: one, several, or None for all. Integers and bools sum in int64."""
    a = a if dtype is None else cast(a, dtype)
    y = a.data.sum(axis=axes(dim), keepdims=True, dtype=wide(a.dtype))
    return reduced("sum", a, y, dim, keepdim, lambda g: np.broadcast_to(g, a.shape))


def wide(dtype):
    return dtype if dtype.kind == "f" else np.int64


def floating(name, a):
    if a.dtype.kind != "f":
        raise RuntimeError(f"{name}: expected a floating point tensor, got {a.dtype}")


def center(a, dim):
    """(mean over dim with the dimensions kept, number of elements in each mean)."""
    total = a.data.sum(axis=axes(dim), keepdims=True)
    count = np.asarray(a.data.size // builtins.max(total.size, 1), a.dtype)
    return total / count, count


@method
def mean(a, dim=None, keepdim=False, dtype=None):
    """The mean over the dimensions `dim`."""
    a = a if dtype is None else cast(a, dtype)
    floating("mean", a)
    y, count = center(a, dim)
    return reduced("mean", a, y, dim, keepdim, lambda g: np.broadcast_to(g / count, a.shape))


def spread(name, f, slope):
    """var or std: y = f(variance), with dy / d variance = slope(y)."""
    def function(a, dim=None, unbiased=None, keepdim=False, correction=1):
        if isinstance(dim, bool):       # torch allows x.var(False)
            dim, unbiased = None, dim
        if unbiased is not None:
            correction = int(unbiased)
        floating(name, a)
        middle, count = center(a, dim)
        freedom = np.maximum(count - correction, 0)
        y = f(np.square(a.data - middle).sum(axis=axes(dim), keepdims=True) / freedom)
        return reduced(name, a, y, dim, keepdim, lambda g: g * slope(y) * 2 / freedom * (a.data - middle))
    return named(name, function, f"The {name} over `dim`; the sum of squares is divided by n - correction.")


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
    def shared(a, dim=None, keepdim=False):
        y = f(a.data, axis=axes(dim), keepdims=True)

        def vjp(g):
            ties = a.data == y
            return only_where(ties, g / ties.sum(axis=axes(dim), keepdims=True, dtype=g.dtype))
        return reduced("a" + name, a, y, dim, keepdim, vjp)

    def indexed(a, dim=None, keepdim=False):
        if isinstance(dim, Tensor):
            return pairwise(a, dim)
        if dim is None:
            return shared(a)
        index = arg(a.data, axis=dim, keepdims=True)
        y, vjp = along(a, index, dim)
        indices = Tensor(index if keepdim else index.squeeze(axis=dim))
        return ValuesIndices(reduced(name, a, y, dim, keepdim, vjp, (indices, None)), indices)

    def position(a, dim=None, keepdim=False):
        return Tensor(arg(a.data, axis=dim, keepdims=keepdim))
    return (named("a" + name, shared, f"The {name} over `dim`; ties share the gradient evenly."),
            named(name, indexed, f"The {name} of all; with dim (values, indices); or of two tensors."),
            named("arg" + name, position, f"Where the first {name} is along dim, or in the flat tensor."))


amax, max, argmax = largest("max", np.max, np.argmax, maximum)
amin, min, argmin = largest("min", np.min, np.argmin, minimum)


@method
def prod(a, dim=None, keepdim=False):
    """The product over one dimension, or over all."""
    y = a.data.prod(axis=dim, keepdims=True, dtype=wide(a.dtype))

    def vjp(g):     # the product of those before and of those after each factor: nothing divides by zero
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
    """(sum |a|^p)^(1/p) over `dim`; p = "fro" is 2, inf and -inf are max |a| and min |a|."""
    p = 2 if p == "fro" else p
    if not isinstance(p, (int, float)) or p == 0:
        raise NotImplementedError(f"norm: p = {p!r} is not supported")
    floating("norm", a)
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
    y = np.cumsum(a.data, axis=dim, dtype=wide(a.dtype))

    def vjp(g):
        return np.copy(np.flip(np.cumsum(np.flip(g, dim), axis=dim), dim))
    return Tensor.from_op("cumsum", y, (a, vjp))


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
