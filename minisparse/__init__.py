"""minisparse: sparse neural-network training that people can read.

The names here are torch's wherever torch has the idea, so that `import minisparse as torch` serves plain
programs. The submodules nn, optim, data, sparse and deploy are imported on first use.
"""
import importlib
import types

import numpy as np

from . import printing  # noqa: F401  (repr of tensors)
from .activations import dropout, log_softmax, relu, sigmoid, softmax, tanh
from .creation import (arange, as_tensor, device, empty, empty_like, eye, float32, float64, from_numpy, full,
                       full_like, generator, int8, int16, int32, int64, linspace, manual_seed, normal, ones,
                       ones_like, rand, rand_like, randint, randn, randn_like, randperm, tensor, uint8,
                       zeros, zeros_like)
from .kernels.pool import get_num_threads, set_num_threads
from .ops import (LeftOut, abs, add, allclose, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, ceil,
                  clamp, clamp_max, clamp_min, cos, div, eq, equal, exp, expm1, floor, floor_divide, ge, gt,
                  isfinite, isinf, isnan, le, log, log1p, log2, logical_and, logical_not, logical_or,
                  logical_xor, lt, maximum, minimum, mul, ne, neg, pow, reciprocal, remainder, result_type,
                  round, rsqrt, sign, sin, sqrt, square, sub, where)
from .products import bmm, dot, einsum, matmul, mm, mv, outer
from .reductions import (all, amax, amin, any, argmax, argmin, count_nonzero, cumsum, logsumexp, max, mean,
                         min, norm, prod, std, sum, var)
from .serialize import load, load_file, save, save_file
from .shapes import (argsort, broadcast_to, cat, chunk, diag, flatten, flip, gather, index_select,
                     masked_fill, masked_select, narrow, nonzero, permute, repeat_interleave, reshape, roll,
                     scatter, scatter_add, select, sort, split, squeeze, stack, t, tile, topk, transpose,
                     tril, triu, unbind, unflatten, unsqueeze)
from .tensor import Tensor, enable_grad, is_grad_enabled, no_grad

float, double, int, long, bool = float32, float64, int32, int64, np.dtype("bool")
inf, nan, pi = np.inf, np.nan, np.pi
finfo, iinfo = np.finfo, np.iinfo
cuda = types.SimpleNamespace(is_available=lambda: False)    # programs ask before they choose a device

for _function in (log_softmax, relu, sigmoid, softmax, tanh):
    setattr(Tensor, _function.__name__, _function)
for _name in ("to_sparse", "to_sparse_coo", "to_sparse_csr"):
    setattr(Tensor, _name, lambda a, name=_name:
            getattr(importlib.import_module(".sparse.formats", __name__), name)(a))


def __getattr__(name):
    if name in ("nn", "optim", "data", "sparse", "deploy"):
        return importlib.import_module("." + name, __name__)
    if name in ("sparse_coo", "sparse_coo_tensor", "sparse_csr", "sparse_csr_tensor"):
        return getattr(importlib.import_module(".sparse.formats", __name__), name)
    raise LeftOut(f"module {__name__!r}", name)
