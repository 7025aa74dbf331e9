"""Lookahead (Zhang, Lucas, Hinton and Ba, arXiv:1907.08610): k steps forward, one step back."""
import numbers

import numpy as np

from ..tensor import no_grad


class Lookahead:
    """Algorithm 1 of the paper around another optimizer, in its symbols (slow weights phi, fast weights theta):

        every k-th step:   phi += alpha (theta - phi),   theta = phi

    The slow weights are a moving average of the fast ones, and the fast ones go on from there. alpha 1 averages
    nothing. It may change during training, as `lookahead.alpha = ...`: from 1 to a small number it averages more as
    the steps get smaller (Jordan, arXiv:2404.00498, section 3.4). A weight that is pruned is 0 in both from the
    next step on.
    Gradients, learning rates and zero_grad stay with the optimizer.
    """

    def __init__(self, optimizer, k=5, alpha=0.5):
        self._check(k, alpha)
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self.steps = 0
        self.slow, self.masks = None, []        # until the first step: the weights may still be loaded or set

    @staticmethod
    def _check(k, alpha):
        if not isinstance(k, numbers.Integral) or k < 1 or not 0 < alpha <= 1:
            raise ValueError(f"Lookahead: k must be a whole number, at least 1, and alpha in (0, 1], got k={k}, "
                             f"alpha={alpha}")

    def _fast(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _masks(self):
        return [getattr(p, "mask", None) for p in self._fast()]

    @no_grad()
    def step(self):
        """A step of the optimizer; after every k-th one the average."""
        known = 0 if self.slow is None else len(self.slow)
        new = self._fast()[known:]      # all, or those of a group that was added
        self.slow = (self.slow or []) + [p.data.copy() for p in new]
        self.masks += self._masks()[known:]
        self._follow_masks()
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.k == 0:
            self.average()

    def _follow_masks(self):
        """Where a parameter has a new mask: what is 0 now was pruned, even if it may grow again."""
        for i, (theta, mask) in enumerate(zip(self._fast(), self._masks())):
            if mask is not self.masks[i]:
                np.copyto(self.slow[i], 0, where=theta.data == 0)
                self.masks[i] = mask

    @no_grad()
    def average(self):
        """The step back. Once more after the last step of a training, it leaves little of the steps since the last."""
        for phi, theta in zip(self.slow or [], self._fast()):
            phi += self.alpha * (theta.data - phi)
            theta.copy_(phi)        # which keeps the mask; a new one clears phi at the next step

    def state_dict(self):
        if self.slow is not None:
            self._follow_masks()        # what is loaded knows no mask before
        return {"optimizer": self.optimizer.state_dict(), "k": self.k, "alpha": self.alpha, "steps": self.steps,
                "slow": self.slow}

    def load_state_dict(self, state_dict):
        """Take over state and options (copied). ValueError if they do not fit: nothing has changed then."""
        keys = {"optimizer", "k", "alpha", "steps", "slow"}
        if set(state_dict) != keys:
            raise ValueError(f"Lookahead.load_state_dict: a state has {sorted(keys)}, got {sorted(state_dict)}")
        self._check(state_dict["k"], state_dict["alpha"])
        steps, slow = state_dict["steps"], state_dict["slow"]
        if not isinstance(steps, numbers.Integral) or steps < 0:
            raise ValueError(f"Lookahead.load_state_dict: steps must be a whole number, at least 0, got {steps!r}")
        if slow is not None:
            fast = self._fast()
            slow = [np.asarray(getattr(value, "data", value)) for value in slow]
            if [value.shape for value in slow] != [tuple(p.shape) for p in fast]:
                raise ValueError("Lookahead.load_state_dict: the slow weights have other shapes than the parameters")
            slow = [np.array(value, p.dtype) for value, p in zip(slow, fast)]
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.k, self.alpha, self.steps = state_dict["k"], state_dict["alpha"], int(steps)
        self.slow, self.masks = slow, [] if slow is None else self._masks()
