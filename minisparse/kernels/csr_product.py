"""Products with a CSR matrix (crow, col, value), its rows shared among the worker threads."""
import numpy as np

from . import load, memory
from .pool import parallel, threads


def multiply(crow, col, value, x):
    """The matrix (M, K) times the contiguous array x (K, N) -> (M, N)."""
    rows, width = len(crow) - 1, x.shape[1]
    out = memory.zeros((rows, width), x.dtype)
    kernels = load("csr")
    if width == 1:
        crow, col, flat, y = crow.view(np.uint64), col.view(np.uint64), x.reshape(-1), out.reshape(-1)

        def work(first, last):
            kernels.multiply_vector(crow[first:last + 1], col, value, flat, y[first:last])
    else:
        def work(first, last):
            kernels.multiply_matrix(crow[first:last + 1], col, value, x, out[first:last])
    if len(value) and width:
        parallel(work, rows, threads(len(value) * width))
    return out


def sample(crow, col, g, x):
    """g (M, N) @ x.T (N, K), but only at the nonzeros -> (nnz,)."""
    out, kernel = np.empty(len(col), x.dtype), load("csr").sample_product
    parallel(lambda first, last: kernel(crow[first:last + 1], col, g[first:last], x, out), len(g),
             threads(x.shape[1] * len(col)))
    return out
