"""Pruner: which layers, how sparse, when, and by what score. One call in the training loop."""
import fnmatch
import numbers

import numpy as np

from .masks import check_sparsity, magnitude, topk_mask
from .zeros import sparsifiable


class Pruner:
    """Set the masks of a model's Linear and Conv2d layers while it trains.

        pruner = Pruner(model, {nn.Conv2d: 0.55, nn.Linear: 0.75, "head": None}, Cubic(start=200, end=2000))
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            pruner.step()

    targets: the final sparsity (share of zeros, in [0, 1)) of each layer; None leaves a layer dense. One
        number for all layers, or a dict. Its keys are layer types (nn.Conv2d) and names: of a layer
        ("features.0"), of its weight ("features.0.weight"), or a pattern of either ("features.*"). A name
        beats a type; of two names, or two types, the later in the dict wins. What no key matches stays dense.
    schedule: schedule(step, final) -> sparsity and schedule.due(step) -> bool; see schedules.py. Masks that
        are due at step 0 are set here.
    score: weight array -> array of its shape; the highest scores are kept.

    The model is not wrapped and its parameters keep their names: a mask is `layer.weight.mask`, and goes
    where the weight goes (state_dict, deepcopy). A pruned weight stays pruned while the sparsity rises, since
    it has the lowest score of all; where the sparsity falls, weights return as zeros, the lower index first.

    ValueError: a key that matches no layer; a sparsity outside [0, 1); a target that leaves a layer without
    a single weight. That would cut the net in two, and one weight kept against the target would hide it:
    better to learn of it before the training, and to give that layer a lower target, or None.
    """

    def __init__(self, model, targets, schedule, score=magnitude):
        self.layers = sparsifiable(model)
        self.targets = resolve(targets, self.layers)
        self.schedule = schedule
        self.score = score
        self.steps = 0
        for name, final in self.targets.items():
            size = self.layers[name].weight.numel()
            if round(size * (1 - final)) == 0:
                raise ValueError(f"pruner: {name!r} has {size} weights, and keeps none at sparsity {final}")
        self._update_if_due()

    def step(self):
        """Count one step, and renew the masks where they are due. Call it after each optimizer.step()."""
        self.steps += 1
        self._update_if_due()

    def _update_if_due(self):
        if self.schedule.due(self.steps):
            for name, final in self.targets.items():
                try:
                    self.update(self.layers[name].weight, self.schedule(self.steps, final))
                except ValueError as error:
                    raise ValueError(f"pruner: {name!r} at step {self.steps}: {error}") from error

    def update(self, weight, sparsity):
        """Give one weight its new mask: the rule of the method."""
        scores = self.score(weight.data)
        if weight.mask is not None:
            scores = np.where(weight.mask, scores, -np.inf)
        weight.set_mask(topk_mask(scores, sparsity))

    def sparsity(self):
        """{layer name: share of its weights that are exactly zero}, of the layers that have a target."""
        return {name: float(np.mean(self.layers[name].weight.data == 0)) for name in self.targets}

    def state_dict(self):
        """What a checkpoint needs beside the model's state_dict, where the masks are."""
        return {"steps": self.steps}

    def load_state_dict(self, state):
        """Go on from a state_dict; load the model's own as well."""
        if set(state) != {"steps"} or not isinstance(state["steps"], numbers.Integral) or state["steps"] < 0:
            raise ValueError(f"pruner: expected a state of the form {{'steps': count}}, got {state!r}")
        self.steps = int(state["steps"])

    def __repr__(self):
        lines = [f"  {name}: {final}" for name, final in self.targets.items()]
        return "\n".join([f"{type(self).__name__}({self.schedule},", *lines, ")"])


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
