"""What is added to the loss to make weights small."""
import numpy as np

from ..nn import Module
from ..tensor import Tensor
from .zeros import sparsifiable


def l1(model):
    """The sum of |w| over the weights of every Linear and Conv2d of a model, a scalar with a gradient:

        loss = cross_entropy(model(x), y) + strength * l1(model)

    model: a Module, or an iterable of tensors, where it should be other weights than those.

    The gradient is sign(w), and 0 at w = 0, so a pruned weight feels nothing. It pulls every weight towards
    zero by the same amount a step, and one that arrives steps over: weights end up small, around zero, and
    none of them exactly there. Exact zeros take a mask that removes the small ones (see Pruner).
    """
    if isinstance(model, Module):
        weights = tuple(layer.weight for layer in sparsifiable(model).values())
    else:
        weights = (model,) if isinstance(model, Tensor) else tuple(model)
    if not weights:
        raise ValueError("l1: there are no weights to sum over")
    value = sum(np.abs(w.data).sum() for w in weights)

    def vjp(g):
        gradients = tuple(np.sign(w.data) * g.astype(w.dtype) for w in weights)
        return gradients if len(weights) > 1 else gradients[0]

    return Tensor.from_op("l1", value, (weights, vjp))
