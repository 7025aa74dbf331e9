"""Which layer, how sparse: the targets of a Pruner, and ways to share out one sparsity over the layers.

`uniform` and `erk` return targets: {layer name: sparsity, or None for dense}. Both meet the sparsity asked
for over all weights of all Linear and Conv2d layers, the dense ones too. `highest_counts` shares by the
scores. A distribution of your own is a function that returns such a dict.
"""
import fnmatch
import math

import numpy as np

from .masks import check_scores, check_sparsity
from .zeros import sparsifiable


def uniform(model, sparsity, dense=None):
    """The same sparsity for all layers that are not dense.

    dense: the layers left out, as a list of names, patterns and types; by default the first one, which sees
        the input and is small (Evci et al., arXiv:1911.11134).
    ValueError: a key that matches no layer; so many dense weights that the sparsity cannot be met.
    """
    layers = sparsifiable(model)
    dense = list(layers)[:1] if dense is None else dense
    return _share(layers, sparsity, dense, lambda shape: 1.0, "uniform")


def erk(model, sparsity, dense=()):
    """Erdos-Renyi-Kernel (Evci et al., arXiv:1911.11134): the larger a layer, the thinner.

    The density is in proportion to (n_in + n_out + k_w + k_h) / (n_in n_out k_w k_h); where that exceeds 1 a
    layer is dense, and the others make up for it. dense, ValueError: as in uniform.
    """
    return _share(sparsifiable(model), sparsity, dense, lambda shape: sum(shape) / math.prod(shape), "erk")


def _share(layers, sparsity, dense, density, name):
    """Targets with densities in proportion to density(weight's shape), at most 1."""
    check_sparsity(sparsity, name)
    if not layers:
        raise ValueError(f"{name}: the model has no Linear or Conv2d layer")
    left_out = resolve({key: 0.0 for key in dense}, layers)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    total = sum(sizes.values())
    sparse = {name: density(layer.weight.shape) for name, layer in layers.items() if name not in left_out}
    while True:
        budget = total * (1 - sparsity) - sum(sizes[n] for n in layers if n not in sparse)
        if budget < 0 or sparse and not budget:
            raise ValueError(f"{name}: {sparsity} of {total} weights cannot be zero, since "
                             f"{', '.join(n for n in layers if n not in sparse) or 'no layer'} stays dense")
        scale = budget / sum(sizes[n] * d for n, d in sparse.items()) if sparse else 0.0
        full = [n for n, d in sparse.items() if d * scale >= 1]
        if not full:
            return {n: 1 - sparse[n] * scale if n in sparse else None for n in layers}
        for n in full:
            del sparse[n]


def highest_counts(layers, count):
    """[How many of the `count` highest of all scores each layer has]; of equals, the earlier layer's.

    layers: for each layer a function without arguments that returns its scores. It is called five times, and
        no more than one layer's scores are there at a time. The lowest score kept is found 16 bits at a time:
        a histogram of the next bits of the scores that begin as it does says how it goes on.
    """
    lowest = above = 0
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, int)
        for scores in layers:
            for keys in _keys(scores()):
                if shift < 48:
                    keys = keys[keys >> np.uint64(shift + 16) == lowest]
                histogram += np.bincount((keys >> np.uint64(shift)).astype(np.uint16), minlength=1 << 16)
        at_least = histogram[::-1].cumsum()[::-1]
        bits = int(np.count_nonzero(above + at_least >= count)) - 1
        above += int(at_least[bits] - histogram[bits])
        lowest = lowest << 16 | bits
    counts, missing = [], count - above
    for scores in layers:
        equal = higher = 0
        for keys in _keys(scores()):
            equal += int(np.count_nonzero(keys == lowest))
            higher += int(np.count_nonzero(keys > lowest))
        ties = min(equal, missing)
        missing -= ties
        counts.append(higher + ties)
    if sum(counts) != count:
        raise ValueError("the score gave different answers when it was asked again")
    return counts


def _keys(scores):
    """Whole numbers in the order of the scores: the bits of float64, with the negative ones turned round.

    Part by part: of a large layer a second copy would be much memory.
    """
    scores, top = check_scores(scores).reshape(-1), np.uint64(1 << 63)
    for i in range(0, scores.size, 1 << 16):
        bits = (scores[i:i + (1 << 16)].astype(np.float64) + 0.0).view(np.uint64)      # + 0.0: -0.0 is 0.0
        yield np.where(bits & top, ~bits, bits | top)


def resolve(targets, layers):
    """{layer name: final sparsity} from a Pruner's targets, in the order of `layers` ({name: layer})."""
    if not isinstance(targets, dict):
        targets = {"*": targets}
    found = {}
    for key in sorted(targets, key=lambda key: isinstance(key, str)):       # types first; the sort is stable
        target = targets[key]
        if target is not None:
            check_sparsity(target, f"pruner: the target of {getattr(key, '__name__', repr(key))}")
        names = [name for name, layer in layers.items() if matches(key, name, layer)]
        if not names:
            raise ValueError(f"pruner: the target {getattr(key, '__name__', repr(key))} matches no Linear or "
                             f"Conv2d layer; there are {', '.join(layers) or 'none'}")
        found.update(dict.fromkeys(names, target))
    return {name: found[name] for name in layers if found.get(name) is not None}


def matches(key, name, layer):
    if isinstance(key, str):
        return any(fnmatch.fnmatchcase(n, key) for n in (name, f"{name}.weight".lstrip(".")))
    if isinstance(key, type):
        return isinstance(layer, key)
    raise TypeError(f"pruner: a target's key is a layer type or a name, got {key!r}")
