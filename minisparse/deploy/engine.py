"""The engine: a list of steps on batch-innermost arrays; no autograd."""
import functools
import time

import numpy as np

from .. import activations, conv, linear
from ..kernels import csr_product, memory, sparse_conv
from ..kernels.memory import batch_first, batch_last
from ..tensor import Tensor, no_grad

# what a step can be, beside "affine" (a batch norm that found no layer to be folded into) and "flatten"
OPERATORS = {f.__name__: f for f in (
    conv.conv2d, linear.linear, conv.max_pool2d, conv.avg_pool2d, conv.adaptive_avg_pool2d,
    activations.relu, activations.leaky_relu, activations.gelu, activations.silu, activations.sigmoid,
    activations.tanh, activations.softmax, activations.log_softmax)}
ARRAYS = {"conv2d": {"weight", "bias"}, "linear": {"weight", "bias"}, "affine": {"scale", "shift"}}
DIMENSIONS = {"conv2d": 4, "max_pool2d": 4, "avg_pool2d": 4, "adaptive_avg_pool2d": 4, "linear": 2}


class Step:
    """One step of an engine: an operation by name, its options (plain values) and its arrays (copied as float32)."""

    def __init__(self, op, options=None, **arrays):
        self.op, self.options = op, options or {}
        self.arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
        self.fastest = {}       # size of the batch, as a power of two -> "dense" or "sparse", once measured
        self.plans = {}         # shape of the input -> plan()

    @functools.cached_property
    def zeros(self):
        """How many of the weights are zero."""
        weight = self.arrays.get("weight")
        return 0 if weight is None else weight.size - np.count_nonzero(weight)

    @functools.cached_property
    def csr(self):
        """The weight of a linear layer as (crow, col, value)."""
        weight = self.arrays["weight"]
        row, col = np.nonzero(weight)
        return np.searchsorted(row, np.arange(len(weight) + 1)), col, weight[row, col]

    def __call__(self, x):
        """x: (C, H, W, N) or (F, N) -> the same of the result, C-contiguous."""
        if self.op == "affine":
            scale, shift = (a.reshape((-1,) + (1,) * (x.ndim - 1)) for a in self.arrays.values())
            if len(scale) != len(x):
                raise ValueError(f"batch norm: {len(x)} channels given, {len(scale)} expected")
            return x * scale + shift
        if self.op == "flatten":
            return x.reshape(-1, x.shape[-1])
        if x.ndim != DIMENSIONS.get(self.op, x.ndim):
            raise ValueError(f"{self.op}: expected inputs of {DIMENSIONS[self.op] - 1} dimensions, "
                             f"got shape {x.shape[:-1]} (a Flatten too many or too few?)")
        return self.sparse(x) if self.kernel(x) == "sparse" else self.dense(x)

    def dense(self, x):
        """The step as the model's own operator computes it."""
        arrays = {name: Tensor(array) for name, array in self.arrays.items()}
        return batch_last(OPERATORS[self.op](Tensor(batch_first(x)), **arrays, **self.options).data)

    def sparse(self, x):
        """A convolution or linear layer by the nonzeros of its weight; dense where no kernel for them fits."""
        bias = self.arrays["bias"]
        if self.op == "linear" and x.shape[1] == 1:
            return csr_product.multiply(*self.csr, x) + bias[:, None]
        images = x if self.op == "conv2d" else x[:, None, None]     # a vector is an image of one pixel
        plan = sparse_conv.remembered(self.plans, images.shape, lambda: self.plan(images))
        if not plan:
            return self.dense(x)
        schedule, value = plan
        y = schedule.forward(schedule.pad(images), value, bias)
        return y if self.op == "conv2d" else y[:, 0, 0]

    def plan(self, images):
        """(the Schedule for inputs of this shape, the nonzeros in its order), or () where no Schedule fits."""
        weight = self.arrays["weight"]
        weight = weight.reshape(weight.shape + (1,) * (4 - weight.ndim))
        options = {"stride": 1, "padding": 0, "dilation": 1, **self.options}
        groups = options.pop("groups", 1)
        geometry = conv.conv_geometry(batch_first(images), weight.shape[2:], **options)
        if not sparse_conv.fits(geometry, images.shape):
            return ()
        taps = sparse_conv.taps(weight != 0, groups)
        schedule = sparse_conv.Schedule(taps, geometry, images.shape, len(weight))
        return schedule, weight.reshape(-1)[schedule.index]

    def kernel(self, x):
        """"dense" or "sparse", whichever was faster at this size of batch. The first time, both are run and timed."""
        if not self.zeros:
            return "dense"
        size = (x.shape[-1] - 1).bit_length()
        if size not in self.fastest:
            # dense goes first: it is the one that checks shapes and options
            seconds = {kernel: _seconds(getattr(self, kernel), x) for kernel in ("dense", "sparse")}
            self.fastest[size] = min(seconds, key=seconds.get)
        return self.fastest[size]


def _seconds(function, x):
    """The best of three times, after a first run that compiles and brings the arrays into the cache."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        function(x)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _whole_lines(images):
    """images (N, ...) as (..., N), filled up to whole cache lines with images of zeros, where that adds half at most.

    The sparse kernels take about one and a half times as long where their loads cross from line to line.
    """
    n, line = len(images), sparse_conv.ALIGNED
    filled = -(-n // line) * line
    if filled == n or filled * 2 > n * 3:
        return batch_last(images)
    x = memory.zeros((*images.shape[1:], filled))
    x[..., :n] = np.moveaxis(images, 0, -1)
    return x


class Engine:
    """A compiled model. engine(images (N, C, H, W) float32) -> scores (N, classes)."""

    def __init__(self, steps, input_shape):
        self.steps, self.input_shape = steps, tuple(input_shape)
        if not self.input_shape or not all(isinstance(n, int) and n > 0 for n in self.input_shape):
            raise ValueError(f"engine: input_shape is the positive sizes of one input, got {input_shape!r}")
        self(np.zeros((1, *self.input_shape), np.float32))      # errors of shape now rather than in use

    def __call__(self, images):
        """ValueError unless `images` is (N, *input_shape) with N > 0."""
        images = np.asarray(images, np.float32)
        if images.shape[1:] != self.input_shape or not images.size:
            raise ValueError(f"engine: expected an array (N, {', '.join(map(str, self.input_shape))}), "
                             f"got shape {images.shape}")
        sparse = any("sparse" in step.fastest.values() for step in self.steps)
        x = _whole_lines(images) if sparse else batch_last(images)
        with no_grad():
            for step in self.steps:
                x = step(x)
        return np.array(batch_first(x)[:len(images)], order="C")

    def save(self, path):
        """Write the engine as a safetensors file that `minisparse.deploy.load` reads."""
        from .file import save
        save(self, path)

    def __repr__(self):
        lines = []
        for i, step in enumerate(self.steps):
            weight = step.arrays.get("weight")
            lines.append(f"  {i}: {step.op}")
            if weight is not None:
                lines[-1] += f" {'x'.join(map(str, weight.shape))}, {step.zeros / weight.size:.1%} zeros"
        return "\n".join(["Engine(", *lines, ")"])
