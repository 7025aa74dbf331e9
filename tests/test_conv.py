"""Convolution and pooling: by another route in NumPy, by finite differences, and against torch."""
import warnings

import numpy as np
import pytest
from gradcheck import check

from minisparse import activations, conv, normalization
from minisparse.conv import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d
from minisparse.kernels import dense_conv
from minisparse.kernels.memory import batch_first, batch_last
from minisparse.kernels.pool import get_num_threads, set_num_threads
from minisparse.tensor import Tensor

# x shape, weight shape, options of conv2d
CONVOLUTIONS = [
    ((2, 3, 5, 6), (4, 3, 3, 3), {}),
    ((2, 3, 5, 6), (4, 3, 3, 3), dict(padding=1)),
    ((3, 2, 7, 6), (3, 2, 3, 2), dict(stride=2, padding=(1, 0))),
    ((1, 2, 9, 8), (3, 2, 2, 3), dict(stride=(3, 4), padding=(1, 2))),
    ((2, 3, 4, 5), (4, 3, 1, 1), {}),
    ((2, 3, 4, 5), (4, 3, 1, 1), dict(stride=2)),
    ((2, 3, 4, 5), (4, 3, 1, 1), dict(padding=1)),
    ((2, 2, 9, 9), (2, 2, 3, 3), dict(dilation=(2, 3), padding=2)),
    ((2, 2, 4, 5), (3, 2, 2, 4), dict(padding="same")),
    ((2, 2, 6, 7), (3, 2, 4, 3), dict(padding="same", dilation=(1, 2))),
    ((2, 2, 6, 7), (3, 2, 4, 3), dict(padding="valid")),
    ((3, 4, 5, 5), (6, 2, 3, 3), dict(groups=2, padding=1)),
    ((3, 4, 5, 5), (8, 1, 3, 3), dict(groups=4, stride=2)),
    ((2, 4, 3, 3), (4, 2, 1, 1), dict(groups=2)),
    ((5, 1, 1, 1), (2, 1, 3, 3), dict(padding=1)),
    ((2, 1, 2, 2), (2, 1, 1, 1), dict(padding=3)),
    ((3, 5, 6), (4, 3, 3, 3), dict(padding=1)),
    ((4, 5, 6), (4, 2, 1, 1), dict(groups=2)),
    ((0, 3, 5, 6), (4, 3, 3, 3), dict(padding=1)),
]
convolutions = pytest.mark.parametrize("shape, weight_shape, options", CONVOLUTIONS)


def draw(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def gradients(function, arrays, g):
    """The value of function(*Tensors) and the gradients of the arrays; g: an array or a function of shape."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    out = function(*tensors)
    out.backward(g(out.shape).astype(out.dtype) if callable(g) else g)
    return [out.data, *(t.grad.data for t in tensors)]


def noise(shape):
    return np.random.default_rng(9).standard_normal(shape)


def against_torch(function, torch_name, arrays, *args, rtol=1e-12, **options):
    """Value and gradients of both."""
    torch = pytest.importorskip("torch")
    inputs = [torch.tensor(np.copy(a), requires_grad=True) for a in arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of a copy that torch makes for padding="same" with even kernels
        out = getattr(torch.nn.functional, torch_name)(*inputs, *args, **options)
    out.backward(torch.tensor(noise(tuple(out.shape)), dtype=out.dtype))
    found = gradients(lambda *tensors: function(*tensors, *args, **options), arrays, noise)
    for ours, theirs in zip(found, [out.detach(), *(t.grad for t in inputs)], strict=True):
        assert ours.shape == tuple(theirs.shape) and ours.dtype == theirs.numpy().dtype
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=rtol, atol=rtol * 10)


def windows(x, kernel, stride, padding, dilation=(1, 1), fill=0.0):
    """(N, C, Ho, Wo, kh, kw) from x (N, C, H, W); padding ((top, bottom), (left, right))."""
    x = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, ::stride[0], ::stride[1], ::dilation[0], ::dilation[1]]


def conv2d_by_windows(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    if x.ndim == 3:
        return conv2d_by_windows(x[None], weight, bias, stride, padding, dilation, groups)[0]
    stride, dilation = np.broadcast_to(stride, 2), np.broadcast_to(dilation, 2)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation)]
        padding = [(t // 2, t - t // 2) for t in total]
    else:
        padding = [(p, p) for p in np.broadcast_to(0 if padding == "valid" else padding, 2)]
    seen = windows(x, weight.shape[2:], stride, padding, dilation)
    parts = [np.einsum("nchwuv,ocuv->nohw", *part)
             for part in zip(np.split(seen, groups, 1), np.split(weight, groups))]
    return np.concatenate(parts, 1) + bias[:, None, None]


# --- convolution ------------------------------------------------------------------------------------------
@convolutions
def test_conv2d_is_a_sum_over_windows(shape, weight_shape, options):
    arrays = draw(shape, weight_shape, weight_shape[:1])
    expected = conv2d_by_windows(*arrays, **options)
    np.testing.assert_allclose(conv2d(*map(Tensor, arrays), **options).data, expected, rtol=1e-12, atol=1e-12)
    arrays[2][:] = 0
    expected = conv2d_by_windows(*arrays, **options)
    without = conv2d(*map(Tensor, arrays[:2]), **options).data
    np.testing.assert_allclose(without, expected, rtol=1e-12, atol=1e-12)


@convolutions
def test_conv2d_gradients(shape, weight_shape, options):
    check(lambda *tensors: conv2d(*tensors, **options), *draw(shape, weight_shape, weight_shape[:1]))


@convolutions
def test_conv2d_against_torch(shape, weight_shape, options):
    against_torch(conv2d, "conv2d", draw(shape, weight_shape, weight_shape[:1]), **options)


def test_conv2d_in_float32_with_more_than_one_tile(monkeypatch):
    """Tiles begin and end within rows, on one thread and on three, and each run gives the same bits."""
    arrays = draw((3, 4, 9, 7), (6, 2, 3, 3), (6,), dtype=np.float32)

    def run(arrays, stride):
        return gradients(lambda x, w, b: conv2d(x, w, b, stride=stride, padding=1, groups=2), arrays, noise)
    before = get_num_threads()
    try:
        for stride in (1, 2):
            expected = run([a.astype(float) for a in arrays], stride)
            for threads in (1, 3):
                set_num_threads(threads)
                for tile in (1, 600, 1 << 20):
                    monkeypatch.setattr(dense_conv, "TILE", tile)
                    found, again = run(arrays, stride), run(arrays, stride)
                    for one, same, other in zip(found, again, expected):
                        assert one.dtype == np.float32 and np.array_equal(one, same)
                        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    finally:
        set_num_threads(before)


def orders(x):
    """The numbers of x (N, C, H, W) in several layouts of memory."""
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    wide[..., ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    return {"C": x.copy("C"), "Fortran": np.asfortranarray(x),
            "batch innermost": batch_first(np.copy(batch_last(x))), "slices": wide[..., ::2],
            "backwards": x[:, :, ::-1].copy()[:, :, ::-1], "read-only": frozen}


@pytest.mark.parametrize("function", [
    lambda x: conv2d(x, Tensor(np.ones((2, 3, 2, 2)))),
    lambda x: max_pool2d(x, 2),
    lambda x: avg_pool2d(x, 2),
    lambda x: adaptive_avg_pool2d(x, 2),
    lambda x: normalization.batch_norm(x, None, None),
    lambda x: normalization.layer_norm(x, x.shape[2:]),
    activations.relu,
    activations.gelu,
], ids="conv2d max avg adaptive batch_norm layer_norm relu gelu".split())
def test_any_layout_of_input_and_gradient_gives_the_same(function):
    (x,) = draw((3, 3, 4, 5))
    g = noise(function(Tensor(x)).shape)
    expected = gradients(function, [x], g)
    for name, layout in orders(x).items():
        for g_name, g_layout in orders(g).items():
            for one, other in zip(gradients(function, [layout], g_layout), expected):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=f"{name}, {g_name}")


# --- pooling ----------------------------------------------------------------------------------------------
# x shape, kernel, stride, padding, ceil_mode
POOLS = [((2, 3, 6, 6), 2, None, 0, False),
         ((2, 3, 7, 6), 2, None, 0, True),
         ((2, 2, 7, 8), 3, 2, 1, False),
         ((2, 2, 7, 8), 3, 2, 1, True),
         ((1, 2, 5, 9), (2, 3), (3, 1), (1, 1), True),
         ((3, 1, 6, 5), (1, 4), (2, 5), (0, 2), False),     # stride > kernel
         ((3, 1, 6, 5), (1, 4), (2, 5), (0, 2), True),
         ((5, 2, 2, 2), 2, 2, 1, True),                     # a last window that would begin in the padding
         ((2, 2, 2, 3), 3, 2, 0, True),                     # a window larger than the image
         ((2, 2, 1, 1), 1, 1, 0, False),
         ((2, 1, 1, 1), 3, 1, 1, True),
         ((2, 5, 6), 3, 2, 1, False),
         ((0, 2, 4, 4), 2, None, 0, False)]
pools = pytest.mark.parametrize("shape, kernel, stride, padding, ceil_mode", POOLS)


@pools
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool2d(shape, kernel, stride, padding, ceil_mode, dilation):
    (x,) = draw(shape)
    if dilation == 2 and min(shape[-2:]) < 4:
        pytest.skip("the window would be larger than the image")
    check(lambda x: max_pool2d(x, kernel, stride, padding, dilation, ceil_mode), x)
    against_torch(max_pool2d, "max_pool2d", [x], kernel, stride, padding, dilation, ceil_mode)


@pools
@pytest.mark.parametrize("options", [{}, dict(count_include_pad=False), dict(divisor_override=3)], ids=str)
def test_avg_pool2d(shape, kernel, stride, padding, ceil_mode, options):
    (x,) = draw(shape)
    check(lambda x: avg_pool2d(x, kernel, stride, padding, ceil_mode, **options), x)
    against_torch(avg_pool2d, "avg_pool2d", [x], kernel, stride, padding, ceil_mode, **options)


@pytest.mark.parametrize("size", [1, 2, (3, 5), (None, 2), (9, 11), (None, None)])
def test_adaptive_avg_pool2d(size):
    for x in draw((2, 3, 7, 5), (3, 7, 5), (0, 3, 4, 4)):
        check(lambda x: adaptive_avg_pool2d(x, size), x)
        against_torch(adaptive_avg_pool2d, "adaptive_avg_pool2d", [x], size)


def test_pools_by_windows():
    (x,) = draw((2, 3, 8, 9))
    for kernel, stride, padding in [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 3), (1, 1)),
                                    ((1, 1), (3, 3), (0, 0))]:
        sides = [(p, p) for p in padding]
        largest = windows(x, kernel, stride, sides, fill=-np.inf).max(axis=(4, 5))
        np.testing.assert_array_equal(max_pool2d(Tensor(x), kernel, stride, padding).data, largest)
        mean = windows(x, kernel, stride, sides).mean(axis=(4, 5))
        np.testing.assert_allclose(avg_pool2d(Tensor(x), kernel, stride, padding).data, mean, atol=1e-14)
    means = x.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(adaptive_avg_pool2d(Tensor(x), 1).data, means, atol=1e-14)


def test_max_pool2d_gives_the_gradient_to_the_first_of_equals():
    x = np.array([[1, 1, 0, 2], [1, 1, 2, 2]], float)[None, None]
    _, gx = gradients(lambda x: max_pool2d(x, 2), [x], np.array([[[[5.0, 7.0]]]]))
    np.testing.assert_array_equal(gx[0, 0], [[5, 0, 0, 7], [0, 0, 0, 0]])
    # overlapping windows add up
    row = np.array([[[[0, 1, 9, 1, 0.0]]]])
    _, gx = gradients(lambda x: max_pool2d(x, (1, 3), 1), [row], np.ones((1, 1, 1, 3)))
    np.testing.assert_array_equal(gx[0, 0], [[0, 0, 3, 0, 0]])


def test_max_pool2d_with_more_taps_than_a_byte_can_number():
    (x,) = draw((2, 1, 20, 20))
    check(lambda x: max_pool2d(x, 17, 1), x)


# --- memory layout ----------------------------------------------------------------------------------------
def batch_innermost(a):
    return min(a.shape) > 1 and np.moveaxis(a, 0, -1).flags.c_contiguous


def test_operators_keep_the_batch_innermost():
    """Also where a value or a gradient comes in torch's order."""
    (weight,) = draw((4, 4, 3, 3), dtype=np.float32)
    one = np.ones(4, np.float32)
    affine = Tensor(np.ones((4, 6, 5), np.float32))
    operators = {
        "conv2d": lambda x: conv2d(x, Tensor(weight), padding=1),
        "conv2d 1x1": lambda x: conv2d(x, Tensor(weight[:, :, :1, :1])),
        "batch_norm": lambda x: normalization.batch_norm(x, None, None, Tensor(one), Tensor(one)),
        "batch_norm evaluating": lambda x: normalization.batch_norm(x, Tensor(one), Tensor(one)),
        "relu": activations.relu,
        "gelu": activations.gelu,
        "max_pool2d": lambda x: max_pool2d(x, 3, 1, 1),
        "avg_pool2d": lambda x: avg_pool2d(x, 3, 1, 1),
        "adaptive_avg_pool2d": lambda x: adaptive_avg_pool2d(x, (5, 4)),
        "layer_norm": lambda x: normalization.layer_norm(x, (4, 6, 5), affine),
        "dropout": lambda x: activations.dropout(x, 0.3),
        "add": lambda x: x + x * 2,
    }
    (x,) = draw((3, 4, 6, 5), dtype=np.float32)
    x = batch_first(batch_last(x))
    gradient = noise(x.shape).astype(np.float32)
    for name, operator in operators.items():
        # numpy lets a gradient in torch's order have its way; the next convolution sets it right
        for g, free in (gradient, ("add", "layer_norm")), (batch_first(batch_last(gradient)), ()):
            tensor = Tensor(x, requires_grad=True)
            out = operator(tensor)
            out.backward(g[:, :, :out.shape[2], :out.shape[3]])
            assert batch_innermost(out.data), name
            assert batch_innermost(tensor.grad.data) or name in free, f"gradient of {name}"
    # a first layer takes torch's order to ours
    for name in "conv2d", "conv2d 1x1", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d":
        assert batch_innermost(operators[name](Tensor(np.ascontiguousarray(x))).data), name


def test_layers_keep_the_batch_innermost():
    from minisparse import nn
    net = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
           nn.Conv2d(4, 6, 3, padding="same", groups=2), nn.GELU(), nn.MaxPool2d(2), nn.Dropout(0.2),
           nn.SiLU(), nn.AvgPool2d(3, 1, 1), nn.LeakyReLU(),
           nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(36, 5)]
    x = Tensor(noise((7, 3, 8, 10)).astype(np.float32), requires_grad=True)
    seen = []
    for layer in net:
        x = layer(x)
        x.retain_grad()
        seen.append((layer, x))
    x.backward(noise(x.shape).astype(np.float32))
    for layer, value in seen[:-2]:
        assert batch_innermost(value.data), layer
    for layer, value in seen[:-3]:      # the gradient that comes from Flatten is in its own order
        assert batch_innermost(value.grad.data), layer
    assert seen[-1][1].data.T.flags.c_contiguous


# --- errors -----------------------------------------------------------------------------------------------
def image(*shape, dtype=np.float32):
    return Tensor(np.zeros(shape, dtype))


X, W = image(2, 3, 5, 5), image(4, 3, 3, 3)


@pytest.mark.parametrize("call, words", [
    (lambda: conv2d(X, image(4, 2, 3, 3)), ["(4, 2, 3, 3)", "2 input channels", "x has 3", "(2, 3, 5, 5)"]),
    (lambda: conv2d(X, image(4, 3, 3, 3), groups=2), ["groups=2", "6 input channels", "x has 3"]),
    (lambda: conv2d(image(2, 6, 5, 5), image(3, 3, 3, 3), groups=2), ["(3, 3, 3, 3)", "groups=2"]),
    (lambda: conv2d(X, image(4, 3, 3)), ["weight", "(4, 3, 3)"]),
    (lambda: conv2d(X, image(0, 3, 3, 3)), ["weight", "(0, 3, 3, 3)"]),
    (lambda: conv2d(X, image(4, 3, 0, 3)), ["weight", "(4, 3, 0, 3)"]),
    (lambda: conv2d(image(5, 5), W), ["(N, C, H, W)", "(5, 5)"]),
    (lambda: conv2d(image(2, 0, 5, 5), W), ["at least one channel", "(2, 0, 5, 5)"]),
    (lambda: conv2d(image(2, 3, 0, 5), W), ["at least one channel and pixel", "(2, 3, 0, 5)"]),
    (lambda: conv2d(X, W, image(3)), ["bias", "(4,)", "(3,)"]),
    (lambda: conv2d(image(2, 3, 5, 5, dtype=np.uint8), W), ["floating point", "uint8"]),
    (lambda: conv2d(image(2, 3, 5, 5, dtype=np.float64), W), ["x is float64", "weight is float32"]),
    (lambda: conv2d(X, W, image(4, dtype=np.float64)), ["x is float32", "bias is float64"]),
    (lambda: conv2d(image(2, 3, 5, 5, dtype=np.float16), W), ["float16"]),
    (lambda: conv2d(X, image(4, 3, 6, 3)), ["kernel (6, 3)", "larger than the padded image", "(2, 3, 5, 5)"]),
    (lambda: conv2d(X, W, dilation=3), ["dilation (3, 3)", "larger than the padded image"]),
    (lambda: conv2d(X, W, stride=0), ["stride (0, 0)"]),
    (lambda: conv2d(X, W, padding=-1), ["padding (-1, -1)"]),
    (lambda: conv2d(X, W, dilation=0), ["dilation (0, 0)"]),
    (lambda: conv2d(X, W, dilation=0, padding="same"), ["dilation", "(0, 0)"]),
    (lambda: conv2d(X, W, stride=2, padding="same"), ["'same'", "stride", "(2, 2)"]),
    (lambda: conv2d(X, W, padding="full"), ["padding", "'full'"]),
    (lambda: conv2d(X, W, stride=(1, 2, 3)), ["stride", "(1, 2, 3)"]),
    (lambda: conv2d(X, W, stride=1.5), ["stride", "1.5"]),
    (lambda: max_pool2d(X, 6), ["max_pool2d", "(6, 6)", "(2, 3, 5, 5)"]),
    (lambda: max_pool2d(X, 2, padding=2), ["padding (2, 2)", "kernel (2, 2)"]),
    (lambda: max_pool2d(X, 0), ["kernel_size (0, 0)"]),
    (lambda: max_pool2d(image(2, 3, 5, 5, dtype=np.int64), 2), ["floating point", "int64"]),
    (lambda: avg_pool2d(X, 2, stride=0), ["stride (0, 0)"]),
    (lambda: avg_pool2d(X, 2, padding=(2, 0)), ["padding (2, 0)"]),
    (lambda: avg_pool2d(X, 2, divisor_override=0), ["divisor_override"]),
    (lambda: avg_pool2d(image(3), 2), ["(3,)"]),
    (lambda: adaptive_avg_pool2d(X, 0), ["output_size", "0"]),
    (lambda: adaptive_avg_pool2d(X, (1, 2, 3)), ["output_size", "(1, 2, 3)"]),
    (lambda: adaptive_avg_pool2d(X, 1.5), ["output_size", "1.5"]),
])
def test_errors_name_the_values(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_options_that_are_not_there():
    with pytest.raises(NotImplementedError, match="return_indices"):
        max_pool2d(X, 2, return_indices=True)
