"""The fully connected layer."""
import numpy as np

from .conv import masked_conv
from .kernels import memory
from .kernels.memory import batch_last
from .kernels.pool import parallel, threads
from .tensor import Tensor

ONE_PIXEL = (1, 1, 1, 1, 0, 0, 1, 1, 1, 1)      # geometry, see kernels/conv.py


def matmul_rows(a, b):
    """a (M, K) @ b (K, N), the rows of a shared among the worker threads; C-contiguous."""
    out = memory.empty((a.shape[0], b.shape[1]), a.dtype)
    parallel(lambda first, last: np.matmul(a[first:last], b, out=out[first:last]), len(a), threads(a.size * b.shape[1]))
    return out


def linear(x, weight, bias=None):
    """x @ weight.T + bias. x: (*, in), weight: (out, in), bias: (out) -> (*, out).

    Computed as weight @ x.T, so that the batch is innermost in memory as it is for images.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"linear: x has to be a Tensor, got {type(x).__name__}")
    if weight.ndim != 2 or 0 in weight.shape or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: expected a weight (out, in) and x (*, in), got shapes {weight.shape} "
                         f"and {x.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias has shape {bias.shape}, weight {weight.shape}")
    if not x.dtype == weight.dtype == (weight if bias is None else bias).dtype or x.dtype.kind != "f":
        raise ValueError(f"linear: x is {x.dtype}, weight is {weight.dtype}"
                         + ("" if bias is None else f", bias is {bias.dtype}"))
    lead, outputs = x.shape[:-1], weight.shape[0]
    columns = x.data.reshape(-1, x.shape[-1]).T                     # (in, N)
    # under a mask a product is the convolution of images of one pixel
    masked = masked_conv(weight, ONE_PIXEL, (*columns.shape[:1], 1, 1, *columns.shape[1:]), 1)

    def incoming(g):
        return g.reshape(-1, outputs).T                             # (out, N)

    def pixels(g):
        return batch_last(g.reshape(-1, outputs, 1, 1))             # (out, 1, 1, N)
    if masked is None:
        value = matmul_rows(weight.data, columns)                   # (out, N)
        if bias is not None:
            value += bias.data[:, None]
        edges = [(x, lambda g: matmul_rows(weight.data.T, incoming(g)).T.reshape(x.shape))]
    else:
        padded = masked.pad(columns[:, None, None])
        value = masked.forward(padded, weight.data, None if bias is None else bias.data)[:, 0, 0]
        edges = [(x, lambda g: masked.grad_input(pixels(g), weight.data)[:, 0, 0].T.reshape(x.shape))]

    def grad_weight(g):
        if masked is None or weight.keep_dense_grad:
            return matmul_rows(incoming(g), columns.T)
        return masked.grad_weight(padded, pixels(g)).reshape(weight.shape)
    edges.append((weight, grad_weight))
    if bias is not None:
        edges.append((bias, lambda g: incoming(g).sum(axis=1)))
    return Tensor.from_op("linear", value.T.reshape(*lead, outputs), *edges)
