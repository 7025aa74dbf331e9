"""How much each layer bears: its curve when it is pruned alone, and the sparsities that follow from the curves.

Han et al. (arXiv:1506.02626, section 5 and figure 6) and Li et al. (arXiv:1608.08710, section 3.2) prune one layer at a
time, without retraining, and set each layer's sparsity by its curve. `sensitivity` measures the curves; `tolerated`
sets the sparsities such that each layer, pruned alone, would cost the same: one number in place of one for each layer.
"""
import numpy as np

from ..tensor import no_grad
from .masks import check_sparsity, topk_mask
from .scores import magnitude
from .zeros import sparsifiable


def sensitivity(model, evaluate, sparsities, dense=()):
    """{layer name: [evaluate() of the whole model, then with this layer alone pruned to each of the sparsities]}.

    evaluate: a function without arguments, of the model as it is then: its accuracy on images held out of training,
        say. (Not on the test set, if that is to judge what comes of it.) Weights are pruned by magnitude.
    dense: names of layers (or the name of one) to leave out. In the end weights, masks and gradients are as before.
    ValueError: no such layer; a sparsity outside [0, 1).
    """
    sparsities, dense = tuple(sparsities), (dense,) if isinstance(dense, str) else tuple(dense)
    layers = sparsifiable(model)
    if unknown := [name for name in dense if name not in layers]:
        raise ValueError(f"sensitivity: no Linear or Conv2d layer {', '.join(map(repr, unknown))}; there are "
                         f"{', '.join(layers) or 'none'}")
    for sparsity in sparsities:
        check_sparsity(sparsity, "sensitivity: a sparsity")
    curves, whole = {}, evaluate()
    for name, layer in layers.items():
        if name in dense:
            continue
        weight, mask, values = layer.weight, layer.weight.mask, layer.weight.data.copy()
        grad, weight.grad = weight.grad, None       # a mask would zero some of it

        @no_grad()
        def put(mask):
            weight.set_mask(None)       # else it would zero some of what is copied
            weight.copy_(values)
            weight.set_mask(mask)

        try:
            curves[name] = [whole]
            for sparsity in sparsities:
                put(topk_mask(magnitude(values), sparsity))
                curves[name].append(evaluate())
        finally:
            put(mask)
            weight.grad = grad
    return curves


def tolerated(curves, loss, sparsities):
    """{layer name: the highest sparsity up to which its curve falls by at most `loss`}.

    curves, sparsities: from `sensitivity`; the sparsities rise. Between two of them a curve is taken to be straight
    over log(1 - sparsity). A rise after a fall is noise, and does not count.
    ValueError: the curves are not of these sparsities.
    """
    kept = np.log1p(-np.array((0, *sparsities), float))
    found = {}
    for name, curve in curves.items():
        if len(curve) != len(kept):
            raise ValueError(f"tolerated: the curve of {name!r} has {len(curve)} points, expected {len(kept)}: one "
                             "more than there are sparsities")
        fall = np.maximum.accumulate(curve[0] - np.array(curve, float))
        last = np.searchsorted(fall, loss, side="right") - 1        # -1 where the loss is negative
        found[name] = float(-np.expm1(np.interp(loss, fall[last:], kept[last:]))) if last >= 0 else 0.0
    return found
