"""The Pruner on small nets: targets, exact zeros through training and files, resuming; l1; summary."""
import copy
import re

import numpy as np
import pytest

from minisparse import nn, optim
from minisparse.sparse import Constant, Cubic, OneShot, Pruner, RigL, l1, summary, topk_mask
from minisparse.tensor import Tensor, no_grad


def small_net(seed=0):
    generator = np.random.default_rng(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(6 * 4 * 4, 10), nn.ReLU(), nn.Linear(10, 3))
    for p in net.parameters():
        p.data[...] = generator.normal(0, 0.3, p.shape)
    return net


def batch(step):
    generator = np.random.default_rng(100 + step)
    return (Tensor(generator.normal(size=(5, 3, 6, 6)).astype(np.float32)),
            Tensor(generator.normal(size=(5, 3)).astype(np.float32)))


def train(net, optimizer, pruner, steps, check=lambda: None):
    for step in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        difference = net(x) - y
        (difference * difference).mean().backward()
        optimizer.step()
        pruner.step()
        check()


def weights(net):
    return [p for p in net.parameters() if p.ndim > 1]


def same(a, b):
    return all(np.array_equal(p.data, q.data) for p, q in zip(a.parameters(), b.parameters(), strict=True))


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "proximal sgd": lambda p: optim.ProximalSGD(p, lr=0.05, momentum=0.9, l1=1e-3),
    "proximal adam": lambda p: optim.ProximalAdam(p, lr=0.01, l1=1e-3, group_lasso=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_exactly_zero_after_every_step(name):
    net = small_net()
    optimizer = OPTIMIZERS[name](net.parameters())
    pruner = Pruner(net, {nn.Conv2d: 0.55, nn.Linear: 0.75}, Cubic(start=2, end=12, every=3))
    masks = [None] * 4

    def check():
        for i, w in enumerate(weights(net)):
            if w.mask is None:
                continue
            assert np.all(w.data[~w.mask] == 0.0)
            if masks[i] is not None:
                assert not np.any(w.mask & ~masks[i]), "a pruned weight came back"
            masks[i] = w.mask

    train(net, optimizer, pruner, range(20), check)
    for w, final in zip(weights(net), (0.55, 0.55, 0.75, 0.75), strict=True):
        assert np.count_nonzero(w.data) == w.mask.sum() == round(w.numel() * (1 - final))


def test_masks_keep_the_largest_weights():
    net = small_net()
    before = [np.copy(w.data) for w in weights(net)]
    Pruner(net, 0.6, OneShot())
    for w, b in zip(weights(net), before, strict=True):
        kept = topk_mask(np.abs(b), 0.6)
        assert np.array_equal(w.mask, kept) and np.array_equal(w.data, np.where(kept, b, 0))


def test_sparsity_follows_the_schedule():
    net = small_net()
    schedule = Cubic(start=3, end=13, every=5)
    pruner = Pruner(net, 0.8, schedule)
    seen = []
    for _ in range(15):
        pruner.step()
        seen.append(pruner.sparsity()["5"])
    size = 960

    def share(t):
        return 1 - round(size * (1 - schedule(t, 0.8))) / size
    assert seen == pytest.approx([0] * 7 + [share(8)] * 5 + [share(13)] * 3)
    assert share(13) == pytest.approx(0.8)


def test_own_score():
    net = small_net()
    Pruner(net, {"7": 0.5}, OneShot(), score=lambda weight: -np.abs(weight))
    w = net[7].weight
    assert w.mask.sum() == 15 and np.array_equal(w.mask, w.data != 0)
    fresh = np.abs(small_net()[7].weight.data)
    assert fresh[w.mask].max() < fresh[~w.mask].min()


def test_kept_weights_that_are_zero_stay_ahead_of_pruned_ones():
    net = small_net()
    w = net[7].weight
    pruner = Pruner(net, {"7": 0.5}, Constant(start=0, end=10, every=1))
    first = w.mask
    w.data[first] = 0.0         # by chance, all that is kept is zero for now
    pruner.step()
    assert np.array_equal(w.mask, first)


def test_lower_sparsity_brings_weights_back_as_zeros_by_index():
    net = small_net()
    w = net[7].weight
    Pruner(net, {"7": 0.8}, OneShot())
    first, before = w.mask, np.copy(w.data)
    Pruner(net, {"7": 0.5}, OneShot())
    returned = np.flatnonzero(w.mask & ~first)
    assert w.mask.sum() == 15 and np.all(w.mask[first])
    assert np.array_equal(returned, np.flatnonzero(~first)[:9])
    assert np.array_equal(w.data, before)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    train(net, optimizer, Pruner(net, {"7": 0.5}, OneShot(100)), range(1))
    assert np.count_nonzero(w.data.ravel()[returned]) > 0


# --- targets ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("targets, expected", [
    (0.5, {"0": 0.5, "2": 0.5, "5": 0.5, "7": 0.5}),
    ({nn.Conv2d: 0.55, nn.Linear: 0.75}, {"0": 0.55, "2": 0.55, "5": 0.75, "7": 0.75}),
    ({nn.Conv2d: 0.55}, {"0": 0.55, "2": 0.55}),
    ({"0": None, nn.Conv2d: 0.55}, {"2": 0.55}),                    # a name beats a type, wherever it stands
    ({nn.Module: 0.5, nn.Linear: 0.6}, {"0": 0.5, "2": 0.5, "5": 0.6, "7": 0.6}),
    ({"*": 0.5, "[02]": 0.6, "2.weight": 0.7}, {"0": 0.6, "2": 0.7, "5": 0.5, "7": 0.5}),
    ({"2": 0.7, "*": 0.5}, {"0": 0.5, "2": 0.5, "5": 0.5, "7": 0.5}),   # of two names the later one wins
    ({"5": 0.0}, {"5": 0.0}),
])
def test_targets(targets, expected):
    pruner = Pruner(small_net(), targets, OneShot(5))
    assert pruner.targets == expected
    assert list(pruner.sparsity()) == list(expected)


@pytest.mark.parametrize("targets, message", [
    ({}, "the targets {} name no layer"),
    ({"features.0": 0.5}, "'features.0' matches no Linear or Conv2d layer; there are 0, 2, 5, 7"),
    ({"1": 0.5}, "'1' matches no"),                                 # it is there, but a ReLU
    ({nn.BatchNorm2d: 0.5}, "BatchNorm2d matches no"),
    ({"4*": None}, r"'4\*' matches no"),
    ({nn.Conv2d: 1.0}, r"the target of Conv2d must be a number in \[0, 1\), got 1.0"),
    ({"0": 55}, r"the target of '0' must be a number in \[0, 1\), got 55"),
    (-0.1, "got -0.1"),
    ("0.5", "got '0.5'"),
    ({"7": 0.99}, "'7' has 30 weights, and keeps none at sparsity 0.99"),
])
def test_wrong_targets_are_errors_that_name_them(targets, message):
    net = small_net()
    with pytest.raises(ValueError, match=message):
        Pruner(net, targets, OneShot())
    assert all(w.mask is None for w in weights(net))


def test_a_key_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="layer type or a name, got 5"):
        Pruner(small_net(), {5: 0.5}, OneShot())


def test_a_model_that_is_one_layer():
    layer = nn.Linear(6, 4)
    assert Pruner(layer, {"weight": 0.5}, OneShot()).sparsity() == {"": 0.5}
    assert np.count_nonzero(layer.weight.data) == 12


def test_layers_without_a_target_stay_dense():
    net, twin = small_net(), small_net()
    pruner = Pruner(net, {nn.Linear: 0.75, "7": None}, Cubic(start=0, end=5, every=1))
    for _ in range(6):
        pruner.step()
    for i in (0, 2, 7):
        assert net[i].weight.mask is None and np.array_equal(net[i].weight.data, twin[i].weight.data)
    assert all(layer.bias.mask is None for layer in (net[0], net[2], net[5], net[7]))
    assert net[5].weight.mask.sum() == 240


def test_a_shared_weight_counts_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    net = nn.Sequential(a, b)
    assert Pruner(net, 0.5, OneShot()).sparsity() == {"0": 0.5}
    assert summary(net)[-1].weights == 16


def test_nan_is_an_error_that_names_the_layer_and_the_step():
    net = small_net()
    pruner = Pruner(net, 0.5, OneShot(2))
    net[5].weight.data[0, 0] = np.nan
    pruner.step()
    with pytest.raises(ValueError, match="'5' at step 2: 1 of 960 scores are NaN"):
        pruner.step()


# --- saving, resuming, copying ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 5, 6, 11])     # before any mask, between updates, at one, after the last
def test_resuming_is_the_same_as_never_stopping(name, stop):
    def start(seed):
        net = small_net(seed)
        optimizer = OPTIMIZERS[name](net.parameters())
        return net, optimizer, Pruner(net, {nn.Conv2d: 0.5, nn.Linear: 0.8}, Cubic(start=2, end=10, every=2))

    whole = start(0)
    train(*whole, range(14))

    first = start(0)
    train(*first, range(stop))
    saved = [copy.deepcopy(part.state_dict()) for part in first]
    second = start(1)
    for part, state in zip(second, saved, strict=True):
        part.load_state_dict(state)
    for w in weights(second[0]):
        assert w.mask is None or np.all(w.data[~w.mask] == 0.0)
    train(*second, range(stop, 14))
    assert same(whole[0], second[0])
    for w, v in zip(weights(whole[0]), weights(second[0]), strict=True):
        assert np.array_equal(w.mask, v.mask)


def test_loading_replaces_masks_made_by_the_constructor():
    net, other = small_net(0), small_net(1)
    Pruner(net, 0.7, OneShot())
    Pruner(other, 0.2, OneShot())
    other.load_state_dict(net.state_dict())
    assert same(net, other)
    assert all(np.array_equal(w.mask, v.mask) for w, v in zip(weights(net), weights(other), strict=True))


@pytest.mark.parametrize("state", [{}, {"steps": -1}, {"steps": 1.5}, {"steps": 3, "masks": 1}])
def test_wrong_states_are_errors(state):
    with pytest.raises(ValueError, match=re.escape(repr(state))):
        Pruner(small_net(), 0.5, OneShot()).load_state_dict(state)


def test_a_deep_copy_goes_its_own_way():
    net = small_net()
    pruner = Pruner(net, 0.5, Constant(start=0, end=2, every=1))
    twin_net, twin = copy.deepcopy((net, pruner))
    assert same(net, twin_net) and np.array_equal(net[5].weight.mask, twin_net[5].weight.mask)
    for w in weights(twin_net):
        w.set_mask(None)
        w.data[...] = 1.0
    twin.step()
    assert twin.steps == 1 and pruner.steps == 0
    assert twin_net[7].weight.mask.ravel().tolist() == [True] * 15 + [False] * 15
    assert same(net, copy.deepcopy(net)) and not same(net, twin_net)
    assert list(twin_net.state_dict()) == list(net.state_dict())


# --- summary and l1 ---------------------------------------------------------------------------------------

def test_summary_counts_exact_zeros():
    net = small_net()
    Pruner(net, {nn.Conv2d: 0.5, "7": 0.8}, OneShot())
    rows = {row.name: row for row in summary(net)}
    assert list(rows) == ["0", "2", "5", "7", "conv", "linear", "all"]
    assert rows["2"] == ("2", "conv", (6, 4, 3, 3), 216, 108) and rows["2"].sparsity == 0.5
    assert rows["5"].zeros == 0 and rows["7"].zeros == 24
    assert (rows["conv"].weights, rows["conv"].zeros) == (324, 162)
    assert (rows["linear"].weights, rows["linear"].zeros) == (990, 24)
    assert rows["all"].sparsity == 186 / 1314
    assert [row[3:] for row in summary(nn.ReLU())] == [(0, 0)] * 3 and summary(nn.ReLU())[-1].sparsity == 0.0


def test_repr_says_what_will_happen():
    text = repr(Pruner(small_net(), {nn.Conv2d: 0.55, "7": 0.8}, Cubic(2, 9)))
    assert text.splitlines() == ["Pruner(Cubic(start=2, end=9, every=100, initial=0.0),",
                                 "  0: 0.55", "  2: 0.55", "  7: 0.8", ")"]


def test_l1_is_the_sum_of_magnitudes_of_weights_only():
    net = small_net()
    value = l1(net)
    expected = sum(abs(float(x)) for w in weights(net) for x in w.data.ravel())
    assert value.shape == () and value.dtype == np.float32
    assert value.item() == pytest.approx(expected, rel=1e-6)
    net[0].weight.data[0, 0, 0, 0] = 0.0
    (0.25 * l1(net)).backward()
    for w in weights(net):
        assert np.array_equal(w.grad.data, np.float32(0.25) * np.sign(w.data))
    assert all(layer.bias.grad is None for layer in (net[0], net[2], net[5], net[7]))


def test_l1_of_chosen_tensors():
    a, b = (Tensor(np.array(v), requires_grad=True) for v in ([1.0, -2.0], [[-3.0]]))
    assert l1([a, b]).item() == 6 and l1(a).item() == 3
    l1(iter([a, b])).backward()
    assert a.grad.tolist() == [1, -1] and b.grad.tolist() == [[-1]]
    with pytest.raises(ValueError, match="no weights"):
        l1(nn.ReLU())


def test_l1_shrinks_but_leaves_no_exact_zero():
    net = small_net()
    optimizer = optim.SGD(net.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        l1(net).backward()
        optimizer.step()
    w = net[5].weight.data
    assert np.abs(w).max() <= 0.02 and np.count_nonzero(w) == w.size


def test_l1_leaves_pruned_weights_at_zero():
    net = small_net()
    pruner = Pruner(net, 0.5, OneShot())
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        l1(net).backward()
        optimizer.step()
        pruner.step()
    assert set(pruner.sparsity().values()) == {0.5}


def test_masks_are_not_written_while_a_gradient_is_due():
    net = small_net()
    x, _ = batch(0)
    loss = net(x).sum()
    with no_grad():
        Pruner(net, 0.5, OneShot())
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_step_that_failed_can_be_repeated():
    layer = nn.Linear(8, 4)
    pruner = Pruner(layer, 0.5, OneShot(1))
    value, layer.weight.data[0, 0] = layer.weight.data[0, 0], np.nan
    with pytest.raises(ValueError, match="1 of 32 scores are NaN"):
        pruner.step()
    assert pruner.steps == 0 and layer.weight.mask is None
    layer.weight.data[0, 0] = value
    pruner.step()
    assert pruner.steps == 1 and layer.weight.mask.sum() == 16


def test_a_report_keeps_the_gradient_that_is_there():
    layer = nn.Linear(8, 4)
    pruner = RigL(layer, 0.5, Constant(0, 9, every=1))
    (layer(Tensor(np.ones((2, 8), np.float32))) ** 2).mean().backward()
    pruner.report(0.5)
    pruner.step()
    assert pruner.steps == 1 and layer.weight.mask.sum() == 16


def test_a_target_below_the_initial_sparsity_loses_nothing_more():
    layer = nn.Linear(8, 4)
    pruner = Pruner(layer, {"*": 0.25}, Cubic(0, 10, initial=0.5))
    assert layer.weight.mask.mean() == 0.75
    for _ in range(10):
        pruner.step()
    assert layer.weight.mask.mean() == 0.75
    assert Cubic(0, 10, initial=0.5)(0, 0.0) == 0 and Cubic(0, 10, initial=0.5)(0, 0.75) == 0.5


@pytest.mark.parametrize("sums", [None, [1]])
def test_sums_of_another_kind(sums):
    pruner = Pruner(nn.Linear(8, 4), 0.5, OneShot())
    with pytest.raises(ValueError, match="'sums' must be a dict"):
        pruner.load_state_dict({**pruner.state_dict(), "sums": sums})
