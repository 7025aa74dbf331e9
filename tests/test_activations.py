"""Activations, softmax, dropout and linear: by formula, by finite differences, and against torch."""
import math
import warnings

import numpy as np
import pytest
from gradcheck import check

from minisparse import activations, manual_seed
from minisparse.activations import (CHUNK, dropout, gelu, leaky_relu, log_softmax, relu, sigmoid, silu,
                                    softmax, tanh)
from minisparse.kernels.pool import get_num_threads, set_num_threads
from minisparse.linear import linear
from minisparse.tensor import Tensor

erf = np.vectorize(math.erf, otypes=[float])
# function, formula, torch's name in torch.nn.functional
ACTIVATIONS = {
    "relu": (relu, lambda x: np.where(x > 0, x, 0), "relu"),
    "leaky_relu": (leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), "leaky_relu"),
    "sigmoid": (sigmoid, lambda x: 1 / (1 + np.exp(-x)), "sigmoid"),
    "silu": (silu, lambda x: x / (1 + np.exp(-x)), "silu"),
    "tanh": (tanh, lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1), "tanh"),
    "gelu": (gelu, lambda x: x * (1 + erf(x / np.sqrt(2))) / 2, "gelu"),
}
each = pytest.mark.parametrize("name", ACTIVATIONS)
SOFTMAXES = {"softmax": softmax, "log_softmax": log_softmax}


def draw(*shapes, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def against_torch(function, torch_name, *arrays, rtol):
    torch = pytest.importorskip("torch")
    ours = [Tensor(np.copy(a), requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    found, expected = function(*ours), getattr(torch.nn.functional, torch_name)(*theirs)
    g = np.random.default_rng(1).standard_normal(found.shape).astype(found.dtype)
    found.backward(g), expected.backward(torch.tensor(g))
    pairs = [(found.detach(), expected.detach()), *((a.grad, b.grad) for a, b in zip(ours, theirs))]
    for one, other in pairs:
        assert one.dtype == other.numpy().dtype
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=rtol, atol=rtol)


# --- activations ------------------------------------------------------------------------------------------
@each
def test_formula_and_gradient(name):
    function, formula, _ = ACTIVATIONS[name]
    for shape in (), (1,), (0, 3), (4, 5), (2, 3, 4, 5):
        x = draw(shape)[0] * 3
        y = function(Tensor(x)).data
        assert y.shape == shape and y.dtype == np.float64
        np.testing.assert_allclose(y, formula(x), rtol=1e-12, atol=1e-14)
        check(function, x)


@each
@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_against_torch(name, dtype, rtol):
    function, _, torch_name = ACTIVATIONS[name]
    against_torch(function, torch_name, np.append(np.linspace(-12, 12, 999), 0).astype(dtype), rtol=rtol)


@each
def test_large_numbers_and_nan_make_no_noise(name):
    x = np.array([-1e4, -300, 300, 1e4, np.nan], np.float32)
    tensor = Tensor(x, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = ACTIVATIONS[name][0](tensor)
        y.backward(np.ones_like(x))
    low = {"tanh": -1, "leaky_relu": -100}.get(name, 0)
    high = 1 if name in ("sigmoid", "tanh") else 1e4
    np.testing.assert_allclose(y.data[[0, 3, 4]], [low, high, np.nan], rtol=1e-6, atol=1e-30)
    slopes = {"sigmoid": (0, 0), "tanh": (0, 0), "leaky_relu": (0.01, 1)}.get(name, (0, 1))
    np.testing.assert_allclose(tensor.grad.data[[0, 3]], slopes, rtol=1e-6, atol=1e-30)


@each
@pytest.mark.parametrize("threads", [1, 3])
def test_more_numbers_than_a_chunk_in_any_memory_order(name, threads):
    function, formula, _ = ACTIVATIONS[name]
    x, g = draw((5, 3, 100, 67), (5, 3, 100, 67), dtype=np.float32)
    assert x.size > 3 * CHUNK
    expected = formula(x.astype(float))
    slope = Tensor(np.float64(x), requires_grad=True)
    function(slope).backward(g)
    before = get_num_threads()
    set_num_threads(threads)
    try:
        for order in (0, 1, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0):
            back = np.argsort(order)
            tensor = Tensor(np.ascontiguousarray(x.transpose(order)).transpose(back), requires_grad=True)
            y = function(tensor)
            y.backward(g)
            np.testing.assert_allclose(y.data, expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(tensor.grad.data, slope.grad.data, rtol=1e-6, atol=1e-6)
            for array in y.data, tensor.grad.data:
                assert array.dtype == np.float32 and array.transpose(order).flags.c_contiguous
    finally:
        set_num_threads(before)


def test_slopes_at_the_kink():
    x = Tensor(np.array([-1.0, 0.0, 1.0]), requires_grad=True)
    for function, expected in (relu, [0, 0, 1]), (lambda x: leaky_relu(x, 0.5), [0.5, 0.5, 1]):
        x.grad = None
        function(x).backward(np.ones(3))
        np.testing.assert_array_equal(x.grad.data, expected)


@pytest.mark.parametrize("function", [relu, leaky_relu, sigmoid, silu, tanh, gelu, dropout,
                                      lambda x: softmax(x, 0), lambda x: log_softmax(x, 0)])
def test_integers_are_refused(function):
    with pytest.raises(ValueError, match="floating point tensor, got int64"):
        function(Tensor(np.arange(3)))


def test_options_that_are_not_there():
    with pytest.raises(NotImplementedError, match="tanh"):
        gelu(Tensor(np.ones(3)), approximate="tanh")


# --- softmax ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize("shape, dim", [((3, 5), 1), ((3, 5), 0), ((2, 3, 4), -2), ((7,), 0), ((1, 1), 1),
                                        ((0, 3), 1)])
def test_softmax(name, shape, dim):
    (x,) = draw(shape)
    e = np.exp(x)
    expected = e / e.sum(axis=dim, keepdims=True)
    if name == "log_softmax":
        expected = np.log(expected)
    np.testing.assert_allclose(SOFTMAXES[name](Tensor(x), dim).data, expected, rtol=1e-12, atol=1e-12)
    check(lambda x: SOFTMAXES[name](x, dim), x)


def test_softmax_of_large_numbers():
    x = Tensor(np.array([[1e4, 0, -np.inf], [-1e4, -1e4, -1e4]], np.float32), requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(softmax(x, 1).data, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
        y = log_softmax(x, 1)
        np.testing.assert_allclose(y.data, [[0, -1e4, -np.inf], [-np.log(3)] * 3], rtol=1e-6)
        y.backward(np.ones((2, 3), np.float32))
    np.testing.assert_allclose(x.grad.data, [[-2, 1, 1], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_against_torch(name):
    torch = pytest.importorskip("torch")
    (x,) = draw((4, 6, 3), dtype=np.float32)
    expected = getattr(torch.nn.functional, name)(torch.tensor(x), dim=1).numpy()
    np.testing.assert_allclose(SOFTMAXES[name](Tensor(x), 1).data, expected, rtol=1e-6, atol=1e-6)


# --- dropout ----------------------------------------------------------------------------------------------
def dropped(p, shape=(50, 40, 8, 9), dtype=np.float32, seed=0):
    """Dropout of ones, and its gradient for a gradient of ones."""
    manual_seed(seed)
    x = Tensor(np.ones(shape, dtype), requires_grad=True)
    y = dropout(x, p)
    y.backward(np.ones(shape, dtype))
    return y.data, x.grad.data


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_keeps_its_share_and_the_mean(p, dtype):
    y, gradient = dropped(p, dtype=dtype)
    assert y.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(np.unique(y), [0, 1 / dtype(1 - p)])
    sigma = np.sqrt(p * (1 - p) / y.size)
    assert abs((y == 0).mean() - p) < 5 * sigma
    for axis in range(4):       # by whatever axis it is cut
        parts = (y == 0).mean(axis=tuple(i for i in range(4) if i != axis))
        assert abs(parts - p).max() < 5 * sigma * np.sqrt(len(parts))
    np.testing.assert_array_equal(gradient, y)


def test_dropout_follows_the_seed():
    assert np.array_equal(dropped(0.5)[0], dropped(0.5)[0])
    assert not np.array_equal(dropped(0.5)[0], dropped(0.5, seed=1)[0])


def test_dropout_of_all_of_none_and_in_evaluation():
    np.testing.assert_array_equal(dropped(1)[0], 0)
    np.testing.assert_array_equal(dropped(0)[0], 1)
    x = Tensor(np.ones(5, np.float32))
    assert dropout(x, 0.5, training=False) is x
    for wrong in -0.1, 1.5:
        with pytest.raises(ValueError, match=f"between 0 and 1, got {wrong}"):
            dropout(x, wrong)


# --- linear -----------------------------------------------------------------------------------------------
LINEAR = [((5, 4), 3), ((1, 4), 3), ((4,), 3), ((2, 3, 4), 5), ((2, 1, 3, 2), 1), ((0, 4), 3)]
linears = pytest.mark.parametrize("shape, outputs", LINEAR)


@linears
def test_linear(shape, outputs):
    x, weight, bias = arrays = draw(shape, (outputs, shape[-1]), (outputs,))
    expected = np.einsum("...i,oi->...o", x, weight)
    np.testing.assert_allclose(linear(Tensor(x), Tensor(weight)).data, expected, atol=1e-13)
    np.testing.assert_allclose(linear(*map(Tensor, arrays)).data, expected + bias, atol=1e-13)
    check(linear, x, weight, bias)
    check(linear, x, weight)
    against_torch(linear, "linear", x, weight, bias, rtol=1e-12)


def test_linear_shares_its_rows_among_threads():
    x, weight, bias = draw((64, 300), (210, 300), (210,), dtype=np.float32)
    before = get_num_threads()
    set_num_threads(3)
    try:
        against_torch(linear, "linear", x, weight, bias, rtol=1e-4)
        y = linear(Tensor(x), Tensor(weight), Tensor(bias)).data
    finally:
        set_num_threads(before)
    np.testing.assert_allclose(y, x.astype(float) @ weight.T.astype(float) + bias, rtol=1e-5, atol=1e-4)
    assert y.T.flags.c_contiguous       # the batch is innermost


def test_linear_of_any_layout():
    x, weight = draw((6, 8), (3, 8))
    expected = x @ weight.T
    wide = np.zeros((6, 16))
    wide[:, ::2] = x
    for a in x, np.asfortranarray(x), wide[:, ::2], x[::-1].copy()[::-1]:
        for w in weight, np.asfortranarray(weight):
            np.testing.assert_allclose(linear(Tensor(a), Tensor(w)).data, expected, atol=1e-13)
            check(lambda x: linear(x, Tensor(w)), a)


def ones(*shape, dtype=np.float32):
    return Tensor(np.ones(shape, dtype))


@pytest.mark.parametrize("call, words", [
    (lambda: linear(ones(2, 3), ones(4, 5)), ["(4, 5)", "(2, 3)"]),
    (lambda: linear(ones(2, 3), ones(3)), ["weight", "(3,)"]),
    (lambda: linear(ones(), ones(3, 1)), ["()", "(3, 1)"]),
    (lambda: linear(ones(2, 0), ones(3, 0)), ["(3, 0)", "(2, 0)"]),
    (lambda: linear(ones(2, 3), ones(4, 3), ones(3)), ["bias", "(3,)", "(4, 3)"]),
    (lambda: linear(ones(2, 3), ones(4, 3, dtype=np.float64)), ["x is float32", "weight is float64"]),
    (lambda: linear(ones(2, 3), ones(4, 3), ones(4, dtype=np.float64)), ["bias is float64"]),
    (lambda: linear(ones(2, 3, dtype=int), ones(4, 3, dtype=int)), ["int64"]),
])
def test_errors_name_the_values(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_activations_are_methods_and_functions_of_the_package():
    import minisparse
    x = Tensor(np.array([-1.0, 2.0]))
    for name in "relu sigmoid tanh".split():
        expected = getattr(activations, name)(x).data
        np.testing.assert_array_equal(getattr(minisparse, name)(x).data, expected)
        np.testing.assert_array_equal(getattr(x, name)().data, expected)


def test_gelu_makes_no_subnormal_numbers():
    x = np.linspace(-40, 40, 100_001, dtype=np.float32)
    y = gelu(Tensor(x)).numpy()
    tiny = np.finfo(np.float32).tiny
    assert not ((y != 0) & (np.abs(y) < tiny)).any()
    assert (y[x < -20] == 0).all() and (y[x < -5] <= 0).all()
