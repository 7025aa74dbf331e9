"""COO and CSR tensors: places, products and gradients against NumPy, finite differences, scipy and torch."""
import copy
import inspect
import subprocess
import sys

import numpy as np
import pytest

import minisparse as ms
from gradcheck import check
from minisparse.kernels import csr_product, reference
from minisparse.sparse.formats import from_scipy, to_scipy

FORMS = "to_sparse", "to_sparse_csr"
forms = pytest.mark.parametrize("form", FORMS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def matrix(rows, columns, density=0.4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)).astype(dtype)


def same(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a.detach().numpy() if isinstance(a, ms.Tensor) else a, b, tolerance, tolerance)


# --- places and values ------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5,), (3, 4), (1, 1), (0, 3), (3, 0), (2, 3, 4), (2, 1, 3, 2)])
def test_dense_to_coo_and_back(shape):
    x = np.random.default_rng(1).integers(-1, 2, shape)
    s = ms.tensor(x).to_sparse()
    assert s.is_coalesced() and s.shape == s.size() == shape and s.dtype == x.dtype
    assert s.layout == ms.sparse_coo
    np.testing.assert_array_equal(s.indices(), np.argwhere(x).T)
    np.testing.assert_array_equal(s.values(), x[x != 0])
    np.testing.assert_array_equal(s.to_dense(), x)
    assert s._nnz() == np.count_nonzero(x) and s.ndim == len(shape) and s.size(-1) == shape[-1]


def test_dense_to_csr_and_back():
    x = ms.tensor([[0, 0, 3], [0, 0, 0], [4, 5, 0]])
    s = x.to_sparse_csr()
    assert s.layout == ms.sparse_csr
    assert s.crow_indices().tolist() == [0, 1, 1, 3]
    assert s.col_indices().tolist() == [2, 0, 1]
    assert s.values().tolist() == [3, 4, 5]
    assert ms.equal(s.to_dense(), x) and ms.equal(s.to_sparse_coo().to_dense(), x)
    assert ms.equal(ms.sparse_csr_tensor(s.crow_indices(), s.col_indices(), s.values(), (3, 3)).to_dense(), x)


def test_coalesce_sorts_and_sums():
    s = ms.sparse_coo_tensor([[1, 0, 1, 0, 1], [2, 1, 0, 1, 2]], [1., 2., 3., 4., 5.], (2, 3))
    assert not s.is_coalesced() and s._nnz() == 5
    for read in s.indices, s.values:
        with pytest.raises(RuntimeError, match="coalesce"):
            read()
    c = s.coalesce()
    assert c.is_coalesced() and c.coalesce() is c
    assert c.indices().tolist() == [[0, 1, 1], [1, 0, 2]] and c.values().tolist() == [6, 3, 6]
    assert c.to_dense().tolist() == s.to_dense().tolist() == [[0, 6, 0], [3, 0, 6]]
    assert s.to_sparse_csr().values().tolist() == [6, 3, 6]


def test_coalesce_keeps_the_dtype_and_takes_no_values():
    for dtype in np.int8, np.float64, np.bool_:
        s = ms.sparse_coo_tensor([[1, 1]], np.ones(2, dtype)).coalesce()
        assert s.dtype == dtype and s.values().tolist() == [np.ones(2, dtype).sum(dtype=dtype)]
    assert ms.sparse_coo_tensor([[], []], []).coalesce().shape == (0, 0)


def test_indices_of_a_huge_shape_do_not_overflow():
    n = 1 << 30
    s = ms.sparse_coo_tensor([[n, 0, n], [n - 1, n, n - 1]], [1., 2., 3.]).coalesce()
    assert s.shape == (n + 1, n + 1)
    assert s.indices().tolist() == [[0, n], [n, n - 1]] and s.values().tolist() == [2, 4]


def test_the_size_is_the_smallest_if_not_given():
    assert ms.sparse_coo_tensor([[0, 4], [2, 1]], [1., 2.]).shape == (5, 3)
    assert ms.sparse_csr_tensor([0, 1, 1], [6], [1.]).shape == (2, 7)


def test_indices_are_copied_and_read_only():
    indices, crow = np.array([[0, 1]]), np.array([0, 1])
    s, c = ms.sparse_coo_tensor(indices, [1., 2.]).coalesce(), ms.sparse_csr_tensor(crow, [0], [1.])
    indices[:] = crow[:] = 99
    assert s.indices().tolist() == [[0, 1]] and c.crow_indices().tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        c.crow_indices().data[0] = 5


@pytest.mark.parametrize("dim0, dim1", [(0, 1), (1, 0), (-1, 0), (1, -1), (0, -2)])
def test_transpose(dim0, dim1):
    x = ms.tensor(matrix(3, 5))
    for form in FORMS:
        s = getattr(x, form)()
        assert ms.equal(s.transpose(dim0, dim1).to_dense(), x.transpose(dim0, dim1)), form
        assert ms.equal(s.t().to_dense(), x.t()) and type(s.t()) is type(s)
    cube = ms.tensor(np.arange(24).reshape(2, 3, 4) % 3)
    assert ms.equal(cube.to_sparse().transpose(dim0, dim1).to_dense(), cube.transpose(dim0, dim1))


def test_deepcopy_has_its_own_values():
    s = ms.eye(3).to_sparse_csr()
    other = copy.deepcopy(s)
    other.values().data[:] = 7
    assert s.values().tolist() == [1, 1, 1] and other.to_dense().data.trace() == 21


# --- bad input --------------------------------------------------------------------------------------------
BAD_COO = {
    r"indices\[1, 2\] = -1 is outside of size \(2, 3\)": ([[0, 1, 1], [0, 2, -1]], [1., 2., 3.], (2, 3)),
    r"indices\[0, 1\] = 2 is outside": ([[0, 2, 9], [0, 5, -1]], [1., 2., 3.], (2, 3)),  # the first of 4
    r"indices\[0, 0\] = 18446744073709551615 is no whole": (np.array([[2**64 - 1]], np.uint64), [1.], (3,)),
    r"indices\[0, 1\] = 9223372036854775808 is no whole": ([[0, 2**63]], [1., 2.], (3,)),
    r"indices\[0, 1\] = 0.5 is no whole": ([[0, 0.5]], [1., 2.], (3,)),
    r"indices\[0, 0\] = True is no whole": ([[True]], [1.], (3,)),
    r"values of shape \(3,\) for 2 indices": ([[0, 1]], [1., 2., 3.], (3,)),
    r"values of shape \(2, 1\) for 2 indices": ([[0, 1]], [[1.], [2.]], (3,)),
    r"indices of shape \(1, 2\) for size \(3, 3\)": ([[0, 1]], [1., 2.], (3, 3)),
    r"indices of shape \(0, 2\) for size \(\)": (np.zeros((0, 2), int), [1., 2.], None),
    r"indices must have 2 dimensions, the shape is \(2,\)": ([0, 1], [1., 2.], (3,)),
    r"size \(3, -1\) is negative": ([[], []], [], (3, -1)),
    r"size \(4294967296, 2147483648\) .* 2\*\*63": ([[0], [0]], [1.], (2**32, 2**31)),
    r"size \(9223372036854775808,\) .* 2\*\*63": ([[2**63 - 1]], [1.], None),
    r"size \(1099511627776, 1099511627776\) .* 2\*\*63": ([[0], [0]], [1.], (np.int64(2**40), np.int64(2**40))),
    r"indices\[0, 0\] = -9223372036854775809 is no whole": ([[-2**63 - 1]], [1.], None),
    "'float' object cannot be interpreted as an integer": ([[0]], [1.], (3.5,)),
}
BAD_CSR = {
    r"crow_indices\[0\] = 1 is not 0": ([1, 1, 2], [0, 1], [1., 2.], (2, 3)),
    r"crow_indices\[2\] = 1, for 2 values": ([0, 1, 1], [0, 1], [1., 2.], (2, 3)),
    r"crow_indices\[2\] = 1 is below the one before": ([0, 2, 1], [0, 1], [1., 2.], (2, 3)),
    r"crow_indices\[1\] = 4 is not a number of values, of 2": ([0, 4, 2], [0, 1], [1., 2.], (2, 3)),
    r"crow_indices\[1\] = -1 is not a number of values": ([0, -1, 2], [0, 1], [1., 2.], (2, 3)),
    r"crow_indices\[0\] = 18446744073709551615": (np.array([2**64 - 1, 0], np.uint64), [0], [1.], (1, 1)),
    r"3 crow_indices for size \(3, 3\)": ([0, 1, 2], [0, 1], [1., 2.], (3, 3)),
    r"0 crow_indices for size": ([], [], [], (0, 3)),
    r"crow_indices for size \(3,\)": ([0, 1], [0], [1.], (3,)),
    r"crow_indices\[1\] = 1.0 is no whole": ([0, 1.], [0], [1.], (1, 1)),
    r"col_indices\[1\] = -1 is outside of size \(2, 3\)": ([0, 1, 2], [0, -1], [1., 2.], (2, 3)),
    r"col_indices\[0\] = 3 is outside": ([0, 1, 2], [3, 7], [1., 2.], (2, 3)),
    r"col_indices\[2\] = 0 is not above": ([0, 1, 3, 3], [2, 1, 0], [1., 2., 3.], (3, 3)),
    r"col_indices\[3\] = 1 is not above": ([0, 2, 4], [0, 1, 1, 1], [1., 2., 3., 4.], (2, 3)),  # a repetition
    r"values of shape \(1,\) for 2 indices": ([0, 2], [0, 1], [1.], (1, 3)),
    r"col_indices must have 1 dimensions": ([0, 1], [[0]], [1.], (1, 1)),
}


def test_indices_that_numpy_would_make_floats_of():
    s = ms.sparse_coo_tensor([np.array([0, 1], np.uint64), np.array([0, 1])], [1., 2.])
    np.testing.assert_array_equal(s.to_dense().data, [[1, 0], [0, 2]])


@pytest.mark.parametrize("message", BAD_COO)
def test_bad_coo(message):
    with pytest.raises((ValueError, TypeError), match=message):
        ms.sparse_coo_tensor(*BAD_COO[message])


@pytest.mark.parametrize("message", BAD_CSR)
def test_bad_csr(message):
    with pytest.raises((ValueError, TypeError), match=message):
        ms.sparse_csr_tensor(*BAD_CSR[message])


def test_bad_operands():
    s = ms.eye(2).to_sparse()
    for function, error, message in [
            (lambda: s @ ms.ones(3, 2), RuntimeError, r"\(2, 2\) does not multiply .* vectors of \(3,\)"),
            (lambda: ms.ones(5, 3) @ s, RuntimeError, r"vectors of \(3,\)"),
            (lambda: s @ ms.ones(2).double(), RuntimeError, "float32 matrix .* float64"),
            (lambda: s @ ms.tensor(1.), RuntimeError, r"vectors of \(\)"),
            (lambda: ms.ones(2).to_sparse() @ ms.ones(2), RuntimeError, r"to_sparse_csr: .* \(2,\)"),
            (lambda: ms.ones(2).to_sparse().t(), RuntimeError, r"t: .* \(2,\)"),
            (lambda: s.transpose(0, 2), IndexError, "no dimension 2"),
            (lambda: s + ms.eye(3).to_sparse(), RuntimeError, r"\(2, 2\) and \(3, 3\)"),
            (lambda: s @ s, TypeError, "SparseCOO"), (lambda: s + 1, TypeError, "SparseCOO"),
            (lambda: ms.ones(2, 2) * s, TypeError, "SparseCOO"),
            (lambda: np.ones(2) * s, TypeError, "SparseCOO"),
            (lambda: ms.matmul(ms.ones(2), "x"), TypeError, "str"),
            (lambda: ms.mm(s, ms.ones(2)), RuntimeError, r"mm: .*\(2, 2\)"),
            (lambda: from_scipy(np.eye(2)), (TypeError, ImportError), "scipy")]:
        with pytest.raises(error, match=message):
            function()


# --- arithmetic -------------------------------------------------------------------------------------------
@forms
def test_addition_and_scaling(form):
    x, y = matrix(4, 5, seed=1), matrix(4, 5, seed=2)
    a, b = getattr(ms.tensor(x), form)(), ms.tensor(y).to_sparse_csr()
    for result, expected in [(a + b, x + y), (a - b, x - y), (a * 2.5, 2.5 * x), (np.float64(2) * a, 2 * x),
                             (a / 4, x / 4), (-a, -x), (a * ms.tensor(3.), 3 * x)]:
        assert type(result) is type(a) and result.dtype == np.float64
        same(result.to_dense(), expected)
    for result, expected in [(a + ms.tensor(y), x + y), (ms.tensor(y) + a, x + y), (a - ms.tensor(y), x - y),
                             (ms.tensor(y) - a, y - x)]:
        assert isinstance(result, ms.Tensor)
        same(result, expected)
    assert (a + b).to_sparse_coo().is_coalesced()


# --- products ---------------------------------------------------------------------------------------------
SHAPES = {"vector": (7,), "matrix": (7, 3), "one column": (7, 1), "no column": (7, 0), "batch": (2, 7, 3),
          "batch of none": (0, 7, 2), "batch of batches": (2, 3, 7, 4), "more columns than a tile": (7, 530)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("numba", [True, False])
@dtypes
def test_products(shape, numba, dtype, monkeypatch):
    if not numba:
        monkeypatch.setattr(csr_product, "load", lambda name: reference)
    tolerance = 40 * np.finfo(dtype).eps
    x = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    for density in 0, 0.4, 1:
        w = matrix(5, 7, density, dtype=dtype)
        for form in FORMS:
            s, t = getattr(ms.tensor(w), form)(), getattr(ms.tensor(w.T.copy()), form)()
            same(s @ ms.tensor(x), w @ x, tolerance)
            same(ms.matmul(s, ms.tensor(x)), w @ x, tolerance)
            row = x.swapaxes(-1, -2) if x.ndim > 1 else x       # not contiguous
            same(ms.Tensor(row) @ t, row @ w.T, tolerance)
            same(ms.matmul(ms.Tensor(row), t), row @ w.T, tolerance)


def test_mm_and_mv():
    s = ms.tensor([[0., 2.], [3., 0.]]).to_sparse()
    assert ms.mm(s, ms.eye(2)).tolist() == ms.mm(ms.eye(2), s).tolist() == [[0, 2], [3, 0]]
    assert ms.mv(s, ms.tensor([1., 2.])).tolist() == [4, 3]


def test_a_product_of_duplicates_and_of_empty_rows():
    s = ms.sparse_coo_tensor([[2, 2, 2], [1, 1, 0]], [1., 2., 5.], (4, 2))
    assert (s @ ms.tensor([10., 100.])).tolist() == [0, 0, 350, 0]
    assert (s @ ms.eye(2)).tolist() == [[0, 0], [0, 0], [5, 3], [0, 0]]


def test_threads_share_the_rows(monkeypatch):
    w, x = matrix(33, 20), np.random.default_rng(0).standard_normal((20, 6))
    before = ms.get_num_threads()
    serial = [(ms.tensor(w).to_sparse_csr() @ ms.tensor(x[:, :n])).numpy() for n in (1, 6)]
    sampled = csr_product.sample(*ms.tensor(w).to_sparse_csr()._places.values(), w @ x, x)
    monkeypatch.setattr(csr_product, "threads", lambda work: None)
    try:
        ms.set_num_threads(3)
        for n, expected in zip((1, 6), serial):
            np.testing.assert_array_equal(ms.tensor(w).to_sparse_csr() @ ms.tensor(x[:, :n]), expected)
        s = ms.tensor(w).to_sparse_csr()
        np.testing.assert_array_equal(csr_product.sample(*s._places.values(), w @ x, x), sampled)
    finally:
        ms.set_num_threads(before)


# --- gradients --------------------------------------------------------------------------------------------
PLACES = np.array([[0, 3, 0, 2, 0, 3, 0], [1, 0, 4, 2, 1, 3, 1]])  # of (4, 5), one three times, row 1 empty
NUMBERS = np.random.default_rng(5).standard_normal(7)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 5, 3), (2, 3, 5, 1)])
def test_gradients_of_products(shape):
    x = np.random.default_rng(4).standard_normal(shape)
    check(lambda values, x: ms.sparse_coo_tensor(PLACES, values, (4, 5)) @ x, NUMBERS, x)
    check(lambda values, x: ms.sparse_coo_tensor(PLACES[::-1], values, (5, 4)).t() @ x, NUMBERS, x)
    rows = np.moveaxis(x, -2, -1) if x.ndim > 1 else x
    check(lambda values, x: x @ ms.sparse_coo_tensor(PLACES[::-1], values, (5, 4)), NUMBERS, rows)
    check(lambda values, x: x @ ms.sparse_csr_tensor([0, 2, 2, 3, 3, 4], [0, 3, 1, 2], values, (5, 4)),
          NUMBERS[:4], rows)


def test_gradients_of_everything_else():
    def coo(values):
        return ms.sparse_coo_tensor(PLACES, values, (4, 5))
    check(lambda values: coo(values).to_dense(), NUMBERS)
    check(lambda values: coo(values).coalesce().values(), NUMBERS)
    check(lambda values: coo(values).to_sparse_csr().t().to_dense(), NUMBERS)
    check(lambda a, b: (coo(a) - coo(b).to_sparse_csr() * 2).to_dense(), NUMBERS, NUMBERS + 1)
    check(lambda values, x: coo(values) + x, NUMBERS, matrix(4, 5))
    check(lambda values, scale: (coo(values) * scale / (scale + 3)).to_dense(), NUMBERS, np.array(0.7))
    cube = [[0, 1], [2, 0], [1, 1]]
    check(lambda x: ms.sparse_coo_tensor(cube, x, (2, 3, 2)).transpose(0, 2).to_dense(), NUMBERS[:2])


@forms
def test_the_gradient_touches_the_nonzeros_only(form):
    w = ms.tensor([[0., 2., 0.], [3., 0., 4.]], requires_grad=True)
    x = ms.tensor([[1., 2.], [3., 4.], [5., 6.]], requires_grad=True)
    s = getattr(w, form)()
    assert s.requires_grad
    (s @ x).backward(ms.tensor([[1., 1.], [1., -1.]]))
    assert w.grad.tolist() == [[0, 7, 0], [-1, 0, -1]]
    assert x.grad.tolist() == [[3, -3], [2, 2], [4, -4]]


def test_values_are_trained_in_place():
    values = ms.ones(3, requires_grad=True)
    s = ms.sparse_csr_tensor([0, 1, 3], [1, 0, 2], values, (2, 3))
    optimizer = ms.optim.SGD([values], lr=0.5)
    (s @ ms.tensor([1., 2., 3.])).sum().backward()
    optimizer.step()
    assert values.grad.tolist() == [2, 1, 3]
    assert (s @ ms.tensor([1., 1., 1.])).tolist() == [0, 0] and s.values().tolist() == [0, .5, -.5]
    y = s @ ms.tensor([1., 2., 3.], requires_grad=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="mv: .* changed in place"):
        y.sum().backward()


# --- how they print ---------------------------------------------------------------------------------------
def test_repr():
    s = ms.sparse_coo_tensor([[0, 1], [2, 0]], ms.tensor([-1.5, 20.], requires_grad=True), (2, 3))
    assert repr(s) == """\
tensor(indices=tensor([[0, 1],
                       [2, 0]]),
       values=tensor([-1.5000, 20.0000]),
       size=(2, 3), nnz=2, layout=torch.sparse_coo, requires_grad=True)"""
    assert repr(s.to_sparse_csr() * 2) == """\
tensor(crow_indices=tensor([0, 1, 2]),
       col_indices=tensor([2, 0]),
       values=tensor([-3., 40.]), size=(2, 3), nnz=2, layout=torch.sparse_csr,
       grad_fn=<MulBackward0>)"""
    assert repr(ms.zeros(2, 3).double().to_sparse()) == """\
tensor(indices=tensor([], size=(2, 0)),
       values=tensor([], size=(0,)),
       size=(2, 3), nnz=0, dtype=float64, layout=torch.sparse_coo)"""


PRINTED = {"empty": lambda m: m.zeros(2, 3), "diagonal": lambda m: m.eye(30), "long": lambda m: m.eye(1200),
           "numbers": lambda m: m.arange(1, 1200).float().reshape(11, 109), "few": lambda m: m.eye(3) * 0.123,
           "whole": lambda m: m.tensor([[0, 1, -200], [3, 0, 0]]),
           "wide": lambda m: m.eye(2)[:1] * m.tensor([123456.789, 1.])}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_repr_is_that_of_torch(name):
    torch = pytest.importorskip("torch")
    for form in FORMS:
        ours, theirs = (repr(getattr(PRINTED[name](m), form)()) for m in (ms, torch))
        assert ours == theirs


# --- other libraries --------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Sparse")
def test_products_and_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch")
    results = []
    for m in ms, torch:
        values, x = (m.tensor(a, requires_grad=True) for a in (NUMBERS, matrix(5, 3)))
        y = m.matmul(m.sparse_coo_tensor(m.tensor(PLACES), values, (4, 5)), x)
        (y * y).sum().backward()
        results.append([a.detach().numpy() for a in (y, values.grad, x.grad)])
    for ours, theirs in zip(*results):
        same(ours, theirs)


def test_scipy():
    sparse = pytest.importorskip("scipy.sparse")
    w = matrix(6, 4)
    for name in "coo", "csr", "csc", "lil", "dok":
        s = from_scipy(sparse.coo_array(w).asformat(name))
        assert s.layout == (ms.sparse_csr if name == "csr" else ms.sparse_coo) and s.dtype == w.dtype
        same(s.to_dense(), w)
        back = to_scipy(s)
        assert back.format == ("csr" if name == "csr" else "coo")
        np.testing.assert_array_equal(back.toarray(), w)
        same(s @ ms.tensor(w.T.copy()), back @ w.T)
    messy = sparse.csr_array((np.array([1., 2, 3]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 4))
    assert from_scipy(messy).values().tolist() == [2, 4] and messy.nnz == 3
    tracked = ms.sparse_coo_tensor([[0]], ms.ones(1, requires_grad=True))
    assert isinstance(to_scipy(tracked).data, np.ndarray)
    line = to_scipy(ms.tensor([0., 5., 0.]).to_sparse())
    assert line.shape == (3,) and from_scipy(line).to_dense().tolist() == [0, 5, 0]


def test_nothing_is_imported_before_it_is_needed():
    program = ("import sys, minisparse as ms\n"
               "assert 'minisparse.sparse' not in sys.modules\n"
               "s = ms.eye(2).to_sparse()\n"
               "ms.sparse_csr_tensor([0, 1], [0], [1.])\n"
               "assert not {'scipy', 'numba', 'torch', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True)


# --- kernels ----------------------------------------------------------------------------------------------
@dtypes
def test_kernels_are_their_references(dtype):
    csr = pytest.importorskip("minisparse.kernels.csr", exc_type=ImportError)
    counts = [0, 1, 7, 8, 0, 9, 16, 17, 30, 0]      # nonzeros of the rows: around eight at a time
    rng, eps = np.random.default_rng(0), np.finfo(dtype).eps
    crow = np.concatenate([[0], np.cumsum(counts)])
    col = np.concatenate([np.sort(rng.choice(30, n, replace=False)) for n in counts])
    value, x = rng.standard_normal(len(col)).astype(dtype), rng.standard_normal((30, 11)).astype(dtype)
    g = rng.standard_normal((len(counts), 11)).astype(dtype)
    for first, last in (0, 10), (0, 0), (3, 7), (8, 10):
        found, expected = np.full((2, last - first), 7, dtype)
        for kernels, out in (csr, found), (reference, expected):
            kernels.multiply_vector(crow[first:last + 1].astype(np.uint64), col.astype(np.uint64), value,
                                    x[:, 0].copy(), out)
        np.testing.assert_allclose(found, expected, rtol=0, atol=30 * eps)
        found, expected = np.full((2, len(col)), 7, dtype)
        for kernels, out in (csr, found), (reference, expected):
            kernels.sample_product(crow[first:last + 1], col, g[first:last], x, out)
        np.testing.assert_allclose(found, expected, rtol=0, atol=30 * eps)
        assert (found[:crow[first]] == 7).all() and (found[crow[last]:] == 7).all()
    for name in "multiply_vector", "sample_product":
        assert inspect.signature(getattr(csr, name).py_func) == inspect.signature(getattr(reference, name))
