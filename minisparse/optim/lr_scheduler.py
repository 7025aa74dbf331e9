"""Learning-rate schedules: each sets "lr" in the optimizer's parameter groups, with torch's names and values.

A scheduler sets the rate of epoch 0 when it is made; `step()`, after the optimizer's steps of an epoch (of a
batch for OneCycleLR), goes on to the next. Save the optimizer with it: the current rate is in its groups.
"""
import math

from ..ops import LeftOut
from .optimizer import Optimizer


def __getattr__(name):
    raise LeftOut(f"module {__name__!r}", name)


def _groups(optimizer):
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    return optimizer.param_groups


def _per_group(optimizer, name, value):
    """A value for each parameter group: from a list of as many, or one value for all."""
    count = len(_groups(optimizer))
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} values for {count} parameter groups")
    return list(value)


def _check_positive_int(name, value):
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


class LRScheduler:
    """Base class. A subclass says in `get_lr` what the rate of each parameter group is at `self.last_epoch`.

    last_epoch: -1 at the start; the last epoch done where a run goes on (its groups have "initial_lr").
    """

    not_saved = ("optimizer",)

    def __init__(self, optimizer, last_epoch=-1):
        for i, group in enumerate(_groups(optimizer)):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"param 'initial_lr' is not specified in param_groups[{i}], "
                               f"but last_epoch {last_epoch} continues a schedule")
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def get_lr(self):
        """The rates at self.last_epoch, one for each parameter group."""
        raise NotImplementedError

    def get_last_lr(self):
        """The rates that are set now, one for each parameter group."""
        return self._last_lr

    def step(self):
        """Go on to the next epoch and set its rates."""
        self.last_epoch += 1
        lrs = self.get_lr()
        if len(lrs) != len(self.optimizer.param_groups):
            raise ValueError(f"{type(self).__name__} was made for {len(lrs)} parameter groups, "
                             f"the optimizer has {len(self.optimizer.param_groups)} now")
        for group, lr in zip(self.optimizer.param_groups, lrs):
            group["lr"] = lr
        self._last_lr = lrs

    def state_dict(self):
        """Everything but the optimizer (and functions): numbers, strings, and lists or tuples of them."""
        return {key: value for key, value in vars(self).items() if key not in self.not_saved}

    def load_state_dict(self, state_dict):
        """Take over what state_dict() gave. ValueError if it does not fit: nothing has changed then."""
        own = self.state_dict()
        if set(state_dict) != set(own):
            raise ValueError(f"load_state_dict: {type(self).__name__} keeps {sorted(own)}, "
                             f"the state has {sorted(state_dict)}")
        if len(state_dict["_last_lr"]) != len(self.optimizer.param_groups):
            raise ValueError(f"load_state_dict: {len(state_dict['_last_lr'])} parameter groups in the state, "
                             f"{len(self.optimizer.param_groups)} in the optimizer")
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """The first rate times lr_lambda(epoch). lr_lambda: a function, or one for each parameter group."""

    not_saved = ("optimizer", "lr_lambdas")

    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        self.lr_lambdas = _per_group(optimizer, "lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas)]


class StepLR(LRScheduler):
    """The rate times gamma every step_size epochs."""

    def __init__(self, optimizer, step_size, gamma=0.1, last_epoch=-1):
        _check_positive_int("step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        factor = self.gamma if self.last_epoch > 0 and self.last_epoch % self.step_size == 0 else 1
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class MultiStepLR(LRScheduler):
    """The rate times gamma at each of the milestones, a list of epochs."""

    def __init__(self, optimizer, milestones, gamma=0.1, last_epoch=-1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        factor = self.gamma ** self.milestones.count(self.last_epoch)
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class ExponentialLR(LRScheduler):
    """The rate times gamma every epoch."""

    def __init__(self, optimizer, gamma, last_epoch=-1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        factor = self.gamma if hasattr(self, "_last_lr") else 1     # when it is made, it goes on from the rate there is
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the first rate down to eta_min at epoch T_max, and up again after it (Loshchilov and
    Hutter, arXiv:1608.03983, equation 5). A function of the epoch alone: what else changes the rate is lost.
    """

    def __init__(self, optimizer, T_max, eta_min=0.0, last_epoch=-1):
        _check_positive_int("T_max", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


class OneCycleLR(LRScheduler):
    """Up to max_lr and down again, once; momentum the other way (Smith and Topin, arXiv:1708.07120).

    The rate goes from max_lr / div_factor to max_lr in the first pct_start of total_steps (or epochs *
    steps_per_epoch), then down to the first rate / final_div_factor. three_phase: before that, down to the
    first rate in as many steps as it went up. cycle_momentum: SGD's momentum, or Adam's first beta, goes from
    max_momentum to base_momentum and back. max_lr, max_momentum, base_momentum: a number, or one for each
    parameter group. anneal_strategy: "cos" or "linear". ValueError from step() when total_steps are over.
    """

    def __init__(self, optimizer, max_lr, total_steps=None, epochs=None, steps_per_epoch=None, pct_start=0.3,
                 anneal_strategy="cos", cycle_momentum=True, base_momentum=0.85, max_momentum=0.95,
                 div_factor=25.0, final_div_factor=1e4, three_phase=False, last_epoch=-1):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
            _check_positive_int("epochs", epochs)
            _check_positive_int("steps_per_epoch", steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        _check_positive_int("total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be between 0 and 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        values = (_per_group(optimizer, "max_lr", max_lr),
                  _per_group(optimizer, "max_momentum", max_momentum),
                  _per_group(optimizer, "base_momentum", base_momentum))
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum

        # (last step, rate and momentum it starts from, rate and momentum it ends with), by names in a group
        top, last = pct_start * total_steps - 1, total_steps - 1
        low, high = ("initial_lr", "max_momentum"), ("max_lr", "base_momentum")
        end = ("min_lr", "max_momentum")
        if three_phase:
            self.phases = [(top, low, high), (2 * top, high, low), (last, low, end)]
        else:
            self.phases = [(top, low, high), (last, high, end)]

        if last_epoch == -1:
            for group, rate, most, least in zip(optimizer.param_groups, *values):
                first = rate / div_factor
                group.update(initial_lr=first, max_lr=rate, min_lr=first / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=most, base_momentum=least)
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: step {self.last_epoch} of a schedule of {self.total_steps} steps")
        start = 0
        for end, from_names, to_names in self.phases[:-1]:
            if self.last_epoch <= end:
                break
            start = end
        else:
            end, from_names, to_names = self.phases[-1]
        done = (self.last_epoch - start) / (end - start) if end > start else 1.0
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._between(group[from_names[0]], group[to_names[0]], done))
            if self.cycle_momentum:
                momentum = self._between(group[from_names[1]], group[to_names[1]], done)
                if "betas" in group:
                    group["betas"] = (momentum, group["betas"][1])
                else:
                    group["momentum"] = momentum
        return lrs

    def _between(self, start, end, done):
        """From start (done = 0) to end (done = 1)."""
        if self.anneal_strategy == "cos":
            return end + (start - end) / 2 * (math.cos(math.pi * done) + 1)
        return start + (end - start) * done


class ReduceLROnPlateau(LRScheduler):
    """The rate times factor when the metric given to step() has not improved for more than `patience` epochs.

    mode: "min" (a loss) or "max" (an accuracy). An improvement is more than `threshold`, relative ("rel") or
    absolute ("abs") by threshold_mode. After a reduction, `cooldown` epochs are not counted. min_lr: the
    lowest rate, a number or one for each parameter group. A reduction by eps or less is not made.
    """

    def __init__(self, optimizer, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel",
                 cooldown=0, min_lr=0, eps=1e-8):
        if not factor < 1:
            raise ValueError(f"factor must be less than 1, got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        _per_group(optimizer, "min_lr", min_lr)
        self.optimizer, self.min_lr = optimizer, min_lr
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics):
        """Go on to the next epoch; metrics: the number that this epoch reached."""
        value = float(metrics)
        self.last_epoch += 1
        if self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups,
                                    _per_group(self.optimizer, "min_lr", self.min_lr)):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _improves(self, value):
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1 + sign * self.threshold)
        return sign * value > sign * self.best + self.threshold
