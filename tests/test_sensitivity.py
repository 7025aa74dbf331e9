"""Sensitivity: curves against pruning by hand, and the sparsities that are read off them."""
import numpy as np
import pytest

import minisparse as ms
from minisparse import nn, sparse


def model():
    ms.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))


def test_each_layer_is_pruned_alone_and_restored():
    net = model()
    net[0].weight.set_mask(np.arange(48).reshape(8, 6) % 5 > 0)
    mask, before = net[0].weight.mask, {name: t.data.copy() for name, t in net.state_dict().items()}
    net[2].weight.grad = ms.ones(4, 8)
    seen = []

    def evaluate():
        seen.append([np.count_nonzero(net[i].weight.data) for i in (0, 2)])
        return float(np.abs(net[0].weight.data).sum() + np.abs(net[2].weight.data).sum())
    curves = sparse.sensitivity(net, evaluate, sparsities=[0.75, 0.5])
    assert seen == [[38, 32], [12, 32], [24, 32], [38, 8], [38, 16]]
    for name, other in (("0", "2"), ("2", "0")):
        sizes = np.sort(np.abs(before[f"{name}.weight"]).ravel())[::-1]
        rest = np.abs(before[f"{other}.weight"]).sum()
        expected = [sizes[:count].sum() + rest for count in (sizes.size, sizes.size // 4, sizes.size // 2)]
        np.testing.assert_allclose(curves[name], expected, rtol=1e-6)
    assert all((t.data == before[name]).all() for name, t in net.state_dict().items())
    assert (net[0].weight.mask == mask).all() and net[2].weight.mask is None
    assert (net[2].weight.grad.data == 1).all()


def test_what_is_left_out_and_what_is_restored_when_evaluation_fails():
    net = model()
    before = net[2].weight.data.copy()
    assert list(sparse.sensitivity(net, lambda: 1.0, [0.5], dense=["0"])) == ["2"]
    calls = iter([1.0])
    with pytest.raises(StopIteration):
        sparse.sensitivity(net, lambda: next(calls), [0.5], dense=["0"])
    assert (net[2].weight.data == before).all() and net[2].weight.mask is None
    with pytest.raises(ValueError, match="no Linear or Conv2d layer '1'; there are 0, 2"):
        sparse.sensitivity(net, lambda: 1.0, [0.5], dense=["1"])
    with pytest.raises(ValueError, match=r"a sparsity must be a number in \[0, 1\), got 1.0"):
        sparse.sensitivity(net, lambda: 1.0, [1.0])


def test_the_sparsity_of_a_tolerated_loss():
    sparsities, curves = [0.5, 0.75, 0.875], {"a": [0.9, 0.9, 0.8, 0.2], "b": [0.9, 0.7, 0.9, 0.9]}

    def at(loss):
        return sparse.tolerated(curves, loss, sparsities)
    assert at(0.1) == pytest.approx({"a": 0.75, "b": 1 - 0.5 ** 0.5})   # half of the way to 0.5, over log(1 - s)
    assert at(0.4) == pytest.approx({"a": 1 - 0.5 ** 2.5, "b": 0.875})  # b's rise after its fall counts for nothing
    assert at(0.0) == pytest.approx({"a": 0.5, "b": 0.0})
    assert at(-0.1) == {"a": 0.0, "b": 0.0}
    assert at(1.0) == pytest.approx({"a": 0.875, "b": 0.875})
    with pytest.raises(ValueError, match="'a' has 4 points, expected 2"):
        sparse.tolerated(curves, 0.1, [0.5])


def test_sparsities_from_a_generator_and_one_name():
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(11)))
    curves = sparse.sensitivity(net, lambda: 1.0, (s for s in (0.5, 0.9)), dense="10")
    assert list(curves) == [str(i) for i in range(10)] and set(map(len, curves.values())) == {3}


def test_the_mask_there_was_is_the_same_object_again():
    net = model()
    weight = next(iter(sparse.sparsifiable(net).values())).weight
    weight.set_mask(np.arange(weight.numel()).reshape(weight.shape) % 2 == 0)
    mask = weight.mask
    sparse.sensitivity(net, lambda: 1.0, (0.5,))
    assert weight.mask is mask
