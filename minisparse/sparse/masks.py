"""Which weights stay: scores -> mask, as pure functions of arrays.

A score says how much each weight matters, one number a weight. A mask is a bool array of the weight's shape, True
where the weight is kept. Sparsity is the share of zeros, in [0, 1).

The count kept is exact: round(n * (1 - sparsity)), with Python's round (a half goes to the even number, so
topk_mask keeps 2 of 5 at sparsity 0.5). Ties are broken by index, in C order: the lower index is kept.
"""
import math
import numbers

import numpy as np


def magnitude(weight):
    """|w|: the score of Han et al., arXiv:1506.02626. A small weight matters little."""
    return np.abs(weight)


def topk_mask(scores, sparsity):
    """Keep the round(n * (1 - sparsity)) highest of n scores. O(n), and one copy of the scores.

    ValueError: scores that are empty or hold a NaN; sparsity outside [0, 1).
    """
    flat = _checked(scores).ravel()
    first = flat.size - round(flat.size * (1 - check_sparsity(sparsity)))   # rank of the lowest score kept
    if first == flat.size:
        return np.zeros(np.shape(scores), bool)
    threshold = np.partition(flat, first)[first]
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[:flat.size - first - np.count_nonzero(mask)]] = True
    return mask.reshape(np.shape(scores))


def random_mask(shape, sparsity, generator):
    """Keep round(n * (1 - sparsity)) weights, every choice of them equally likely.

    generator: a np.random.Generator; the same state gives the same mask.
    """
    return topk_mask(generator.random(shape), sparsity)


def check_sparsity(value, name="sparsity"):
    """`value` itself; ValueError, naming `name`, where it is not a number in [0, 1)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return value


def _checked(scores):
    scores = np.asarray(scores)
    if scores.size == 0:
        raise ValueError(f"there are no scores to choose from (shape {scores.shape})")
    if math.isnan(scores.max()):        # max hands a NaN on, without an array in between
        raise ValueError(f"{np.count_nonzero(np.isnan(scores))} of {scores.size} scores are NaN")
    return scores
