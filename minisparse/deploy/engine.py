"""The engine: the steps of a model, and the plans that run them; no autograd."""
import functools
import time

import numpy as np

from .. import activations, conv, linear, ops, reductions, shapes
from ..kernels import have_numba
from ..kernels.pool import get_num_threads
from ..tensor import Tensor, no_grad
from .plan import Plan, kernel, layers

LARGEST = 64        # images that are worked on at a time: more gain nothing
LINE = 16           # a batch of a multiple of this has its loads on whole cache lines
FILLED = 5          # a rest of so many images is filled up to a LINE


def affine(x, scale, shift):
    """scale x + shift for each channel: a batch norm that found no layer to be folded into."""
    if x.ndim < 2 or scale.shape != x.shape[1:2] or shift.shape != scale.shape:
        raise ValueError(f"affine: scale {scale.shape} and shift {shift.shape} do not fit x {x.shape}")
    channel = (-1,) + (1,) * (x.ndim - 2)
    return x * scale.reshape(channel) + shift.reshape(channel)


def flatten(x):
    return x.flatten(1)


def cat(*tensors, dim):
    return shapes.cat(tensors, dim)


# what a step can be, as functions of tensors
OPERATORS = {f.__name__: f for f in (
    conv.conv2d, linear.linear, conv.max_pool2d, conv.avg_pool2d, conv.adaptive_avg_pool2d, affine, flatten, cat,
    activations.relu, activations.leaky_relu, activations.gelu, activations.silu, activations.sigmoid,
    activations.tanh, activations.softmax, activations.log_softmax, ops.add, ops.sub, ops.mul, reductions.mean)}
ARRAYS = {"conv2d": {"weight", "bias"}, "linear": {"weight", "bias"}, "affine": {"scale", "shift"}}
DIMENSIONS = {"conv2d": 4, "max_pool2d": 4, "avg_pool2d": 4, "adaptive_avg_pool2d": 4, "linear": 2}


class Step:
    """One step of an engine: an operation by name, its options (plain values) and its arrays (copied as float32).

    inputs: the numbers of the steps whose results it takes, -1 for the input of the engine; None for the step before.
    """

    def __init__(self, op, options=None, inputs=None, **arrays):
        options = {name: np.asarray(value).tolist() if isinstance(value, (np.generic, tuple, list)) else value
                   for name, value in (options or {}).items()}          # without NumPy's own numbers
        self.op, self.options, self.inputs = op, options, inputs
        self.arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}

    @functools.cached_property
    def zeros(self):
        """How many of the weights are zero."""
        weight = self.arrays.get("weight")
        return 0 if weight is None else weight.size - np.count_nonzero(weight)

    def __call__(self, *inputs):
        """The result of the step for arrays (N, ...), computed by the operator of the same name."""
        for x in inputs:
            if x.ndim != DIMENSIONS.get(self.op, x.ndim):
                raise ValueError(f"{self.op}: expected inputs of {DIMENSIONS[self.op] - 1} dimensions, "
                                 f"got shape {x.shape[1:]} (a Flatten too many or too few?)")
        arrays = {name: Tensor(array) for name, array in self.arrays.items()}
        with no_grad():
            return OPERATORS[self.op](*map(Tensor, inputs), **arrays, **self.options).data


def check_shape(input_shape):
    """ValueError unless it is the positive sizes of one input."""
    try:
        good = len(input_shape) > 0 and all(isinstance(n, int) and n > 0 for n in input_shape)
    except TypeError:
        good = False
    if not good or isinstance(input_shape, str):
        raise ValueError(f"engine: input_shape is the positive sizes of one input, got {input_shape!r}")


class Engine:
    """A compiled model. engine(images (N, C, H, W) float32) -> scores (N, classes).

    steps: in the order of their computation, the result is that of the last one; info: plain values to keep with the
    model (classes, mean, std, ...); threads: at most so many of the worker threads. Several threads may call one engine
    at the same time; its results are the same bits in every call.
    """

    def __init__(self, steps, input_shape, info=None, threads=None):
        check_shape(input_shape)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"engine: threads must be a positive whole number, got {threads!r}")
        self.steps, self.input_shape = list(steps), tuple(input_shape)
        self.info, self.threads = dict(info or {}), threads
        for i, step in enumerate(self.steps):
            step.inputs = [i - 1] if step.inputs is None else step.inputs
            if not step.inputs or not all(isinstance(j, int) and -1 <= j < i for j in step.inputs):
                raise ValueError(f"engine: step {i} ({step.op}) takes the results of steps {step.inputs!r}, "
                                 f"which have to come before it")
        # once, so that errors of shape come now rather than in use
        values = self._values(np.zeros((1, *self.input_shape), np.float32))
        self.shapes = [x.shape[1:] for x in values]             # of the result of each step
        self._shapes = [*self.shapes, self.input_shape]
        self.layers = layers(self.steps)   # what is computed together
        self._found = {}                    # size of a batch -> the kernel of each layer
        self._plans = {}                    # size of a batch -> plans that nobody runs at the moment
        self._profile = 1, None             # for the table: size of the batch, seconds of each layer

    def __call__(self, images):
        """ValueError unless `images` is (N, *input_shape) with N > 0, of floating-point numbers.

        Whole numbers are refused: pictures of 0 to 255 that nobody normalised would get scores without any sense.
        """
        images = np.asarray(images)
        if images.size and images.dtype.kind != "f":
            raise ValueError(f"engine: expected floating-point images, normalised as in training, got {images.dtype}")
        images = images.astype(np.float32, copy=False)
        if images.shape[1:] != self.input_shape or not images.size:
            raise ValueError(f"engine: expected an array (N, {', '.join(map(str, self.input_shape))}) with N > 0, "
                             f"got shape {images.shape}")
        out = np.empty((len(images), *self._shapes[len(self.steps) - 1]), np.float32)
        for first, last, size in parts(len(images)):
            if have_numba():
                self._run(images[first:last], size, out[first:last])
            else:
                out[first:last] = self.plain(images[first:last])
        return out

    def plain(self, images):
        """The same by the operators of the library, one step after the other."""
        return [images, *self._values(np.asarray(images, np.float32))][-1]

    def _values(self, x):
        values = []
        for step in self.steps:
            values.append(step(*(values[j] if j >= 0 else x for j in step.inputs)))
        return values

    def _run(self, images, size, out, seconds=None):
        """images through a plan for `size` of them; each caller has a plan, and its memory, for itself."""
        free = self._plans.setdefault(size, [])
        try:
            plan = free.pop()
        except IndexError:
            plan = Plan(self.steps, self.layers, self._kernels(size), self._shapes, size)
        plan(images, out, min(get_num_threads(), self.threads or get_num_threads()), seconds)
        free.append(plan)

    def __getstate__(self):
        """For pickle and copy: kernels and memory are made anew where the engine goes."""
        return {**self.__dict__, "_found": {}, "_plans": {}}

    def _kernels(self, size):
        if size not in self._found:
            found = [kernel(layer, self.steps, self._shapes, size) for layer in self.layers]
            for one in filter(None, found):
                one.prepare()
            self._found[size] = found
        return self._found[size]

    def warmup(self, batch=1):
        """Compile and plan for batches of this size now, rather than when the first one comes.

        Seconds of a core for the animals net and one image, where it has never run: 15; in every later process, from
        the kernels on disk: 0.5. `python -m minisparse.deploy FILE` puts them there, when a program is installed, say.
        """
        self(np.zeros((batch, *self.input_shape), np.float32))

    def profile(self, images, rounds=20):
        """Measure each layer on these images, 64 at most: the times that print(engine) shows from then on.

        Returns the median seconds of a call, layers and all. ValueError unless there is a round at least.
        """
        if rounds < 1:
            raise ValueError(f"profile: rounds must be at least 1, got {rounds}")
        out = self(images)[:LARGEST]        # which checks, compiles and plans
        images = np.asarray(images, np.float32)[:LARGEST]
        size = next(parts(len(images)))[2]
        if not have_numba() or not self.steps:
            return None
        runs = []
        for _ in range(rounds):
            seconds, began = [], time.perf_counter()
            self._run(images[:size], size, out[:size], seconds)
            runs.append([*seconds, time.perf_counter() - began])
        *layers, total = np.median(runs, axis=0)
        self._profile = size, layers
        return total

    def __repr__(self):
        """A table of the layers, for the batch that `profile` saw last, or for one image."""
        batch, seconds = self._profile
        rows = [("layer", "weight", "kernel", "zeros", "multiply-adds", "saved", "bytes", "ms")]
        kernels = self._kernels(batch) if have_numba() else [None] * len(self.layers)
        for i, (layer, found) in enumerate(zip(self.layers, kernels)):
            step = self.steps[layer.steps[0]]
            row = [" + ".join(self.steps[j].op for j in layer.steps), "", "", "", "", "", "", ""]
            weight = step.arrays.get("weight")
            if weight is not None:
                dense = weight.size * int(np.prod(self._shapes[layer.steps[0]][1:]))
                done = found.multiplications // batch if found else dense
                row[1:7] = ("x".join(map(str, weight.shape)), found.name if found else "numpy",
                            f"{step.zeros / weight.size:.1%}", f"{done:,}", f"{1 - done / dense:.1%}",
                            f"{4 * (weight.size - step.zeros):,}")
            if seconds:
                row[7] = f"{1000 * seconds[i]:.3f}"
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  " + "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in
                                  enumerate(zip(row, widths))).rstrip() for row in rows]
        shape = "x".join(map(str, self.input_shape))
        head = f"Engine({shape}, batch {batch}: multiply-adds of an image, bytes of nonzeros"
        return "\n".join([head, *lines, ")"])

    def save(self, path, values="float32"):
        """Write the engine as a file that `minisparse.deploy.load` reads; values: see minisparse.deploy.file.save."""
        from .file import save      # here: file.py needs the Engine
        save(self, path, values)


def parts(n):
    """(first, last, size of the plan) for the parts that a batch of n is worked on in.

    Whole cache lines of images: a rest that nearly fills one is filled up with zeros, a smaller one goes by itself.
    """
    first = 0
    while first < n:
        count = min(n - first, LARGEST)
        lines, rest = divmod(count, LINE)
        if rest >= FILLED:
            size = (lines + 1) * LINE
        else:
            count = size = lines * LINE or rest
        yield first, first + count, size
        first += count
