"""How much each weight matters: pure functions of arrays, one number a weight. The highest scores are kept.

A score takes the weight, and by these names what else it needs:

    score(weight)                   an array of the weight's shape
    score(weight, gradient)         gradient: of the loss, for every weight, pruned ones too
    score(weight, generator)        generator: a np.random.Generator

It is asked more than once in an update and has to give the same answer each time. With `summed`, a score is
added up over the steps of the training. A score of your own is such a function.
"""
import functools
import inspect

import numpy as np


def magnitude(weight):
    """|w| (Han et al., arXiv:1506.02626): a small weight matters little."""
    return np.abs(weight)


def lamp(weight):
    """w^2 / the sum of the squares of this and all larger weights of the layer (Lee et al., arXiv:2010.07611).

    Magnitude that can be compared between layers, for scope="global": by how much the layer's output would change,
    next to the weights that would still be there. The largest of a layer scores 1, so no layer loses all its weights.
    """
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    squares = np.square(weight.reshape(-1)[order], dtype=np.float64)
    rest = np.cumsum(squares[::-1])[::-1]
    scores = np.empty(weight.size)
    scores[order] = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)
    return scores.reshape(weight.shape)


def random(weight, generator):
    """The same chance for every weight: what any other score has to beat."""
    return generator.random(weight.shape)


def gradient_magnitude(weight, gradient):
    """|dL/dw| (Evci et al., arXiv:1911.11134): how fast the loss falls if a weight that is zero may grow."""
    return np.abs(gradient)


def snip(weight, gradient):
    """|w dL/dw| (Lee et al., arXiv:1810.02340): connection sensitivity, not divided by its sum."""
    return np.abs(weight * gradient)


def taylor(weight, gradient):
    """(w dL/dw)^2 (Molchanov et al., arXiv:1906.10771, equation 8): to first order, the square of what the
    loss changes by without the weight. unit_mask sums it over a filter, as equation 9 does.

    One batch is a noisy judge: summed(taylor) hears all.
    """
    return np.square(weight * gradient)


def summed(score):
    """The score added up over all steps so far, in place of the latest alone.

    It takes the dense gradient at every step, which costs time where weights are pruned.
    """
    @functools.wraps(score)
    def total(*args, **kwargs):
        return score(*args, **kwargs)

    total.summed = True
    return total


@summed
def movement(weight, gradient):
    """-sum_t w dL/dw (Sanh et al., arXiv:2005.07683): weights that move away from zero matter.

    The weight is the one after the step that its gradient made, a difference of second order in the learning
    rate.
    """
    return -weight * gradient


def needs(score):
    """What a score takes besides the weight, of "gradient" and "generator"; TypeError for anything else."""
    parameters = list(inspect.signature(score).parameters.values())[1:]
    names = {p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD,
                                                                               p.KEYWORD_ONLY)}
    if not names <= {"gradient", "generator"}:
        raise TypeError(f"a score takes the weight and, by these names, gradient and generator; "
                        f"{getattr(score, '__name__', score)} takes {', '.join(sorted(names))}")
    return names
