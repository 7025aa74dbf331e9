"""Sparse kernels against their NumPy reference, the dense convolution and torch, over the shapes that hurt."""
import inspect
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import minisparse as ms
from minisparse import nn
from minisparse.conv import conv2d
from minisparse.kernels import have_numba

if not have_numba():
    pytest.skip("compiled kernels need Numba", allow_module_level=True)
from minisparse.kernels import csr, dense_conv, direct, memory, pool, reference, sparse_conv, tile  # noqa: E402
from minisparse.kernels.sparse_conv import MaskedConv, DirectConv  # noqa: E402

# (N, C, H, W), (O, C/groups, kh, kw), (sy, sx), (py, px), (dy, dx), groups, output size of padding="same"
CASES = {
    "3x3": ((17, 3, 5, 4), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, None),
    "3x3, batch 1": ((1, 3, 5, 4), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, None),
    "3x3, rows longer than a tile": ((64, 2, 3, 11), (4, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1, None),
    "batch 1, plane larger than a tile": ((1, 2, 25, 30), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1, None),
    "1x1": ((16, 5, 3, 4), (7, 5, 1, 1), (1, 1), (0, 0), (1, 1), 1, None),
    "1x1, stride 2": ((17, 3, 5, 6), (4, 3, 1, 1), (2, 2), (0, 0), (1, 1), 1, None),
    "one pixel": ((3, 4, 1, 1), (2, 4, 3, 3), (1, 1), (1, 1), (1, 1), 1, None),
    "one pixel out": ((16, 2, 3, 5), (2, 2, 3, 5), (1, 1), (0, 0), (1, 1), 1, None),
    "stride 2": ((17, 3, 7, 6), (4, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1, None),
    "stride 3, batch 1": ((1, 3, 8, 10), (4, 3, 3, 3), (3, 3), (1, 1), (1, 1), 1, None),
    "stride (3, 2), odd padding": ((2, 2, 9, 8), (3, 2, 4, 3), (3, 2), (3, 1), (1, 1), 1, None),
    "stride > kernel": ((5, 2, 9, 11), (3, 2, 2, 1), (3, 4), (1, 0), (1, 1), 1, None),
    "stride > image": ((16, 2, 2, 2), (3, 2, 2, 2), (5, 5), (0, 0), (1, 1), 1, None),
    "rows and columns left over": ((3, 2, 9, 9), (3, 2, 2, 2), (4, 5), (0, 0), (1, 1), 1, None),
    "dilation": ((16, 2, 9, 8), (3, 2, 3, 2), (1, 1), (2, 1), (3, 4), 1, None),
    "dilation and stride": ((2, 2, 9, 12), (3, 2, 3, 3), (2, 3), (2, 3), (2, 2), 1, None),
    "groups": ((17, 6, 5, 4), (9, 2, 3, 3), (1, 1), (1, 1), (1, 1), 3, None),
    "depthwise, stride 2": ((1, 4, 5, 7), (8, 1, 3, 3), (2, 2), (1, 1), (1, 1), 4, None),
    "more padding than kernel": ((3, 1, 2, 3), (2, 1, 2, 3), (1, 1), (3, 4), (1, 1), 1, None),
    "even kernel, same": ((3, 2, 4, 5), (3, 2, 2, 4), (1, 1), (0, 1), (1, 1), 1, (4, 5)),
    "even kernel, same, batch 64": ((64, 2, 4, 5), (3, 2, 4, 2), (1, 1), (1, 0), (1, 1), 1, (4, 5)),
    "even kernel, same, dilation": ((16, 2, 7, 5), (3, 2, 2, 2), (1, 1), (1, 1), (3, 2), 1, (7, 5)),
}
# which of the weights are kept
KEPT = {
    "half": lambda rng, shape: rng.random(shape) < .5,
    "tenth": lambda rng, shape: rng.random(shape) < .1,
    "none": lambda rng, shape: np.zeros(shape, bool),
    "all": lambda rng, shape: np.ones(shape, bool),
    "last output only": lambda rng, shape: np.arange(shape[0])[:, None, None, None] + np.zeros(shape) == shape[0] - 1,
    "last tap only": lambda rng, shape: np.arange(np.prod(shape)).reshape(shape) == np.prod(shape) - 1,
}


def convolution(case, kept, more=0):
    """x (C, H, W, N + more), weight, bias, geometry, groups."""
    (n, c, h, w), shape, stride, padding, dilation, groups, out = CASES[case]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape, dtype=np.float32) * KEPT[kept](rng, shape)
    size = out or tuple((side + 2 * p - d * (k - 1) - 1) // s + 1
                        for side, k, s, p, d in zip((h, w), shape[2:], stride, padding, dilation))
    return (rng.standard_normal((c, h, w, n + more), dtype=np.float32), weight.astype(np.float32),
            rng.standard_normal(shape[0], dtype=np.float32), (*shape[2:], *stride, *padding, *dilation, *size), groups)


def convolutions(case, kept):
    """`convolution` with its batch, if there is a schedule for it, and with one that is longer than any register."""
    first, second = convolution(case, kept), convolution(case, kept, more=16)
    assert sparse_conv.fits(second[3], second[0].shape)
    return [first, second] if sparse_conv.fits(first[3], first[0].shape) else [second]


def forward(x, weight, bias, geometry, groups):
    """The convolution by a DirectConv of the nonzeros."""
    plan = DirectConv(sparse_conv.taps(weight != 0, groups), geometry, x.shape, len(weight))
    return plan.forward(plan.pad(x), weight.reshape(-1)[plan.index], bias)


@pytest.fixture
def garbage(monkeypatch):
    """Memory that nobody has written to yet is full of NaN."""
    def empty(shape, dtype=np.float32):
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 99, dtype)
    monkeypatch.setattr(memory, "empty", empty)


# --- convolution ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("case", CASES)
def test_sparse_is_dense_convolution(case, kept, garbage):
    for x, weight, bias, geometry, groups in convolutions(case, kept):
        before = x.copy()
        for b in bias, None:
            found = forward(x, weight, b, geometry, groups)
            assert found.flags.c_contiguous and found.dtype == np.float32
            np.testing.assert_allclose(found, dense_conv.forward(x, weight, b, geometry, groups), rtol=0, atol=8e-6)
        np.testing.assert_array_equal(x, before)


def check_gradients(x, weight, bias, geometry, mask):
    plan = MaskedConv(mask, geometry, x.shape)
    padded = plan.pad(x)
    np.testing.assert_array_equal(plan.unpad(padded), x)
    out = plan.forward(padded, weight, bias)
    np.testing.assert_allclose(out, dense_conv.forward(x, weight, bias, geometry, 1), rtol=0, atol=8e-6)
    g = np.random.default_rng(1).standard_normal(out.shape, dtype=np.float32)
    np.testing.assert_allclose(plan.grad_input(g, weight), dense_conv.grad_input(g, weight, x.shape, geometry, 1),
                               rtol=0, atol=1e-5)
    grad = plan.grad_weight(padded, g)
    expected = dense_conv.grad_weight(*(a.astype(np.float64) for a in (x, g)), weight.shape, geometry, 1)
    np.testing.assert_allclose(grad, expected * mask, rtol=1e-5, atol=1e-6 * g[0].size ** .5 + 1e-5)
    assert not grad[~mask].any()


@pytest.mark.parametrize("kept", ["half", "none", "all", "last output only"])
@pytest.mark.parametrize("case", [case for case, (*_, groups, _) in CASES.items() if groups == 1])
def test_gradients_are_those_of_dense_convolution(case, kept, garbage):
    for x, weight, bias, geometry, _ in convolutions(case, kept):
        check_gradients(x, weight, bias, geometry, weight != 0)


def test_where_weights_that_are_kept_are_zero():
    x, weight, bias, geometry, _ = convolution("3x3", "tenth")
    check_gradients(x, weight, bias, geometry, np.ones(weight.shape, bool))


@pytest.mark.parametrize("registers", [1, 2, 12, 16])
@pytest.mark.parametrize("case", ["3x3", "batch 1, plane larger than a tile", "3x3, rows longer than a tile",
                                  "stride 2", "even kernel, same, batch 64"])
def test_processors_with_other_numbers_of_registers(case, registers, monkeypatch):
    monkeypatch.setattr(tile, "REGISTERS", registers)
    for x, weight, bias, geometry, groups in convolutions(case, "half"):
        expected = dense_conv.forward(x, weight, bias, geometry, groups)
        np.testing.assert_allclose(forward(x, weight, bias, geometry, groups), expected, rtol=0, atol=8e-6)
        if groups == 1:
            plan = MaskedConv(weight != 0, geometry, x.shape)
            assert len(plan.direct.tile) <= registers
            check_gradients(x, weight, bias, geometry, weight != 0)


def test_a_processor_with_narrow_registers():
    program = ("import test_sparse_kernels as t\n"
               "assert t.tile.LANES == 4, t.tile.LANES\n"
               "for case in '3x3, batch 1', 'stride 2':\n"
               "    for x, weight, bias, geometry, groups in t.convolutions(case, 'half'):\n"
               "        expected = t.dense_conv.forward(x, weight, bias, geometry, groups)\n"
               "        found = t.forward(x, weight, bias, geometry, groups)\n"
               "        t.np.testing.assert_allclose(found, expected, rtol=0, atol=8e-6)\n"
               "        t.check_gradients(x, weight, bias, geometry, weight != 0)\n")
    here = pathlib.Path(__file__).parent
    environment = dict(os.environ, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="",
                       PYTHONPATH=os.pathsep.join([str(here), *sys.path]))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("case", CASES)
def test_no_tap_reads_outside_of_the_padded_copy(case):
    for x, weight, _, geometry, groups in convolutions(case, "all"):
        plan = DirectConv(sparse_conv.taps(weight != 0, groups), geometry, x.shape, len(weight))
        last = plan.offset.max() + (plan.runs - 1) * plan.step + plan.length
        assert plan.offset.min() >= 0 and last <= plan.pad(x).size
        # of its plane, too: what lies in the next one is finite only if that image is
        beyond = plan.offset % plan.plane + (plan.runs - 1) * plan.step + plan.length
        assert beyond.max() <= plan.plane


@pytest.mark.parametrize("case", [case for case in CASES if "same" not in case])
def test_sparse_is_the_convolution_of_torch(case):
    torch = pytest.importorskip("torch")
    for x, weight, bias, geometry, groups in convolutions(case, "half"):
        images, w, b = (torch.tensor(a.astype(np.float64)) for a in (np.moveaxis(x, -1, 0), weight, bias))
        expected = torch.nn.functional.conv2d(images, w, b, *(geometry[i:i + 2] for i in (2, 4, 6)), groups=groups)
        found = forward(x, weight, bias, geometry, groups)
        np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected.numpy(), rtol=0, atol=8e-6)


@pytest.mark.parametrize("case", ["3x3, batch 1", "stride 2", "groups", "dilation"])
@pytest.mark.parametrize("registers", [1, 2, 16])
def test_direct_kernels_are_their_reference(case, registers):
    for x, weight, bias, geometry, groups in convolutions(case, "half"):
        plan = DirectConv(sparse_conv.taps(weight != 0, groups), geometry, x.shape, len(weight))
        tiles = (0,) * min(registers, len(plan.tile))       # shorter tiles than the schedule's are right as well
        padded, value = plan.pad(x), weight.reshape(-1)[plan.index]
        twin = np.full((len(x), plan.plane), np.nan, np.float32)
        reference.pad(x, *geometry[4:6], plan.wp // geometry[3], geometry[3], twin)
        np.testing.assert_array_equal(padded, twin.ravel())
        g = np.random.default_rng(1).standard_normal((len(weight), plan.runs, plan.length), dtype=np.float32)
        results = []
        for kernels in direct, reference:
            out, grad = np.full_like(g, np.nan), np.zeros_like(value)
            part = np.empty((len(weight), len(tiles) * tile.LANES), np.float32)
            for first, last in (0, 1), (1, len(weight)):
                kernels.convolve(tiles, padded, plan.segments, plan.offset, value, bias, plan.step, first, last, part,
                                 out)
                kernels.convolve_grad_weight(tiles, padded, plan.segments, plan.offset, g, plan.step, first, last, part,
                                             grad)
            results.append((out, grad))
        np.testing.assert_allclose(*(out for out, _ in results), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(*(grad for _, grad in results), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernels, name", [(csr, "multiply_matrix"), (csr, "multiply_vector"), (direct, "pad"), (direct, "convolve"),
                                           (direct, "convolve_grad_weight")])
def test_the_twin_has_the_same_signature(kernels, name):
    assert inspect.signature(getattr(kernels, name).py_func) == inspect.signature(getattr(reference, name))


def test_what_is_pruned_does_not_see_nan():
    """A zero weight is left out: it does not turn an infinite input into NaN; a kept weight hands NaN on."""
    x = np.array([np.nan, np.inf, 2], np.float32)
    weight = np.array([[0, 0, 3], [0, 1, 0], [1, 0, 0]], np.float32)[:, :, None, None]
    for batch in 1, 16:
        images = np.repeat(x, batch).reshape(3, 1, 1, batch)
        found = forward(images, weight, np.zeros(3, np.float32), (1, 1, 1, 1, 0, 0, 1, 1, 1, 1), 1)
        np.testing.assert_array_equal(found[:, 0, 0].T, [[6, np.inf, np.nan]] * batch)


def test_taps_are_the_kept_weights_in_order():
    kept = np.zeros((4, 2, 2, 3), bool)
    kept[0, 1, 0, 2] = kept[0, 1, 1, 0] = kept[3, 0, 1, 1] = True
    taps = sparse_conv.taps(kept, groups=2)
    np.testing.assert_array_equal(taps.index, np.flatnonzero(kept))
    np.testing.assert_array_equal(taps.output, [0, 0, 3])
    np.testing.assert_array_equal(taps.channel, [1, 1, 2])      # the second group begins at input channel 2
    np.testing.assert_array_equal(taps.ky, [0, 1, 1])
    np.testing.assert_array_equal(taps.kx, [2, 0, 1])


def test_threads_share_the_nonzeros_not_the_outputs():
    kept = np.zeros((64, 8, 3, 3), bool)
    kept[40:] = True
    plan = DirectConv(sparse_conv.taps(kept), (3, 3, 1, 1, 1, 1, 1, 1, 8, 8), (8, 8, 8, 16), 64)
    (_, half), _ = pool.split(64, 2, plan.costs)
    assert 50 <= half <= 52


def test_the_order_of_a_schedule():
    """Sorted by block of input channels, then by output; every nonzero once, in the segment of its output."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((6, 70, 3, 3)) < .3, rng.standard_normal((6, 70, 3, 3)), 0)
    plan = DirectConv(sparse_conv.taps(weight != 0), (3, 3, 1, 1, 1, 1, 1, 1, 8, 8), (70, 8, 8, 64), 6)
    np.testing.assert_array_equal(np.sort(plan.index), np.flatnonzero(weight))
    assert plan.segments[0] == 0 and plan.segments[-1] == len(plan.index)
    output, channel = plan.index // (70 * 9), plan.index // 9 % 70
    np.testing.assert_array_equal(np.repeat(np.arange(len(plan.segments) - 1) % 6, np.diff(plan.segments)), output)
    np.testing.assert_array_equal(plan.offset // plan.plane, channel)
    blocks = [channel[first:last] for first, last in zip(plan.segments[:-1:6], plan.segments[6::6])]
    assert len(blocks) > 1 and sum(map(len, blocks)) == len(channel)
    for block, following in zip(blocks, blocks[1:]):
        assert block.max() < following.min()


def test_what_fits():
    geometry = (3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
    assert sparse_conv.fits(geometry, (2, 1, 1, 1)) and not sparse_conv.fits(geometry, (2, 1, 1, 1), np.float64)
    strided = (3, 3, 2, 2, 1, 1, 1, 1, 2, 1)
    assert sparse_conv.fits(strided, (2, 3, 1, tile.LANES)) and not sparse_conv.fits(strided, (2, 3, 1, tile.LANES - 1))


def test_without_numba_nothing_fits_and_the_reference_computes_the_same(monkeypatch):
    for case in "3x3, batch 1", "stride 2", "groups":
        for arguments in convolutions(case, "half"):
            expected = forward(*arguments)
            with monkeypatch.context() as context:
                context.setattr(sparse_conv, "load", lambda name: reference)
                np.testing.assert_allclose(forward(*arguments), expected, rtol=0, atol=8e-6)
    monkeypatch.setattr(sparse_conv, "have_numba", lambda: False)
    assert not sparse_conv.fits((3, 3, 1, 1, 1, 1, 1, 1, 4, 4), (2, 4, 4, 16))
    conv = layer(0.6)
    conv(ms.randn(16, 4, 6, 6))
    assert not conv.weight.plans


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (5, 7, 1), (10, 33, 17), (3, 4, 300), (150, 140, 64)])
@pytest.mark.parametrize("kept", ["half", "none", "all", "last tap only"])
def test_a_matrix_product_is_a_convolution_of_one_pixel(m, k, n, kept):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((m, k, 1, 1)) * KEPT[kept](rng, (m, k, 1, 1))).astype(np.float32)
    bias, x = rng.standard_normal(m, dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    found = forward(x[:, None, None], weight, bias, (1, 1, 1, 1, 0, 0, 1, 1, 1, 1), 1)[:, 0, 0]
    np.testing.assert_allclose(found, weight[:, :, 0, 0].astype(np.float64) @ x + bias[:, None], rtol=0, atol=2e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads, monkeypatch):
    def run(parts):
        monkeypatch.setattr(sparse_conv, "parallel", lambda work, count, limit=None, costs=None: [
            work(*part) for part in pool.split(count, parts, costs)])
        out = []
        for case in "3x3", "3x3, batch 1", "stride 2":
            for x, weight, bias, geometry, groups in convolutions(case, "half"):
                out.append(forward(x, weight, bias, geometry, groups))
                plan = MaskedConv(weight != 0, geometry, x.shape)
                out += [plan.grad_weight(plan.pad(x), out[-1]), plan.grad_input(out[-1], weight)]
        return out
    for found, expected in zip(run(threads), run(1)):
        np.testing.assert_array_equal(found, expected)


# --- products ---------------------------------------------------------------------------------------------
# (rows, columns of the result, rows of x), nonzeros of each row; widths around the tile
PRODUCTS = {
    "one of each": ((1, 1, 1), [1]),
    "nothing kept": ((3, 5, 9), [0, 0, 0]),
    "empty rows": ((5, 7, 40), [0, 3, 0, 9, 0]),
    "eight at a time": ((4, csr.TILE, 30), [8, 16, 24, 0]),
    "eight and a remainder": ((6, csr.TILE - 1, 30), [7, 9, 15, 17, 1, 8]),
    "one more than a tile": ((2, csr.TILE + 1, 30), [11, 5]),
    "tiles and a remainder": ((2, 2 * csr.TILE + 33, 20), [20, 3]),
    "no columns": ((2, 0, 10), [1, 2]),
}


@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_multiply_matrix(case, dtype):
    (rows, width, height), nonzeros = PRODUCTS[case]
    rng = np.random.default_rng(0)
    indptr = np.cumsum([0, *nonzeros])
    column = rng.integers(0, height, indptr[-1])
    column[-1:] = height - 1        # up to the last number of x
    value, x = rng.standard_normal(indptr[-1]).astype(dtype), rng.standard_normal((height, width)).astype(dtype)
    start = rng.standard_normal((rows, width)).astype(dtype)
    found, expected, exact = start.copy(), start.copy(), start.astype(np.longdouble)
    csr.multiply_matrix(indptr, column, value, x, found)
    reference.multiply_matrix(indptr, column, value, x, expected)
    for o in range(rows):
        for k in range(indptr[o], indptr[o + 1]):
            exact[o] += np.longdouble(value[k]) * x[column[k]]
    tolerance = {"rtol": 0, "atol": 8 * np.finfo(dtype).eps * max([1, *nonzeros]) ** .5}
    np.testing.assert_allclose(found, exact, **tolerance)
    np.testing.assert_allclose(expected, exact, **tolerance)


# --- the operator under a mask ------------------------------------------------------------------------------
def layer(sparsity):
    ms.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1)
    conv.weight.set_mask(np.random.default_rng(0).random(conv.weight.shape) >= sparsity)
    return conv


@pytest.mark.parametrize("dense_grad", [False, True])
@pytest.mark.parametrize("batch", [5, 16])
def test_the_operator_under_a_mask(dense_grad, batch):
    x = np.random.default_rng(3).standard_normal((batch, 4, 6, 6)).astype(np.float32)
    conv = layer(0.6)
    conv.weight.keep_dense_grad = dense_grad
    outcomes = []
    for weight in conv.weight, ms.tensor(conv.weight.data, requires_grad=True):
        images = ms.tensor(x, requires_grad=True)
        y = conv2d(images, weight, conv.bias, padding=1)
        (y * y).sum().backward()
        outcomes.append((y.detach().numpy(), images.grad.numpy(), weight.grad.numpy()))
    assert conv.weight.plans
    (y, gx, gw), (y2, gx2, gw2) = outcomes
    np.testing.assert_allclose(y, y2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gx, gx2, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gw, gw2 * conv.weight.mask, rtol=1e-4, atol=1e-2)
    if dense_grad:
        np.testing.assert_allclose(conv.weight.dense_grad, gw2, rtol=1e-4, atol=1e-2)


def test_a_new_mask_means_new_plans():
    conv = layer(0.6)
    x = ms.randn(16, 4, 6, 6)
    for size in 16, 32, 48, 64, 80, 16:
        conv(ms.randn(size, 4, 6, 6))
    assert 0 < len(conv.weight.plans) <= sparse_conv.REMEMBERED
    conv.weight.set_mask(np.random.default_rng(5).random(conv.weight.shape) >= 0.7)
    assert not conv.weight.plans
    expected = conv2d(x, ms.tensor(conv.weight.data), ms.tensor(conv.bias.data), padding=1)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_which_way_is_taken():
    x = ms.randn(16, 4, 6, 6)
    dense, sparse = layer(0.1), layer(0.6)
    dense(x), sparse(x)
    assert not dense.weight.plans and sparse.weight.plans
    batch_1 = layer(0.6)
    batch_1(x[:1, :, :, :2])
    assert not batch_1.weight.plans     # padding would outweigh the pixels


def test_plans_are_few():
    plans, made = {}, []
    for key in *range(6), 5, 2, 0:
        sparse_conv.remembered(plans, key, lambda: made.append(key) or f"plan of {key}")
        assert len(plans) <= sparse_conv.REMEMBERED and plans[key] == f"plan of {key}"
    assert made == [0, 1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("dense_grad", [False, True])
@pytest.mark.parametrize("batch, sparsity, taken", [((13, 16), 0.9, True), ((128,), 0.6, False), ((200,), 0.9, True),
                                                    ((8,), 0.99, False)])
def test_a_fully_connected_layer_under_a_mask(batch, sparsity, taken, dense_grad):
    rng = np.random.default_rng(0)
    ms.manual_seed(0)
    linear = nn.Linear(40, 20)
    linear.weight.set_mask(rng.random((20, 40)) >= sparsity)
    linear.weight.keep_dense_grad = dense_grad
    x, mask = rng.standard_normal((*batch, 40), dtype=np.float32), linear.weight.mask
    images = ms.tensor(x, requires_grad=True)
    y = linear(images)
    (y * y).sum().backward()
    assert bool(linear.weight.plans) == taken
    expected = x @ linear.weight.data.T + linear.bias.data
    rows, g = x.reshape(-1, 40), 2 * expected.reshape(-1, 20)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(images.grad.numpy(), 2 * expected @ linear.weight.data, rtol=0, atol=5e-6)
    np.testing.assert_allclose(linear.weight.grad.numpy(), g.T @ rows * mask, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(linear.bias.grad.numpy(), g.sum(axis=0), rtol=1e-5, atol=1e-4)
    if dense_grad:
        np.testing.assert_allclose(linear.weight.dense_grad, g.T @ rows, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dense_grad", [False, True])
def test_a_masked_layer_of_stride_2(dense_grad):
    rng = np.random.default_rng(0)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    conv.weight.set_mask(rng.random(conv.weight.shape) >= 0.6)
    conv.weight.keep_dense_grad = dense_grad
    outcomes = []
    x = rng.standard_normal((16, 4, 7, 6), dtype=np.float32)
    for weight in conv.weight, ms.tensor(conv.weight.data, requires_grad=True):
        images = ms.tensor(x, requires_grad=True)
        y = conv2d(images, weight, conv.bias, stride=2, padding=1)
        (y * y).sum().backward()
        outcomes.append((y.detach().numpy(), images.grad.numpy(), weight.grad.numpy() * conv.weight.mask))
    assert conv.weight.plans
    for found, expected in zip(*outcomes):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
