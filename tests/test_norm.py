"""Batch and layer normalisation: by formula, by finite differences, and against torch."""
import numpy as np
import pytest
from gradcheck import check

from minisparse.normalization import batch_norm, layer_norm
from minisparse.tensor import Tensor

SHAPES = [(5, 3), (2, 3, 4), (3, 4, 5, 2), (1, 2, 3, 3), (17, 1, 2, 2), (2, 5, 1, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(*shapes, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def wide(v, ndim):
    """One number a channel, to be broadcast over (N, C, ...)."""
    return v.reshape(-1, *[1] * (ndim - 2))


def normalised(x, mean, var, weight, bias, eps=1e-5):
    mean, var, weight, bias = (wide(v, x.ndim) for v in (mean, var, weight, bias))
    return (x - mean) / np.sqrt(var + eps) * weight + bias


# --- batch_norm -------------------------------------------------------------------------------------------
@shapes
def test_batch_norm_by_its_formula(shape):
    x, weight, bias, mean = draw(shape, *[(shape[1],)] * 3)
    axes, var, x = (0, *range(2, len(shape))), mean ** 2 + 0.5, x * 3 + 2
    count = x.size // shape[1]
    tensors = [Tensor(np.copy(a)) for a in (x, mean, var, weight, bias)]

    y = batch_norm(*tensors).data                           # evaluation: the running statistics, unchanged
    np.testing.assert_allclose(y, normalised(x, mean, var, weight, bias), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal([tensors[1].data, tensors[2].data], [mean, var])

    y = batch_norm(*tensors, training=True, momentum=0.3).data
    batch = x.mean(axis=axes), x.var(axis=axes)
    np.testing.assert_allclose(y, normalised(x, *batch, weight, bias), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(tensors[1].data, 0.7 * mean + 0.3 * batch[0], rtol=1e-12)
    np.testing.assert_allclose(tensors[2].data, 0.7 * var + 0.3 * batch[1] * count / (count - 1), rtol=1e-12)
    # without running statistics those of the batch serve, in evaluation too
    for training in (True, False):
        one = Tensor(np.ones(shape[1]))
        found = batch_norm(tensors[0], None, None, training=training).data
        expected = normalised(x, *batch, one.data, 0 * one.data)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)
        np.testing.assert_array_equal(batch_norm(tensors[0], None, None, one, training=training).data, found)


@shapes
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients(shape, training):
    x, weight, bias, mean = draw(shape, *[(shape[1],)] * 3)

    def run(x, weight=None, bias=None):
        return batch_norm(x, Tensor(np.copy(mean)), Tensor(mean ** 2 + 0.5), weight, bias, training)
    check(run, x, weight, bias)
    check(run, x, weight)
    check(lambda x, bias: run(x, bias=bias), x, bias)
    check(run, x)
    check(lambda weight: run(Tensor(x), weight), weight)        # a first layer: x needs no gradient


@shapes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-11), (np.float32, 1e-5)])
def test_batch_norm_against_torch(shape, training, dtype, rtol):
    torch = pytest.importorskip("torch")
    x, weight, bias, mean, g = draw(shape, *[(shape[1],)] * 3, shape, dtype=dtype)
    ours = [Tensor(np.copy(a)) for a in (x, mean, mean ** 2 + 1, weight, bias)]
    theirs = [torch.tensor(t.data.copy()) for t in ours]
    for i in (0, 3, 4):
        ours[i].requires_grad_(), theirs[i].requires_grad_()
    found, expected = batch_norm(*ours, training), torch.nn.functional.batch_norm(*theirs, training)
    found.backward(g), expected.backward(torch.tensor(g))
    pairs = [(found.data, expected.detach()), *((ours[i].data, theirs[i]) for i in (1, 2)),
             *((ours[i].grad.data, theirs[i].grad) for i in (0, 3, 4))]
    for one, other in pairs:
        np.testing.assert_allclose(one, other.numpy(), rtol=rtol, atol=10 * rtol)
        assert one.dtype == dtype


def test_batch_norm_of_numbers_far_from_zero():
    """The variance is taken about the mean: float32 holds 1000 +- 1 to six thousandths of a percent."""
    x = (np.random.default_rng(0).standard_normal((64, 2, 16, 16)) + 1000).astype(np.float32)
    y = batch_norm(Tensor(x), None, None).data.astype(float)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_batch_norm_of_a_constant_and_of_nan():
    x = np.full((4, 2, 3, 3), 7, np.float32)
    x[0, 1, 0, 0] = np.nan
    y = batch_norm(Tensor(x), None, None).data
    np.testing.assert_array_equal(y[:, 0], 0)
    assert np.isnan(y[:, 1]).all()


def test_running_statistics_keep_their_dtype():
    mean, var = Tensor(np.zeros(3, np.float32)), Tensor(np.ones(3, np.float32))
    (x,) = draw((4, 3))
    y = batch_norm(Tensor(x), mean, var, training=True)
    assert y.dtype == np.float64 and mean.dtype == var.dtype == np.float32
    np.testing.assert_allclose(mean.data, 0.1 * x.mean(axis=0), rtol=1e-6)
    assert batch_norm(Tensor(x), mean, var).dtype == np.float64


def test_running_statistics_may_change_between_forward_and_backward():
    """The gradients are those of the statistics that were used."""
    (x,) = draw((6, 3))
    mean, var = Tensor(np.zeros(3)), Tensor(np.ones(3))
    found, weight = Tensor(x, requires_grad=True), Tensor(np.ones(3), requires_grad=True)
    y = batch_norm(found, mean, var, weight)
    mean.data += 5
    var.data += 5
    y.backward(np.ones_like(x))
    np.testing.assert_allclose(found.grad.data, 1 / np.sqrt(1 + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(weight.grad.data, x.sum(axis=0) / np.sqrt(1 + 1e-5), rtol=1e-12)


def test_training_announces_that_it_changes_the_running_statistics():
    (x,) = draw((6, 3))
    mean, var = Tensor(np.zeros(3)), Tensor(np.ones(3))
    product = Tensor(np.ones(3), requires_grad=True) * mean
    batch_norm(Tensor(x), mean, var, training=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        product.backward(np.ones(3))


def test_batch_norm_of_no_images():
    x = Tensor(np.zeros((0, 3, 4, 4), np.float32), requires_grad=True)
    zero = Tensor(np.zeros(3, np.float32))
    y = batch_norm(x, zero, zero)
    y.backward(np.zeros_like(y.data))
    assert y.shape == x.grad.shape == (0, 3, 4, 4)


def vector(n, dtype=np.float32):
    return Tensor(np.ones(n, dtype))


X = Tensor(np.zeros((2, 3, 4, 4), np.float32))


@pytest.mark.parametrize("call, words", [
    (lambda: batch_norm(X, vector(4), vector(4)), ["running_mean", "(4,)", "3 channels", "(2, 3, 4, 4)"]),
    (lambda: batch_norm(X, vector(3), vector(3), vector(1)), ["weight", "(1,)", "3 channels"]),
    (lambda: batch_norm(X, vector(3), vector(3), vector(3), vector(2)), ["bias", "(2,)"]),
    (lambda: batch_norm(X, vector(3), None), ["running_var"]),
    (lambda: batch_norm(X, None, None, vector(3, np.float64)), ["x is float32", "float64"]),
    (lambda: batch_norm(vector(3), None, None), ["(N, C)", "(3,)"]),
    (lambda: batch_norm(vector((2, 0)), None, None), ["(2, 0)"]),
    (lambda: batch_norm(vector((2, 3), np.int64), None, None), ["floating point", "int64"]),
    (lambda: batch_norm(vector((1, 3)), None, None), ["more than 1 value per channel", "(1, 3)"]),
    (lambda: batch_norm(vector((1, 3, 1, 1)), vector(3), vector(3), training=True), ["more than 1 value"]),
    (lambda: batch_norm(vector((0, 3, 4, 4)), None, None), ["more than 1 value", "(0, 3, 4, 4)"]),
    (lambda: layer_norm(X, 3), ["(3,)", "(2, 3, 4, 4)"]),
    (lambda: layer_norm(X, (9, 2, 3, 4, 4)), ["(9, 2, 3, 4, 4)", "(2, 3, 4, 4)"]),
    (lambda: layer_norm(X, ()), ["normalized_shape ()"]),
    (lambda: layer_norm(X, 4, vector(1)), ["weight", "(1,)", "(4,)"]),
    (lambda: layer_norm(X, 4, bias=vector((4, 4))), ["bias", "(4, 4)", "(4,)"]),
    (lambda: layer_norm(X, 4, vector(4, np.float64)), ["x is float32", "float64"]),
    (lambda: layer_norm(vector((2, 3), np.int64), 3), ["int64"]),
])
def test_errors_name_the_values(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


# --- layer_norm -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape, axes", [((3, 5), 1), ((2, 3, 4), 1), ((2, 3, 4), 2), ((2, 3, 4), 3),
                                         ((0, 4), 1)])
def test_layer_norm(shape, axes):
    normal = shape[len(shape) - axes:]
    x, weight, bias = draw(shape, normal, normal)
    dims = tuple(range(-axes, 0))
    expected = (x - x.mean(axis=dims, keepdims=True)) / np.sqrt(x.var(axis=dims, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer_norm(Tensor(x), normal).data, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer_norm(*map(Tensor, (x,)), normal, Tensor(weight), Tensor(bias)).data,
                               expected * weight + bias, rtol=1e-12, atol=1e-12)
    check(lambda x, weight, bias: layer_norm(x, normal, weight, bias), x, weight, bias)
    check(lambda x, bias: layer_norm(x, normal, bias=bias), x, bias)
    check(lambda x: layer_norm(x, normal, eps=0.1), x)


def test_layer_norm_against_torch():
    torch = pytest.importorskip("torch")
    x, weight, bias, g = draw((4, 3, 6), (3, 6), (3, 6), (4, 3, 6), dtype=np.float32)
    ours = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    found = layer_norm(ours[0], (3, 6), *ours[1:])
    expected = torch.nn.functional.layer_norm(theirs[0], (3, 6), *theirs[1:])
    found.backward(g), expected.backward(torch.tensor(g))
    for one, other in [(found, expected.detach()), *((a.grad, b.grad) for a, b in zip(ours, theirs))]:
        assert one.dtype == np.float32
        np.testing.assert_allclose(one.detach().numpy(), other.numpy(), rtol=1e-5, atol=2e-6)
