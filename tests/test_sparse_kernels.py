"""Sparse kernels against their NumPy reference, the dense convolution and torch, over the shapes that hurt."""
import inspect

import numpy as np
import pytest

pytest.importorskip("numba")
from minisparse.kernels import csr, dense_conv, pool, reference, sparse_conv  # noqa: E402

DTYPES = np.float32, np.float64
dtypes = pytest.mark.parametrize("dtype", DTYPES)

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


def convolution(case, kept, dtype=np.float32):
    """x (C, H, W, N), weight, bias, geometry, groups."""
    (n, c, h, w), shape, stride, padding, dilation, groups, out = CASES[case]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape) * KEPT[kept](rng, shape)
    size = out or tuple((side + 2 * p - d * (k - 1) - 1) // s + 1
                        for side, k, s, p, d in zip((h, w), shape[2:], stride, padding, dilation))
    return (rng.standard_normal((c, h, w, n)).astype(dtype), weight.astype(dtype),
            rng.standard_normal(shape[0]).astype(dtype), (*shape[2:], *stride, *padding, *dilation, *size), groups)


# (rows, runs, length of a run, numbers of x), nonzeros of each row; lengths around the tile
PRODUCTS = {
    "one of each": ((1, 1, 1, 1), [1]),
    "nothing kept": ((3, 2, 5, 9), [0, 0, 0]),
    "empty rows": ((5, 3, 7, 40), [0, 3, 0, 9, 0]),
    "eight at a time": ((4, 2, csr.TILE, 3000), [8, 16, 24, 0]),
    "eight and a remainder": ((6, 2, csr.TILE - 1, 3000), [7, 9, 15, 17, 1, 8]),
    "one more than a tile": ((2, 2, csr.TILE + 1, 3000), [11, 5]),
    "tiles and a remainder": ((2, 1, 2 * csr.TILE + 33, 4000), [20, 3]),
    "a run as long as x": ((2, 1, 30, 30), [4, 0]),
    "no runs": ((2, 0, 4, 10), [1, 2]),
}


@pytest.mark.parametrize("case", PRODUCTS)
@dtypes
def test_gather_rows(case, dtype):
    (rows, runs, length, size), nonzeros = PRODUCTS[case]
    rng = np.random.default_rng(0)
    indptr = np.cumsum([0, *nonzeros])
    starts = rng.integers(0, (size - length) // 2 + 1, runs)
    offset = rng.integers(0, (size - length) - starts.max(initial=0) + 1, indptr[-1])
    if len(offset):
        offset[-1] = size - length - starts.max(initial=0)      # up to the last number of x
    value, x = rng.standard_normal(indptr[-1]).astype(dtype), rng.standard_normal(size).astype(dtype)
    start = rng.standard_normal((rows, runs, length)).astype(dtype)
    found, expected, exact = start.copy(), start.copy(), start.astype(np.longdouble)
    csr.gather_rows(indptr, offset, value, x, starts, found)
    reference.gather_rows(indptr, offset, value, x, starts, expected)
    for o in range(rows):
        for k in range(indptr[o], indptr[o + 1]):
            for r in range(runs):
                at = starts[r] + offset[k]
                exact[o, r] += np.longdouble(value[k]) * x[at:at + length]
    tolerance = {"rtol": 0, "atol": 8 * np.finfo(dtype).eps * max([1, *nonzeros]) ** .5}
    np.testing.assert_allclose(found, exact, **tolerance)
    np.testing.assert_allclose(expected, exact, **tolerance)


def test_gather_rows_into_a_part_of_a_larger_array():
    rng = np.random.default_rng(0)
    x, value = rng.standard_normal(50), rng.standard_normal(3)
    indptr, offset, starts = np.array([0, 2, 3]), np.array([0, 30, 7]), np.array([1, 9])
    for kernels in csr, reference:
        out = np.zeros((4, 5, 20))
        kernels.gather_rows(indptr, offset, value, x, starts, out[1:3, 1:5:2, 4:14])
        expected = np.zeros_like(out)
        for r in range(2):
            at = starts[r]
            expected[1, 1 + 2 * r, 4:14] = value[0] * x[at:at + 10] + value[1] * x[at + 30:at + 40]
            expected[2, 1 + 2 * r, 4:14] = value[2] * x[at + 7:at + 17]
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-14)


def test_what_is_pruned_does_not_see_nan():
    """A zero weight is left out: it does not turn an infinite input into NaN; a kept weight hands NaN on."""
    x = np.array([np.nan, np.inf, 2], np.float32)
    taps = sparse_conv.taps(np.array([[0, 0, 3], [0, 1, 0], [1, 0, 0]], np.float32)[:, :, None, None])
    found = sparse_conv.product(x[:, None], taps, np.zeros(3, np.float32))[:, 0]
    np.testing.assert_array_equal(found, [6, np.inf, np.nan])


def test_the_twin_has_the_same_signature():
    assert inspect.signature(csr.gather_rows.py_func) == inspect.signature(reference.gather_rows)


def test_taps_are_the_nonzeros_in_order():
    weight = np.zeros((4, 2, 2, 3), np.float32)
    weight[0, 1, 0, 2], weight[0, 1, 1, 0], weight[3, 0, 1, 1] = 5, -6, np.nan
    weight[2] = -0.0
    taps = sparse_conv.taps(weight, groups=2)
    assert taps.shape == (4, 2, 2, 3)
    np.testing.assert_array_equal(taps.indptr, [0, 2, 2, 2, 3])
    np.testing.assert_array_equal(taps.channel, [1, 1, 2])      # the second group begins at input channel 2
    np.testing.assert_array_equal(taps.ky, [0, 1, 1])
    np.testing.assert_array_equal(taps.kx, [2, 0, 1])
    np.testing.assert_array_equal(taps.value, [5, -6, np.nan])


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("case", CASES)
def test_sparse_is_dense_convolution(case, kept):
    for dtype in DTYPES:
        x, weight, bias, geometry, groups = convolution(case, kept, dtype)
        before = x.copy()
        found = sparse_conv.forward(x, sparse_conv.taps(weight, groups), bias, geometry)
        expected = dense_conv.forward(x, weight, bias, geometry, groups)
        assert found.flags.c_contiguous and found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=60 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("case", [case for case in CASES if "same" not in case])
def test_sparse_is_the_convolution_of_torch(case):
    torch = pytest.importorskip("torch")
    x, weight, bias, geometry, groups = convolution(case, "half", np.float64)
    found = sparse_conv.forward(x, sparse_conv.taps(weight, groups), bias, geometry)
    expected = torch.nn.functional.conv2d(torch.tensor(np.moveaxis(x, -1, 0).copy()), torch.tensor(weight),
                                          torch.tensor(bias), *(geometry[i:i + 2] for i in (2, 4, 6)), groups=groups)
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", ["3x3, batch 1", "stride 2", "groups"])
def test_without_numba_the_reference_computes_the_same(case, monkeypatch):
    x, weight, bias, geometry, groups = convolution(case, "half", np.float64)
    expected = sparse_conv.forward(x, sparse_conv.taps(weight, groups), bias, geometry)
    monkeypatch.setattr(sparse_conv, "load", lambda name: reference)
    found = sparse_conv.forward(x, sparse_conv.taps(weight, groups), bias, geometry)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (5, 7, 1), (10, 33, 17), (3, 4, csr.TILE + 3), (150, 140, 64)])
@pytest.mark.parametrize("kept", ["half", "none", "all", "last tap only"])
def test_product(m, k, n, kept):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((m, k, 1, 1)) * KEPT[kept](rng, (m, k, 1, 1))
    bias, x = rng.standard_normal(m), rng.standard_normal((k, n))
    found = sparse_conv.product(x, sparse_conv.taps(weight), bias)
    np.testing.assert_allclose(found, weight[:, :, 0, 0] @ x + bias[:, None], rtol=0, atol=1e-13)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads, monkeypatch):
    def run(parts):
        monkeypatch.setattr(sparse_conv, "parallel", lambda work, count, limit=None: [
            work(*part) for part in pool.split(count, parts)])
        return [sparse_conv.forward(x, sparse_conv.taps(weight), bias, geometry) for x, weight, bias, geometry, _
                in (convolution(case, "half") for case in ("3x3", "3x3, batch 1", "stride 2"))]
    for found, expected in zip(run(threads), run(1)):
        np.testing.assert_array_equal(found, expected)
