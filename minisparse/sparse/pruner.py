"""Pruner: which layers, how sparse, when, and by what score. One call in the training loop."""
import contextlib
import functools
import numbers
import warnings

import numpy as np

from ..nn.parameter import as_mask
from ..tensor import Tensor
from .masks import check_scores, topk_mask
from .scores import magnitude, needs
from .targets import highest_counts, resolve
from .zeros import sparsifiable

MISSED = 0.09       # a pattern's zeros may be so far from the target without a warning


class Pruner:
    """Set the masks of a model's Linear and Conv2d layers while it trains.

        pruner = Pruner(model, {nn.Conv2d: 0.55, nn.Linear: 0.75, "head": None}, Cubic(start=200, end=2000))
        for x, y in loader.epoch(0):
            optimizer.zero_grad()
            loss_fn(model(Tensor(x)), Tensor(y)).backward()
            optimizer.step()
            pruner.step()

    targets: the final sparsity (share of zeros, in [0, 1)) of each layer; None leaves a layer dense. One
        number for all layers, or a dict. Its keys are layer types (nn.Conv2d) and names: of a layer
        ("features.0"), of its weight ("features.0.weight"), or a pattern of either ("features.*"). A name
        beats a type; of two names, or two types, the later in the dict wins. What no key matches stays dense.
        `uniform` and `erk` make such dicts.
    schedule: see schedules.py. Masks that are due at step 0 are set here.
    score: see scores.py; the highest are kept. One of gradients that is due at step 0 takes those that the
        weights have: call backward() before.
    mask: the pattern, (scores, sparsity) -> mask; see masks.py. 2:4, say, is n:4 at sparsity 0.5, which is
        lambda scores, sparsity: n_m_mask(scores, round(4 * (1 - sparsity)), 4).
    scope: "layer", or "global": the layers together have the zeros that the targets ask for, and the scores
        decide how many each has. A layer that loses all its weights that way is named in a warning.
    seed: of the random choices, which depend on it, the step and the layer alone.

    The model is not wrapped and its parameters keep their names: a mask is `layer.weight.mask`, and goes
    where the weight goes (state_dict, deepcopy). A pruned weight stays pruned while the sparsity rises, since
    it has the lowest score of all; where the sparsity falls, weights return as zeros, the lower index first.

    ValueError: a key that matches no layer; a sparsity outside [0, 1); a pattern that does not fit a layer; a
    target that leaves a layer without a single weight. That would cut the net in two, and one weight kept
    against the target would hide it: better to learn of it before the training, and to give that layer a
    lower target, or None. A pattern that misses a target by far, as 2:4 does at 0.9, is named in a warning.
    """

    def __init__(self, model, targets, schedule, score=magnitude, mask=topk_mask, scope="layer", seed=0):
        if scope not in ("layer", "global"):
            raise ValueError(f"pruner: scope is 'layer' or 'global', got {scope!r}")
        if targets is None or targets == {}:
            raise ValueError(f"pruner: the targets {targets} name no layer: nothing would be pruned")
        layers = sparsifiable(model)
        self.targets = resolve(targets, layers)
        self.weights = {name: layers[name].weight for name in self.targets}
        self.schedule, self.score, self.mask, self.scope, self.seed = schedule, score, mask, scope, seed
        self.steps = 0
        self.sums = {}          # {layer name: scores}, of a score that is added up over the steps
        for name, weight in self.weights.items():
            with self._about(name):
                kept = as_mask(self.mask(np.abs(weight.data), self.targets[name]), weight.shape)
            if not kept.any() and scope == "layer":
                raise ValueError(f"pruner: {name!r} has {kept.size} weights, and keeps none at sparsity "
                                 f"{self.targets[name]}")
            if scope == "layer" and mask is not topk_mask and abs(1 - kept.mean() - self.targets[name]) > MISSED:
                warnings.warn(f"pruner: the target of {name!r} is {self.targets[name]:.1%} zeros, the mask's pattern "
                              f"makes {1 - kept.mean():.1%}", stacklevel=2)
        if schedule.due(0):
            self.update()
        self._ask_for_gradients()

    # --- in the training loop -----------------------------------------------------------------------------
    def step(self):
        """Count one step, and renew the masks where they are due. Call it after each optimizer.step()."""
        before = self.steps, self.sums
        self.steps += 1
        try:
            if getattr(self.score, "summed", False) and self.steps <= self.schedule.end:
                self.sums = {name: self._summed(name) for name in self.weights}
            if self.schedule.due(self.steps):
                self.update()
        except ValueError:
            self.steps, self.sums = before      # the step can be repeated
            raise
        if self.steps == self.schedule.end and self.schedule.shortfall():
            warnings.warn(f"pruner: {self.schedule.shortfall()}", stacklevel=2)
        self._ask_for_gradients()

    def report(self, accuracy):
        """Tell the schedule the accuracy on validation data after the latest step. Reactive listens."""
        self.schedule.observe(self.steps, accuracy)
        wanted = self._wants_gradients()
        for weight in self.weights.values():
            weight.keep_dense_grad = wanted

    # --- the masks ----------------------------------------------------------------------------------------
    def update(self):
        """Renew all masks. Where one of them cannot be made, ValueError, and none has changed."""
        sparsities = {name: self.schedule(self.steps, final) for name, final in self.targets.items()}
        if self.scope == "global":
            sparsities = self._share(sparsities)
        masks = {}
        for name, weight in self.weights.items():
            with self._about(name):
                masks[name] = as_mask(self.new_mask(name, sparsities[name]), weight.shape)
        for name, mask in masks.items():
            self.weights[name].set_mask(mask)
        empty = [name for name, mask in masks.items() if not mask.any()]
        if empty:
            warnings.warn(f"pruner: no weight is left at step {self.steps} in {', '.join(empty)}: nothing "
                          f"passes through; give it a target of its own, or None", stacklevel=3)

    def new_mask(self, name, sparsity):
        """The next mask of a layer: the rule of the method."""
        if sparsity == 1:       # of "global" alone
            return np.zeros(self.weights[name].shape, bool)
        return self.mask(self.scores(name), sparsity)

    def scores(self, name):
        """The scores of a layer's weights, -inf where they are pruned."""
        scores = self.sums[name] if name in self.sums else self.evaluate(self.score, name)
        mask = self.weights[name].mask
        return scores if mask is None else np.where(mask, scores, -np.inf)

    def _summed(self, name):
        with self._about(name):
            return self.sums.get(name, 0) + self.evaluate(self.score, name)

    def evaluate(self, score, name):
        """score(weight, and what it needs) for one layer."""
        weight = self.weights[name]
        sources = {"gradient": self._gradient, "generator": self.generator}
        scores = score(weight.data, **{need: sources[need](name) for need in needs(score)})
        scores = scores.data if isinstance(scores, Tensor) else scores
        if np.shape(scores) != weight.shape:
            raise ValueError(f"the score has shape {np.shape(scores)}, the weight {weight.shape}")
        return scores

    def generator(self, name):
        """A new Generator for this layer and step, the same in a program that was stopped and resumed."""
        return np.random.default_rng((self.seed, self.steps, list(self.weights).index(name)))

    def _share(self, sparsities):
        """The sparsity of each layer such that the highest scores of all layers together are kept."""
        def scores(name):
            with self._about(name):
                return check_scores(self.scores(name))
        sizes = {name: weight.numel() for name, weight in self.weights.items()}
        kept = round(sum(size * (1 - sparsities[name]) for name, size in sizes.items()))
        counts = highest_counts([functools.partial(scores, name) for name in sizes], kept)
        return {name: 1 - count / sizes[name] for name, count in zip(sizes, counts, strict=True)}

    # --- gradients ----------------------------------------------------------------------------------------
    def needs_gradient(self):
        """Whether an update needs the gradients of pruned weights."""
        return "gradient" in needs(self.score)

    def _gradient(self, name):
        weight = self.weights[name]
        if weight.dense_grad is not None:
            return weight.dense_grad
        if weight.mask is None and weight.grad is not None:
            return weight.grad.data
        raise ValueError("there is no gradient of all its weights: call backward() before, and leave "
                         "frozen layers out (None)")

    def _wants_gradients(self):
        """Whether the next step uses gradients of pruned weights."""
        summing = getattr(self.score, "summed", False) and self.steps < self.schedule.end
        return self.needs_gradient() and (summing or self.schedule.due(self.steps + 1))

    def _ask_for_gradients(self):
        """Have the next backward keep gradients of pruned weights if the next step uses them, else not."""
        wanted = self._wants_gradients()
        for weight in self.weights.values():
            weight.keep_dense_grad, weight.dense_grad = wanted, None

    # --- saving and showing -------------------------------------------------------------------------------
    def sparsity(self):
        """{layer name: share of its weights that are exactly zero}, of the layers that have a target."""
        return {name: float(np.mean(weight.data == 0)) for name, weight in self.weights.items()}

    def state_dict(self):
        """What a checkpoint needs beside the model's state_dict, where the masks are."""
        return {"steps": self.steps, "seed": self.seed, "sums": dict(self.sums),
                "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state):
        """Go on from a state_dict. Make the pruner first, then load its state and the model's own.

        A pruner that prunes by gradients at step 0 can only be made after a backward(), here too.

        ValueError, and nothing has changed, where the state is not that of such a pruner.
        """
        keys = {"steps", "seed", "sums", "schedule"}
        if not isinstance(state, dict) or set(state) != keys:
            raise ValueError(f"pruner: a state has {', '.join(sorted(keys))}, got {state!r}")
        for key in ("steps", "seed"):
            if not isinstance(state[key], numbers.Integral) or state[key] < 0:
                raise ValueError(f"pruner: the state's {key!r} must be a whole number, at least 0, "
                                 f"got {state[key]!r}")
        if not isinstance(state["sums"], dict):
            raise ValueError(f"pruner: the state's 'sums' must be a dict, got {state['sums']!r}")
        for name, sums in state["sums"].items():
            if name not in self.weights or np.shape(sums) != self.weights[name].shape:
                raise ValueError(f"pruner: the state has scores of shape {np.shape(sums)} for {name!r}, "
                                 f"which is no layer with a target and weights of that shape")
        self.schedule.load_state_dict(state["schedule"])
        self.steps, self.seed = int(state["steps"]), int(state["seed"])
        self.sums = {name: np.array(sums) for name, sums in state["sums"].items()}
        self._ask_for_gradients()

    @contextlib.contextmanager
    def _about(self, name):
        """A ValueError inside says which layer it is about, and when."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"pruner: {name!r} at step {self.steps}: {error}") from error

    def __repr__(self):
        lines = [f"  {name}: {final}" for name, final in self.targets.items()]
        return "\n".join([f"{type(self).__name__}({self.schedule},", *lines, ")"])
