"""How sparse, when: functions of the training step, and one that also watches the accuracy.

    schedule = Cubic(start=200, end=2000, every=100)
    schedule(step, final)       # the sparsity at this step of a layer that is to end at `final`
    schedule.due(step)          # whether masks are renewed at this step

Step t is the moment after t optimizer steps, 0 the moment before the first. Layers with different final
sparsities share a schedule. Before `start` a layer is dense, from `end` on it has its final sparsity. A
schedule of your own: subclass Schedule, and define __call__, due and end.
"""
import math
import numbers
from dataclasses import dataclass, field

from .masks import check_sparsity


class Schedule:
    """What a Pruner asks for. Most schedules take no notice of accuracies, and have no state."""

    def observe(self, step, accuracy):
        """Learn that the validation accuracy at `step` is `accuracy`."""

    def shortfall(self):
        """Why the sparsity at `end` is not the final one; None where it is."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        if state != {}:
            raise ValueError(f"{self} has no state, got {state!r}")


@dataclass(frozen=True)
class OneShot(Schedule):
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
class Constant(Schedule):
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

    A layer that is to end below `initial` begins with its final sparsity.

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
        return final + (min(self.initial, final) - final) * self.remaining(way)


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


@dataclass
class Reactive(Schedule):
    """Sparsity that follows the accuracy, from 0 at `start` to the final one at `end` ("dynamic sparsity").

        schedule = Reactive(start=200, end=2000, tolerance=0.01)
        pruner = Pruner(model, targets, schedule)
        ...
        pruner.report(accuracy)     # on validation data, now and then, such as after each epoch

    Each report between start and end decides about the step after it. While the accuracy is at most
    `tolerance` under the best one reported, sparsity goes on, along the curve of Cubic, by as much as reaches
    the end in time if reports keep their pace and none is worse. At a worse one it waits, and at the next in
    a row it goes back to where it was before (pruned weights return, as zeros). The waiting is made up for
    later. Where it cannot be, sparsity ends short of its target, and `shortfall` says why; a good report
    after the end still takes it there.

    It is a function of the step and of the reports before it: schedule(step, final) gives its past as well.
    """

    start: int
    end: int
    tolerance: float = 0.01
    reports: list = field(default_factory=list, repr=False)     # of (step, accuracy)

    def __post_init__(self):
        _check_steps(self, "start", 0)
        _check_steps(self, "end", self.start + 1)
        if not isinstance(self.tolerance, numbers.Real) or not self.tolerance >= 0:
            raise ValueError(f"{self}: tolerance must be a number, at least 0")

    def observe(self, step, accuracy):
        if not isinstance(accuracy, numbers.Real) or not math.isfinite(accuracy):
            raise ValueError(f"{self}: an accuracy is a finite number, got {accuracy!r} at step {step}")
        latest = self.reports[-1][0] if self.reports else -1
        if not isinstance(step, numbers.Integral) or step <= latest:
            raise ValueError(f"{self}: accuracies come in order of steps, got one of step {step!r} "
                             f"after step {latest}")
        self.reports.append((int(step), float(accuracy)))

    def way(self, step):
        """How far it has come at `step`, from 0 at the start to 1 at the final sparsity."""
        ways, best, bad, before = [0.0], -math.inf, 0, self.start
        for at, accuracy in self.reports:
            if at >= step:
                break
            best = max(best, accuracy)
            if at <= self.start:
                continue
            if accuracy >= best - self.tolerance:
                to_come = max(0, (self.end - 1 - at) // (at - before))      # reports, in time to matter
                ways.append(ways[-1] + (1 - ways[-1]) / (to_come + 1))
                bad = 0
            else:
                bad += 1
                if bad > 1 and len(ways) > 1:
                    ways.pop()
            before = at
        return ways[-1]

    def __call__(self, step, final):
        way = self.way(step)
        return final if way == 1 else final * (1 - (1 - way) ** 3)

    def due(self, step):
        return any(at == step - 1 > self.start for at, _ in self.reports)

    def shortfall(self):
        way = self.way(self.end)
        if way == 1:
            return None
        told = [report for report in self.reports if self.start < report[0] < self.end]
        best = max((accuracy for at, accuracy in self.reports if at < self.end), default=None)
        if not told:
            why = "no accuracy was reported on the way"
        elif told[-1][1] < best - self.tolerance:
            why = (f"the accuracy at step {told[-1][0]}, {told[-1][1]:.4f}, is more than {self.tolerance:g} "
                   f"under the best, {best:.4f}")
        else:
            why = f"the last report came at step {told[-1][0]}, sooner than their pace had promised"
        return f"{self} reached {self(self.end, 1):.1%} of the sparsity asked for: {why}"

    def state_dict(self):
        return {"reports": [list(report) for report in self.reports]}

    def load_state_dict(self, state):
        fresh = type(self)(self.start, self.end, self.tolerance)
        try:
            for step, accuracy in state["reports"]:
                fresh.observe(step, accuracy)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self}: expected {{'reports': [[step, accuracy], ...]}}, got {state!r}"
                             ) from error
        self.reports = fresh.reports


def _check_steps(schedule, field, least):
    value = getattr(schedule, field)
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{schedule}: {field} must be a whole number of steps, at least {least}")
