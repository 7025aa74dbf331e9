"""Optimizers, learning-rate schedules and gradient clipping: against torch, and against the formulas."""
import copy
import inspect
import itertools
import json
import math

import numpy as np
import pytest

from minisparse import optim
from minisparse.kernels import reference
from minisparse.nn.module import Parameter
from minisparse.nn.utils import clip_grad_norm_, clip_grad_value_
from minisparse.optim import lr_scheduler
from minisparse.serialize import load, save
from minisparse.tensor import Tensor, no_grad

SGD_OPTIONS = [dict(lr=0.05, momentum=momentum, dampening=dampening, weight_decay=decay, nesterov=nesterov,
                    maximize=maximize)
               for momentum, dampening, decay, nesterov, maximize in itertools.product(
                   (0, 0.9), (0, 0.3), (0, 0.05), (False, True), (False, True))
               if not nesterov or (momentum and not dampening)]
ADAM_OPTIONS = [dict(lr=0.02, betas=betas, eps=eps, weight_decay=decay, amsgrad=amsgrad)
                for betas, eps, decay, amsgrad in itertools.product(
                    ((0.9, 0.999), (0.3, 0.9), (0.0, 0.99)), (1e-8, 1e-3), (0, 0.05), (False, True))]
ALL_OPTIONS = ([("SGD", o) for o in SGD_OPTIONS] + [("Adam", o) for o in ADAM_OPTIONS]
               + [("AdamW", o) for o in ADAM_OPTIONS])
SOME_OPTIONS = [("SGD", dict(lr=0.1)),
                ("SGD", dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
                ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
                ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.5, maximize=True)),
                ("Adam", dict(lr=0.1)),
                ("Adam", dict(lr=0.1, weight_decay=0.01, amsgrad=True)),
                ("AdamW", dict(lr=0.1, weight_decay=0.1)),
                ("AdamW", dict(lr=0.1, amsgrad=True))]


def follow(optimizer, params, rng, steps):
    """Steps with gradients that depend on the weights: params pulled to the origin, and noise."""
    for _ in range(steps):
        for p in params:
            noise = rng.standard_normal(p.shape).astype(p.dtype)
            mask = getattr(p, "mask", None)
            kept = True if mask is None else mask
            p.grad = Tensor(np.where(kept, noise + p.data / 2, p.dtype.type(0)))
        optimizer.step()


def make_params(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in ((6, 5), (4, 3, 3, 3), (7,), ())]


# --- trajectories --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options", ALL_OPTIONS)
def test_a_hundred_steps_follow_torch(name, options):
    torch = pytest.importorskip("torch")
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-13)):
        rng = np.random.default_rng(1)
        start = rng.standard_normal((6, 5)).astype(dtype)
        ours, theirs = Tensor(start.copy(), requires_grad=True), torch.tensor(start, requires_grad=True)
        optimizer = getattr(optim, name)([ours], **options)
        reference = getattr(torch.optim, name)([theirs], foreach=False, **options)
        pull = -0.5 if options.get("maximize") else 0.5   # to the origin, so that roundings do not grow
        for _ in range(100):
            noise = rng.standard_normal((6, 5)).astype(dtype)
            ours.grad = Tensor(noise + pull * ours.data)
            theirs.grad = torch.tensor(noise) + pull * theirs.detach()
            optimizer.step()
            reference.step()
            np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=0,
                                       atol=tolerance * abs(ours.data).max())
        assert ours.dtype == dtype


def test_sgd_by_its_formula():
    rng = np.random.default_rng(0)
    w, gradients = rng.standard_normal(5), rng.standard_normal((20, 5))
    p = Tensor(w.copy(), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1, momentum=0.8, dampening=0.25, weight_decay=0.01)
    v = None
    for raw in gradients:
        p.grad = Tensor(raw)
        optimizer.step()
        g = raw + 0.01 * w
        v = g if v is None else 0.8 * v + 0.75 * g
        w = w - 0.1 * v
        np.testing.assert_allclose(p.data, w, rtol=1e-13)


def test_nesterov_by_its_formula():
    rng = np.random.default_rng(0)
    w, gradients = rng.standard_normal(5), rng.standard_normal((20, 5))
    p = Tensor(w.copy(), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1, momentum=0.8, nesterov=True)
    v = np.zeros(5)
    for g in gradients:
        p.grad = Tensor(g)
        optimizer.step()
        v = 0.8 * v + g
        w = w - 0.1 * (g + 0.8 * v)
        np.testing.assert_allclose(p.data, w, rtol=1e-13)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_by_the_weights_of_its_averages(name):
    """The moments as weighted sums over all gradients so far, not as recursions."""
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(5), rng.standard_normal((20, 5))
    p = Tensor(start.copy(), requires_grad=True)
    optimizer = getattr(optim, name)([p], lr=0.1, betas=(0.8, 0.95), weight_decay=0.02)
    w, seen = start, []
    for t, raw in enumerate(gradients, start=1):
        p.grad = Tensor(raw)
        optimizer.step()
        seen.append(raw + 0.02 * w if name == "Adam" else raw)
        age = np.arange(t)[::-1, None]
        m_hat = np.sum(0.8 ** age * seen, axis=0) / np.sum(0.8 ** age)
        v_hat = np.sum(0.95 ** age * np.square(seen), axis=0) / np.sum(0.95 ** age)
        if name == "AdamW":
            w = w * (1 - 0.1 * 0.02)
        w = w - 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.testing.assert_allclose(p.data, w, rtol=1e-11)


def test_defaults_are_torchs():
    torch = pytest.importorskip("torch")
    for name in ("SGD", "Adam", "AdamW"):
        ours = getattr(optim, name)([Tensor(np.zeros(2))]).defaults
        theirs = getattr(torch.optim, name)([torch.zeros(2)]).defaults
        assert ours == {key: theirs[key] for key in ours}


# --- what a step leaves alone --------------------------------------------------------------------------

def test_parameters_without_gradient_are_skipped():
    a, b = Tensor(np.ones(3), requires_grad=True), Tensor(np.ones(3), requires_grad=True)
    optimizer = optim.AdamW([a, b], lr=0.1)
    a.grad = Tensor(np.ones(3))
    optimizer.step()
    assert (a.data < 1).all() and (b.data == 1).all()
    assert list(optimizer.state_dict()["state"]) == [0]


@pytest.mark.parametrize("name, options", SOME_OPTIONS)
def test_updates_are_in_place_and_leave_the_gradient(name, options):
    params = make_params()
    arrays = [p.data for p in params]
    optimizer = getattr(optim, name)(params, **options)
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = [rng.standard_normal(p.shape).astype(np.float32) for p in params]
        for p, grad in zip(params, grads):
            p.grad = Tensor(grad.copy())
        optimizer.step()
        for p, grad in zip(params, grads):
            np.testing.assert_array_equal(p.grad.data, grad)
    assert all(p.data is array for p, array in zip(params, arrays))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel, arrays, numbers", [
    ("sgd", 0, (0.1, 0.0, 1.0, 0.01, False, False)), ("sgd", 1, (0.1, 0.9, 0.5, 0.01, False, True)),
    ("sgd", 1, (0.1, 0.9, 1.0, 0.0, True, False)),
    ("adam", 2, (0.01, 0.9, 0.99, 0.5, 1e-8, 1.0, 0.1)), ("adam", 3, (0.01, 0.9, 0.99, 0.5, 1e-8, 0.999, 0.0))])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_kernels_give_the_bits_of_their_reference(kernel, arrays, numbers, size, dtype):
    update = pytest.importorskip("minisparse.kernels.update")
    assert inspect.signature(getattr(update, kernel).py_func) == inspect.signature(getattr(reference, kernel))
    names = list(inspect.signature(getattr(reference, kernel)).parameters)
    rng = np.random.default_rng(size)
    start = [rng.standard_normal(size).astype(dtype) for _ in range(2)]
    start += [abs(rng.standard_normal(size)).astype(dtype) for _ in range(arrays)]
    start += [np.empty(0, dtype)] * (len(names) - len(numbers) - len(start))
    results = []
    for module in update, reference:
        values = [a.copy() for a in start]
        for _ in range(3):
            getattr(module, kernel)(*values, *numbers)
        results.append(values)
    for found, expected in zip(*results):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(results[0][1], start[1])      # the gradient


def test_any_memory_order_gives_the_same_bits():
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 4, 6)).astype(np.float32)
    results = []
    for order in "CF":
        p = Tensor(np.array(start, order=order), requires_grad=True)
        optimizer = optim.Adam([p], weight_decay=0.1)
        p.grad = Tensor(grad)
        optimizer.step()
        optimizer.step()
        results.append(p.data)
    np.testing.assert_array_equal(*results)


def test_a_step_is_a_change_that_backward_notices():
    p = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1)
    loss = (p * p).sum()
    p.grad = Tensor(np.ones(2))
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_closure():
    p = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 5
    np.testing.assert_allclose(p.data, [0.8, 1.6])


def test_zero_grad():
    p = Tensor(np.ones(2), requires_grad=True)
    optimizer = optim.SGD([p])
    p.grad = Tensor(np.ones(2))
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(p.grad.data, [0, 0])
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("grad", [np.ones(1), np.ones(()), np.ones((3, 2)), np.ones((2, 3), np.float32)])
def test_a_gradient_that_does_not_fit_is_an_error(grad):
    p = Tensor(np.ones((2, 3)), requires_grad=True)
    p.grad = Tensor(grad)
    with pytest.raises(ValueError, match="gradient is float"):
        optim.SGD([p]).step()


# --- parameter groups and options ----------------------------------------------------------------------

def test_parameter_groups():
    a, b, c = (Tensor(np.ones(2), requires_grad=True) for _ in range(3))
    optimizer = optim.SGD([{"params": a}, {"params": [b], "lr": 0.5}], lr=0.1)
    optimizer.add_param_group({"params": iter([c]), "weight_decay": 1.0, "name": "head"})
    for p in (a, b, c):
        p.grad = Tensor(np.ones(2))
    optimizer.step()
    np.testing.assert_allclose([a.data[0], b.data[0], c.data[0]], [0.9, 0.5, 0.8])
    assert [group["params"] for group in optimizer.state_dict()["param_groups"]] == [[0], [1], [2]]


def test_parameters_that_cannot_be_optimized():
    p = Tensor(np.ones(2), requires_grad=True)
    for params, error, message in (
            (p, TypeError, "iterable of Tensors or dicts"), ([], ValueError, "empty parameter list"),
            ([{"params": {p}}], TypeError, "set"), ([np.ones(2)], TypeError, "ndarray"),
            ([p + p], ValueError, "non-leaf"), ([p, p], ValueError, "more than once"),
            ([{"params": [p]}, {"params": [p]}], ValueError, "more than once"),
            ([{"params": [p]}, p], TypeError, "dict")):
        with pytest.raises(error, match=message):
            optim.SGD(params)


@pytest.mark.parametrize("name, options, error, message", [
    ("SGD", dict(lr=-1), ValueError, "learning rate: -1"),
    ("SGD", dict(lr=float("nan")), ValueError, "learning rate: nan"),
    ("SGD", dict(lr=Tensor(np.array(0.1))), TypeError, "learning rate must be a number"),
    ("SGD", dict(momentum=-0.1), ValueError, "momentum value: -0.1"),
    ("SGD", dict(weight_decay=-0.1), ValueError, "weight_decay value: -0.1"),
    ("SGD", dict(nesterov=True), ValueError, "momentum and zero dampening"),
    ("SGD", dict(nesterov=True, momentum=0.9, dampening=0.1), ValueError, "momentum and zero dampening"),
    ("Adam", dict(lr="fast"), TypeError, "learning rate must be a number"),
    ("Adam", dict(betas=(1.0, 0.9)), ValueError, "index 0: 1.0"),
    ("Adam", dict(betas=(0.9, -1)), ValueError, "index 1: -1"),
    ("Adam", dict(betas=0.9), ValueError, "betas must be two numbers"),
    ("AdamW", dict(eps=-1e-8), ValueError, "epsilon value: -1e-08"),
    ("AdamW", dict(weight_decay=-1), ValueError, "weight_decay value: -1"),
])
def test_bad_options(name, options, error, message):
    p = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(error, match=message):
        getattr(optim, name)([p], **options)
    with pytest.raises(error, match=message):
        getattr(optim, name)([{"params": [p], **options}])


# --- masks ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options", SOME_OPTIONS)
def test_pruned_weights_stay_exactly_zero_and_regrow_from_nothing(name, options):
    params, rng = make_params(), np.random.default_rng(3)
    optimizer = getattr(optim, name)(params, **options)
    follow(optimizer, params, rng, 5)                  # moments everywhere

    w = params[0]
    first, second = rng.random(w.shape) < 0.5, rng.random(w.shape) < 0.5
    w.set_mask(first)
    for _ in range(5):
        follow(optimizer, params, rng, 1)
        assert (w.data[~first] == 0).all() and (w.data[first] != 0).all()
        for moment in optimizer.state[w].values():
            assert np.ndim(moment) == 0 or (moment[~first] == 0).all()

    w.set_mask(second)
    grown = second & ~first
    assert grown.any() and (w.data[grown] == 0).all()
    w.grad = Tensor(np.zeros_like(w.data))
    optimizer.step()                                   # no gradient and no moment: no movement
    assert (w.data[grown] == 0).all() and (w.data[~second] == 0).all()
    follow(optimizer, params, rng, 3)
    assert (w.data[second] != 0).all() and (w.data[~second] == 0).all()
    w.set_mask(None)
    follow(optimizer, params, rng, 1)
    assert (w.data != 0).all()


@pytest.mark.parametrize("name, options", SOME_OPTIONS)
def test_a_mask_set_between_backward_and_step(name, options):
    w = Parameter(np.ones((3, 4), np.float32))
    optimizer = getattr(optim, name)([w], **options)
    (w * w).sum().backward()
    mask = np.arange(12).reshape(3, 4) % 2 == 0
    w.set_mask(mask)
    optimizer.step()
    assert (w.data[~mask] == 0).all() and (w.data[mask] != 0).all()
    for moment in optimizer.state[w].values():
        assert np.ndim(moment) == 0 or (moment[~mask] == 0).all()


@pytest.mark.parametrize("name, options", SOME_OPTIONS + [("Adam", dict(eps=0))])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")      # eps 0: 0 / 0 where pruned
def test_zeros_stand_gradients_that_know_no_mask(name, options):
    w, mask = Parameter(np.ones(6, np.float32)), np.arange(6) < 3
    w.set_mask(mask)
    optimizer = getattr(optim, name)([w], **options)
    for _ in range(3):
        w.grad = Tensor(np.where(np.arange(6) < 5, np.float32(1), 0))
        optimizer.step()
        assert (w.data[~mask] == 0).all() and np.isfinite(w.data).all()
    w.set_mask(np.arange(6) < 4)
    w.grad = Tensor(np.where(mask, np.float32(1), 0))
    if "eps" not in options:
        optimizer.step()
        assert w.data[3] == 0      # grown with nothing left of what it saw while it was pruned


def test_loading_moments_of_a_dense_run_into_a_masked_one():
    dense, masked = make_params(), make_params()
    source, optimizer = optim.Adam(dense), optim.Adam(masked)
    mask = np.arange(30).reshape(6, 5) % 2 == 0
    masked[0].set_mask(mask)
    for o, params in ((source, dense), (optimizer, masked)):
        follow(o, params, np.random.default_rng(0), 2)
    optimizer.load_state_dict(source.state_dict())
    follow(optimizer, masked, np.random.default_rng(1), 1)
    assert (optimizer.state[masked[0]]["exp_avg"][~mask] == 0).all()


def test_masked_training_is_training_of_the_kept_weights_alone():
    rng = np.random.default_rng(0)
    start, mask = rng.standard_normal((6, 5)), rng.random((6, 5)) < 0.4
    target = rng.standard_normal((6, 5))
    masked, small = Parameter(start.copy()), Parameter(start[mask])
    masked.set_mask(mask)
    optimizers = [optim.AdamW([p], lr=0.05) for p in (masked, small)]
    for _ in range(20):
        masked.grad = Tensor(np.where(mask, masked.data - target, 0))
        small.grad = Tensor(small.data - target[mask])
        for optimizer in optimizers:
            optimizer.step()
    np.testing.assert_array_equal(masked.data[mask], small.data)


# --- saving --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options", SOME_OPTIONS)
def test_a_resumed_run_gives_the_same_bits(name, options):
    mask = np.random.default_rng(5).random((6, 5)) < 0.5
    straight = make_params()
    straight[0].set_mask(mask)
    optimizer = getattr(optim, name)(straight, **options)
    follow(optimizer, straight, np.random.default_rng(1), 4)
    saved, weights = copy.deepcopy(optimizer.state_dict()), [p.data.copy() for p in straight]
    follow(optimizer, straight, np.random.default_rng(2), 4)

    resumed = make_params(seed=9)
    for p, weight in zip(resumed, weights):
        p.data[...] = weight
    resumed[0].set_mask(mask)
    optimizer = getattr(optim, name)(resumed, lr=0.7)
    optimizer.load_state_dict(saved)
    follow(optimizer, resumed, np.random.default_rng(2), 4)
    for a, b in zip(straight, resumed):
        np.testing.assert_array_equal(a.data, b.data)


def test_a_run_resumed_from_a_file_gives_the_same_bits(tmp_path):
    params, path = make_params(), tmp_path / "run.safetensors"
    optimizer = optim.AdamW(params, amsgrad=True)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    follow(optimizer, params, np.random.default_rng(1), 3)
    scheduler.step()
    save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)

    resumed = [Parameter(p.data.copy()) for p in params]
    other = optim.AdamW(resumed, lr=0.7)
    other_scheduler = lr_scheduler.OneCycleLR(other, 0.3, total_steps=20)
    state = load(path)
    other.load_state_dict(state["optimizer"])
    other_scheduler.load_state_dict(state["scheduler"])
    for o, s, ps in ((optimizer, scheduler, params), (other, other_scheduler, resumed)):
        s.step()
        follow(o, ps, np.random.default_rng(2), 3)
    for a, b in zip(params, resumed):
        np.testing.assert_array_equal(a.data, b.data)


def test_state_dict_has_torchs_shape_and_plain_values():
    torch = pytest.importorskip("torch")
    for name, options in SOME_OPTIONS:
        params, rng = make_params(), np.random.default_rng(0)
        optimizer = getattr(optim, name)(params, **options)
        follow(optimizer, params, rng, 1)
        theirs = [torch.tensor(p.data, requires_grad=True) for p in params]
        reference = getattr(torch.optim, name)(theirs, **options)
        for p in theirs:
            p.grad = torch.ones_like(p)
        reference.step()
        ours, theirs = optimizer.state_dict(), reference.state_dict()
        shapes = [{key: {n: tuple(v.shape) for n, v in state.items() if n != "step" and v is not None}
                   for key, state in d["state"].items()} for d in (ours, theirs)]
        assert {k: v for k, v in shapes[0].items() if v} == {k: v for k, v in shapes[1].items() if v}
        assert set(ours["param_groups"][0]) <= set(theirs["param_groups"][0])
        json.dumps(ours["param_groups"])


def test_a_state_dict_from_torch_can_be_loaded():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((3, 2)), rng.standard_normal((10, 3, 2))
    theirs = torch.tensor(start, requires_grad=True)
    reference = torch.optim.Adam([theirs], lr=0.1, amsgrad=True)
    for grad in grads[:5]:
        theirs.grad = torch.tensor(grad)
        reference.step()
    ours = Tensor(theirs.detach().numpy().copy(), requires_grad=True)
    optimizer = optim.Adam([ours])
    saved = reference.state_dict()
    saved["state"] = {0: {name: value.numpy() for name, value in saved["state"][0].items()}}
    optimizer.load_state_dict(saved)
    for grad in grads[5:]:
        theirs.grad, ours.grad = torch.tensor(grad), Tensor(grad)
        reference.step()
        optimizer.step()
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-12)


def break_state(path, value):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        if value is None:
            del state[path[-1]]
        else:
            state[path[-1]] = value
    return change


@pytest.mark.parametrize("change, message", [
    (break_state(["state"], None), "no 'state'"),
    (break_state(["param_groups"], None), "no 'param_groups'"),
    (break_state(["param_groups", 1], None), "1 parameter groups in the state, 2"),
    (break_state(["param_groups", 0, "params"], [0, 1]), "group 0 has 2 parameters in the state, 3"),
    (break_state(["param_groups", 0, "params"], None), "group 0 has 0 parameters in the state, 3"),
    (break_state(["param_groups", 1, "lr"], -1.0), "learning rate: -1.0"),
    (break_state(["state", 7], {}), "parameter 7"),
    (break_state(["state", 1, "exp_avg"], np.zeros(3)), r"'exp_avg' of parameter 1 has shape \(3,\)"),
    (break_state(["state", 1, "exp_avg"], 0.5), r"'exp_avg' of parameter 1 has shape \(\)"),
    (break_state(["state", 1, "step"], np.zeros(2)), r"'step' of parameter 1 has shape \(2,\)"),
    (break_state(["state", 1, "exp_avg"], None), "Adam keeps"),
    (break_state(["state", 1, "momentum_buffer"], np.zeros(3)), "Adam keeps"),
])
def test_a_bad_state_dict_changes_nothing(change, message):
    params = make_params()
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.5}]
    optimizer = optim.Adam(groups)
    follow(optimizer, params, np.random.default_rng(0), 2)
    bad = copy.deepcopy(optimizer.state_dict())
    bad["param_groups"][0]["lr"] = 123.0
    bad["state"][0]["exp_avg"] += 1
    change(bad)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        for key, value in state.items():
            np.testing.assert_array_equal(after["state"][index][key], value)


# --- learning-rate schedules ---------------------------------------------------------------------------

SCHEDULES = [
    ("StepLR", dict(step_size=7)), ("StepLR", dict(step_size=1, gamma=0.9)),
    ("MultiStepLR", dict(milestones=[30, 5, 12, 12], gamma=0.5)), ("MultiStepLR", dict(milestones=[])),
    ("ExponentialLR", dict(gamma=0.93)),
    ("CosineAnnealingLR", dict(T_max=20)), ("CosineAnnealingLR", dict(T_max=60, eta_min=0.01)),
    ("CosineAnnealingLR", dict(T_max=1)),
    ("LambdaLR", dict(lr_lambda=lambda epoch: min(1, (epoch + 1) / 10))),
    ("LambdaLR", dict(lr_lambda=[lambda epoch: 0.9 ** epoch, lambda epoch: 1 / (epoch + 1)])),
] + [("OneCycleLR", dict(max_lr=0.4, total_steps=60, pct_start=pct_start, anneal_strategy=strategy,
                         three_phase=three_phase, cycle_momentum=cycle_momentum))
     for pct_start, strategy, three_phase, cycle_momentum in itertools.product(
         (0.3, 0.07, 0.5), ("cos", "linear"), (False, True), (False, True))
] + [("OneCycleLR", dict(max_lr=[0.4, 0.2], epochs=6, steps_per_epoch=10, base_momentum=[0.8, 0.7],
                         max_momentum=[0.9, 0.99], div_factor=10.0, final_div_factor=100.0)),
     ("OneCycleLR", dict(max_lr=0.4, total_steps=60, pct_start=0.0))]


def two_groups(module, tensor, optimizer):
    a, b = tensor(), tensor()
    options = dict(momentum=0.9) if optimizer == "SGD" else {}
    return getattr(module, optimizer)([{"params": [a]}, {"params": [b], "lr": 0.03}], lr=0.1, **options)


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name, options", SCHEDULES)
def test_schedules_follow_torch(name, options, optimizer):
    torch = pytest.importorskip("torch")
    ours = two_groups(optim, lambda: Tensor(np.zeros(2)), optimizer)
    theirs = two_groups(torch.optim, lambda: torch.zeros(2), optimizer)
    scheduler = getattr(lr_scheduler, name)(ours, **options)
    reference = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    assert scheduler.base_lrs == reference.base_lrs
    for epoch in range(61):
        assert scheduler.last_epoch == reference.last_epoch == epoch
        np.testing.assert_allclose(scheduler.get_last_lr(), reference.get_last_lr(), rtol=1e-12, atol=1e-15)
        for a, b in zip(ours.param_groups, theirs.param_groups):
            for key in ("lr", "momentum", "betas"):
                np.testing.assert_allclose(a.get(key, 0), b.get(key, 0), rtol=1e-12, atol=1e-15)
        if epoch < 60:
            scheduler.step()
            reference.step()


@pytest.mark.parametrize("options", [
    dict(mode=mode, threshold_mode=threshold_mode, threshold=threshold, **more)
    for mode, threshold_mode, threshold, more in itertools.product(
        ("min", "max"), ("rel", "abs"), (1e-4, 0.05),
        (dict(patience=2), dict(patience=0, factor=0.5, cooldown=3), dict(patience=1, min_lr=[0.02, 0.001]),
         dict(patience=1, min_lr=0.005, eps=0.01)))])
def test_reduce_on_plateau_follows_torch(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours = two_groups(optim, lambda: Tensor(np.zeros(2)), "SGD")
    theirs = two_groups(torch.optim, lambda: torch.zeros(2), "SGD")
    scheduler = lr_scheduler.ReduceLROnPlateau(ours, **options)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    sign = 1 if options["mode"] == "min" else -1
    for epoch in range(60):
        metric = sign * (math.exp(-epoch / 10) + 0.1 * rng.random()) if epoch != 20 else math.nan
        scheduler.step(metric)
        reference.step(metric)
        assert scheduler.get_last_lr() == reference.get_last_lr() == [g["lr"] for g in ours.param_groups]


def test_schedules_by_their_formulas():
    def rates(scheduler):
        out = []
        for _ in range(7):
            out += scheduler.get_last_lr()
            scheduler.step()
        return out

    def sgd():
        return optim.SGD([Tensor(np.zeros(2))], lr=1.0)

    for scheduler, expected in (
            (lr_scheduler.StepLR(sgd(), 3), [1, 1, 1, .1, .1, .1, .01]),
            (lr_scheduler.MultiStepLR(sgd(), [2, 5], 0.5), [1, 1, .5, .5, .5, .25, .25]),
            (lr_scheduler.ExponentialLR(sgd(), 0.5), 0.5 ** np.arange(7)),
            (lr_scheduler.CosineAnnealingLR(sgd(), 3), [1, .75, .25, 0, .25, .75, 1]),
            (lr_scheduler.LambdaLR(sgd(), lambda t: 1 / (1 + t)), 1 / np.arange(1, 8))):
        np.testing.assert_allclose(rates(scheduler), expected, atol=1e-15)
    optimizer = sgd()
    cycle = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=6, pct_start=0.5, anneal_strategy="linear",
                                    div_factor=5, final_div_factor=2, base_momentum=0.5, max_momentum=0.9)
    found = []
    for _ in range(6):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        cycle.step()
    up, down = [(.2, .9), (.6, .7), (1, .5)], [(.7, .5 + .4 / 3), (.4, .5 + .8 / 3), (.1, .9)]
    np.testing.assert_allclose(found, up + down)
    with pytest.raises(ValueError, match="step 7 of a schedule of 6 steps"):
        cycle.step()


@pytest.mark.parametrize("name, options",
                         SCHEDULES + [("ReduceLROnPlateau", dict(patience=1, min_lr=[0.01, 0]))])
def test_a_resumed_schedule_gives_the_same_rates(name, options):
    def advance(scheduler, epochs):
        found = []
        for epoch in epochs:
            scheduler.step(*[epoch % 9] * (name == "ReduceLROnPlateau"))
            momentum = [group.get("momentum") for group in scheduler.optimizer.param_groups]
            found.append((scheduler.get_last_lr(), momentum))
        return found

    def make():
        optimizer = two_groups(optim, lambda: Tensor(np.zeros(2)), "SGD")
        return optimizer, getattr(lr_scheduler, name)(optimizer, **options)

    optimizer, scheduler = make()
    advance(scheduler, range(20))
    saved = json.loads(json.dumps(scheduler.state_dict())), copy.deepcopy(optimizer.state_dict())
    straight = advance(scheduler, range(20, 40))
    optimizer, scheduler = make()
    scheduler.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert advance(scheduler, range(20, 40)) == straight


def test_multiplicative_schedules_combine():
    optimizer = optim.SGD([Tensor(np.zeros(2))], lr=1.0)
    schedulers = [lr_scheduler.ExponentialLR(optimizer, 0.5), lr_scheduler.StepLR(optimizer, 2, 0.1)]
    for _ in range(4):
        for scheduler in schedulers:
            scheduler.step()
    np.testing.assert_allclose(optimizer.param_groups[0]["lr"], 0.5 ** 4 * 0.1 ** 2)


def test_last_epoch_continues_a_schedule():
    p = Tensor(np.zeros(2))
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(optim.SGD([p], lr=0.01), 3, last_epoch=4)
    optimizer = optim.SGD([{"params": [p], "initial_lr": 1.0}], lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 3, last_epoch=4)
    assert scheduler.last_epoch == 5 and scheduler.get_last_lr() == [0.1]
    scheduler.step()
    np.testing.assert_allclose(scheduler.get_last_lr(), [0.01])


@pytest.mark.parametrize("name, options, error, message", [
    ("StepLR", dict(step_size=0), ValueError, "step_size must be a positive integer, got 0"),
    ("CosineAnnealingLR", dict(T_max=-3), ValueError, "T_max must be a positive integer, got -3"),
    ("LambdaLR", dict(lr_lambda=[abs]), ValueError, "lr_lambda has 1 values for 2 parameter groups"),
    ("OneCycleLR", dict(max_lr=1), ValueError, "total_steps OR"),
    ("OneCycleLR", dict(max_lr=1, epochs=3), ValueError, "total_steps OR"),
    ("OneCycleLR", dict(max_lr=1, total_steps=2.5), ValueError, "total_steps must .* got 2.5"),
    ("OneCycleLR", dict(max_lr=1, epochs=0, steps_per_epoch=3), ValueError, "epochs must .* got 0"),
    ("OneCycleLR", dict(max_lr=1, total_steps=9, pct_start=1.5), ValueError, "pct_start must be .* got 1.5"),
    ("OneCycleLR", dict(max_lr=1, total_steps=9, anneal_strategy="up"), ValueError, "strategy .* 'up'"),
    ("OneCycleLR", dict(max_lr=[1], total_steps=9), ValueError, "max_lr has 1 values for 2"),
    ("ReduceLROnPlateau", dict(factor=1.0), ValueError, "factor must be less than 1, got 1.0"),
    ("ReduceLROnPlateau", dict(mode="low"), ValueError, "mode must be 'min' or 'max', got 'low'"),
    ("ReduceLROnPlateau", dict(threshold_mode="x"), ValueError, "threshold_mode .* 'x'"),
    ("ReduceLROnPlateau", dict(min_lr=[0, 0, 0]), ValueError, "min_lr has 3 values for 2"),
])
def test_bad_schedules(name, options, error, message):
    optimizer = two_groups(optim, lambda: Tensor(np.zeros(2)), "SGD")
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        getattr(lr_scheduler, name)(optimizer, **options)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("name, options", SCHEDULES + [("ReduceLROnPlateau", {})])
def test_a_schedule_needs_an_optimizer(name, options):
    with pytest.raises(TypeError, match="list is not an Optimizer"):
        getattr(lr_scheduler, name)([], **options)


def test_a_group_added_after_the_schedule_and_a_foreign_state_are_errors():
    optimizer = two_groups(optim, lambda: Tensor(np.zeros(2)), "SGD")
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 5)
    other = lr_scheduler.StepLR(optimizer, 5).state_dict()
    before = dict(scheduler.state_dict())
    with pytest.raises(ValueError, match="CosineAnnealingLR keeps .*T_max"):
        scheduler.load_state_dict(other)
    with pytest.raises(ValueError, match="1 parameter groups in the state, 2"):
        scheduler.load_state_dict({**before, "_last_lr": [0.1]})
    assert scheduler.state_dict() == before
    optimizer.add_param_group({"params": [Tensor(np.zeros(2))]})
    with pytest.raises(ValueError, match="made for 2 parameter groups, the optimizer has 3"):
        scheduler.step()


# --- lookahead -------------------------------------------------------------------------------------------
def lookahead_by_hand(theta, phi, grads, lr, k, alpha):
    for t, g in enumerate(grads, start=1):
        theta = theta - lr * g
        if t % k == 0:
            theta = phi = phi + alpha * (theta - phi)
    return theta, phi


def test_lookahead_is_algorithm_1():
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((3, 4)), rng.standard_normal((7, 3, 4))
    p = Parameter(start.copy())
    lookahead = optim.Lookahead(optim.SGD([p], lr=0.1), k=3, alpha=0.3)
    for g in grads:
        p.grad = Tensor(g)
        lookahead.step()
    theta, phi = lookahead_by_hand(start, start, grads, 0.1, 3, 0.3)
    np.testing.assert_allclose(p.data, theta, rtol=1e-12)
    np.testing.assert_allclose(lookahead.slow[0], phi, rtol=1e-12)


def test_lookahead_keeps_pruned_weights_at_zero_and_regrows_from_nothing():
    p = Parameter(np.arange(1.0, 7.0))
    lookahead = optim.Lookahead(optim.SGD([p], lr=0.0), k=2, alpha=0.5)
    mask = np.array([1, 0, 1, 0, 1, 1], bool)
    p.set_mask(mask)
    for _ in range(4):
        p.grad = Tensor(np.ones(6))
        lookahead.step()
        assert not p.data[~mask].any()
    p.set_mask(None)
    for _ in range(2):
        p.grad = Tensor(np.ones(6))
        lookahead.step()
    assert not p.data[~mask].any() and p.data[mask].all()


def test_weights_pruned_and_regrown_between_two_steps_start_from_nothing():
    p, mask = Parameter(np.arange(1.0, 7.0)), np.array([1, 0, 1, 0, 1, 1], bool)
    adam = optim.Adam([p], lr=0.0)
    lookahead = optim.Lookahead(adam, k=2, alpha=0.5)
    p.set_mask(np.arange(6) != 5)
    for masks in ((), (mask, np.ones(6))):
        for new in masks:
            p.set_mask(new)
        p.grad = Tensor(np.zeros(6) if masks else np.ones(6))
        lookahead.step()
    assert not p.data[~mask].any() and p.data[mask][:3].all()
    assert not adam.state[p]["exp_avg"][~mask].any() and adam.state[p]["exp_avg"][mask][:3].all()


def test_lookahead_averages_at_the_end_and_keeps_zeros():
    p = Parameter(np.arange(1.0, 5.0))
    lookahead = optim.Lookahead(optim.SGD([p], lr=0.1), k=2, alpha=0.5)
    lookahead.average()                 # before the first step there is nothing to average
    np.testing.assert_array_equal(p.data, [1, 2, 3, 4])
    with no_grad():
        p.copy_(Tensor(np.full(4, 2.0)))        # weights loaded late are where the average begins
    for _ in range(3):
        p.grad = Tensor(np.ones(4))
        lookahead.step()
    np.testing.assert_allclose(p.data, 1.8)
    p.set_mask(np.array([1, 1, 0, 1], bool))
    lookahead.average()
    np.testing.assert_allclose(p.data, [1.85, 1.85, 0, 1.85])


def test_a_resumed_lookahead_gives_the_same_bits(tmp_path):
    def make():
        p = Parameter(np.linspace(-1, 1, 5))
        return p, optim.Lookahead(optim.SGD([p], lr=0.1, momentum=0.9), k=3, alpha=0.4)

    def go(p, lookahead, steps):
        for i in steps:
            p.grad = Tensor(np.cos(p.data * i))
            lookahead.step()
    whole = make()
    go(*whole, range(8))
    first, second = make(), make()
    go(*first, range(4))
    save({"p": first[0].data, "lookahead": first[1].state_dict()}, tmp_path / "state")
    state = load(tmp_path / "state")
    with no_grad():
        second[0].copy_(Tensor(np.asarray(getattr(state["p"], "data", state["p"]))))
    second[1].load_state_dict(state["lookahead"])
    go(*second, range(4, 8))
    np.testing.assert_array_equal(second[0].data, whole[0].data)


def test_a_lookahead_state_saved_after_a_new_mask_has_followed_it():
    p = Parameter(np.float32([1, 2, 3, 4]))
    lookahead = optim.Lookahead(optim.SGD([p], lr=0.1), k=5)
    p.grad = Tensor(np.ones(4, np.float32))
    lookahead.step()
    p.set_mask(np.array([True, False, True, False]))
    assert lookahead.state_dict()["slow"][0].tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize("options", [{"k": 0}, {"alpha": 0.0}, {"alpha": 1.5}, {"alpha": float("nan")}])
def test_bad_options_of_lookahead(options):
    with pytest.raises(ValueError, match="Lookahead"):
        optim.Lookahead(optim.SGD([Parameter(np.ones(2))], lr=0.1), **options)


def test_a_lookahead_state_of_other_shapes_is_an_error():
    one = optim.Lookahead(optim.SGD([Parameter(np.ones(2))], lr=0.1))
    p = Parameter(np.ones(3))
    other = optim.Lookahead(optim.SGD([p], lr=0.1))
    p.grad = Tensor(np.ones(3))
    other.step()
    with pytest.raises(ValueError, match="shapes"):
        one.load_state_dict(other.state_dict())


# --- clipping ------------------------------------------------------------------------------------------

def with_gradients(*grads):
    params = [Tensor(np.zeros_like(grad), requires_grad=True) for grad in grads]
    for p, grad in zip(params, grads):
        p.grad = Tensor(grad.copy())
    return params + [Tensor(np.zeros(3), requires_grad=True)]      # and one without a gradient


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3, math.inf, 0.5])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clip_grad_norm(norm_type, max_norm):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape) for shape in ((4, 5), (3, 2), ())]
    grads[1] = np.asfortranarray(grads[1])
    params = with_gradients(*grads)
    total = clip_grad_norm_(iter(params), max_norm, norm_type)
    flat = np.concatenate([grad.ravel() for grad in grads])
    norm = abs(flat).max() if norm_type == math.inf else (abs(flat) ** norm_type).sum() ** (1 / norm_type)
    np.testing.assert_allclose(total.item(), norm, rtol=1e-12)
    for p, grad in zip(params, grads):
        np.testing.assert_allclose(p.grad.data, grad * min(1, max_norm / (norm + 1e-6)), rtol=1e-12)
        if max_norm > norm:
            np.testing.assert_array_equal(p.grad.data, grad)


def test_clip_grad_norm_follows_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    normal = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (3,))]
    for grads in (normal, [normal[0], np.float32([1, math.inf])], [normal[0], np.float32([1, math.nan])]):
        ours, theirs = with_gradients(*grads), [torch.zeros(g.shape, requires_grad=True) for g in grads]
        for p, grad in zip(theirs, grads):
            p.grad = torch.tensor(grad)
        with np.errstate(invalid="ignore"):
            total = clip_grad_norm_(ours, 0.5)
        np.testing.assert_allclose(total.data, torch.nn.utils.clip_grad_norm_(theirs, 0.5).numpy(), rtol=1e-6)
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-6)
        assert total.dtype == ours[0].grad.dtype == np.float32


def test_clip_grad_norm_of_nothing_and_of_what_is_not_finite():
    assert clip_grad_norm_([], 1.0).item() == 0
    params = with_gradients(np.array([1.0, math.nan]))
    with pytest.raises(RuntimeError, match="norm of order 2.0 is nan"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(params[0].grad.data, [1, math.nan])


def test_clip_grad_value():
    params = with_gradients(np.array([-3.0, 0.5, math.inf, math.nan]))
    clip_grad_value_(params, 1)
    np.testing.assert_array_equal(params[0].grad.data, [-1, 0.5, 1, math.nan])
    clip_grad_value_(params[0], 0.25)
    np.testing.assert_array_equal(params[0].grad.data, [-0.25, 0.25, 0.25, math.nan])


def test_a_schedule_that_goes_on_multiplies_once():
    optimizer = optim.SGD([Parameter(np.zeros(1, np.float32))], lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.125
    on = lr_scheduler.ExponentialLR(optimizer, 0.5, last_epoch=scheduler.last_epoch - 1)
    assert optimizer.param_groups[0]["lr"] == 0.125 and on.last_epoch == 3
    on.step()
    assert optimizer.param_groups[0]["lr"] == 0.0625
    with pytest.raises(NotImplementedError, match="LinearLR"):
        lr_scheduler.LinearLR


def test_a_wrong_gradient_stops_a_step_before_it_begins():
    first, second = (Parameter(np.ones(2, np.float32)) for _ in range(2))
    first.grad, second.grad = Tensor(np.ones(2, np.float32)), Tensor(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="gradient"):
        optim.SGD([first, second], lr=1.0).step()
    assert (first.data == 1).all()


@pytest.mark.parametrize("what", ["the same mask", "a copy"])
def test_a_mask_that_stays_keeps_the_momentum_of_weights_that_are_0(what):
    def train(change):
        weight = Parameter(np.array([0.0, 1.0, 2.0], np.float32))
        weight.set_mask([True, True, False])
        optimizer = optim.SGD([weight], lr=0.1, momentum=0.9)
        for step in range(4):
            if step == 2:
                weight.data[0] = 0
                if change == "the same mask":
                    weight.set_mask(np.array([True, True, False]))
                elif change == "a copy":
                    weight, optimizer = copy.deepcopy((weight, optimizer))
            weight.grad = Tensor(np.ones(3, np.float32))
            optimizer.step()
        return weight.data
    np.testing.assert_array_equal(train(what), train(None))


def test_lookahead_takes_a_group_that_is_added():
    weights = [Parameter(np.ones(2, np.float32)) for _ in range(2)]
    lookahead = optim.Lookahead(optim.SGD(weights[:1], lr=1.0), k=2, alpha=0.5)
    for step in range(3):
        if step == 1:
            lookahead.optimizer.add_param_group({"params": weights[1:]})
        for weight in weights:
            weight.grad = Tensor(np.ones(2, np.float32))
        lookahead.step()
    # the first: 1, 0, -1 and the average of 1 and -1, and a step; the second, made after one step: 1, 0, 0.5, -0.5
    assert weights[0].data.tolist() == [-1, -1] and weights[1].data.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("change, message", [
    ({"steps": "x"}, "steps"), ({"k": 2.5}, "k must be"), ({"alpha": 0}, "alpha"), ({"slow": [np.ones(3)]}, "shapes"),
    ({"more": 1}, "a state has")])
def test_a_bad_state_leaves_lookahead_as_it_was(change, message):
    def make(lr, **options):
        return optim.Lookahead(optim.SGD([Parameter(np.ones(2, np.float32))], lr=lr), **options)
    state = make(0.1, k=9, alpha=0.25).state_dict()
    lookahead = make(0.5)
    with pytest.raises(ValueError, match=message):
        lookahead.load_state_dict({**state, **change})
    assert (lookahead.k, lookahead.alpha, lookahead.optimizer.param_groups[0]["lr"]) == (5, 0.5, 0.5)
    lookahead.load_state_dict(state)
    assert (lookahead.k, lookahead.alpha, lookahead.optimizer.param_groups[0]["lr"]) == (9, 0.25, 0.1)
    lookahead.load_state_dict({**state, "slow": [np.ones(2)]})
    assert lookahead.slow[0].dtype == np.float32
    with pytest.raises(ValueError, match="whole number"):
        make(0.5, k=2.5)


def test_an_optimizer_prints_its_options():
    optimizer = optim.Adam([{"params": [Parameter(np.zeros(1, np.float32))]},
                            {"params": [Parameter(np.zeros(2, np.float32))], "lr": 0.5}], lr=0.1)
    lines = repr(optimizer).splitlines()
    assert lines[0] == "Adam (" and lines[-1] == ")" and "Parameter Group 1" in lines
    assert [line for line in lines if "lr:" in line] == ["    lr: 0.1", "    lr: 0.5"] and "params" not in repr(optimizer)
