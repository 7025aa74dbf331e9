"""How sparse, when: pure functions of the training step.

    schedule = Cubic(start=200, end=2000, every=100)
    schedule(step, final)       # the sparsity at this step of a layer that is to end at `final`
    schedule.due(step)          # whether masks are renewed at this step

Step t is the moment after t optimizer steps, 0 the moment before the first. Layers with different final
sparsities share a schedule. Before `start` a layer is dense, from `end` on it has its final sparsity.
"""
import math
import numbers
from dataclasses import dataclass

from .masks import check_sparsity


@dataclass(frozen=True)
class OneShot:
    """Dense before `start`, the final sparsity from then on; masks are made once. 0: sparse from scratch."""

    start: int = 0

    def __post_init__(self):
        _check_steps(self, "start", 0)

    @property
    def end(self):
        return self.start

    def __call__(self, step, final):
        return final if step >= self.start else 0.0

    def due(self, step):
        return step == self.start


@dataclass(frozen=True)
class Constant:
    """OneShot whose masks are renewed every `every` steps until `end`, for methods that move weights."""

    start: int
    end: int
    every: int = 100

    def __post_init__(self):
        _check_steps(self, "start", 0)
        _check_steps(self, "end", self.start)
        _check_steps(self, "every", 1)

    def __call__(self, step, final):
        return final if step >= self.start else 0.0

    def due(self, step):
        return step == self.end or self.start <= step < self.end and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Gradual(Constant):
    """From `initial` sparsity at `start` to the final one at `end`; subclasses say what remains on the way.

    ValueError here and above: steps that are not whole numbers, a start before 0, an end before the start (or
    at it, where there is a way to go), every < 1, an initial sparsity outside [0, 1).
    """

    initial: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        _check_steps(self, "end", self.start + 1)
        check_sparsity(self.initial, f"{self}: initial")

    def __call__(self, step, final):
        if step < self.start:
            return 0.0
        way = min((step - self.start) / (self.end - self.start), 1.0)
        return final + (self.initial - final) * self.remaining(way)


class Cubic(Gradual):
    """Fast while there is much to choose from, slow at the end: Zhu & Gupta, arXiv:1710.01878, equation 1,

        s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3

    with t_0 = start, n dt = end - start, dt = every, s_i = initial, s_f = final.
    """

    def remaining(self, way):
        return (1 - way) ** 3


class Linear(Gradual):
    """As many weights at each update as at any other."""

    def remaining(self, way):
        return 1 - way


class Cosine(Gradual):
    """Half a cosine: slow at both ends."""

    def remaining(self, way):
        return (1 + math.cos(math.pi * way)) / 2


def _check_steps(schedule, field, least):
    value = getattr(schedule, field)
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{schedule}: {field} must be a whole number of steps, at least {least}")
