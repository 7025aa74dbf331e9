"""Methods that move weights about, and the lottery ticket's rewinding: each one's rule, in a few lines.

Others need no rule of their own, only a Pruner's schedule and score; the package's docstring has them all.
"""
import math
import numbers

import numpy as np

from ..tensor import Tensor
from .masks import highest, kept_count, random_mask
from .pruner import Pruner
from .scores import gradient_magnitude, needs, random


class SET(Pruner):
    """Sparse evolutionary training (Mocanu et al., arXiv:1707.04780): sparse from the first step to the last.

        SET(model, erk(model, 0.9), Constant(start=0, end=round(0.75 * steps), every=len(loader)))

    Masks begin at random. At each update the share `drop` of the kept weights, the smallest |w|, is dropped,
    and as many grow elsewhere at random (a weight just dropped may be drawn again, and stays). They start at
    0, with fresh moments in the optimizer. End before the training does: what grows last has to learn.

    drop: in [0, 1]. targets, schedule, seed: as in Pruner. With a sparsity that rises, such as Cubic's, what has
        to go goes first, then some of the rest is dropped and grown.
    """

    growth = staticmethod(random)       # the score of the weights that may grow

    def __init__(self, model, targets, schedule, drop=0.3, seed=0):
        if not isinstance(drop, numbers.Real) or not 0 <= drop <= 1:
            raise ValueError(f"{type(self).__name__}: drop must be a number in [0, 1], got {drop!r}")
        self.drop = drop
        super().__init__(model, targets, schedule, seed=seed)

    def share(self):
        """The share of the kept weights that this update drops."""
        return self.drop

    def new_mask(self, name, sparsity):
        weight = self.weights[name]
        if weight.mask is None:
            return random_mask(weight.shape, sparsity, self.generator(name))
        kept = kept_count(weight.numel(), sparsity)
        rest = min(kept, np.count_nonzero(weight.mask))
        dropped = round(self.share() * rest) if self.steps else 0       # masks from before training stay
        survivors = highest(self.scores(name), rest - dropped)
        if rest - dropped == kept:
            return survivors
        return highest(np.where(survivors, np.inf, self.evaluate(self.growth, name)), kept)

    def needs_gradient(self):
        return "gradient" in needs(self.score) | needs(self.growth)


class RigL(SET):
    """Rigging the lottery (Evci et al., arXiv:1911.11134): SET that grows where the loss falls fastest.

        RigL(model, erk(model, 0.9), Constant(start=0, end=round(0.75 * steps), every=100))

    The share dropped at step t is drop / 2 (1 + cos(pi t / T_end)), T_end = schedule.end, and as many grow
    where |gradient| is largest. The gradient of pruned weights is kept at update steps alone.
    """

    growth = staticmethod(gradient_magnitude)

    def share(self):
        return self.drop / 2 * (1 + math.cos(math.pi * min(self.steps / self.schedule.end, 1)))


def rewind(model, state):
    """Take the values of an earlier state_dict, under the masks of now: the lottery ticket.

    Frankle and Carbin, arXiv:1803.03635, go back to the start, and with others, arXiv:1903.01611, to an early
    step. Begin with a new optimizer.

    state: a deep copy of model.state_dict(). ValueError where it shares memory with the model; RuntimeError,
    as from load_state_dict, where it does not fit.
    """
    for name, tensor in model.state_dict().items():
        saved = state.get(name)
        if np.may_share_memory(tensor.data, saved.data if isinstance(saved, Tensor) else np.asarray(saved)):
            raise ValueError(f"rewind: {name!r} of the state is the model's own memory; save a copy, with "
                             f"copy.deepcopy(model.state_dict())")
    masks = [(p, p.mask) for p in model.parameters()]
    model.load_state_dict(state)
    for p, mask in masks:
        p.set_mask(mask)
