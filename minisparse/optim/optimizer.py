"""Optimizer: parameter groups, state, and what a step does around the update rule (sgd.py, adam.py)."""
import math
import numbers
from collections import defaultdict

import numpy as np

from ..tensor import Tensor, enable_grad, no_grad


def check_number(label, value, below=math.inf):
    """TypeError unless value is a number, ValueError unless 0 <= value < below."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{label} must be a number, got {type(value).__name__}")
    if not 0 <= value < below:
        raise ValueError(f"Invalid {label}: {value}")


class Optimizer:
    """Base class. A subclass names its options (`defaults`), checks them, and updates one parameter.

    params: Tensors, or dicts {"params": Tensors, option: value, ...}, one for each group of parameters.
    state: {parameter: {name: array of the parameter's shape}}; "step", where there is one, is a number.

    A parameter with a mask (nn.Parameter.set_mask) has exact zeros where it is pruned after every step, and
    its moments are zero there: a weight that grows again starts from nothing.
    """

    def __init__(self, params, defaults):
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of Tensors or dicts, got one Tensor")
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups = []
        self._masks = {}        # parameter -> the mask its state has been cleared for
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # --- what a subclass says ---------------------------------------------------------------------------
    def check_options(self, options):
        """ValueError or TypeError for an option that makes no sense."""
        raise NotImplementedError

    def state_names(self, group):
        """The names of the state that `update` keeps for each parameter of the group."""
        raise NotImplementedError

    def update(self, weight, grad, state, group):
        """Change `weight` in place. weight, grad: C-contiguous arrays of one shape and dtype; grad must not change."""
        raise NotImplementedError

    # --- what is common to all ---------------------------------------------------------------------------
    def add_param_group(self, group):
        """Optimize more parameters: {"params": Tensors, option: value, ...}; other options are defaults."""
        if not isinstance(group, dict):
            raise TypeError(f"a parameter group must be a dict, got {type(group).__name__}")
        params = group["params"]
        if isinstance(params, set):
            raise TypeError("parameters in a set have no order that lasts; use a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, "
                                f"but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        known = [p for g in self.param_groups for p in g["params"]] + params
        if len(set(known)) != len(known):
            raise ValueError("some parameters appear more than once, in one parameter group or in several")
        group = {**self.defaults, **group, "params": params}
        self.check_options(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none=True):
        """Drop all gradients, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.change()
                    p.grad.data.fill(0)

    @no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient.

        closure: computes the loss again and returns it (with its gradients); step then returns it too.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if p.grad.shape != p.shape or p.grad.dtype != p.dtype:
                raise ValueError(f"the gradient is {p.grad.dtype} {p.grad.shape}, its parameter {p.dtype} {p.shape}")
        for group in self.param_groups:
            for p in group["params"]:
                self._follow_mask(p)
                if p.grad is None:
                    continue
                p.change()
                weight = np.asarray(p.data, order="C")
                self.update(weight, np.asarray(p.grad.data, order="C"), self.state[p], group)
                if weight is not p.data:
                    p.data[...] = weight
                if self._masks.get(p) is not None:
                    p.apply_mask()
        return loss

    def _follow_mask(self, p):
        """Where p has a new mask (one is never changed), clear the moments of what it prunes or lets grow."""
        before, mask = self._masks.get(p), getattr(p, "mask", None)
        if mask is before:
            return
        self._masks[p] = mask
        kept = np.logical_and.reduce([m for m in (before, mask) if m is not None])
        if before is not None:      # what other masks pruned in between has grown again, from 0
            kept = kept & (p.data != 0)
        for value in self.state[p].values():
            if isinstance(value, np.ndarray):
                np.copyto(value, 0, where=~kept)

    def __repr__(self):
        """The options of each group, in torch's form."""
        lines = []
        for i, group in enumerate(self.param_groups):
            options = (f"    {name}: {group[name]}" for name in sorted(group) if name != "params")
            lines += [f"Parameter Group {i}", *options]
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])

    # --- saving --------------------------------------------------------------------------------------------
    def state_dict(self):
        """{"state": {index: {name: array or number}}, "param_groups": [{"params": indices, option: value}]}.

        A parameter's index is its place in all groups together. The arrays are the optimizer's, not copies, and zero
        for the weights that are pruned now.
        """
        index, groups = {}, []
        for group in self.param_groups:
            for p in group["params"]:
                self._follow_mask(p)    # what is loaded knows no mask before
                index[p] = len(index)
            groups.append({**group, "params": [index[p] for p in group["params"]]})
        return {"state": {index[p]: dict(self.state[p]) for p in index if self.state.get(p)},
                "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Take over state and options (copied). ValueError if they do not fit: nothing has changed then."""
        for key in ("state", "param_groups"):
            if key not in state_dict:
                raise ValueError(f"load_state_dict: no {key!r} in the state")
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(f"load_state_dict: {len(saved_groups)} parameter groups in the state, "
                             f"{len(self.param_groups)} in the optimizer")
        groups, owner = [], {}
        for i, (saved, group) in enumerate(zip(saved_groups, self.param_groups)):
            indices = saved.get("params", ())
            if len(indices) != len(group["params"]):
                raise ValueError(f"load_state_dict: group {i} has {len(indices)} parameters in the state, "
                                 f"{len(group['params'])} in the optimizer")
            groups.append({**self.defaults, **saved, "params": group["params"]})
            self.check_options(groups[-1])
            owner.update((index, (p, groups[-1])) for index, p in zip(indices, group["params"]))
        state = defaultdict(dict)
        for index, values in state_dict["state"].items():
            if index not in owner:
                raise ValueError(f"load_state_dict: state for parameter {index!r}, which is in no group")
            p, group = owner[index]
            names = self.state_names(group)
            if values and set(values) != set(names):
                raise ValueError(f"load_state_dict: parameter {index} has state {sorted(values)}, "
                                 f"{type(self).__name__} keeps {sorted(names)}")
            for name, value in values.items():
                shape, dtype = ((), np.int64) if name == "step" else (p.shape, p.dtype)
                value = np.array(value.data if isinstance(value, Tensor) else value, dtype, order="C")
                if value.shape != shape:
                    raise ValueError(f"load_state_dict: {name!r} of parameter {index} has shape {value.shape}, "
                                     f"expected {shape}")
                state[p][name] = int(value) if name == "step" else value
        self.state, self.param_groups, self._masks = state, groups, {}
