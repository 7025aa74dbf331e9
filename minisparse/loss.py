"""Losses: one number (or, with reduction="none", one for each example) that says how wrong a prediction is.

reduction is "mean", "sum" or "none" throughout. A target of another shape is an error, never broadcast.
"""
import numpy as np

from .ops import promote
from .tensor import Tensor


def _reduce(losses, reduction, total=None):
    """The losses as reduced, and the map from the gradient of that back to the gradient of `losses`.

    total: what "mean" divides by, their number unless given. The mean of nothing is nan, with gradient 0.
    """
    if reduction == "none":
        return losses, lambda g: g
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'mean', 'sum' or 'none', got {reduction!r}")
    divisor = losses.dtype.type((losses.size if total is None else total) if reduction == "mean" else 1)
    scale = np.reciprocal(divisor) if divisor else divisor
    with np.errstate(invalid="ignore"):
        return losses.sum() / divisor, lambda g: np.broadcast_to(g * scale, losses.shape)


# --- classification ---------------------------------------------------------------------------------------
def _class_axis(name, input, target):
    """The axis of the classes in input: (C,) or (N, C, ...)."""
    for label, t in ("input", input), ("target", target):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: {label} has to be a Tensor, got {type(t).__name__}")
    if input.ndim == 0 or input.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating point input (C,) or (N, C, ...), "
                         f"got {input.dtype} {input.shape}")
    return min(input.ndim - 1, 1)


def _one_hot(name, input, target, axis, ignore_index):
    """1 at the class of each target, 0 elsewhere and where the target is ignored: an array like input."""
    classes = input.shape[axis]
    expected = input.shape[:axis] + input.shape[axis + 1:]
    if target.dtype.kind not in "iu":
        raise ValueError(f"{name}: class indices are integers of shape {expected}, "
                         f"got {target.dtype} {target.shape}")
    if target.shape != expected:
        raise ValueError(f"{name}: input of shape {input.shape} needs a target of shape {expected}, "
                         f"got {target.shape}")
    kept = target.data != ignore_index
    index = np.where(kept, target.data, 0)
    wrong = (index < 0) | (index >= classes)
    if wrong.any():
        raise IndexError(f"{name}: the target has class {index[wrong][0]}, the input has {classes} classes "
                         f"(0 to {classes - 1})")
    out = np.zeros_like(input.data)
    np.put_along_axis(out, np.expand_dims(index, axis), np.expand_dims(kept, axis), axis)
    return out


def _along(name, weight, input, axis):
    """The class weights (C,), shaped to multiply input."""
    if weight is None:
        return input.dtype.type(1)
    classes = input.shape[axis]
    if weight.shape != (classes,):
        raise ValueError(f"{name}: weight has shape {weight.shape}, the input has {classes} classes")
    return weight.data.astype(input.dtype).reshape((-1,) + (1,) * (input.ndim - axis - 1))


def _weighted_sum(q, x, axis):
    """sum of q x over the classes, where 0 times anything is 0: a class with probability 0 has log -inf."""
    return np.multiply(q, x, where=q != 0, out=np.zeros_like(x)).sum(axis)


def cross_entropy(input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """-sum_c q_c log softmax(input)_c, with q_c = weight_c ((1 - label_smoothing) t_c + label_smoothing / C).

    input: logits (C,), (N, C) or (N, C, d1, ...).
    target: class indices, integers of input's shape without C, of which t is the one-hot code; those equal to
        ignore_index count as nothing; or probabilities t, of input's shape and dtype.
    weight: (C,). The mean over class indices is weighted by it, the mean over probabilities is not.
    ValueError for shapes that do not fit, IndexError for a class that does not exist.
    """
    name = "cross_entropy"
    axis = _class_axis(name, input, target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing lies between 0 and 1, got {label_smoothing}")
    w = _along(name, weight, input, axis)
    classes = input.shape[axis]
    if target.dtype.kind == "f" and target.shape == input.shape:
        t, kept, total = np.empty_like(input.data), 1, None     # input's memory order
        t[...] = target.data
    else:
        t = _one_hot(name, input, target, axis, ignore_index)
        kept, total = t.sum(axis, keepdims=True), (w * t).sum()
    if label_smoothing:
        t = (1 - label_smoothing) * t + label_smoothing / classes * kept
    q = w * t

    shifted = input.data - input.data.max(axis, keepdims=True)      # so that exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    value, spread = _reduce(-_weighted_sum(q, log_p, axis), reduction, total)

    def input_vjp(g):
        return (np.exp(log_p) * q.sum(axis, keepdims=True) - q) * np.expand_dims(spread(g), axis)

    def target_vjp(g):
        return ((label_smoothing - 1) * w * log_p * np.expand_dims(spread(g), axis)).astype(target.dtype)
    return Tensor.from_op(name, value, (input, input_vjp), (target, target_vjp))


def nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """-weight_c input_c, at the class c of the target.

    input: log-probabilities (C,), (N, C) or (N, C, d1, ...).
    target: class indices as for cross_entropy. The mean is weighted by weight.
    """
    axis = _class_axis("nll_loss", input, target)
    q = _along("nll_loss", weight, input, axis) * _one_hot("nll_loss", input, target, axis, ignore_index)
    value, spread = _reduce(-_weighted_sum(q, input.data, axis), reduction, q.sum())
    return Tensor.from_op("nll_loss", value, (input, lambda g: -q * np.expand_dims(spread(g), axis)))


def _same_shape(name, input, target):
    """Both as floating point tensors of one dtype."""
    if input.shape != target.shape:
        raise ValueError(f"{name}: input has shape {input.shape}, target {target.shape}")
    return promote(input, target, floating=True)


def _pairwise(name, input, target, reduction, losses, by_input, by_target):
    """The reduced losses; by_input() and by_target() give their derivatives when they are needed."""
    dtype = input.dtype     # numpy 1 makes a 0-d float32 times a number float64
    value, spread = _reduce(np.asarray(losses, dtype), reduction)
    return Tensor.from_op(name, value,
                          (input, lambda g: np.asarray(spread(g) * by_input(), dtype)),
                          (target, lambda g: np.asarray(spread(g) * by_target(), dtype)))


def binary_cross_entropy_with_logits(input, target, weight=None, *, reduction="mean", pos_weight=None):
    """-weight (pos_weight t log(p) + (1 - t) log(1 - p)), with p = sigmoid(input) and t = target.

    target: probabilities of input's shape, to which weight and pos_weight broadcast.
    """
    name = "binary_cross_entropy_with_logits"
    input, target = _same_shape(name, input, target)
    x, t = input.data, target.data
    w, positive = (np.ones((), x.dtype) if given is None else given.data.astype(x.dtype)
                   for given in (weight, pos_weight))
    for label, given in ("weight", w), ("pos_weight", positive):
        if given.ndim > x.ndim or any(n not in (1, m) for n, m in zip(given.shape[::-1], x.shape[::-1])):
            raise ValueError(f"{name}: {label} of shape {given.shape} does not broadcast to {x.shape}")
    e = np.exp(-np.abs(x))      # of a negative number, so that it cannot overflow
    minus_log_p = np.log1p(e) - np.minimum(x, 0)
    factor = 1 + (positive - 1) * t
    return _pairwise(name, input, target, reduction, w * ((1 - t) * x + factor * minus_log_p),
                     lambda: w * (1 - t - factor * np.where(x < 0, 1, e) / (1 + e)),
                     lambda: w * ((positive - 1) * minus_log_p - x))


# --- regression: a function of d = input - target ---------------------------------------------------------
def _of_difference(name, input, target, reduction, function, derivative):
    input, target = _same_shape(name, input, target)
    d = input.data - target.data
    return _pairwise(name, input, target, reduction, function(d),
                     lambda: derivative(d), lambda: -derivative(d))


def mse_loss(input, target, *, reduction="mean"):
    """d^2."""
    return _of_difference("mse_loss", input, target, reduction, lambda d: d * d, lambda d: 2 * d)


def l1_loss(input, target, *, reduction="mean"):
    """|d|; its derivative at 0 is 0."""
    return _of_difference("l1_loss", input, target, reduction, np.abs, np.sign)


def _huber(name, input, target, reduction, delta, scale):
    def function(d):
        inside = np.minimum(np.abs(d), delta)
        return scale * inside * (np.abs(d) - inside / 2)
    return _of_difference(name, input, target, reduction, function,
                          lambda d: scale * np.clip(d, -delta, delta))


def huber_loss(input, target, *, reduction="mean", delta=1.0):
    """d^2 / 2 where |d| < delta, beyond it the tangent delta (|d| - delta / 2)."""
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    return _huber("huber_loss", input, target, reduction, delta, 1)


def smooth_l1_loss(input, target, *, reduction="mean", beta=1.0):
    """The Huber loss with delta = beta, divided by beta; |d| for beta = 0."""
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    if not beta > 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    return _huber("smooth_l1_loss", input, target, reduction, beta, 1 / beta)
