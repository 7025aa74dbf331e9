"""Every kernel against its NumPy reference, over the shapes that hurt."""
import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")
from minisparse.kernels import activation, augment, conv, norm, pooling, reference  # noqa: E402

DTYPES = np.float32, np.float64
INNER = "_inside", "reflect", "mix", "_exp", "_normal", "gelu_of"       # functions that kernels call

# (C, H, W, N), (kh, kw, sy, sx, py, px, dy, dx), output size where it does not follow from symmetric padding
GEOMETRIES = {
    "3x3": ((3, 5, 4, 2), (3, 3, 1, 1, 1, 1, 1, 1), None),
    "1x1": ((2, 3, 4, 5), (1, 1, 1, 1, 0, 0, 1, 1), None),
    "one pixel": ((1, 1, 1, 1), (3, 3, 1, 1, 1, 1, 1, 1), None),
    "one pixel out": ((2, 3, 5, 3), (3, 5, 1, 1, 0, 0, 1, 1), None),
    "1x1, stride 2": ((2, 5, 6, 3), (1, 1, 2, 2, 0, 0, 1, 1), None),
    "stride > kernel": ((2, 9, 11, 3), (2, 1, 3, 4, 1, 0, 1, 1), None),
    "even kernel, same": ((2, 4, 5, 3), (2, 4, 1, 1, 0, 1, 1, 1), (4, 5)),
    "last window hangs over": ((2, 6, 7, 3), (3, 3, 2, 3, 1, 0, 1, 1), (4, 3)),
    "dilation": ((1, 9, 8, 2), (3, 2, 1, 2, 2, 1, 3, 4), None),
    "rows of padding": ((1, 2, 3, 4), (3, 2, 1, 1, 4, 3, 1, 1), None),
    "every tap outside": ((1, 1, 1, 3), (2, 2, 1, 1, 1, 1, 2, 2), None),
    "odd batch": ((3, 6, 6, 17), (3, 3, 2, 2, 1, 1, 1, 1), None),
    "batch 1": ((3, 6, 7, 1), (5, 3, 1, 2, 2, 1, 1, 1), None),
}
geometries = pytest.mark.parametrize("case", GEOMETRIES)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def geometry_of(case):
    shape, (kh, kw, sy, sx, py, px, dy, dx), out = GEOMETRIES[case]
    ho, wo = out or ((shape[1] + 2 * py - dy * (kh - 1) - 1) // sy + 1,
                     (shape[2] + 2 * px - dx * (kw - 1) - 1) // sx + 1)
    return shape, (kh, kw, sy, sx, py, px, dy, dx, ho, wo)


def ranges(geometry):
    """Ranges of output pixels: all, none, and such as begin and end within rows."""
    ho, wo = geometry[-2:]
    edges = sorted({min(max(p, 0), ho * wo) for p in (0, 1, wo - 1, wo, wo + wo // 2, ho * wo - 1, ho * wo)})
    return itertools.combinations_with_replacement(edges, 2)


@geometries
@dtypes
def test_im2col(case, dtype):
    shape, geometry = geometry_of(case)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    x[0, 0, 0, 0] = np.nan
    rows = shape[0] * geometry[0] * geometry[1]
    for first, last in ranges(geometry):
        found, expected = np.full((2, rows, (last - first) * shape[3]), 7, dtype)
        conv.im2col(x, geometry, first, last, found)
        reference.im2col(x, geometry, first, last, expected)
        np.testing.assert_array_equal(found, expected)


@geometries
@dtypes
def test_col2im_is_the_reference_and_the_transpose_of_im2col(case, dtype):
    shape, geometry = geometry_of(case)
    rng = np.random.default_rng(0)
    start = rng.standard_normal((shape[0] + 1, *shape[1:])).astype(dtype)
    rows = shape[0] * geometry[0] * geometry[1]
    for first, last in ranges(geometry):
        columns = rng.standard_normal((rows, (last - first) * shape[3])).astype(dtype)
        found, expected = start.copy(), start.copy()
        conv.col2im(columns, geometry, first, last, found[1:])      # into the channels that a worker owns
        reference.col2im(columns, geometry, first, last, expected[1:])
        np.testing.assert_array_equal(found, expected)
        image, seen = rng.standard_normal(shape).astype(dtype), np.empty_like(columns)
        conv.im2col(image, geometry, first, last, seen)
        added = (found[1:].astype(float) - start[1:])
        np.testing.assert_allclose(np.vdot(added, image), np.vdot(columns, seen), rtol=0,
                                   atol=1e2 * np.finfo(dtype).eps * columns.size ** 0.5)


def pool_input(shape, dtype):
    """Few different numbers, so that most windows have ties; some NaN; and a corner of minus infinity."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 3, shape).astype(dtype)
    x[rng.random(shape) < 0.1] = np.nan
    x[:, :3, :3, ::2] = -np.inf
    return x


@pytest.mark.parametrize("case", [*GEOMETRIES, "17x17"])
@dtypes
def test_max_pool(case, dtype):
    if case == "17x17":     # more taps than a byte can number
        (shape, geometry), index = ((2, 18, 17, 2), (17, 17, 1, 1, 8, 8, 1, 1, 18, 17)), np.int32
        if dtype == np.float64:
            pytest.skip("the same code")
    else:
        (shape, geometry), index = geometry_of(case), np.uint8
    x, size = pool_input(shape, dtype), (shape[0], *geometry[-2:], shape[3])
    out, expected = np.full((2, *size), 7, dtype)
    taps, expected_taps = np.full((2, *size), 99, index)
    pooling.max_pool(x, geometry, out, taps)
    reference.max_pool(x, geometry, expected, expected_taps)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(taps, expected_taps)

    g = np.random.default_rng(2).integers(-9, 9, size).astype(dtype)     # whole numbers: sums are exact
    gx, expected_gx = np.full((2, *shape), 7, dtype)
    pooling.max_pool_grad(g, taps, geometry, gx)
    reference.max_pool_grad(g, taps, geometry, expected_gx)
    np.testing.assert_array_equal(gx, expected_gx)
    if case not in ("every tap outside", "rows of padding"):
        assert gx.sum() == g.sum()


def test_max_pool_chooses_the_first_of_equals_and_of_nans():
    nan, inf = np.nan, np.inf
    rows = [([1, 3, 3], 3, 1), ([nan, 5, nan], nan, 0), ([5, nan, nan], nan, 1), ([inf, nan, inf], nan, 1),
            ([-inf, -inf, -inf], -inf, 0)]
    x = np.array([row for row, *_ in rows], np.float32).T.reshape(1, 1, 3, -1)
    for kernels in pooling, reference:
        out, taps = np.empty((1, 1, 1, len(rows)), np.float32), np.empty((1, 1, 1, len(rows)), np.uint8)
        kernels.max_pool(x, (1, 3, 1, 1, 0, 0, 1, 1, 1, 1), out, taps)
        np.testing.assert_array_equal(out.ravel(), [value for _, value, _ in rows])
        np.testing.assert_array_equal(taps.ravel(), [tap for *_, tap in rows])


# around the length of a summed run, and a row of one number
SHAPES = [(1, 1), (3, 7), (0, 5), (2, norm.BLOCK - 1), (2, norm.BLOCK), (1, norm.BLOCK + 1),
          (2, 2 * norm.BLOCK + 33)]


def results(kernels, name, inputs, outputs, shape, dtype):
    """What the kernel `name` writes into its outputs, of which there are `outputs` of `shape`."""
    out = [np.full(shape, np.nan, dtype) for _ in range(outputs)]
    getattr(kernels, name)(*inputs, *out)
    return out


@pytest.mark.parametrize("shape", SHAPES)
@dtypes
def test_norm_kernels(shape, dtype):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    x += dtype(3)
    a, b, c = rng.standard_normal((3, shape[0])).astype(dtype)
    # runs of `run` numbers are summed in the array's precision, each addition rounding what stands so far
    eps, count, run = np.finfo(dtype).eps, shape[1], min(shape[1], norm.BLOCK)
    for name, inputs, outputs, size, tolerance in [
            ("moments", (x,), 2, shape[:1], 4 * eps * run ** 0.5),
            ("gradient_sums", (g, x, a), 2, shape[:1], 4 * eps * (count * run) ** 0.5),
            ("scale_shift", (x, a, b), 1, shape, 4 * eps),
            ("combine", (g, x, a, b, c), 1, shape, 4 * eps)]:
        found, expected = (results(k, name, inputs, outputs, size, dtype) for k in (norm, reference))
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=4 * eps, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES[1:])
@dtypes
def test_both_passes_of_batch_norm(shape, dtype):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    weight, bias, mean, inverse = (1 + rng.random((4, shape[0]))).astype(dtype)
    eps, run = np.finfo(dtype).eps, min(shape[1], norm.BLOCK)
    for name, inputs in [("normalize", (x, weight, bias, dtype(0.1))),
                         ("normalize_grad", (g, x, mean, weight * inverse, inverse))]:
        outcomes = []
        for kernels in norm, reference:
            out = [np.full(size, np.nan, dtype) for size in (shape[0], shape[0], shape)]
            getattr(kernels, name)(*inputs, *out)
            outcomes.append(out)
        for found, expected, count in zip(*outcomes, (shape[1], shape[1], 1)):
            sums = count if name == "normalize_grad" else 1
            np.testing.assert_allclose(found, expected, rtol=4 * eps, atol=32 * eps * (sums * run) ** 0.5, err_msg=name)


def test_moments_of_numbers_far_from_zero():
    x = (np.random.default_rng(0).standard_normal((2, 50_000)) + 1000).astype(np.float32)
    for kernels in norm, reference:
        mean, variance = results(kernels, "moments", (x,), 2, 2, np.float32)
        np.testing.assert_allclose(mean, x.astype(float).mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(variance, x.astype(float).var(axis=1), rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 37, 4001])
def test_gelu_kernels(count):
    x = np.linspace(-14, 14, count, dtype=np.float32)
    g = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    for name, inputs in ("gelu", (x,)), ("gelu_grad", (x, g)):
        (found,) = results(activation, name, inputs, 1, count, np.float32)
        (expected,) = results(reference, name, inputs, 1, count, np.float32)
        (exact,) = results(reference, name, [a.astype(float) for a in inputs], 1, count, np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=3e-7)
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)


def test_gelu_kernels_of_numbers_that_are_none():
    x = np.array([0, np.nan, np.inf, -100, 1e15, -1e-30], np.float32)
    for kernels in activation, reference:
        (y,) = results(kernels, "gelu", (x,), 1, x.shape, np.float32)
        np.testing.assert_allclose(y, [0, np.nan, np.inf, 0, 1e15, -5e-31], rtol=1e-6, atol=1e-35)
        (y,) = results(kernels, "gelu_grad", (x[[0, 1, 3, 4]], np.ones(4, np.float32)), 1, 4, np.float32)
        np.testing.assert_allclose(y, [0.5, np.nan, 0, 1], rtol=1e-6, atol=1e-35)


def test_each_kernel_has_a_twin_of_the_same_signature():
    for module in activation, augment, conv, norm, pooling:
        for name, kernel in vars(module).items():
            plain = getattr(kernel, "py_func", kernel)
            if inspect.isfunction(plain) and plain.__module__ == module.__name__ and name not in INNER:
                twin = getattr(reference, name)
                assert inspect.signature(plain) == inspect.signature(twin), name


@pytest.mark.parametrize("without", ["import os; os.environ['NUMBA_DISABLE_JIT'] = '1'",
                                     "import sys; sys.modules['numba'] = None"])
def test_without_numba_everything_runs_with_one_warning(without):
    program = without + """
import warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from minisparse import conv, normalization
    from minisparse.tensor import Tensor
    x = Tensor(np.ones((2, 3, 4, 4), np.float32), requires_grad=True)
    y = conv.conv2d(x, Tensor(np.ones((5, 3, 3, 3), np.float32)))
    y = conv.max_pool2d(normalization.batch_norm(y, None, None), 2)
    y.backward(np.ones_like(y.data))
(warning,) = caught
assert warning.category == RuntimeWarning and "reference kernels" in str(warning.message)
assert x.grad.shape == x.shape
"""
    subprocess.run([sys.executable, "-c", program], check=True)
