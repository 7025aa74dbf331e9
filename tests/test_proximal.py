"""The proximal steps against their definition, and what ProximalSGD and ProximalAdam converge to."""
import copy

import numpy as np
import pytest

from minisparse import nn, optim, sparse
from minisparse.nn.parameter import Parameter
from minisparse.optim import ProximalAdam, ProximalSGD, lr_scheduler
from minisparse.optim.proximal import block_soft_threshold, soft_threshold
from minisparse.serialize import load, save
from minisparse.tensor import Tensor

BOTH = [ProximalSGD, ProximalAdam]


# --- the steps ---------------------------------------------------------------------------------------------
def test_soft_threshold_is_the_minimum_on_a_grid():
    grid = np.linspace(-4, 4, 80001)
    for z in (-3.0, -1.0, -0.3, 0.0, 0.2, 0.7, 2.5):
        for t in (0.0, 0.3, 0.7, 2.0):
            best = grid[np.argmin((grid - z) ** 2 / 2 + t * np.abs(grid))]
            assert soft_threshold(np.array([z]), t)[0] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_threshold_keeps_dtype_and_nan_and_gives_plain_zeros(dtype):
    z = np.array([-2, -0.5, -0.1, -0.0, 0.0, 0.1, 0.5, 2, np.inf, np.nan], dtype)
    w = soft_threshold(z, 0.5)
    assert w.dtype == dtype
    assert np.array_equal(w, np.array([-1.5, 0, 0, 0, 0, 0, 0, 1.5, np.inf, np.nan], dtype), equal_nan=True)
    assert not np.signbit(w[1:7]).any()
    each = soft_threshold(z[:3], np.array([1.5, 0.5, 0.0], dtype))
    assert each.tolist() == [-0.5, 0, z[2]]


def block_objective(w, z, t):
    return ((w - z) ** 2 / (2 * t)).sum() + w.size ** 0.5 * np.linalg.norm(w)


@pytest.mark.parametrize("spread", [0, 1, 6])
def test_block_soft_threshold_minimises_its_objective(spread):
    """spread: the thresholds of a row differ by so many orders of magnitude."""
    rng = np.random.default_rng(spread)
    z = rng.standard_normal((40, 6)) * 10 ** rng.uniform(-2, 1, (40, 1))
    t = 0.3 * 10 ** (rng.uniform(-spread, 0, z.shape) + rng.uniform(0, spread, (40, 1)))
    w = block_soft_threshold(z, t)
    zero = ~w.any(axis=1)
    assert 0 < zero.sum() < 40
    for i in range(40):
        if zero[i]:     # 0 is the minimum where the gradient of the rest is no longer than the group's slope
            assert np.linalg.norm(z[i] / t[i]) <= 6 ** 0.5
        else:
            stationary = (w[i] - z[i]) / t[i] + 6 ** 0.5 * w[i] / np.linalg.norm(w[i])
            assert np.abs(stationary).max() <= 1e-12 * np.abs(z[i] / t[i]).max() + 1e-12
        least = block_objective(w[i], z[i], t[i])
        for scale in (1e-6, 1e-3, 0.1):
            others = w[i] + scale * rng.standard_normal((200, 6))
            assert least <= min(block_objective(other, z[i], t[i]) for other in others) + 1e-14 * abs(least)


def test_block_soft_threshold_by_the_formula_of_one_threshold():
    z = np.random.default_rng(0).standard_normal((8, 3, 2, 2)).astype(np.float32)
    w = block_soft_threshold(z, 0.25)
    for row, out in zip(z, w):
        scale = max(1 - 12 ** 0.5 * 0.25 / np.linalg.norm(row), 0)
        assert np.allclose(out, scale * row, rtol=2e-6, atol=0)
    assert w.dtype == np.float32 and w.shape == z.shape
    assert np.array_equal(block_soft_threshold(z, 10.0), np.zeros_like(z))
    assert block_soft_threshold(np.float64([3, -0.5, 0]), 1.0).tolist() == [2, 0, 0]    # rows of one number
    assert block_soft_threshold(np.array(-3.0), 1.0) == -2
    assert block_soft_threshold(np.zeros((0, 3)), 1.0).shape == (0, 3)


def test_block_soft_threshold_with_thresholds_at_the_ends_of_float32():
    z = np.float32([[1, -2, 3], [1, -2, 3], [1e-3, 1e3, 0]])
    t = np.float32([[1e-20, 1e-30, 1e-15], [1e-25, 1e5, 1e-25], [1e20, 1e-20, 1e20]])
    w = block_soft_threshold(z, t)
    assert np.allclose(w, [[1, -2, 3], [1, -2 * 10 ** 0.5 / (3 ** 0.5 * 1e5), 3], [0, 1e3, 0]], rtol=1e-4)


def test_block_soft_threshold_shows_a_nan():
    z = np.float64([[1, np.nan], [3, 4]])
    w = block_soft_threshold(z, 0.1)
    assert np.isnan(w[0]).all() and np.isfinite(w[1]).all()


# --- what the optimizers solve -----------------------------------------------------------------------------
class Regression:
    """1 / (2n) ||y - X w||^2 for w (rows, features / rows), with correlated features of different scale."""

    def __init__(self, n=120, shape=(1, 30), seed=0):
        rng = np.random.default_rng(seed)
        size = int(np.prod(shape))
        mix = np.eye(size) + 0.4 * rng.standard_normal((size, size)) / size ** 0.5
        self.x = rng.standard_normal((n, size)) @ mix * rng.uniform(0.5, 1.5, size)
        true = np.zeros(shape)
        true[:max(1, shape[0] // 3), :9] = rng.standard_normal(true[:max(1, shape[0] // 3), :9].shape)
        self.y = self.x @ true.ravel() + 0.5 * rng.standard_normal(n)
        self.shape, self.lipschitz = shape, np.linalg.norm(self.x, 2) ** 2 / n

    def loss(self, w):
        return ((self.y - self.x @ w.ravel()) ** 2).sum() / (2 * len(self.y))

    def gradient(self, w):
        return (self.x.T @ (self.x @ w.ravel() - self.y) / len(self.y)).reshape(self.shape)

    def solve(self, kind, steps, start=0.0, **options):
        w = Parameter(np.full(self.shape, start))
        optimizer = kind([w], **options)
        for _ in range(steps):
            w.grad = Tensor(self.gradient(w.data))
            optimizer.step()
        return w.data


def violation(w, g, l1):
    """How far w is from the optimality conditions of the Lasso."""
    return np.where(w != 0, np.abs(g + l1 * np.sign(w)), np.maximum(np.abs(g) - l1, 0)).max()


def sgd(problem, scale=1.0, **options):
    return dict(kind=ProximalSGD, lr=scale / problem.lipschitz, **options)


SOLVERS = {"sgd": (lambda p: sgd(p), 1000),
           "momentum": (lambda p: sgd(p, momentum=0.9), 600),
           "nesterov": (lambda p: sgd(p, momentum=0.9, nesterov=True), 600),
           "adam": (lambda p: dict(kind=ProximalAdam, lr=0.01), 3000),
           "amsgrad": (lambda p: dict(kind=ProximalAdam, lr=0.03, betas=(0.8, 0.99), amsgrad=True), 3000)}


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_all_solve_the_lasso(solver, start):
    problem, l1 = Regression(), 0.1
    options, steps = SOLVERS[solver]
    w = problem.solve(steps=steps, start=start, l1=l1, **options(problem))
    assert violation(w, problem.gradient(w), l1) < 1e-8
    assert 5 < np.count_nonzero(w) < 20


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_support_is_that_of_scikit_learn(solver):
    linear_model = pytest.importorskip("sklearn.linear_model")
    problem, (options, steps) = Regression(seed=1), SOLVERS[solver]
    for l1 in (0.02, 0.2):
        w = problem.solve(steps=steps, l1=l1, **options(problem))[0]
        other = linear_model.Lasso(alpha=l1, fit_intercept=False, tol=1e-12, max_iter=100000)
        other.fit(problem.x, problem.y)
        assert np.array_equal(w != 0, other.coef_ != 0)
        assert np.allclose(w, other.coef_, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weight_decay_makes_it_the_elastic_net(solver):
    problem, l1, decay = Regression(), 0.05, 0.3
    options, steps = SOLVERS[solver]
    w = problem.solve(steps=steps, l1=l1, weight_decay=decay, **options(problem))
    assert violation(w, problem.gradient(w) + decay * w, l1) < 1e-8
    assert 0 < np.count_nonzero(w) < w.size


@pytest.mark.parametrize("l1", [0, 0.03])
@pytest.mark.parametrize("solver", SOLVERS)
def test_all_solve_the_sparse_group_lasso(solver, l1):
    problem, strength = Regression(shape=(6, 5)), 0.06
    options, steps = SOLVERS[solver]
    w = problem.solve(steps=steps, start=0.5, l1=l1, group_lasso=strength, **options(problem))
    g = problem.gradient(w)
    closed = ~w.any(axis=1)
    assert 0 < closed.sum() < 6
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    smooth = g + strength * 5 ** 0.5 * np.divide(w, norm, out=np.zeros_like(w), where=norm > 0)
    assert violation(w[~closed], smooth[~closed], l1) < 1e-8
    assert np.all(np.linalg.norm(soft_threshold(g[closed], l1), axis=1) <= strength * 5 ** 0.5 + 1e-8)


@pytest.mark.parametrize("group_lasso", [0, 0.05])
def test_without_momentum_the_objective_never_rises(group_lasso):
    problem, l1 = Regression(shape=(6, 5)), 0.05
    w = Parameter(np.random.default_rng(3).standard_normal(problem.shape))
    optimizer = ProximalSGD([w], lr=1 / problem.lipschitz, l1=l1, group_lasso=group_lasso)
    values = []
    for _ in range(200):
        penalty = l1 * sparse.l1(w) + group_lasso * sparse.group_lasso(w)
        values.append(problem.loss(w.data) + penalty.item())
        w.grad = Tensor(problem.gradient(w.data))
        optimizer.step()
    assert np.all(np.diff(values) <= 1e-12) and values[-1] < values[0] / 2


def test_momentum_is_ipiano():
    problem, lr, momentum, l1 = Regression(), 0.1, 0.8, 0.1
    before = w = np.full(problem.shape, 0.5)
    for _ in range(30):
        z = w + momentum * (w - before) - lr * problem.gradient(w)
        before, w = w, np.sign(z) * np.maximum(np.abs(z) - lr * l1, 0)
    mine = problem.solve(ProximalSGD, 30, start=0.5, lr=lr, momentum=momentum, l1=l1)
    assert np.allclose(mine, w, rtol=1e-12, atol=1e-14) and np.array_equal(mine == 0, w == 0)


def test_a_step_of_adam_by_hand():
    w = Parameter(np.float64([[1, -1, 0.001]]))
    optimizer = ProximalAdam([w], lr=0.1, eps=0, l1=0.5)
    w.grad = Tensor(np.float64([[2, 0.25, 4]]))
    optimizer.step()    # the first step's size is lr / |gradient|: moves of .1, thresholds of .025, .2, .0125
    assert np.allclose(w.data, [[1 - 0.1 - 0.025, -1 - 0.1 + 0.2, 0.001 - 0.1 + 0.0125]], rtol=1e-14)


# --- as optimizers -----------------------------------------------------------------------------------------
def net(seed=0):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 5))
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        np.copyto(p.data, 0.3 * rng.standard_normal(p.shape))
    return model


def step(model, optimizer, rng):
    x = Tensor(rng.standard_normal((8, 3, 4, 4)).astype(np.float32))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), Tensor(rng.integers(0, 5, 8))).backward()
    optimizer.step()


@pytest.mark.parametrize("base, kind, options", [(optim.SGD, ProximalSGD, dict(lr=0.1, momentum=0.9)),
                                                 (optim.Adam, ProximalAdam, dict(lr=0.01, weight_decay=0.1))])
def test_without_a_penalty_it_is_the_base_class(base, kind, options):
    models = [net(), net()]
    for model, optimizer in zip(models, (base(models[0].parameters(), **options),
                                         kind(models[1].parameters(), **options))):
        rng = np.random.default_rng(1)
        for _ in range(5):
            step(model, optimizer, rng)
    for a, b in zip(*(m.parameters() for m in models)):
        assert np.array_equal(a.data, b.data)


@pytest.mark.parametrize("kind", BOTH)
def test_weights_become_exact_zeros_and_biases_do_not(kind):
    model = net()
    optimizer = kind(model.parameters(), lr=0.1 if kind is ProximalSGD else 0.01, l1=0.02)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]
    rng = np.random.default_rng(2)
    for _ in range(60):
        step(model, optimizer, rng)
    for name, p in model.named_parameters():
        zeros = p.data == 0
        assert not np.signbit(p.data[zeros]).any()
        assert (0.1 < zeros.mean() < 1) if p.ndim > 1 else not zeros.any(), name
        assert p.dtype == np.float32


@pytest.mark.parametrize("kind", BOTH)
def test_group_lasso_closes_whole_filters_and_rows(kind):
    model = net()
    lr, strength = (0.2, 0.03) if kind is ProximalSGD else (0.01, 0.02)
    optimizer = kind(model.parameters(), lr=lr, group_lasso=strength)
    rng = np.random.default_rng(2)
    for _ in range(100):
        step(model, optimizer, rng)
        zeros = (model[0].weight.data == 0).reshape(6, -1)
        assert np.array_equal(zeros.any(axis=1), zeros.all(axis=1))
    assert 0 < zeros.all(axis=1).sum() < 6


@pytest.mark.parametrize("kind", BOTH)
def test_parameter_groups_choose(kind):
    model = net()
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = kind([{"params": weights}, {"params": biases, "l1": 10.0}], lr=0.1)
    rng = np.random.default_rng(2)
    for _ in range(20):
        step(model, optimizer, rng)
    assert not any(p.data.any() for p in biases)
    assert all(p.data.all() for p in weights)
    w = Parameter(np.ones((2, 2)))
    assert kind([{"params": w}], l1=0.25).param_groups[0]["l1"] == 0.25
    assert kind(iter([w]), l1=0.25).param_groups[0]["params"] == [w]


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("kind", BOTH)
def test_masks_and_proximal_zeros_together(kind, momentum):
    model = net()
    pruner = sparse.Pruner(model, 0.5, sparse.Cubic(0, 20, every=5))
    options = dict(momentum=momentum) if kind is ProximalSGD else {}
    lr = 0.01 if kind is ProximalAdam else 0.05 if momentum else 0.2
    optimizer = kind(model.parameters(), lr=lr, l1=0.05, group_lasso=0.001, weight_decay=1e-3, **options)
    rng = np.random.default_rng(4)
    for _ in range(30):
        step(model, optimizer, rng)
        for w in (model[0].weight, model[4].weight):
            assert not w.data[~w.mask].any()
        pruner.step()
    assert all(share >= 0.5 for share in pruner.sparsity().values())
    for w in (model[0].weight, model[4].weight):
        assert (w.data[w.mask] == 0).any() and w.data.any()
        for value in optimizer.state[w].values():
            assert np.ndim(value) == 0 or not value[~w.mask].any()


@pytest.mark.parametrize("kind", BOTH)
def test_a_saved_run_goes_on_bit_for_bit(kind, tmp_path):
    options = dict(momentum=0.9) if kind is ProximalSGD else {}
    model, rng = net(), np.random.default_rng(5)
    optimizer = kind(model.parameters(), lr=0.02, l1=0.01, **options)
    for _ in range(5):
        step(model, optimizer, rng)
    save({"optimizer": optimizer.state_dict()}, tmp_path / "run")
    other, rng_other = copy.deepcopy(model), copy.deepcopy(rng)
    resumed = kind(other.parameters(), lr=1.0, l1=7.0, **options)
    resumed.load_state_dict(load(tmp_path / "run")["optimizer"])
    assert [group["l1"] for group in resumed.param_groups] == [0.01, 0]
    for _ in range(5):
        step(model, optimizer, rng)
        step(other, resumed, rng_other)
    for a, b in zip(model.parameters(), other.parameters()):
        assert np.array_equal(a.data, b.data)


@pytest.mark.parametrize("kind", BOTH)
def test_schedules_and_a_rate_of_zero(kind):
    w = Parameter(np.float32([[1, 0.5]]))
    optimizer = kind([w], lr=0.1, l1=0.5, group_lasso=0.5)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch > 0))
    w.grad = Tensor(np.ones((1, 2), np.float32))
    optimizer.step()
    assert w.data.tolist() == [[1, 0.5]]
    scheduler.step()
    optimizer.step()
    assert np.all(w.data < [[1, 0.5]])


@pytest.mark.parametrize("kind", BOTH)
def test_bad_options(kind):
    w, bias = Parameter(np.ones((2, 2))), Parameter(np.ones(3))
    for name in ("l1", "group_lasso"):
        for value, error in ((-1e-3, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
                             ("0.1", TypeError), (None, TypeError)):
            with pytest.raises(error, match=name):
                kind([{"params": w, name: value}])
            with pytest.raises(error, match=name):
                kind([w], **{name: value})
        with pytest.raises(ValueError, match=r"two or more dimensions.*\(3,\).*'params'"):
            kind([bias], **{name: 0.1})
    with pytest.raises(ValueError, match="learning rate"):
        kind([w], lr=-1)
    with pytest.raises(ValueError, match="empty"):
        kind([], l1=0.1)
    with pytest.raises(TypeError, match="one Tensor"):
        kind(w, l1=0.1)
    with pytest.raises(TypeError, match="str"):
        kind(["weight"], l1=0.1)


def test_what_proximal_sgd_leaves_out():
    w = Parameter(np.ones((2, 2)))
    for options in ({"dampening": 0.5}, {"maximize": True}):
        with pytest.raises(NotImplementedError, match="dampening"):
            ProximalSGD([{"params": w, **options}], momentum=0.9)
