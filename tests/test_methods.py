"""Every method on a small net: exact zeros and counts, resuming bit for bit; and each one's rule by hand."""
import copy
import functools
import math
import tracemalloc
import warnings

import numpy as np
import pytest

import minisparse as ms
from minisparse import nn, optim, sparse
from minisparse.kernels import dense_conv
from minisparse.sparse import (SET, Constant, Cubic, OneShot, Pruner, Reactive, RigL, block_mask, erk,
                               lamp, magnitude, movement, n_m_mask, random, rewind, snip, summed, taylor, topk_mask,
                               uniform, unit_mask)
from minisparse.sparse.schedules import Linear
from test_pruner import OPTIMIZERS, batch, same, small_net, train, weights

CUBIC = Cubic(start=2, end=10, every=2)
TARGETS = {nn.Conv2d: 0.5, nn.Linear: 0.75}
ROWS = {nn.Conv2d: 0.5, "5": 0.8}


def two_of_four(scores, sparsity):
    return n_m_mask(scores, round(4 * (1 - sparsity)), 4)


METHODS = {
    "one shot": lambda net: Pruner(net, TARGETS, OneShot(3)),
    "gradual": lambda net: Pruner(net, TARGETS, CUBIC),
    "global": lambda net: Pruner(net, 0.7, CUBIC, scope="global"),
    "lamp": lambda net: Pruner(net, 0.7, CUBIC, scope="global", score=lamp),
    "random": lambda net: Pruner(net, TARGETS, CUBIC, score=random, seed=5),
    "movement": lambda net: Pruner(net, TARGETS, CUBIC, score=movement),
    "taylor": lambda net: Pruner(net, TARGETS, CUBIC, score=taylor, scope="global"),
    "snip": lambda net: Pruner(net, TARGETS, CUBIC, score=snip),
    "summed": lambda net: Pruner(net, TARGETS, CUBIC, score=summed(snip), mask=unit_mask),
    "2:4": lambda net: Pruner(net, {"2": 0.5, "5": 0.5}, OneShot(4), mask=two_of_four),
    "blocks": lambda net: Pruner(net, {"0": 0.5, "5": 0.75}, CUBIC,
                                 mask=functools.partial(block_mask, block=(2, 1))),
    "filters": lambda net: Pruner(net, ROWS, CUBIC, mask=unit_mask),
    "set": lambda net: SET(net, erk(net, 0.7), Constant(0, 10, every=3), seed=1),
    "rigl": lambda net: RigL(net, uniform(net, 0.7), Constant(0, 10, every=3)),
    "rigl gradual": lambda net: RigL(net, TARGETS, CUBIC),
    "reactive": lambda net: Pruner(net, TARGETS, Reactive(start=1, end=12, tolerance=0.1)),
}
ACCURACIES = {2: 0.5, 4: 0.6, 5: 0.4, 6: 0.4, 8: 0.6, 10: 0.55}    # a fall that takes sparsity back at step 7


def start(method, optimizer, seed):
    net = small_net(seed)
    return net, OPTIMIZERS[optimizer](net.parameters()), METHODS[method](net)


def run(net, optimizer, pruner, steps, check=lambda: None):
    for step in steps:
        train(net, optimizer, pruner, [step], check)
        if pruner.steps in ACCURACIES:
            pruner.report(ACCURACIES[pruner.steps])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_zeros_are_exact_and_grown_weights_start_afresh(method, optimizer):
    net, opt, pruner = start(method, optimizer, 0)
    before = {}
    grown = 0

    def check():
        nonlocal grown
        for w in weights(net):
            if w.mask is None:
                continue
            assert np.all(w.data[~w.mask] == 0.0)
            new = w.mask & ~before.get(w, w.mask)
            grown += new.sum()
            assert np.all(w.data[new] == 0.0)
            for moments in opt.state[w].values():
                assert np.ndim(moments) == 0 or np.all(moments[new] == 0)
            before[w] = w.mask

    run(net, opt, pruner, range(13), check)
    assert (grown > 0) == (method in ("set", "rigl", "rigl gradual", "reactive"))
    masks = {name: w.mask for name, w in pruner.weights.items()}
    if pruner.scope == "layer" and pruner.mask is topk_mask:
        for name, final in pruner.targets.items():
            assert masks[name].sum() == round(masks[name].size * (1 - final))
    elif pruner.scope == "global":
        sizes = {name: mask.size for name, mask in masks.items()}
        kept = sum(size * (1 - pruner.targets[name]) for name, size in sizes.items())
        assert sum(mask.sum() for mask in masks.values()) == round(kept)
    names = [name for name in net.state_dict() if not name.endswith("_mask")]
    assert names == list(small_net().state_dict())


@pytest.mark.parametrize("stop", [1, 3, 6, 11])
@pytest.mark.parametrize("method", METHODS)
def test_resuming_from_a_file_is_the_same_as_never_stopping(method, stop, tmp_path):
    optimizer = list(OPTIMIZERS)[(len(method) + stop) % len(OPTIMIZERS)]
    whole = start(method, optimizer, 0)
    run(*whole, range(14))
    first = start(method, optimizer, 0)
    run(*first, range(stop))
    ms.save([part.state_dict() for part in first], tmp_path / "checkpoint")
    second = start(method, optimizer, 1)
    for part, state in zip(second, ms.load(tmp_path / "checkpoint"), strict=True):
        part.load_state_dict(state)
    for w in weights(second[0]):
        assert w.mask is None or np.all(w.data[~w.mask] == 0.0)
    run(*second, range(stop, 14))
    assert same(whole[0], second[0])
    for w, v in zip(weights(whole[0]), weights(second[0]), strict=True):
        assert np.array_equal(w.mask, v.mask)


@pytest.mark.parametrize("method", ["movement", "set", "rigl", "reactive"])
def test_a_deep_copy_trains_as_the_original(method):
    first = start(method, "sgd", 0)
    run(*first, range(5))
    net, pruner = copy.deepcopy((first[0], first[2]))
    twin = net, OPTIMIZERS["sgd"](net.parameters()), pruner
    twin[1].load_state_dict(first[1].state_dict())
    run(*first, range(5, 12))
    assert not same(first[0], net)
    run(*twin, range(5, 12))
    assert same(first[0], net)


# --- SET and RigL -----------------------------------------------------------------------------------------

def one_layer(rows, mask=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data[...] = rows
    if mask is not None:
        layer.weight.set_mask(mask)
    return layer


def test_set_drops_the_smallest_and_grows_at_random():
    net = one_layer(np.zeros((20, 50)))
    generator = np.random.default_rng(0)
    pruner = SET(net, 0.8, Constant(0, 3, every=1), drop=0.3, seed=4)
    w = net.weight
    assert w.mask.sum() == 200
    for _ in range(3):
        old = w.mask
        w.data[...] = np.where(old, generator.normal(size=w.shape), 0)
        smallest = old & ~topk_mask(np.where(old, np.abs(w.data), -1), 0.86)
        before = np.copy(w.data)
        pruner.step()
        assert smallest.sum() == 60 and w.mask.sum() == 200
        assert np.all(w.mask[old & ~smallest])
        assert np.array_equal(w.data, np.where(w.mask & old, before, 0))
        grown = w.mask & ~old
        assert 40 < grown.sum() <= 60                   # drawn from 860, of which 60 just dropped
    last = w.mask
    pruner.step()
    assert w.mask is last


def test_random_choices_follow_seed_step_and_layer():
    def masks(seed, steps):
        net = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
        pruner = SET(net, 0.9, Constant(0, 9, every=1), drop=1.0, seed=seed)
        for _ in range(steps):
            pruner.step()
        return [w.mask for w in weights(net)]
    assert all(np.array_equal(a, b) for a, b in zip(masks(3, 2), masks(3, 2)))
    a, b = masks(3, 2)
    others = [b, *masks(4, 2), *masks(3, 1)]
    assert not any(np.array_equal(a, other) for other in others)


def test_rigl_drops_the_smallest_and_grows_the_largest_gradients():
    net = one_layer([[5, -1, 2, 4, -3, 0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]])
    gradient = np.array([[0, 0, 0.5, 0, 0, 0.1, -0.9, 0.6, -0.2, 0.3]], np.float32)
    pruner = RigL(net, 0.5, Constant(0, 2, every=1), drop=0.8)
    assert net.weight.mask.ravel().tolist() == [True] * 5 + [False] * 5     # nothing moves before step 1
    (net(ms.tensor(np.eye(10, dtype=np.float32))).sum(dim=1) * ms.tensor(gradient[0])).sum().backward()
    assert np.array_equal(net.weight.dense_grad, gradient)
    pruner.step()       # 0.8 / 2 (1 + cos(pi / 2)) = 0.4 of five: -1 and 2 go, those with -0.9 and 0.6 grow
    assert pruner.share() == pytest.approx(0.4)
    assert net.weight.mask.astype(int).tolist() == [[1, 0, 0, 1, 1, 0, 1, 1, 0, 0]]
    assert net.weight.data.ravel().tolist() == [5, 0, 0, 4, -3, 0, 0, 0, 0, 0]


def test_rigl_regrows_a_weight_it_dropped_if_its_gradient_is_largest():
    net = one_layer([[3, 1, 0, 0]], [[1, 1, 0, 0]])
    pruner = RigL(net, 0.5, Constant(0, 2, every=1), drop=1.0)
    (net(ms.tensor(np.eye(4, dtype=np.float32)))[:, 0] * ms.tensor([0.0, 2.0, 1.0, 0.0])).sum().backward()
    pruner.step()
    assert net.weight.data.tolist() == [[3, 1, 0, 0]]


def test_the_share_of_rigl_is_the_published_cosine():
    pruner = RigL(one_layer(np.ones((4, 5))), 0.5, Constant(0, 1000))
    for t in (0, 100, 500, 900, 1000, 1200):
        pruner.steps = t
        assert pruner.share() == pytest.approx(0.3 / 2 * (1 + math.cos(math.pi * min(t, 1000) / 1000)))
    assert pruner.share() == 0 and pruner.schedule.every == 100


def test_dense_gradients_are_kept_at_update_steps_alone():
    net = small_net()
    pruner = RigL(net, 0.5, Constant(0, 9, every=4))
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    kept = []

    class Spy:
        def step(self):
            kept.append([w.dense_grad is not None for w in weights(net)])
            pruner.step()
            assert all(w.dense_grad is None for w in weights(net))
    train(net, optimizer, Spy(), range(12))
    assert [all(row) for row in kept] == [step in (4, 8, 9) for step in range(1, 13)]
    assert not any(any(row) and not all(row) for row in kept)


def test_no_dense_gradient_is_computed_between_the_updates(monkeypatch):
    """Else a net that is sparse from the start would pay for its zeros in every step."""
    layer = nn.Conv2d(8, 16, 3, padding=1)
    pruner = RigL(layer, 0.8, Constant(0, 9, every=4))
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    computed, dense, steps = [], dense_conv.grad_weight, []
    monkeypatch.setattr(dense_conv, "grad_weight", lambda *args: computed.append(len(steps)) or dense(*args))
    x = ms.randn(16, 8, 6, 6)
    for step in range(1, 13):
        steps.append(step)
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
        pruner.step()
    assert computed == [4, 8, 9]


def test_gradients_are_there_however_the_loop_drops_them():
    net = small_net()
    pruner = RigL(net, 0.5, Constant(0, 4, every=2))
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    for step in range(4):
        x, y = batch(step)
        (net(x) * y).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2)
        pruner.step()


@pytest.mark.parametrize("drop", [-0.1, 1.1, "0.3", float("nan")])
def test_a_wrong_share_is_an_error(drop):
    with pytest.raises(ValueError, match=r"RigL: drop must be a number in \[0, 1\]"):
        RigL(small_net(), 0.5, Constant(0, 10), drop=drop)


def test_a_layer_without_gradient_is_named():
    net = small_net()
    net[2].weight.requires_grad_(False)
    pruner = RigL(net, 0.5, Constant(0, 3, every=1))
    with pytest.raises(ValueError, match="'2' at step 1: there is no gradient.*leave frozen layers out"):
        train(net, optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1), pruner, range(1))


# --- SNIP, scores -----------------------------------------------------------------------------------------

def test_lamp_by_its_definition():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3, 2)).astype(np.float32)
    w[0, 0] = w[3, 2, 1] = 0
    scores = lamp(w)
    for index in np.ndindex(w.shape):
        larger = np.abs(w) >= abs(w[index])
        assert scores[index] == pytest.approx(w[index] ** 2 / np.sum(np.square(w[larger], dtype=float)), rel=1e-6)
    assert scores.max() == 1
    assert not lamp(np.zeros((2, 3))).any()
    assert np.array_equal(lamp(1000 * w).argsort(axis=None), scores.argsort(axis=None))     # of any scale


def test_snip_keeps_the_largest_products_of_all_layers():
    net = small_net()
    x, y = batch(0)
    (net(x) * y).sum().backward()
    products = np.concatenate([np.abs(w.data * w.grad.data).ravel() for w in weights(net)])
    Pruner(net, 0.8, OneShot(), score=snip, scope="global")
    assert np.array_equal(np.concatenate([w.mask.ravel() for w in weights(net)]), topk_mask(products, 0.8))


def test_a_score_of_gradients_before_any_backward_is_an_error():
    net = small_net()
    with pytest.raises(ValueError, match=r"'0' at step 0: there is no gradient.*call backward\(\) before"):
        Pruner(net, 0.8, OneShot(), score=snip)
    assert all(w.mask is None for w in weights(net))


def test_scores_by_hand():
    w, g = np.array([2.0, -3.0, 0.0]), np.array([-1.0, -0.5, 7.0])
    assert magnitude(w).tolist() == [2, 3, 0]
    assert snip(w, g).tolist() == [2, 1.5, 0] and taylor(w, g).tolist() == [4, 2.25, 0]
    assert movement(w, g).tolist() == [2, -1.5, 0]      # 2 grows under descent, -3 shrinks
    assert sparse.gradient_magnitude(w, g).tolist() == [1, 0.5, 7]


def test_movement_adds_up_and_its_sum_decides():
    net = small_net()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    pruner = Pruner(net, 0.6, OneShot(3), score=movement)
    sums = [0] * 4

    class Spy:
        def step(self):
            for i, w in enumerate(weights(net)):
                sums[i] = sums[i] - w.data * w.grad.data
            pruner.step()
    train(net, optimizer, Spy(), range(3))
    for w, s in zip(weights(net), sums, strict=True):
        assert np.array_equal(w.mask, topk_mask(s, 0.6))
    train(net, optimizer, pruner, range(3, 6))
    assert all(w.dense_grad is None and not w.keep_dense_grad for w in weights(net))


def test_scores_of_ones_own():
    def with_gradient(weight, gradient, power=2):
        return np.abs(gradient) ** power
    for score in (np.abs, lambda weight: -weight, lambda weight, generator: generator.random(weight.shape)):
        net = small_net()
        Pruner(net, 0.5, OneShot(), score=score)
        assert net[5].weight.mask.sum() == 480
    net = small_net()
    x, y = batch(0)
    (net(x) * y).sum().backward()
    dense = np.copy(net[5].weight.grad.data)
    Pruner(net, 0.5, OneShot(), score=with_gradient)
    assert np.array_equal(net[5].weight.mask, topk_mask(np.abs(dense), 0.5))
    with pytest.raises(TypeError, match="by these names, gradient and generator; wrong takes activation"):
        def wrong(weight, activation):
            return weight
        Pruner(net, 0.5, OneShot(9), score=wrong)
    message = r"^pruner: '0' at step 0: the score has shape \(108,\), the weight \(4, 3, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        Pruner(net, 0.5, OneShot(), score=lambda weight: weight.ravel())


# --- lottery ticket ---------------------------------------------------------------------------------------

def test_rewinding_brings_back_the_first_values_under_the_last_masks():
    net = small_net()
    first = copy.deepcopy(net.state_dict())
    masks = []
    for sparsity in (0.4, 0.7):
        train(net, optim.SGD(net.parameters(), lr=0.1), Pruner(net, sparsity, OneShot(100)), range(3))
        Pruner(net, sparsity, OneShot())
        masks.append([w.mask for w in weights(net)])
        rewind(net, first)
        for w, mask, fresh in zip(weights(net), masks[-1], weights(small_net()), strict=True):
            assert np.array_equal(w.mask, mask) and np.array_equal(w.data, np.where(mask, fresh.data, 0))
        assert np.array_equal(net[0].bias.data, small_net()[0].bias.data)
    for late, early in zip(*masks[::-1], strict=True):
        assert not np.any(late & ~early) and late.sum() == round(late.size * 0.3)


def test_rewinding_to_the_models_own_memory_is_an_error():
    net = small_net()
    state = net.state_dict()
    Pruner(net, 0.5, OneShot())
    with pytest.raises(ValueError, match="'0.weight' of the state is the model's own memory.*deepcopy"):
        rewind(net, state)
    with pytest.raises(RuntimeError, match="missing key.*0.bias"):
        rewind(net, {"0.weight": np.zeros((4, 3, 3, 3), np.float32)})


# --- patterns in the pruner -------------------------------------------------------------------------------

def test_a_pattern_that_misses_its_target_is_named():
    with pytest.warns(UserWarning, match="target of '2' is 90.0% zeros, the mask's pattern makes 50.0%"):
        Pruner(small_net(), {"2": 0.9}, OneShot(4), mask=lambda scores, sparsity: n_m_mask(scores, 2, 4))


def test_patterns_are_checked_before_the_training():
    net = small_net()
    with pytest.raises(ValueError, match="'0' at step 0: 2:4 does not fit.*which is 3"):
        Pruner(net, 0.5, OneShot(1000), mask=two_of_four)
    with pytest.raises(ValueError, match=r"'2' at step 0: blocks of 4 x 1 do not divide .*\(6, 4, 3, 3\)"):
        Pruner(net, {nn.Conv2d: 0.5}, OneShot(1000), mask=block_mask)
    with pytest.raises(ValueError, match="'7' has 30 weights, and keeps none at sparsity 0.9"):
        Pruner(net, {"7": 0.9}, OneShot(1000), mask=unit_mask)


def test_units_by_the_sum_over_a_filter():
    net = small_net()
    sums = np.abs(net[2].weight.data).sum(axis=(1, 2, 3))
    Pruner(net, {"2": 0.5}, OneShot(), mask=unit_mask)
    kept = np.sort(np.argsort(-sums)[:3])
    assert np.flatnonzero(net[2].weight.mask.any(axis=(1, 2, 3))).tolist() == kept.tolist()
    assert net[2].weight.mask.sum() == 3 * 36


def test_units_and_blocks_of_weights_that_are_partly_pruned():
    scores = np.array([[5, -np.inf, -np.inf], [1, 1, 1], [-np.inf] * 3, [2, 2, -np.inf]])
    assert unit_mask(scores, 0.5)[:, 0].tolist() == [True, False, False, True]
    assert block_mask(scores, 0.75, (1, 3))[:, 0].tolist() == [True, False, False, False]


# --- following the accuracy -------------------------------------------------------------------------------

def ways(reports, tolerance=0.0):
    schedule = Reactive(start=0, end=50, tolerance=tolerance)
    for step, accuracy in reports:
        schedule.observe(step, accuracy)
    return schedule, [round(schedule.way(step + 1), 6) for step, _ in reports]


def test_sparsity_goes_on_while_the_accuracy_holds():
    schedule, way = ways([(10, 0.5), (20, 0.6), (30, 0.6), (40, 0.7)])
    assert way == [0.25, 0.5, 0.75, 1] and schedule.shortfall() is None
    assert schedule(50, 0.8) == 0.8 and schedule(10, 0.8) == 0
    assert schedule(11, 0.8) == pytest.approx(0.8 * (1 - 0.75 ** 3))
    assert [t for t in range(60) if schedule.due(t)] == [11, 21, 31, 41]


def test_it_waits_goes_back_and_makes_up_for_it():
    _, way = ways([(10, 0.5), (20, 0.6), (25, 0.55), (30, 0.6), (35, 0.5), (40, 0.5), (45, 0.6)])
    # to come after each: 3, 2, (wait) 4, 3, (wait) 2, (back) 1, the last
    assert way == [0.25, 0.5, 0.5, 0.625, 0.625, 0.5, 1]
    _, way = ways([(10, 0.5), (20, 0.495), (30, 0.494), (40, 0.48)], tolerance=0.01)
    assert way == [0.25, 0.5, 0.75, 0.75]
    _, way = ways([(5, 0.9), (10, 0.1), (15, 0.1), (20, 0.1), (25, 0.1)])
    assert way == [round(1 / 9, 6), round(1 / 9, 6), 0, 0, 0]


def test_a_good_report_after_the_end_still_leads_to_the_target():
    schedule, _ = ways([(10, 0.5), (20, 0.6), (30, 0.5), (40, 0.5), (60, 0.6)])
    assert schedule.way(60) == 0.25 and schedule.way(61) == 1 and schedule.due(61)
    assert "the accuracy at step 40, 0.5000, is more than 0 under the best, 0.6000" in schedule.shortfall()


def test_reports_before_the_start_only_set_the_mark():
    schedule = Reactive(start=20, end=50, tolerance=0.0)
    for step, accuracy in ((10, 0.9), (20, 0.5), (30, 0.8), (40, 0.9)):
        schedule.observe(step, accuracy)
    assert [schedule.way(step) for step in (11, 21, 31, 41)] == [0, 0, 0, 1]


def test_the_pruner_ends_on_the_target_or_says_why_not():
    def finish(accuracies):
        net = small_net()
        pruner = Pruner(net, 0.8, Reactive(start=2, end=10, tolerance=0.05))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(12):
                pruner.step()
                if pruner.steps in accuracies:
                    pruner.report(accuracies[pruner.steps])
        return net[5].weight, [str(w.message) for w in caught]
    w, said = finish({3: 0.5, 5: 0.3, 7: 0.6, 9: 0.6})
    assert w.mask.sum() == 192 and not said
    w, said = finish({3: 0.5, 5: 0.6, 7: 0.3, 9: 0.4})
    assert 192 < w.mask.sum() < 960 and len(said) == 1
    assert "reached" in said[0] and "step 9, 0.4000, is more than 0.05 under the best, 0.6000" in said[0]
    w, said = finish({})
    assert w.mask is None and "reached 0.0%" in said[0] and "no accuracy was reported" in said[0]
    w, said = finish({3: 0.5})
    assert "the last report came at step 3" in said[0]


@pytest.mark.parametrize("make, message", [
    (lambda: Reactive(10, 10), "end must be .* at least 11"),
    (lambda: Reactive(0, 10, tolerance=-0.1), "tolerance must be a number, at least 0"),
    (lambda: Reactive(0, 10).observe(3, float("nan")), "finite number, got nan at step 3"),
    (lambda: [Reactive(0, 10).observe(3, "0.5")], "finite number, got '0.5'"),
    (lambda: ways([(3, 0.5), (3, 0.5)]), "one of step 3 after step 3"),
    (lambda: Reactive(0, 10).load_state_dict({}), "expected {'reports'"),
    (lambda: Reactive(0, 10).load_state_dict({"reports": [[1]]}), "reports"),
    (lambda: Cubic(0, 10).load_state_dict({"reports": []}), "has no state"),
])
def test_wrong_reactive_schedules_and_reports_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- distributions ----------------------------------------------------------------------------------------

def zeros_of(targets, net):
    layers = sparse.sparsifiable(net)
    return sum((target or 0) * layers[name].weight.numel() for name, target in targets.items())


def test_uniform_leaves_the_first_layer_dense_and_meets_the_total():
    net = small_net()           # weights: 108, 216, 960, 30
    targets = uniform(net, 0.6)
    assert targets == {"0": None, **dict.fromkeys("257", pytest.approx(0.6 * 1314 / 1206))}
    assert zeros_of(targets, net) == pytest.approx(0.6 * 1314)
    assert uniform(net, 0.6, dense=["7", nn.Conv2d]) == {"0": None, "2": None, "7": None,
                                                         "5": pytest.approx(0.6 * 1314 / 960)}
    assert list(uniform(net, 0.6, dense=()).values()) == pytest.approx([0.6] * 4)


def test_erk_is_the_published_proportion_capped_at_dense():
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 64, 5), nn.Linear(400, 300), nn.Linear(10, 4))
    targets = erk(net, 0.9)
    assert targets["3"] is None                         # 14 / 40 would be far above 1
    densities = [1 - targets[name] for name in "012"]
    published = [(16 + 32 + 3 + 3) / (16 * 32 * 9), (32 + 64 + 5 + 5) / (32 * 64 * 25), 700 / 120000]
    assert densities == pytest.approx([p * densities[0] / published[0] for p in published])
    total = 16 * 32 * 9 + 32 * 64 * 25 + 120000 + 40
    assert zeros_of(targets, net) == pytest.approx(0.9 * total)
    left = erk(net, 0.9, dense=["0"])
    assert left["0"] is None and left["1"] > targets["1"]
    assert zeros_of(left, net) == pytest.approx(0.9 * total)
    assert list(erk(net, 0.0).values()) == [None] * 4
    pruner = Pruner(net, targets, OneShot())
    kept = sum(w.mask.sum() for w in pruner.weights.values()) + 40
    assert abs(kept - 0.1 * total) <= 1.5


@pytest.mark.parametrize("make, message", [
    (lambda net: erk(net, 0.9, dense=["5"]), "erk: 0.9 of 1314 weights cannot be zero, since .*5.* dense"),
    (lambda net: uniform(net, 0.5, dense=["*"]), "0, 2, 5, 7 stays dense"),
    (lambda net: uniform(net, 1.0), r"uniform must be a number in \[0, 1\), got 1.0"),
    (lambda net: erk(nn.ReLU(), 0.5), "erk: the model has no Linear or Conv2d layer"),
    (lambda net: erk(net, 0.5, dense=["head"]), "'head' matches no Linear or Conv2d layer; there are"),
    (lambda net: Pruner(net, 0.5, OneShot(), scope="model"), "scope is 'layer' or 'global', got 'model'"),
])
def test_distributions_that_cannot_be_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make(small_net())


# --- global -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("levels", [1, 2, 7, 10**6])
def test_global_counts_are_those_of_sorting_everything(levels):
    generator = np.random.default_rng(levels)
    layers = [np.float32(generator.integers(-levels, levels, n)) / 8 for n in (1, 40, 7, 300)]
    layers[1][:3] = -np.inf, np.inf, -0.0
    flat = np.concatenate(layers)
    ends = np.cumsum([0, *map(len, layers)])
    for count in (0, 1, 2, 50, 170, 347, 348):
        order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:count]
        expected = np.histogram(order, ends)[0].tolist() if count else [0] * 4
        got = sparse.targets.highest_counts([lambda layer=layer: layer for layer in layers], count)
        assert got == expected, count


def test_global_masks_are_those_of_one_long_vector():
    for tied in (False, True):
        net = small_net()
        if tied:
            for w in weights(net):
                w.data[...] = np.round(w.data * 4) / 4
        flat = np.concatenate([np.abs(w.data).ravel() for w in weights(net)])
        Pruner(net, {"*": 0.8, "7": None}, OneShot(), scope="global")
        masks = np.concatenate([w.mask.ravel() for w in weights(net)[:3]])
        assert np.array_equal(masks, topk_mask(flat[:-30], 0.8)) and net[7].weight.mask is None


def test_global_keeps_the_total_of_mixed_targets():
    net = small_net()
    Pruner(net, {nn.Conv2d: 0.5, nn.Linear: 0.9}, OneShot(), scope="global")
    assert sum(w.mask.sum() for w in weights(net)) == round(324 * 0.5 + 990 * 0.1)


def test_global_with_whole_filters():
    net = small_net()
    Pruner(net, {nn.Conv2d: 0.5}, OneShot(), scope="global", mask=unit_mask)
    for w in weights(net)[:2]:
        assert set(w.mask.reshape(len(w), -1).mean(axis=1)) == {0, 1}


def test_a_layer_that_loses_all_is_named():
    net = small_net()
    net[7].weight.data *= 1e-3
    with pytest.warns(UserWarning, match="no weight is left at step 0 in 7: nothing passes through"):
        Pruner(net, 0.5, OneShot(), scope="global")
    assert not net[7].weight.mask.any()


def test_global_pruning_needs_no_second_copy_of_the_weights():
    layer = np.random.default_rng(0).standard_normal((256, 256), np.float32)

    def peak(layers):
        tracemalloc.start()
        counts = sparse.targets.highest_counts([lambda: np.abs(layer)] * layers, 10**5)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(counts) == 10**5
        return most
    layer = np.tile(layer, (8, 8))
    assert peak(1) < 3 * layer.nbytes       # one large layer: its scores, and parts of them
    layer = layer[:256, :256].copy()
    peak(2)                         # once before: whatever numpy keeps for later
    assert peak(32) < peak(2) + 10**5


def test_a_score_that_changes_its_mind_is_found():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="different answers when it was asked again"):
        for _ in range(50):
            Pruner(small_net(), 0.01, OneShot(), scope="global", score=lambda w: generator.random(w.shape))


# --- nothing half done ------------------------------------------------------------------------------------

@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nan_changes_no_mask_at_all(scope):
    net = small_net()
    pruner = Pruner(net, 0.8, Linear(0, 2, every=1, initial=0.2), scope=scope)
    before = [w.mask for w in weights(net)]
    values = [np.copy(w.data) for w in weights(net)[:3]]
    net[7].weight.data[1, 1] = np.nan
    pruner.steps = 0
    with pytest.raises(ValueError, match="'7' at step 1: 1 of 30 scores are NaN"):
        pruner.step()
    assert all(w.mask is mask for w, mask in zip(weights(net), before, strict=True))
    assert all(np.array_equal(w.data, v) for w, v in zip(weights(net), values))


@pytest.mark.parametrize("change, message", [
    ({"steps": -1}, "'steps' must be a whole number, at least 0, got -1"),
    ({"seed": 0.5}, "'seed' must be"),
    ({"sums": {"9": np.zeros(3)}}, r"shape \(3,\) for '9'"),
    ({"sums": {"7": np.zeros(3)}}, r"shape \(3,\) for '7'"),
    ({"schedule": {"reports": []}}, "has no state"),
    ({"more": 1}, "a state has schedule, seed, steps, sums"),
])
def test_states_of_another_pruner_are_errors(change, message):
    pruner = Pruner(small_net(), 0.5, OneShot(5))
    with pytest.raises(ValueError, match=message):
        pruner.load_state_dict({**pruner.state_dict(), "steps": 3, **change})
    assert pruner.steps == 0
