"""Activation functions, softmax and dropout."""
import math

import numpy as np

from .kernels import memory
from .kernels.pool import parallel
from .tensor import Tensor

CHUNK = 1 << 15     # numbers that are worked on at a time, so that intermediate results stay in the cache


def pointwise(function, *arrays):
    """function(*chunks) -> chunk, over all numbers of the arrays, which have one shape; on the worker threads.

    The result has the memory order of the first array.
    """
    out = memory.empty_like(arrays[0])
    order = np.argsort([-s for s in out.strides], kind="stable")
    flat_out, *flats = (np.ascontiguousarray(a.transpose(order)).reshape(-1) for a in (out, *arrays))

    def work(first, last):
        for chunk in range(first, last):
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            flat_out[part] = function(*(a[part] for a in flats))
    parallel(work, -(-out.size // CHUNK))
    return out


def _floating(name, x):
    if x.dtype.kind != "f":
        raise ValueError(f"{name}: expected a floating point tensor, got {x.dtype}")


def _activation(name, x, function, derivative):
    """y = function(x); gradient g * derivative(x)."""
    _floating(name, x)
    return Tensor.from_op(name, pointwise(function, x.data),
                          (x, lambda g: pointwise(lambda a, b: b * derivative(a), x.data, g)))


def relu(x):
    """max(x, 0); derivative 0 at 0."""
    return _activation("relu", x, lambda a: np.maximum(a, 0), lambda a: a > 0)


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, negative_slope x elsewhere."""
    slope = x.dtype.type(negative_slope)
    return _activation("leaky_relu", x, lambda a: np.where(a > 0, a, slope * a),
                       lambda a: np.where(a > 0, a.dtype.type(1), slope))


def _logistic(a):
    # exp of a negative number only, so that nothing overflows
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return _activation("sigmoid", x, _logistic, lambda a: _logistic(a) * _logistic(-a))


def silu(x):
    """x sigmoid(x) (the swish of arXiv:1710.05941)."""
    return _activation("silu", x, lambda a: a * _logistic(a),
                       lambda a: _logistic(a) * (1 + a * _logistic(-a)))


def tanh(x):
    """The hyperbolic tangent."""
    return _activation("tanh", x, np.tanh, lambda a: 1 - np.tanh(a) ** 2)


def _normal(a):
    """(cdf, pdf) of the standard normal distribution.

    float32: erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error below 1.5e-7, which is
    the rounding of float32), whose exponential the density shares; float64: the C library's erf.
    """
    e = np.exp(a * a * a.dtype.type(-0.5))
    if a.dtype == np.float64:
        tail = np.array([0.5 * math.erfc(abs(v) / math.sqrt(2)) for v in a.tolist()])
    else:
        t = 1 / (1 + np.abs(a) * a.dtype.type(0.3275911 / math.sqrt(2)))
        tail = t * a.dtype.type(1.061405429)
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += a.dtype.type(coefficient)
            tail *= t
        tail *= e
        tail *= a.dtype.type(0.5)
    return np.where(a > 0, 1 - tail, tail), e * a.dtype.type(1 / math.sqrt(2 * math.pi))


def gelu(x, approximate="none"):
    """x Phi(x), Phi the normal distribution function (arXiv:1606.08415)."""
    if approximate != "none":
        raise NotImplementedError(f"gelu: approximate={approximate!r}")

    def derivative(a):
        cdf, pdf = _normal(a)
        return cdf + a * pdf
    return _activation("gelu", x, lambda a: a * _normal(a)[0], derivative)


def log_softmax(x, dim):
    """x - log(sum(exp(x))) along dim."""
    _floating("log_softmax", x)
    shifted = x.data - x.data.max(axis=dim, keepdims=True)
    value = shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))
    return Tensor.from_op("log_softmax", value, (x, lambda g: g - np.exp(value) * g.sum(axis=dim, keepdims=True)))


def softmax(x, dim):
    """exp(x) / sum(exp(x)) along dim."""
    _floating("softmax", x)
    e = np.exp(x.data - x.data.max(axis=dim, keepdims=True))
    value = e / e.sum(axis=dim, keepdims=True)
    return Tensor.from_op("softmax", value,
                          (x, lambda g: value * (g - (g * value).sum(axis=dim, keepdims=True))))


def dropout(x, p=0.5, training=True):
    """x with each number zeroed with probability p and the others divided by 1 - p; x itself in evaluation."""
    from .creation import generator     # here: creation needs the operators
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must lie between 0 and 1, got {p}")
    _floating("dropout", x)
    if not training or p == 0:
        return x
    # drawn in memory order: a mask in another order would make a product that loses the batch-innermost layout
    keep = memory.empty_like(x.data)
    order = np.argsort([-s for s in keep.strides], kind="stable")
    keep.transpose(order)[...] = generator().random(tuple(keep.shape[i] for i in order), np.float32) >= p
    keep /= x.dtype.type(max(1 - p, 1e-30))
    return Tensor.from_op("dropout", x.data * keep, (x, lambda g: g * keep))
