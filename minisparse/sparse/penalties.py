"""What is added to the loss to make weights small: L1, elastic net, group lasso. And how strong to make it.

    loss = cross_entropy(model(x), y) + strength * l1(model)

`model` is a Module, whose Linear and Conv2d weights are penalised, or a tensor or an iterable of tensors,
where it should be others. A pruned weight feels nothing: at w = 0 the gradient is taken to be 0.

By their gradient these penalties leave weights small, around zero, and none exactly there: each step pulls
by the same amount, and steps over. Exact zeros come from optim.ProximalSGD and optim.ProximalAdam, which have
the penalty as an option instead, or from a mask that removes the small ones (see Pruner).
"""
import math

import numpy as np

from ..nn import Module
from ..tensor import Tensor
from .zeros import sparsifiable


def l1(model):
    """sum |w| (the Lasso, Tibshirani 1996); gradient sign(w). A scalar, as all penalties here are."""
    return penalty("l1", model, lambda w: np.abs(w).sum(), np.sign)


def elastic_net(model, l1_ratio=0.5):
    """l1_ratio sum |w| + (1 - l1_ratio) / 2 sum w^2 (Zou and Hastie 2005; in this form in scikit-learn).

    Its proximal form is ProximalSGD(..., l1=strength * l1_ratio, weight_decay=strength * (1 - l1_ratio)).
    """
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"elastic_net: l1_ratio must lie in [0, 1], got {l1_ratio}")
    return penalty("elastic_net", model,
                   lambda w: l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * np.square(w).sum(),
                   lambda w: l1_ratio * np.sign(w) + (1 - l1_ratio) * w)


def group_lasso(model):
    """sum over rows sqrt(p) ||w[i]||_2, p the number of weights in a row (Yuan and Lin 2006, equation 2.1).

    The rows w[i] are rows of a Linear weight and filters of a Conv2d: all weights of a unit leave together.
    """
    def norms(w):
        rows = w.reshape(-1, math.prod(w.shape[1:]))
        return np.linalg.norm(rows, axis=1).reshape(-1, *[1] * (w.ndim - 1)), math.sqrt(rows.shape[1])

    def value(w):
        norm, root = norms(w)
        return root * norm.sum()

    def slope(w):
        norm, root = norms(w)
        return root * np.divide(w, norm, out=np.zeros_like(w), where=norm != 0)
    return penalty("group_lasso", model, value, slope)


def penalty(name, model, value, slope):
    """sum of value(w) over weight arrays, with the gradient slope(w) for each."""
    if isinstance(model, Module):
        weights = tuple(layer.weight for layer in sparsifiable(model).values())
    else:
        weights = (model,) if isinstance(model, Tensor) else tuple(model)
    if not weights:
        raise ValueError(f"{name}: there are no weights to sum over")

    def vjp(g):
        gradients = tuple(slope(w.data) * g.astype(w.dtype) for w in weights)
        return gradients if len(weights) > 1 else gradients[0]
    total = np.asarray(sum(value(w.data) for w in weights), weights[0].dtype)
    return Tensor.from_op(name, total, (weights, vjp))


def lambda_path(weights, count=50, ratio=1e-3):
    """`count` strengths of an L1 penalty to try, from strong to weak, in equal steps of their logarithm.

    The first is lambda_max = max |gradient| at w = 0, the smallest at which no weight leaves zero (Friedman,
    Hastie and Tibshirani 2010, section 2.5); the last is `ratio` times it.

        model.weight.data[...] = 0
        loss(model(x), y).backward()
        for strength in sparse.lambda_path(model.weight):
            optimizer.param_groups[0]["l1"] = strength      # and the weights go on from where they are
            ...

    weights: a tensor or an iterable of tensors, all zeros, with the gradient of the loss without the penalty.
    ValueError where they are not, or where that gradient is zero too (as in a net whose layers are all zero).
    """
    weights = (weights,) if isinstance(weights, Tensor) else tuple(weights)
    if not isinstance(count, int) or count < 2 or not 0 < ratio < 1:
        raise ValueError(f"lambda_path: expected a count of at least 2 and 0 < ratio < 1, "
                         f"got {count} and {ratio}")
    for w in weights:
        nonzero = np.count_nonzero(w.data)
        if w.grad is None or nonzero:
            found = f"{nonzero} weights that are not zero" if nonzero else "no gradient"
            raise ValueError(f"lambda_path: expected zero weights with a gradient, got a tensor of shape "
                             f"{w.shape} with {found}")
    largest = float(np.max([np.abs(w.grad.data).max() for w in weights], initial=0))    # hands a NaN on
    if not 0 < largest < math.inf:
        raise ValueError(f"lambda_path: the largest gradient at zero weights is {largest}")
    return np.geomspace(largest, ratio * largest, count)
