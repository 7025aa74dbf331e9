"""Layers with masks of their own: exact counts, masks that change, zeros that stay."""
import copy

import numpy as np
import pytest

import minisparse as ms
from minisparse import nn, optim, sparse

FIXED = {"linear": lambda **o: sparse.SparseLinear(10, 5, **o),
         "conv": lambda **o: sparse.SparseConv2d(3, 4, 3, **o)}
DYNAMIC = {"linear": (lambda **o: sparse.DynamicSparseLinear(10, 5, **o), (6, 10)),
           "conv": (lambda **o: sparse.DynamicSparseConv2d(3, 4, 3, **o), (2, 3, 5, 5))}


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_the_largest_weights_are_kept(make):
    ms.manual_seed(0)
    weight = np.abs(make(sparsity=0.0).weight.data)
    ms.manual_seed(0)
    layer = make(sparsity=0.7)
    kept = round(weight.size * (1 - 0.7))
    assert np.count_nonzero(layer.weight.data) == np.count_nonzero(layer.weight.mask) == kept
    assert weight[layer.weight.mask].min() >= weight[~layer.weight.mask].max()
    assert layer.sparsity == 1 - kept / weight.size
    assert f"sparsity={layer.sparsity:.4g}" in repr(layer)


@pytest.mark.parametrize("kind", FIXED)
def test_they_are_the_ordinary_layers(kind):
    layer = FIXED[kind](sparsity=0.5)
    assert isinstance(layer, nn.Linear if kind == "linear" else nn.Conv2d)
    assert list(layer.state_dict()) == ["weight", "weight_mask", "bias"]
    assert not hasattr(layer, "update_sparsity")
    assert list(sparse.sparsifiable(nn.Sequential(layer))) == ["0"]


def test_options():
    assert sparse.SparseLinear(10, 5, 0.8, False).bias is None
    assert sparse.SparseLinear(10, 5, 0.8).sparsity == sparse.DynamicSparseLinear(10, 5, 0.8).sparsity == 0.8
    assert sparse.SparseLinear(10, 5).sparsity == sparse.DynamicSparseLinear(10, 5).sparsity == 0.5
    layer = sparse.SparseConv2d(4, 8, 3, 2, 1, groups=2, bias=False, sparsity=0.9)
    assert (layer.stride, layer.padding, layer.groups, layer.bias) == ((2, 2), (1, 1), 2, None)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan"), "half"])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match="sparsity must be a number in"):
        sparse.SparseLinear(10, 5, sparsity=sparsity)
    layer = sparse.DynamicSparseLinear(10, 5)
    mask = layer.weight.mask
    with pytest.raises(ValueError, match="sparsity must be a number in"):
        layer.update_sparsity(sparsity)
    assert layer.weight.mask is mask


@pytest.mark.parametrize("make, shape", DYNAMIC.values(), ids=DYNAMIC)
def test_update_sparsity_up_prunes_the_smallest(make, shape):
    ms.manual_seed(0)
    layer = make(initial_sparsity=0.5)
    before = layer.weight.data.copy()
    layer.update_sparsity(0.8)
    kept = layer.weight.mask
    assert np.count_nonzero(kept) == round(before.size * (1 - 0.8))
    np.testing.assert_array_equal(layer.weight.data, np.where(kept, before, 0))
    assert np.abs(before[kept]).min() >= np.abs(before[~kept]).max()


@pytest.mark.parametrize("make, shape", DYNAMIC.values(), ids=DYNAMIC)
def test_update_sparsity_down_lets_weights_grow(make, shape):
    ms.manual_seed(0)
    layer = make(initial_sparsity=0.8)
    old, values = layer.weight.mask, layer.weight.data.copy()
    layer.update_sparsity(0.5)
    new = layer.weight.mask
    assert np.all(new[old]) and np.count_nonzero(new) == round(old.size * 0.5)
    np.testing.assert_array_equal(layer.weight.data, values)      # what comes back starts at zero
    optimizer = optim.Adam(layer.parameters(), lr=0.01)
    layer(ms.randn(*shape)).square().mean().backward()
    optimizer.step()
    assert np.all(layer.weight.data[new & ~old] != 0)
    assert np.all(layer.weight.data[~new] == 0)
    layer.update_sparsity(0.0)
    assert layer.weight.mask.all() and layer.sparsity == 0


def test_a_kept_zero_goes_before_a_pruned_weight_returns():
    layer = sparse.DynamicSparseLinear(2, 2, initial_sparsity=0.5)
    layer.weight.set_mask(None)
    layer.weight.data[...] = [[0, 0], [3, 0]]
    layer.weight.set_mask([[0, 0], [1, 1]])
    layer.update_sparsity(0.5)
    np.testing.assert_array_equal(layer.weight.mask, [[False, False], [True, True]])


def test_returning_weights_spread_over_the_layer():
    layer = sparse.DynamicSparseLinear(100, 20, 0.9)
    layer.update_sparsity(0.5)
    share = layer.weight.mask.mean(axis=1)
    assert layer.sparsity == 0.5 and share.min() > 0.3 and share.max() < 0.7


def test_state_dict_and_deepcopy_take_the_mask_along():
    ms.manual_seed(0)
    layer = sparse.DynamicSparseLinear(10, 5, initial_sparsity=0.3)
    layer.update_sparsity(0.9)
    other = sparse.DynamicSparseLinear(10, 5)
    other.load_state_dict(layer.state_dict())
    third = copy.deepcopy(layer)
    for twin in (other, third):
        assert twin.sparsity == layer.sparsity
        np.testing.assert_array_equal(twin.weight.mask, layer.weight.mask)
    third.update_sparsity(0.0)
    assert layer.sparsity == 0.9


def test_the_article_program():
    ms.manual_seed(0)
    layer = sparse.DynamicSparseLinear(10, 5, initial_sparsity=0.5)
    x = ms.randn(1, 10)
    first = layer(x)
    layer.update_sparsity(0.8)
    second = layer(x)
    assert first.shape == second.shape == (1, 5)
    np.testing.assert_allclose(second.data, x.data @ layer.weight.data.T + layer.bias.data, rtol=1e-6)
