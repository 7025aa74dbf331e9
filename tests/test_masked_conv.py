"""Convolution under a mask: the direct kernels against their reference, and the whole operator against dense."""
import numpy as np
import pytest

import minisparse as ms
from minisparse import nn
from minisparse.conv import conv2d
from minisparse.kernels import dense_conv, have_numba, masked_conv, reference

numba = pytest.mark.skipif(not have_numba(), reason="the direct kernels need Numba")

# channels, outputs, size, batch, kernel, padding, dilation
SHAPES = [
    (3, 5, (6, 7), 16, (3, 3), (1, 1), (1, 1)),
    (9, 4, (5, 3), 21, (3, 3), (1, 1), (1, 1)),         # tiles that overlap, loads that are not aligned
    (2, 3, (1, 1), 32, (1, 1), (0, 0), (1, 1)),
    (4, 6, (9, 8), 16, (4, 3), (1, 0), (2, 1)),
    (1, 1, (4, 20), 17, (5, 2), (4, 1), (1, 1)),        # padding up to the whole kernel
]


def make(shape, kept_share, seed=0):
    channels, outputs, (h, w), batch, kernel, padding, dilation = shape
    rng = np.random.default_rng(seed)
    ho, wo = (n + 2 * p - d * (k - 1) for n, p, d, k in zip((h, w), padding, dilation, kernel))
    mask = rng.random((outputs, channels, *kernel)) < kept_share
    return (rng, mask, (*kernel, 1, 1, *padding, *dilation, ho, wo),
            rng.standard_normal((channels, h, w, batch), dtype=np.float32),
            (rng.standard_normal(mask.shape, dtype=np.float32) * mask).astype(np.float32),
            rng.standard_normal((outputs, ho, wo, batch), dtype=np.float32))


@numba
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_masked_convolution_is_dense_convolution(shape, share):
    rng, mask, geometry, x, w, g = make(shape, share)
    bias = rng.standard_normal(len(w), dtype=np.float32)
    conv = masked_conv.MaskedConv(mask, geometry, x.shape)
    padded = conv.pad(x)
    np.testing.assert_array_equal(conv.unpad(padded), x)
    np.testing.assert_allclose(conv.forward(padded, w, bias), dense_conv.forward(x, w, bias, geometry, 1),
                               rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(conv.grad_input(g, w), dense_conv.grad_input(g, w, x.shape, geometry, 1),
                               rtol=1e-5, atol=1e-5)
    grad = conv.grad_weight(padded, g)
    np.testing.assert_allclose(grad, dense_conv.grad_weight(x, g, w.shape, geometry, 1) * mask, rtol=1e-4, atol=1e-3)
    assert not grad[~mask].any()


@numba
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("registers", [1, 2, 16])
def test_direct_kernels_are_their_reference(shape, registers):
    from minisparse.kernels import direct, tile
    rng, mask, geometry, x, w, g = make(shape, 0.4)
    plan = masked_conv.Schedule(masked_conv.taps(mask), geometry, x.shape, len(w))
    tiles = (0,) * min(registers, len(plan.tile))       # shorter tiles than the schedule's are right as well
    padded, value = plan.pad(x), w.reshape(-1)[plan.index]
    bias = rng.standard_normal(len(w), dtype=np.float32)
    g = g.reshape(*g.shape[:2], -1)
    results = []
    for kernels in direct, reference:
        out, grad = np.zeros_like(g), np.zeros_like(value)
        part = np.empty((len(w), len(tiles) * tile.LANES), np.float32)
        for first, last in (0, 1), (1, len(w)):
            kernels.convolve(tiles, padded, plan.segments, plan.offset, value, bias, plan.row, first, last, out)
            kernels.convolve_grad_weight(tiles, padded, plan.segments, plan.offset, g, plan.row, first, last, part, grad)
        results.append((out, grad))
    np.testing.assert_allclose(*(out for out, _ in results), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*(grad for _, grad in results), rtol=1e-4, atol=1e-3)


@numba
@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (3, 1)])
def test_schedule_with_strides_and_groups(stride):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 9, 11, 16), dtype=np.float32)
    mask = rng.random((6, 2, 3, 3)) < 0.5
    w = (rng.standard_normal(mask.shape, dtype=np.float32) * mask).astype(np.float32)
    ho, wo = ((n + 2 - 3) // s + 1 for n, s in zip((9, 11), stride))
    geometry = (3, 3, *stride, 1, 1, 1, 1, ho, wo)
    plan = masked_conv.Schedule(masked_conv.taps(mask, groups=2), geometry, x.shape, 6)
    np.testing.assert_allclose(plan.forward(plan.pad(x), w), dense_conv.forward(x, w, None, geometry, 2),
                               rtol=1e-5, atol=1e-5)


def layer(sparsity):
    ms.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1)
    conv.weight.set_mask(np.random.default_rng(0).random(conv.weight.shape) >= sparsity)
    return conv


@pytest.mark.parametrize("dense_grad", [False, True])
def test_the_operator_under_a_mask(dense_grad):
    x = np.random.default_rng(3).standard_normal((16, 4, 6, 6)).astype(np.float32)
    conv = layer(0.6)
    conv.weight.keep_dense_grad = dense_grad
    outcomes = []
    for weight in conv.weight, ms.tensor(conv.weight.data, requires_grad=True):
        images = ms.tensor(x, requires_grad=True)
        y = conv2d(images, weight, conv.bias, padding=1)
        (y * y).sum().backward()
        outcomes.append((y.detach().numpy(), images.grad.numpy(), weight.grad.numpy()))
    (y, gx, gw), (y2, gx2, gw2) = outcomes
    np.testing.assert_allclose(y, y2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gx, gx2, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gw, gw2 * conv.weight.mask, rtol=1e-4, atol=1e-2)
    if dense_grad:
        np.testing.assert_allclose(conv.weight.dense_grad, gw2, rtol=1e-4, atol=1e-2)


@numba
def test_a_new_mask_means_new_plans():
    conv = layer(0.6)
    x = ms.randn(16, 4, 6, 6)
    for size in 16, 32, 48, 64, 80, 16:
        conv(ms.randn(size, 4, 6, 6))
    assert 0 < len(conv.weight.plans) <= masked_conv.REMEMBERED
    conv.weight.set_mask(np.random.default_rng(5).random(conv.weight.shape) >= 0.7)
    assert not conv.weight.plans
    expected = conv2d(x, ms.tensor(conv.weight.data), ms.tensor(conv.bias.data), padding=1)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


@numba
def test_which_way_is_taken():
    x = ms.randn(16, 4, 6, 6)
    dense, sparse = layer(0.1), layer(0.6)
    dense(x), sparse(x)
    assert not dense.weight.plans and sparse.weight.plans
