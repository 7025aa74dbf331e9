"""Batch and layer normalisation."""
import numpy as np

from .kernels import load, memory
from .kernels.memory import batch_first, batch_last
from .kernels.pool import parallel
from .tensor import Tensor


def _by_channel(kernel, arrays, rows):
    """kernel over ranges of channels: every array is cut along its first axis."""
    parallel(lambda first, last: kernel(*(a[first:last] for a in arrays)), rows)


def _same_dtype(name, x, *parameters):
    for t in parameters:
        if t is not None and t.dtype != x.dtype:
            raise ValueError(f"{name}: x is {x.dtype}, weight or bias is {t.dtype}")


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """y = (x - mean) / sqrt(var + eps) * weight + bias for each channel of x (N, C) or (N, C, ...).

    training: mean and biased variance of this batch, and running = (1 - momentum) running + momentum batch, with
    the unbiased variance, in place; otherwise the running statistics. Ioffe and Szegedy, arXiv:1502.03167.
    """
    if x.ndim < 2 or x.dtype.kind != "f" or not x.shape[1]:
        raise ValueError(f"batch_norm: expected floating point (N, C) or (N, C, ...), got {x.dtype} {x.shape}")
    channels, dtype = x.shape[1], x.dtype
    for name, t in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if t is not None and t.shape != (channels,):
            raise ValueError(f"batch_norm: {name} has shape {t.shape}, x has {channels} channels (shape {x.shape})")
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: running_mean and running_var go together, one of them is None")
    _same_dtype("batch_norm", x, weight, bias)
    kernels = load("norm")
    xb = batch_last(x.data)
    rows = xb.reshape(channels, -1)
    count, out = rows.shape[1], memory.empty(rows.shape, dtype)
    if training or running_mean is None:
        if count <= 1:
            raise ValueError(f"batch_norm: expected more than 1 value per channel when training, got shape {x.shape}")
        training = True
        mean, var = np.empty(channels, dtype), np.empty(channels, dtype)
        gamma = np.ones(channels, dtype) if weight is None else np.ascontiguousarray(weight.data)
        beta = np.zeros(channels, dtype) if bias is None else np.ascontiguousarray(bias.data)
        _by_channel(lambda *parts: kernels.normalize(*parts[:3], dtype.type(eps), *parts[3:]),
                    (rows, gamma, beta, mean, var, out), channels)
        if running_mean is not None:
            for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
                running._version[0] += 1
                running.data += momentum * (batch - running.data)
    else:
        mean, var = running_mean.data.astype(dtype), running_var.data.astype(dtype)
    inverse = 1 / np.sqrt(var + dtype.type(eps))
    scale = inverse if weight is None else inverse * weight.data
    if not training:
        shift = -mean * scale if bias is None else bias.data - mean * scale
        _by_channel(kernels.scale_shift, (rows, scale, shift, out), channels)

    def vjp(g):
        gb = batch_last(g).reshape(channels, -1)
        sum_g, sum_gx = np.empty(channels, dtype), np.empty(channels, dtype)
        gx = memory.empty(rows.shape, dtype) if x.requires_grad else None
        if gx is not None and training:
            _by_channel(kernels.normalize_grad, (gb, rows, mean, scale, inverse, sum_g, sum_gx, gx), channels)
        else:
            _by_channel(kernels.gradient_sums, (gb, rows, mean, sum_g, sum_gx), channels)
            if gx is not None:      # the statistics are constants in evaluation
                _by_channel(kernels.scale_shift, (gb, scale, np.zeros_like(scale), gx), channels)
        if gx is not None:
            gx = batch_first(gx.reshape(xb.shape))
        return gx, sum_gx * inverse, sum_g
    inputs = [x, x if weight is None else weight, x if bias is None else bias]
    chosen = [i for i, t in enumerate((x, weight, bias)) if t is not None]

    def edge(g):
        gradients = vjp(g)
        return tuple(gradients[i] for i in chosen) if len(chosen) > 1 else gradients[0]
    return Tensor.from_op("batch_norm", batch_first(out.reshape(xb.shape)), (tuple(inputs[i] for i in chosen), edge))


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimensions, which are normalized_shape.

    Ba, Kiros and Hinton, arXiv:1607.06450.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if x.dtype.kind != "f" or not shape or x.shape[-len(shape):] != shape:
        raise ValueError(f"layer_norm: normalized_shape {shape} does not end the shape of x {x.shape} ({x.dtype})")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != shape:
            raise ValueError(f"layer_norm: {name} has shape {t.shape}, normalized_shape is {shape}")
    _same_dtype("layer_norm", x, weight, bias)
    axes, lead = tuple(range(-len(shape), 0)), tuple(range(x.ndim - len(shape)))
    centered = x.data - x.data.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt((centered * centered).mean(axis=axes, keepdims=True) + x.dtype.type(eps))
    normal = centered * inverse
    value = normal if weight is None else normal * weight.data

    def grad_x(g):
        g = g if weight is None else g * weight.data
        return inverse * (g - g.mean(axis=axes, keepdims=True) - normal * (g * normal).mean(axis=axes, keepdims=True))
    edges = [(x, grad_x)]
    if weight is not None:
        edges.append((weight, lambda g: (g * normal).sum(axis=lead)))
    if bias is not None:
        value = value + bias.data
        edges.append((bias, lambda g: g.sum(axis=lead)))
    return Tensor.from_op("layer_norm", value, *edges)
