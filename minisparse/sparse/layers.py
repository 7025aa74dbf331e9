"""Layers that are sparse by themselves: with a mask that is fixed, one that changes, or gates that learn it.

The masked layers are nn.Linear and nn.Conv2d, with weight.mask set: all that works on those works on them.
"""
import numpy as np

from .. import conv, nn
from ..linear import linear
from ..tensor import no_grad
from .gates import HardConcrete
from .masks import topk_mask


# --- masks ------------------------------------------------------------------------------------------------
class _Masked:
    """What a Linear or Conv2d gets: a mask that keeps the round(n (1 - sparsity)) largest of n weights."""

    @property
    def sparsity(self):
        """The share of weights that the mask prunes."""
        mask = self.weight.mask
        return 0.0 if mask is None else 1 - np.count_nonzero(mask) / mask.size

    def _keep_largest(self, sparsity):
        scores = np.abs(self.weight.data)
        if self.weight.mask is not None:
            # A weight that is kept and 0 goes before one that is pruned. Those return at random places, always the same
            # ones: in the order of their indices the first units would get them all.
            scores = np.where(self.weight.mask, scores, -1 - np.random.default_rng(0).random(scores.shape))
        mask = topk_mask(scores, sparsity)
        if not mask.any():
            raise ValueError(f"{type(self).__name__}: none of its {mask.size} weights is kept at sparsity {sparsity}")
        self.weight.set_mask(mask)

    def extra_repr(self):
        return f"{super().extra_repr()}, sparsity={self.sparsity:.4g}"


class _Dynamic(_Masked):

    def update_sparsity(self, new_sparsity):
        """Renew the mask from the weights as they are now. ValueError outside [0, 1).

        Up: the smallest of the kept weights go. Down: pruned weights come back, as zeros at random places, and
        training lets them grow.
        """
        self._keep_largest(new_sparsity)


class SparseLinear(_Masked, nn.Linear):
    """nn.Linear with the smallest weights it starts with pruned; sparsity: their share, in [0, 1)."""

    def __init__(self, in_features, out_features, sparsity=0.5, bias=True):
        super().__init__(in_features, out_features, bias)
        self._keep_largest(sparsity)


class SparseConv2d(_Masked, nn.Conv2d):
    """nn.Conv2d (and its options) with the smallest weights it starts with pruned; sparsity: their share."""

    def __init__(self, in_channels, out_channels, kernel_size, *args, sparsity=0.5, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        self._keep_largest(sparsity)


class DynamicSparseLinear(_Dynamic, nn.Linear):
    """nn.Linear with a mask that update_sparsity renews."""

    def __init__(self, in_features, out_features, initial_sparsity=0.5, bias=True):
        super().__init__(in_features, out_features, bias)
        self._keep_largest(initial_sparsity)


class DynamicSparseConv2d(_Dynamic, nn.Conv2d):
    """nn.Conv2d (and its options) with a mask that update_sparsity renews."""

    def __init__(self, in_channels, out_channels, kernel_size, *args, initial_sparsity=0.5, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        self._keep_largest(initial_sparsity)


# --- gates ------------------------------------------------------------------------------------------------
class _Gated:
    """What a Linear or Conv2d gets: gates z, and weights theta = weight * z (arXiv:1712.01312, equation 2).

    gates: "unit", a gate for each unit of the layer, or "weight", a gate for each weight.
    droprate: the share of gates that are closed at the start, about.
    The penalty is to be added to the loss: see expected_l0. `plain()` is the layer without gates, for later.
    """

    def _make_gates(self, gates, unit_shape, droprate):
        if gates not in ("unit", "weight"):
            raise ValueError(f"{type(self).__name__}: gates is 'unit' or 'weight', got {gates!r}")
        self.gates = gates
        self.gate = HardConcrete(unit_shape if gates == "unit" else self.weight.shape, droprate)

    def theta(self, z):
        """The weight and the bias (or None) under the gates z."""
        return self.weight * z, self.bias

    @no_grad()
    def plain(self):
        """The nn.Linear or nn.Conv2d that this layer is in evaluation, with a mask where gates are closed."""
        z = self.gate.deterministic()
        weight, bias = self.theta(z)
        layer = ordinary(self, weight.data, None if bias is None else np.copy(bias.data))
        kept = np.broadcast_to(z.data > 0, weight.shape)
        if self.weight.mask is not None:
            kept = kept & self.weight.mask
        if not kept.all():
            layer.weight.set_mask(kept)
        return layer

    def extra_repr(self):
        return f"{super().extra_repr()}, gates={self.gates!r}"


class L0Linear(_Gated, nn.Linear):
    """nn.Linear whose units, or single weights, can close.

    A unit is an input feature, as in the paper's MLP: the first layer chooses among the inputs of the net,
    and a hidden unit that the next layer does not read is out. The bias has no gate.
    """

    def __init__(self, in_features, out_features, bias=True, gates="unit", droprate=0.5):
        super().__init__(in_features, out_features, bias)
        self._make_gates(gates, (1, in_features), droprate)

    def forward(self, x):
        # gates on the weight, not on x: they need no gradient of x, which would cost a first layer a product
        return linear(x, *self.theta(self.gate()))


class L0Conv2d(_Gated, nn.Conv2d):
    """nn.Conv2d (and its options) whose units, or single weights, can close.

    A unit is a filter, as in the paper: the whole output channel goes. Its bias goes with it, in training as
    in evaluation, so a closed filter sends zeros, and nothing is lost when `shrink` removes it.
    """

    def __init__(self, in_channels, out_channels, kernel_size, *args, gates="unit", droprate=0.5, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        self._make_gates(gates, (out_channels, 1, 1, 1), droprate)

    def theta(self, z):
        weight, bias = super().theta(z)
        if self.gates == "unit" and bias is not None:
            bias = bias * z.reshape(-1)
        return weight, bias

    def forward(self, x):
        return conv.conv2d(x, *self.theta(self.gate()), self.stride, self.padding, self.dilation, self.groups)


def ordinary(layer, weight, bias):
    """The nn.Linear or nn.Conv2d with these arrays (bias may be None) and the other options of `layer`."""
    if isinstance(layer, nn.Conv2d):
        new = nn.Conv2d(weight.shape[1] * layer.groups, len(weight), layer.kernel_size, layer.stride,
                        layer.padding, layer.dilation, layer.groups, bias is not None)
    else:
        new = nn.Linear(weight.shape[1], len(weight), bias is not None)
    new.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias, (layer.weight if layer.bias is None else layer.bias).requires_grad)
    return new.train(layer.training)
