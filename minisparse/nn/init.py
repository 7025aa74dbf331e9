"""Initial values, written into a tensor in place; every function returns its tensor. torch's names.

Random values come from the generator that minisparse.manual_seed seeds. A masked parameter stays masked.
"""
import math

import numpy as np

from ..creation import generator
from ..tensor import no_grad


def _fill(tensor, values):
    with no_grad():
        tensor.change()
    np.copyto(tensor.data, values, casting="same_kind")
    tensor.apply_mask()
    return tensor


def constant_(tensor, val):
    return _fill(tensor, val)


def zeros_(tensor):
    return _fill(tensor, 0.0)


def ones_(tensor):
    return _fill(tensor, 1.0)


def uniform_(tensor, a=0.0, b=1.0):
    """Uniform in [a, b)."""
    return _fill(tensor, generator().uniform(a, b, tensor.shape))


def normal_(tensor, mean=0.0, std=1.0):
    return _fill(tensor, generator().normal(mean, std, tensor.shape))


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """The normal distribution, drawn again where outside [a, b]; ValueError if it nearly always is."""
    def cdf(x):
        return (1 + math.erf((x - mean) / std / math.sqrt(2))) / 2
    if not cdf(b) - cdf(a) > 1e-3:
        raise ValueError(f"trunc_normal_: [{a}, {b}] holds next to nothing of a normal distribution with "
                         f"mean {mean} and std {std}")
    values = generator().normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = generator().normal(mean, std, np.count_nonzero(outside))
    return _fill(tensor, values)


def eye_(tensor):
    """The identity, for a matrix."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _fill(tensor, np.eye(*tensor.shape))


def dirac_(tensor, groups=1):
    """A convolution weight (O, I, ...) that copies its input channels, in each group."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_: expected 3 to 5 dimensions, got shape {tensor.shape}")
    out_channels, in_channels, *kernel = tensor.shape
    if out_channels % groups:
        raise ValueError(f"dirac_: {out_channels} output channels cannot be split into {groups} groups")
    values = np.zeros(tensor.shape)
    centre = tuple(k // 2 for k in kernel)
    per_group = out_channels // groups
    for channel in range(min(per_group, in_channels)):
        values[(slice(channel, None, per_group), channel) + centre] = 1
    return _fill(tensor, values)


def calculate_gain(nonlinearity, param=None):
    """The factor that keeps the variance through a nonlinearity. param: the slope of leaky_relu (0.01)."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: unknown nonlinearity {nonlinearity!r}; known are "
                         f"{', '.join(gains)}, leaky_relu")
    return gains[nonlinearity]


def fans(tensor):
    """(inputs per output, outputs per input) of a weight (out, in, ...)."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need at least 2 dimensions, got shape {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _xavier_std(tensor, gain):
    return gain * math.sqrt(2 / sum(fans(tensor)))


def xavier_uniform_(tensor, gain=1.0):
    """Glorot and Bengio 2010: variance 2 / (fan in + fan out), times gain squared."""
    bound = math.sqrt(3) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor, gain=1.0):
    """As xavier_uniform_, normal."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain))


def _kaiming_std(tensor, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """He et al. 2015 (arXiv:1502.01852): variance gain squared / fan. a: the slope of leaky_relu."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu"):
    """As kaiming_uniform_, normal."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor, gain=1):
    """The matrix (out, rest) gets orthogonal rows, or columns if those are fewer, of length gain."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least 2 dimensions, got shape {tensor.shape}")
    rows = tensor.shape[0]
    columns = math.prod(tensor.shape[1:])
    q, r = np.linalg.qr(generator().normal(size=(max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diagonal(r))    # makes the draw uniform over the orthogonal matrices (Mezzadri 2007)
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))
