"""The engine: a list of steps on batch-innermost arrays; no autograd."""
import time

import numpy as np

from .. import activations, conv, linear
from ..kernels import dense_conv, sparse_conv
from ..kernels.memory import batch_first, batch_last
from ..tensor import Tensor, no_grad

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")


class Step:
    """One step of an engine: an operation by name, its options (plain values) and its arrays."""

    def __init__(self, op, options=None, **arrays):
        self.op, self.options, self.arrays = op, options or {}, arrays
        self.kernels = {}       # batch size -> the faster of the two ways, once measured
        if op in ("conv", "linear"):
            weight = arrays["weight"]
            self.taps = sparse_conv.taps(weight if op == "conv" else weight[:, :, None, None],
                                         self.options.get("groups", 1))

    def __call__(self, x):
        """x: (C, H, W, N) or (F, N) -> the same of the result."""
        if self.op in ("conv", "linear"):
            return self._faster(x)
        if self.op == "affine":
            shape = (-1,) + (1,) * (x.ndim - 1)
            x = x * self.arrays["scale"].reshape(shape)
            x += self.arrays["shift"].reshape(shape)
            return x
        if self.op == "flatten":
            return x.reshape(-1, x.shape[-1])
        function = getattr(activations if self.op in ACTIVATIONS else conv, self.op)
        return batch_last(function(Tensor(batch_first(x)), **self.options).data)

    def _dense(self, x):
        weight, bias = self.arrays["weight"], self.arrays["bias"]
        if self.op == "linear":
            return linear.matmul_rows(weight, x) + bias[:, None]
        return dense_conv.forward(x, weight, bias, self._geometry(x), self.options["groups"])

    def _sparse(self, x):
        x = np.ascontiguousarray(x)
        if self.op == "linear":
            return sparse_conv.product(x, self.taps, self.arrays["bias"])
        return sparse_conv.forward(x, self.taps, self.arrays["bias"], self._geometry(x))

    def _geometry(self, x):
        *fixed, sides = (self.options[k] for k in ("kernel", "stride", "padding", "dilation", "same"))
        if sides:
            return (*fixed[0], 1, 1, *fixed[2], *fixed[3], *x.shape[1:3])
        return conv._geometry("conv", batch_first(x), *map(tuple, fixed))

    def _faster(self, x):
        """Run the way that was measured to be the faster at this batch size; the first time, measure."""
        batch = x.shape[-1]
        if batch not in self.kernels:
            x = np.ascontiguousarray(x)
            times = {}
            for way in (self._dense, self._sparse) if self.zeros else (self._dense,):
                way(x)
                times[way] = min(_seconds(way, x) for _ in range(3))
            self.kernels[batch] = min(times, key=times.get)
        return self.kernels[batch](x)

    @property
    def zeros(self):
        """How many of the weights are zero."""
        weight = self.arrays.get("weight")
        return 0 if weight is None else weight.size - np.count_nonzero(weight)


def _seconds(function, x):
    began = time.perf_counter()
    function(x)
    return time.perf_counter() - began


class Engine:
    """A compiled model. engine(images (N, C, H, W) float32) -> scores (N, classes)."""

    def __init__(self, steps, input_shape):
        self.steps, self.input_shape = steps, tuple(input_shape)

    def __call__(self, images):
        images = np.asarray(images, np.float32)
        if images.ndim != len(self.input_shape) + 1 or images.shape[1:] != self.input_shape or not len(images):
            raise ValueError(f"engine: expected an array (N, {', '.join(map(str, self.input_shape))}), "
                             f"got shape {images.shape}")
        x = batch_last(images)
        with no_grad():
            for step in self.steps:
                x = step(x)
        return np.array(x.T if x.ndim == 2 else batch_first(x), order="C")

    def save(self, path):
        """Write the engine as a safetensors file that `minisparse.deploy.load` reads."""
        from .file import save
        save(self, path)

    def __repr__(self):
        lines = []
        for i, step in enumerate(self.steps):
            weight = step.arrays.get("weight")
            note = "" if weight is None else f" {'x'.join(map(str, weight.shape))}, {step.zeros / weight.size:.1%} zeros"
            lines.append(f"  {i}: {step.op}{note}")
        return "\n".join(["Engine(", *lines, ")"])
