"""Activation functions, softmax and dropout."""
import numpy as np

from .kernels import load, memory, reference
from .kernels.pool import parallel
from .tensor import Tensor

CHUNK = 1 << 15     # numbers that are worked on at a time, so that intermediate results stay in the cache


def pointwise(function, *arrays, compiled=False):
    """function(*chunks, out=chunk) over all numbers of the arrays, which have one shape; on the worker threads.

    compiled: one pass and no intermediate results, so that each thread gets its part in one piece. The result has the
    memory order of the first array.
    """
    out = memory.empty_like(arrays[0])
    order = np.argsort([-s for s in out.strides], kind="stable")
    flats = [np.ascontiguousarray(a.transpose(order)).reshape(-1) for a in (*arrays, out)]

    def work(first, last):
        size = (last - first if compiled else 1) * CHUNK
        for start in range(first * CHUNK, min(last * CHUNK, out.size), size):
            function(*(a[start:start + size] for a in flats))     # the last one is out
    parallel(work, -(-out.size // CHUNK))
    return out


def _floating(name, x):
    if x.dtype.kind != "f":
        raise ValueError(f"{name}: expected a floating point tensor, got {x.dtype}")


def _activation(name, x, function, derivative):
    """y = function(x); gradient g * derivative(x)."""
    _floating(name, x)
    return Tensor.from_op(name, pointwise(lambda a, out: np.copyto(out, function(a)), x.data),
                          (x, lambda g: pointwise(lambda a, b, out: np.multiply(b, derivative(a), out=out), x.data, g)))


def relu(x):
    """max(x, 0); derivative 0 at 0."""
    _floating("relu", x)
    # the way back is no product: 0 times an infinite gradient is no number
    return Tensor.from_op("relu", pointwise(lambda a, out: np.maximum(a, 0, out=out), x.data),
                          (x, lambda g: pointwise(lambda a, b, out: np.copyto(out, np.where(a > 0, b, 0)), x.data, g)))


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


def gelu(x, approximate="none"):
    """x Phi(x), Phi the normal distribution function (arXiv:1606.08415)."""
    if approximate != "none":
        raise NotImplementedError(f"gelu: approximate={approximate!r}")
    _floating("gelu", x)
    kernels = load("activation") if x.dtype == np.float32 else reference
    compiled = kernels is not reference
    return Tensor.from_op("gelu", pointwise(kernels.gelu, x.data, compiled=compiled),
                          (x, lambda g: pointwise(kernels.gelu_grad, x.data, g, compiled=compiled)))


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
    return Tensor.from_op("dropout", pointwise(np.multiply, x.data, keep),
                          (x, lambda g: pointwise(np.multiply, keep, g)))
