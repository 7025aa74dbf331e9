"""Products with a CSR matrix (crow, col, value), its rows shared among the worker threads."""
import numpy as np

from . import load, memory
from .pool import parallel


def multiply(crow, col, value, x):
    """The matrix (M, K) times the contiguous array x (K, N) -> (M, N)."""
    rows, width = len(crow) - 1, x.shape[1]
    out = memory.zeros((rows, 1, width), x.dtype)
    kernels, flat = load("csr"), x.reshape(-1)
    if width == 1:
        crow, col, y = crow.view(np.uint64), col.view(np.uint64), out.reshape(-1)

        def work(first, last):
            kernels.multiply_vector(crow[first:last + 1], col, value, flat, y[first:last])
    else:
        offset, starts = col * width, np.zeros(1, np.int64)

        def work(first, last):
            kernels.gather_rows(crow[first:last + 1], offset, value, flat, starts, out[first:last])
    if len(value) and width:
        parallel(work, rows, threads(len(value) * width))
    return out[:, 0]


def sample(crow, col, g, x):
    """g (M, N) @ x.T (N, K), but only at the nonzeros -> (nnz,)."""
    out, kernel = np.empty(len(col), x.dtype), load("csr").sample_product
    parallel(lambda first, last: kernel(crow[first:last + 1], col, g[first:last], x, out), len(g),
             threads(x.shape[1] * len(col)))
    return out


def threads(multiplications):
    """How many at most: below about a million multiplications a second thread costs more than it brings."""
    return None if multiplications > 1 << 20 else 1
