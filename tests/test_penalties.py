"""Penalties added to the loss: their values, their gradients, and the path of their strengths."""
import numpy as np
import pytest

from minisparse import nn, optim
from minisparse.nn.parameter import Parameter
from minisparse.sparse import OneShot, Pruner, elastic_net, group_lasso, l1, lambda_path
from minisparse.tensor import Tensor


def net(seed=0):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        np.copyto(p.data, rng.standard_normal(p.shape))
    return model


def tensors(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in ((5, 4), (3, 2, 2, 2))]


PENALTIES = [l1, elastic_net, lambda model: elastic_net(model, 0.2), group_lasso]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradients_against_finite_differences(penalty):
    weights, h = tensors(), 1e-6
    (0.7 * penalty(weights)).backward()
    for w in weights:
        for i in np.ndindex(w.shape):
            before = w.data[i]
            w.data[i] = before + h
            above = penalty(weights).item()
            w.data[i] = before - h
            below = penalty(weights).item()
            w.data[i] = before
            assert w.grad.data[i] == pytest.approx(0.7 * (above - below) / (2 * h), abs=1e-7)


def test_values_by_hand():
    w = Tensor(np.array([[3.0, -4.0], [0.0, 2.0]]))
    assert l1(w).item() == 9
    assert elastic_net(w).item() == 0.5 * 9 + 0.25 * 29
    assert elastic_net(w, 1).item() == 9 and elastic_net(w, 0).item() == 14.5
    assert group_lasso(w).item() == pytest.approx(2 ** 0.5 * (5 + 2), rel=1e-15)
    assert group_lasso(Tensor(np.array([3.0, -4.0]))).item() == 7        # rows of one weight: L1


def test_a_filter_is_a_group_of_the_size_of_its_weights():
    w = Tensor(np.zeros((2, 3, 2, 2)))
    w.data[1, 0, 0, 0], w.data[1, 2, 1, 1] = 6, 8
    assert group_lasso(w).item() == pytest.approx(12 ** 0.5 * 10, rel=1e-15)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_model_is_its_linear_and_conv_weights(penalty):
    model = net()
    value = penalty(model)
    assert value.shape == () and value.dtype == np.float32
    assert value.item() == pytest.approx(penalty([model[0].weight, model[4].weight]).item(), rel=1e-6)
    value.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"0.weight", "4.weight"}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_zero_feels_nothing(penalty):
    w = Parameter(np.zeros((2, 3)))
    penalty(w).backward()
    assert not w.grad.data.any()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_pruned_weights_stay_zero(penalty):
    model = net()
    pruner = Pruner(model, 0.5, OneShot())
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        penalty(model).backward()
        optimizer.step()
        pruner.step()
    assert set(pruner.sparsity().values()) == {0.5}


def test_bad_input():
    for penalty in PENALTIES:
        with pytest.raises(ValueError, match="no weights"):
            penalty(nn.ReLU())
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"l1_ratio.*{ratio}"):
            elastic_net(net(), ratio)


# --- lambda_path ---------------------------------------------------------------------------------------
def with_gradient(*grads):
    weights = [Parameter(np.zeros_like(np.array(g, float))) for g in grads]
    for w, g in zip(weights, grads):
        w.grad = Tensor(np.array(g, float))
    return weights


def test_path_starts_at_the_largest_gradient_and_falls_by_equal_factors():
    path = lambda_path(with_gradient([[1.0, -8.0]], [[2.0]]), count=4, ratio=1 / 8)
    assert path == pytest.approx([8, 4, 2, 1], rel=1e-14)
    assert len(lambda_path(with_gradient([[1.0]])[0])) == 50


def test_path_needs_zero_weights_and_their_gradient():
    (w,) = with_gradient([[1.0, -8.0]])
    for count, ratio in ((1, 0.1), (2.0, 0.1), (5, 0), (5, 1), (5, float("nan"))):
        with pytest.raises(ValueError, match=f"count.*ratio.*{count} and {ratio}"):
            lambda_path(w, count, ratio)
    w.data[0, 1] = 1
    with pytest.raises(ValueError, match="1 weights that are not zero"):
        lambda_path(w)
    with pytest.raises(ValueError, match="no gradient"):
        lambda_path(Parameter(np.zeros((2, 2))))
    for grads, found in (([[0.0]], "0.0"), ([[1.0], [np.nan]], "nan"), ([[1.0], [np.inf]], "inf")):
        with pytest.raises(ValueError, match=f"largest gradient at zero weights is {found}"):
            lambda_path(with_gradient(*grads))
    with pytest.raises(ValueError, match="largest gradient"):
        lambda_path([])
