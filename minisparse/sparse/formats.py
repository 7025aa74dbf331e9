"""Sparse tensors: the places of the nonzeros (arrays that never change) and their values (a Tensor).

COO stores the indices of each value, in any number of dimensions. CSR is a matrix whose values are sorted by
rows, those of row i from number crow[i] to crow[i + 1]: the form to compute products with, so convert once,
not in each step. All gradients go through the values, and so touch the nonzeros only.
"""
import functools
import importlib
import math
import operator

import numpy as np

from ..creation import as_tensor
from ..kernels import csr_product
from ..ops import NUMBERS
from ..printing import annotated, body, origin
from ..shapes import cat, permute, position, take
from ..tensor import Tensor

sparse_coo, sparse_csr = "torch.sparse_coo", "torch.sparse_csr"     # layouts, as they print


# --- from outside: every index is checked, since the kernels trust them -----------------------------------
def sparse_coo_tensor(indices, values, size=None):
    """The COO tensor of values[k] at indices[:, k]; values at one place add up.

    indices: whole numbers (dimensions, nonzeros); values: (nonzeros,), numbers or a Tensor, which may require
    grad; size: the shape, or None for the smallest. ValueError names the first index that is wrong.
    """
    indices = whole_numbers("indices", indices, 2)
    values = vector(values, indices.shape[1])
    size = shape(size, [int(n) + 1 for n in indices.max(axis=1, initial=-1)])
    if not len(size) == len(indices) > 0:
        raise ValueError(f"sparse tensor: indices of shape {indices.shape} for size {size}")
    outside = (indices < 0) | (indices >= np.array(size)[:, None])
    refuse("indices", indices, outside, f"is outside of size {size}")
    return SparseCOO({"indices": indices}, values, size, coalesced=False)


def sparse_csr_tensor(crow_indices, col_indices, values, size=None):
    """The CSR matrix of values[k] in row i, column col_indices[k], crow_indices[i] <= k < crow_indices[i+1].

    crow_indices: (rows + 1,), from 0 to the number of values; col_indices: (nonzeros,), ascending in a row;
    values and size as for sparse_coo_tensor. ValueError names the first index that is wrong.
    """
    crow, col = whole_numbers("crow_indices", crow_indices, 1), whole_numbers("col_indices", col_indices, 1)
    values = vector(values, len(col))
    size = shape(size, [len(crow) - 1, int(col.max(initial=-1)) + 1])
    if len(size) != 2 or len(crow) != size[0] + 1:
        raise ValueError(f"sparse tensor: {len(crow)} crow_indices for size {size}, expected rows + 1")
    refuse("crow_indices", crow, (crow < 0) | (crow > len(col)), f"is not a number of values, of {len(col)}")
    refuse("crow_indices", crow, np.diff(crow, prepend=0) < 0, "is below the one before")
    refuse("crow_indices", crow[:1], crow[:1] != 0, "is not 0")
    if crow[-1] != len(col):
        raise ValueError(f"sparse tensor: crow_indices[{size[0]}] = {crow[-1]}, for {len(col)} values")
    refuse("col_indices", col, (col < 0) | (col >= size[1]), f"is outside of size {size}")
    row = np.repeat(np.arange(size[0]), np.diff(crow))
    falls = (np.diff(row, prepend=-1) == 0) & (np.diff(col, prepend=-1) <= 0)
    refuse("col_indices", col, falls, "is not above the one before in its row")
    return SparseCSR({"crow_indices": crow, "col_indices": col}, values, size)


def whole_numbers(name, data, ndim):
    data = data.data if isinstance(data, Tensor) else data
    x = np.array(data)
    if x.size and (x.dtype.kind not in "iu" or x.max() >= 1 << 63):
        x = np.array(data, object)      # each number as it was given: NumPy makes floats of some whole ones
        for at, v in np.ndenumerate(x):
            if not isinstance(v, (int, np.integer)) or isinstance(v, bool) or not -1 << 63 <= v < 1 << 63:
                raise TypeError(f"sparse tensor: {name}{list(at)} = {v} is no whole number of 64 bits")
    if x.ndim != ndim:
        raise ValueError(f"sparse tensor: {name} must have {ndim} dimensions, the shape is {x.shape}")
    return x.astype(np.int64, copy=False)


def vector(values, length):
    values = as_tensor(values)
    if values.shape != (length,):
        raise ValueError(f"sparse tensor: values of shape {values.shape} for {length} indices")
    return values


def shape(size, smallest):
    size = tuple(map(operator.index, smallest if size is None else size))
    if min(size, default=0) < 0 or math.prod(size) >= 1 << 63:
        raise ValueError(f"sparse tensor: size {size} is negative or has 2**63 elements or more")
    return size


def refuse(name, x, bad, why):
    if bad.any():
        at = tuple(np.argwhere(bad.T)[0, ::-1].tolist())    # the first in the order of the values
        raise ValueError(f"sparse tensor: {name}{list(at)} = {x[at]} {why}")


# --- what both forms have ---------------------------------------------------------------------------------
class SparseTensor:
    """places: {name: int64 array}; values: a Tensor (nonzeros,). The constructor trusts its arguments."""

    __array_ufunc__ = None      # numpy leaves the operators to us

    def __init__(self, places, values, shape, coalesced=True):
        for x in places.values():
            x.flags.writeable = False
        self._places, self._values, self.shape, self._coalesced = places, values, shape, coalesced

    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: len(self.shape))
    requires_grad = property(lambda self: self._values.requires_grad)

    def size(self, dim=None):
        """The shape, or the length of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def _nnz(self):
        return len(self._values)

    def _place(self, name):
        if not self._coalesced:
            raise RuntimeError(f"{name}: there may be several values for one place; call coalesce() first")
        return self._values if name == "values" else Tensor(self._places[name])

    def values(self):
        """The Tensor of values, in the order of the indices."""
        return self._place("values")

    def t(self):
        """The matrix transposed."""
        if self.ndim != 2:
            raise RuntimeError(f"t: expected a matrix, the shape is {self.shape}")
        return self.transpose(0, 1)

    def to_dense(self):
        """The dense Tensor."""
        a = self.to_sparse_coo().coalesce()
        dense, places = np.zeros(a.shape, a.dtype), tuple(a._places["indices"])
        dense[places] = a._values.data
        return Tensor.from_op("to_dense", dense, (a._values, lambda g: g[places]))

    def __add__(self, other):
        """The sum, sparse with a sparse tensor and dense with a dense one."""
        if isinstance(other, Tensor):
            return self.to_dense() + other
        if not isinstance(other, SparseTensor):
            return NotImplemented
        if self.shape != other.shape:
            raise RuntimeError(f"add: the sparse tensors have shapes {self.shape} and {other.shape}")
        a, b = self.to_sparse_coo(), other.to_sparse_coo()
        both = {"indices": np.hstack([a._places["indices"], b._places["indices"]])}
        total = SparseCOO(both, cat([a._values, b._values]), a.shape, coalesced=False).coalesce()
        return total if self.layout == sparse_coo else total.to_sparse_csr()

    __radd__ = __add__

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def _scaled(self, number, function):
        if not (isinstance(number, NUMBERS) or isinstance(number, Tensor) and number.ndim == 0):
            return NotImplemented
        return type(self)(self._places, function(self._values, number), self.shape, self._coalesced)

    def __mul__(self, number):
        """All values times a number or a 0-d tensor."""
        return self._scaled(number, operator.mul)

    __rmul__ = __mul__

    def __truediv__(self, number):
        return self._scaled(number, operator.truediv)

    def __neg__(self):
        return self._scaled(-1, operator.mul)

    def __matmul__(self, dense):
        """self (M, K) @ dense (..., K, N) or (K,) -> (..., M, N) or (M,)."""
        if not isinstance(dense, Tensor):
            return NotImplemented
        csr, batch = self.to_sparse_csr(), range(dense.ndim - 2)
        if not batch:
            return csr.product(dense)
        return permute(csr.product(permute(dense, -2, *batch, -1)), *(i + 1 for i in batch), 0, -1)

    def __rmatmul__(self, dense):
        """dense (..., M) @ self (M, K) -> (..., K): the transpose of self times the rows of dense."""
        if not isinstance(dense, Tensor):
            return NotImplemented
        out = self.to_sparse_csr().product(permute(dense, -1, *range(dense.ndim - 1)), transposed=True)
        return permute(out, *range(1, out.ndim), 0)

    def __repr__(self):
        indent, parts = len("tensor("), []
        for name, x in {**self._places, "values": self._values.data}.items():
            name += "=tensor("
            parts.append(name + body(x, indent + len(name)) + f", size={x.shape}" * (x.size == 0) + ")")
        notes = [f"size={self.shape}", f"nnz={self._nnz()}", f"layout={self.layout}", *origin(self._values)]
        if self.dtype not in (np.float32, np.int64, np.bool_):
            notes.insert(2, f"dtype={self.dtype}")
        out = "tensor(" + (",\n" + " " * indent).join(parts)
        return annotated(out, notes, newline=self.layout == sparse_coo)


# --- the two forms ----------------------------------------------------------------------------------------
class SparseCOO(SparseTensor):
    """Coordinates (dimensions, nonzeros); sparse_coo_tensor and Tensor.to_sparse make one."""

    layout = sparse_coo

    def indices(self):
        """The int64 Tensor (dimensions, nonzeros)."""
        return self._place("indices")

    def is_coalesced(self):
        """Whether the indices are known to be sorted and different."""
        return self._coalesced

    def coalesce(self):
        """The same tensor with its indices sorted, and the values of one place summed."""
        if self._coalesced:
            return self
        order = np.lexsort(self._places["indices"][::-1])
        indices, values = self._places["indices"][:, order], self._values
        first = np.ones(len(order), bool)
        first[1:] = (indices[:, 1:] != indices[:, :-1]).any(axis=0)
        starts, group = np.flatnonzero(first), np.cumsum(first) - 1

        def vjp(g):
            grad = np.empty_like(values.data)
            grad[order] = g[group]
            return grad
        total = np.add.reduceat(values.data[order], starts, dtype=values.dtype)
        total = Tensor.from_op("coalesce", total, (values, vjp))
        return SparseCOO({"indices": indices[:, starts]}, total, self.shape)

    def transpose(self, dim0, dim1):
        """Two dimensions exchanged."""
        order = list(range(self.ndim))
        dim0, dim1 = (position(dim, self.ndim, "transpose") for dim in (dim0, dim1))
        order[dim0], order[dim1] = dim1, dim0
        size = tuple(self.shape[i] for i in order)
        return SparseCOO({"indices": self._places["indices"][order]}, self._values, size, coalesced=False)

    def to_sparse_coo(self):
        """self."""
        return self

    def to_sparse_csr(self):
        """The same matrix in CSR form."""
        if self.ndim != 2:
            raise RuntimeError(f"to_sparse_csr: expected a matrix, the shape is {self.shape}")
        a = self.coalesce()
        row, col = a._places["indices"]
        crow = np.searchsorted(row, np.arange(a.shape[0] + 1))
        return SparseCSR({"crow_indices": crow, "col_indices": col.copy()}, a._values, a.shape)


class SparseCSR(SparseTensor):
    """Compressed rows; sparse_csr_tensor and Tensor.to_sparse_csr make one."""

    layout = sparse_csr

    def crow_indices(self):
        """The int64 Tensor (rows + 1,) of where the values of each row begin and end."""
        return self._place("crow_indices")

    def col_indices(self):
        """The int64 Tensor (nonzeros,) of columns."""
        return self._place("col_indices")

    @functools.cached_property
    def _by_column(self):
        """(crow, col, order) of the transposed matrix, whose values are values[order]."""
        row, col = self.to_sparse_coo()._places["indices"]
        order = np.argsort(col, kind="stable")
        return np.searchsorted(col[order], np.arange(self.shape[1] + 1)), row[order], order

    def transpose(self, dim0, dim1):
        """The dimensions exchanged, in CSR form again."""
        return self.to_sparse_coo().transpose(dim0, dim1).to_sparse_csr()

    def product(self, x, transposed=False):
        """self (M, K), or if so asked its transpose, times the Tensor x (K, ...) -> (M, ...)."""
        rows, length = self.shape[::-1] if transposed else self.shape
        if x.ndim == 0 or x.shape[0] != length or x.dtype != self.dtype or x.dtype.kind != "f":
            raise RuntimeError(f"matmul: a sparse {self.dtype} matrix {rows, length} does not multiply "
                               f"{x.dtype} vectors of {x.shape[:1]} numbers")
        values, crow, col = self._values, *self._places.values()
        width = math.prod(x.shape[1:])

        def times(x, transposed):
            *places, order = self._by_column if transposed else (crow, col, slice(None))
            return csr_product.multiply(*places, np.ascontiguousarray(values.data[order]), x)

        def flat(a):
            return np.ascontiguousarray(a.reshape(len(a), width))

        def sample(g):
            left, right = (flat(x.data), flat(g))[::1 if transposed else -1]
            return csr_product.sample(crow, col, left, right)
        value = times(flat(x.data), transposed).reshape(rows, *x.shape[1:])
        return Tensor.from_op("mv" if x.ndim == 1 else "mm", value, (values, sample),
                              (x, lambda g: times(flat(g), not transposed).reshape(x.shape)))

    def to_sparse_coo(self):
        """The same matrix in COO form."""
        crow, col = self._places.values()
        row = np.repeat(np.arange(self.shape[0]), np.diff(crow))
        return SparseCOO({"indices": np.stack([row, col])}, self._values, self.shape)

    def to_sparse_csr(self):
        """self."""
        return self


def to_sparse(a):
    """The COO tensor of the elements of a that are not 0; the gradient goes back to these."""
    places = np.nonzero(a.data)
    return SparseCOO({"indices": np.array(places, np.int64)}, take("to_sparse", a, places, False), a.shape)


def to_sparse_csr(a):
    """The CSR matrix of the elements of a that are not 0."""
    return to_sparse(a).to_sparse_csr()


to_sparse_coo = to_sparse


# --- scipy, where the user has it -------------------------------------------------------------------------
def from_scipy(matrix):
    """The tensor of a scipy.sparse array or matrix: CSR from CSR, COO from any other format."""
    if not hasattr(matrix, "tocoo"):
        raise TypeError(f"from_scipy: expected a scipy.sparse array or matrix, got {type(matrix).__name__}")
    coo = matrix.tocoo()
    out = sparse_coo_tensor(np.stack(coo.coords), coo.data, coo.shape)
    return out.to_sparse_csr() if matrix.format == "csr" and out.ndim == 2 else out


def to_scipy(a):
    """The scipy.sparse.coo_array or csr_array of a sparse tensor, without its gradients."""
    scipy_sparse = importlib.import_module("scipy.sparse")      # no dependency of ours
    values = a._values.detach().numpy()
    if a.layout == sparse_coo:
        return scipy_sparse.coo_array((values, tuple(a._places["indices"])), a.shape, copy=True)
    crow, col = a._places.values()
    return scipy_sparse.csr_array((values, col, crow), a.shape, copy=True)
