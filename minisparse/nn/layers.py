"""Layers: modules that hold the parameters and options of one operator, with torch's names and defaults."""
import math

import numpy as np

from .. import activations, conv, normalization
from ..conv import pair
from ..linear import linear
from ..tensor import Tensor, no_grad
from . import init
from .module import Module
from .parameter import Parameter


def _parameter(*shape):
    return Parameter(np.zeros(shape, np.float32))


# --- with weights -----------------------------------------------------------------------------------------
class _Weighted(Module):
    """A weight (out, in, ...) and a bias (out,), drawn uniformly within 1 / sqrt(fan in)."""

    def _make_weights(self, shape, bias):
        if min(shape) < 1:
            raise ValueError(f"{type(self).__name__}: sizes must be positive, the weight would be {shape}")
        self.weight = _parameter(*shape)
        self.register_parameter("bias", _parameter(shape[0]) if bias else None)
        self.reset_parameters()

    def reset_parameters(self):
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))      # the bound is 1 / sqrt(fan in)
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans(self.weight)[0])
            init.uniform_(self.bias, -bound, bound)


class Linear(_Weighted):
    """y = x weight^T + bias: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._make_weights((out_features, in_features), bias)

    def forward(self, x):
        return linear(x, self.weight, self.bias)

    def extra_repr(self):
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}")


class Conv2d(_Weighted):
    """Cross-correlation: (N, in_channels, H, W) -> (N, out_channels, H', W').

    kernel_size, stride, padding, dilation: an int or (vertical, horizontal); padding also 'same', 'valid'.
    Weight: (out_channels, in_channels / groups, *kernel_size).
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1,
                 bias=True, padding_mode="zeros"):
        super().__init__()
        if padding_mode != "zeros":
            raise NotImplementedError(f"Conv2d: padding_mode is 'zeros' only, got {padding_mode!r}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"Conv2d: {in_channels} input and {out_channels} output channels cannot be "
                             f"split into {groups} groups")
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Conv2d: padding is 'same', 'valid', an int or a pair, got {padding!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, "Conv2d: kernel_size")
        self.stride, self.dilation = pair(stride, "Conv2d: stride"), pair(dilation, "Conv2d: dilation")
        self.padding = padding if isinstance(padding, str) else pair(padding, "Conv2d: padding")
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f"Conv2d: padding='same' needs stride 1, got {stride}")
        self.padding_mode = padding_mode
        self._make_weights((out_channels, in_channels // groups, *self.kernel_size), bias)

    def forward(self, x):
        return conv.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self):
        text = (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}")
        for name, default in ("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text + (", bias=False" if self.bias is None else "")


# --- normalisation ----------------------------------------------------------------------------------------
class _BatchNorm(Module):
    """Each channel to mean 0 and variance 1 over the batch, then weight * x + bias.

    Training normalises by the batch and moves the running statistics by `momentum` (None: the average
    of all batches); evaluation normalises by the running statistics, if they are tracked.
    """

    dims = ()

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", _parameter(num_features) if affine else None)
        self.register_parameter("bias", _parameter(num_features) if affine else None)
        for name, shape, dtype in (("running_mean", num_features, np.float32),
                                   ("running_var", num_features, np.float32),
                                   ("num_batches_tracked", (), np.int64)):
            self.register_buffer(name, Tensor(np.zeros(shape, dtype)) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self):
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.constant_(self.num_batches_tracked, 0)

    def reset_parameters(self):
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, x):
        if x.ndim not in self.dims:
            expected = " or ".join(map(str, self.dims))
            raise ValueError(f"{type(self).__name__}: expected {expected} dimensions, got shape {x.shape}")
        momentum = self.momentum
        if self.training and self.track_running_stats:
            with no_grad():
                self.num_batches_tracked.change()
            self.num_batches_tracked.data += 1
            if momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        mean, var = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:      # switched off later: they stay as they are
            mean = var = None
        return normalization.batch_norm(x, mean, var, self.weight, self.bias, self.training, momentum, self.eps)

    def extra_repr(self):
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L)."""

    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W)."""

    dims = (4,)


class LayerNorm(Module):
    """The last dimensions, of shape normalized_shape, to mean 0 and variance 1, then weight * x + bias."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        super().__init__()
        shape = normalized_shape
        self.normalized_shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        for name, wanted in ("weight", True), ("bias", bias):
            wanted = wanted and elementwise_affine
            self.register_parameter(name, _parameter(*self.normalized_shape) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self):
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x):
        return normalization.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self):
        return (f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
                f"bias={self.bias is not None}")


# --- pooling ----------------------------------------------------------------------------------------------
class MaxPool2d(Module):
    """The largest of each window: (N, C, H, W) -> (N, C, H', W'). stride: kernel_size unless given."""

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False,
                 ceil_mode=False):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, x):
        return conv.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation,
                               ceil_mode=self.ceil_mode, return_indices=self.return_indices)

    def extra_repr(self):
        return (f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}, ceil_mode={self.ceil_mode}")


class AvgPool2d(Module):
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'). stride: kernel_size unless given."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                 divisor_override=None):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, x):
        return conv.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                               self.count_include_pad, self.divisor_override)

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over a grid of windows that covers the image: (N, C, H, W) -> (N, C, *output_size)."""

    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def forward(self, x):
        return conv.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self):
        return f"output_size={self.output_size}"


# --- elementwise ------------------------------------------------------------------------------------------
class _Elementwise(Module):
    """`inplace` is torch's, and refused: results are always new tensors."""

    def __init__(self, inplace=False):
        super().__init__()
        if inplace:
            raise NotImplementedError(f"{type(self).__name__}: inplace=True is left out, results are new")


class ReLU(_Elementwise):
    def forward(self, x):
        return activations.relu(x)


class LeakyReLU(_Elementwise):
    def __init__(self, negative_slope=0.01, inplace=False):
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, x):
        return activations.leaky_relu(x, self.negative_slope)

    def extra_repr(self):
        return f"negative_slope={self.negative_slope}"


class SiLU(_Elementwise):
    def forward(self, x):
        return activations.silu(x)


class GELU(Module):
    def __init__(self, approximate="none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, x):
        return activations.gelu(x, self.approximate)

    def extra_repr(self):
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    def forward(self, x):
        return activations.sigmoid(x)


class Tanh(Module):
    def forward(self, x):
        return activations.tanh(x)


class Softmax(Module):
    """exp(x) / sum of exp(x) over dimension dim. torch guesses a missing dim; here it has to be given."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return activations.softmax(x, self.dim)

    def extra_repr(self):
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of Softmax."""

    def forward(self, x):
        return activations.log_softmax(x, self.dim)


class Dropout(_Elementwise):
    """In training: zero with probability p, else x / (1 - p). In evaluation: x."""

    def __init__(self, p=0.5, inplace=False):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is a probability, got {p}")
        super().__init__(inplace)
        self.p = p

    def forward(self, x):
        return activations.dropout(x, self.p, self.training)

    def extra_repr(self):
        return f"p={self.p}, inplace=False"


# --- shape ------------------------------------------------------------------------------------------------
class Flatten(Module):
    """Dimensions start_dim to end_dim become one: (N, C, H, W) -> (N, C*H*W) by default."""

    def __init__(self, start_dim=1, end_dim=-1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x):
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self):
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Returns its input. Takes and ignores any arguments, so that it can stand in for any layer."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x):
        return x
