"""Which weights stay: scores -> mask, as pure functions of arrays.

A score says how much each weight matters (see scores.py). A mask is a bool array of the weight's shape, True
where the weight is kept. Sparsity is the share of zeros, in [0, 1). A pattern of your own is a function
(scores, sparsity) -> mask. -inf is the score of a weight that is pruned already; sums leave it out.

The count kept is exact: round(n * (1 - sparsity)), with Python's round (a half goes to the even number, so
topk_mask keeps 2 of 5 at sparsity 0.5). Ties are broken by index, in C order: the lower index is kept.
"""
import math
import numbers

import numpy as np


def kept_count(size, sparsity):
    """How many of `size` weights are kept: round(size * (1 - sparsity))."""
    return round(size * (1 - check_sparsity(sparsity)))


def topk_mask(scores, sparsity):
    """Keep the round(n * (1 - sparsity)) highest of n scores.

    ValueError: scores that are empty or hold a NaN; sparsity outside [0, 1).
    """
    return highest(scores, kept_count(np.size(scores), sparsity))


def highest(scores, count):
    """Keep the `count` highest scores. O(n), and one copy of the scores."""
    flat = check_scores(scores).ravel()
    first = flat.size - count           # rank of the lowest score kept
    if not count:
        return np.zeros(np.shape(scores), bool)
    threshold = np.partition(flat, first)[first]
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[:count - np.count_nonzero(mask)]] = True
    return mask.reshape(np.shape(scores))


def random_mask(shape, sparsity, generator):
    """Keep round(n * (1 - sparsity)) weights, every choice of them equally likely.

    generator: a np.random.Generator; the same state gives the same mask.
    """
    return topk_mask(generator.random(shape), sparsity)


def n_m_mask(scores, n, m, dim=1):
    """Keep the n highest of every m neighbours along `dim` (2:4 is n=2, m=4); ties as in topk_mask.

    dim: of the scores' shape; 1 is the inputs of a Linear or Conv2d weight.
    ValueError: m does not divide the length of dim; not 0 < n <= m.
    """
    scores = np.moveaxis(check_scores(scores), dim, -1)
    if n != int(n) or m != int(m) or not 0 < n <= m or scores.shape[-1] % m:
        raise ValueError(f"{n}:{m} does not fit: 0 < n <= m, and m divides the length of dimension {dim}, "
                         f"which is {scores.shape[-1]}")
    n, m = int(n), int(m)
    groups = scores.reshape(*scores.shape[:-1], -1, m)
    backwards = np.argsort(groups[..., ::-1], axis=-1, kind="stable")   # of equals the lowest index is last
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, m - 1 - backwards[..., m - n:], True, axis=-1)
    return np.ascontiguousarray(np.moveaxis(mask.reshape(scores.shape), -1, dim))


def block_mask(scores, sparsity, block=(4, 1)):
    """Keep or drop whole blocks, by the sum of their scores; as many as topk_mask would keep.

    block: (rows, columns) of the weight as a matrix (outputs, all the rest), the one that a kernel multiplies
        with; (4, 1) is four consecutive outputs that share a mask.
    ValueError: the block does not divide the matrix.
    """
    scores = check_scores(scores)
    rows, columns = scores.shape[0], scores[0].size
    if min(block) < 1 or rows % block[0] or columns % block[1]:
        raise ValueError(f"blocks of {block[0]} x {block[1]} do not divide a weight of shape {scores.shape}, "
                         f"a matrix of {rows} x {columns}")
    blocks = scores.reshape(rows // block[0], block[0], columns // block[1], block[1])
    kept = topk_mask(_sums(blocks, (1, 3)), sparsity)
    return np.broadcast_to(kept, blocks.shape).reshape(scores.shape)


def unit_mask(scores, sparsity, dim=0):
    """Keep or drop whole slices along `dim`, by the sum of their scores; as many as topk_mask would keep.

    dim: of the scores' shape; 0 is the outputs: rows of a Linear weight, filters of a Conv2d.
    """
    scores = check_scores(scores)
    if not -scores.ndim <= dim < scores.ndim:
        raise ValueError(f"unit_mask: dimension {dim} of scores of shape {scores.shape}")
    others = tuple(d for d in range(scores.ndim) if d != dim % scores.ndim)
    return np.broadcast_to(topk_mask(_sums(scores, others), sparsity), scores.shape).copy()


def check_sparsity(value, name="sparsity"):
    """`value` itself; ValueError, naming `name`, where it is not a number in [0, 1)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return value


def check_scores(scores):
    """`scores` as an array; ValueError where it is empty or holds a NaN."""
    scores = np.asarray(scores)
    if scores.size == 0:
        raise ValueError(f"there are no scores to choose from (shape {scores.shape})")
    if math.isnan(scores.max()):        # max hands a NaN on, without an array in between
        raise ValueError(f"{np.count_nonzero(np.isnan(scores))} of {scores.size} scores are NaN")
    return scores


def _sums(scores, axes):
    """Sums over the axes, which stay; of a group where all is pruned already the sum is -inf."""
    pruned = np.isneginf(scores)
    sums = np.where(pruned, 0, scores).sum(axis=axes, keepdims=True)
    return np.where(pruned.all(axis=axes, keepdims=True), -np.inf, sums)
