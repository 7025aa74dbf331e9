"""Arithmetic, elementwise functions, reductions and matrix products on Tensors.

An operator is one function: the value first, then for each differentiable input its vector-Jacobian product
(vjp), which takes g, the gradient of the result, to the gradient of that input.
"""
import numpy as np

from .tensor import Tensor


def result_type(*operands):
    """torch's rule: the widest category (bool < int < float) wins; within it arrays rule over 0-d over numbers."""
    category = {"b": 0, "i": 1, "u": 1, "f": 2}
    ranked = []
    for x in operands:
        if isinstance(x, Tensor):
            ranked.append((category[x.dtype.kind], 2 if x.ndim else 1, x.dtype))
        else:
            kind = np.asarray(x).dtype.kind
            if kind not in category:
                raise TypeError(f"expected numbers or tensors, got {type(x).__name__}")
            default = {"b": np.bool_, "f": np.float32}.get(kind, np.int64)
            ranked.append((category[kind], 0, np.dtype(default)))
    top = max(rank[0] for rank in ranked)
    ranked = [rank for rank in ranked if rank[0] == top]
    rule = max(rank[1] for rank in ranked)
    return np.result_type(*(dtype for _, r, dtype in ranked if r == rule))


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
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g


def cast(a, dtype):
    """a as another dtype; the gradient is cast back."""
    if a.dtype == dtype:
        return a
    value = a.data.astype(dtype)
    if value.dtype.kind != "f" or a.dtype.kind != "f":
        return Tensor(value)
    return Tensor.from_op("cast", value, (a, lambda g: g.astype(a.dtype)))


def add(a, b, alpha=1):
    """a + alpha * b, with broadcasting."""
    if alpha != 1:
        b = mul(b, alpha)
    a, b = promote(a, b)
    return Tensor.from_op("add", a.data + b.data,
                          (a, lambda g: unbroadcast(g, a.shape)),
                          (b, lambda g: unbroadcast(g, b.shape)))


def mul(a, b):
    """a * b, elementwise with broadcasting."""
    a, b = promote(a, b)
    return Tensor.from_op("mul", a.data * b.data,
                          (a, lambda g: unbroadcast(g * b.data, a.shape)),
                          (b, lambda g: unbroadcast(g * a.data, b.shape)))


def exp(a):
    """e ** a."""
    a, = promote(a, floating=True)
    y = np.exp(a.data)
    return Tensor.from_op("exp", y, (a, lambda g: g * y))


def sum(a, dim=None, keepdim=False, dtype=None):
    """The sum over the dimensions `dim` (an int, several, or None for all). Integers and bools sum in int64."""
    if dtype is not None:
        a = cast(a, dtype)
    value = a.data.sum(axis=dim, keepdims=keepdim, dtype=np.int64 if a.dtype.kind in "biu" else a.dtype)

    def vjp(g):
        if dim is not None and not keepdim:
            g = np.expand_dims(g, dim)
        return np.broadcast_to(g, a.shape)
    return Tensor.from_op("sum", value, (a, vjp))


# --- the same as methods and operators --------------------------------------------------------------------
Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = mul
for _function in (add, mul, exp, sum):
    setattr(Tensor, _function.__name__, _function)
