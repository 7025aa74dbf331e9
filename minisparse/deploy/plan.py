"""A plan: the layers of an engine for one size of batch, with their kernels and all the memory that they need."""
import functools
import time

import numpy as np

from ..conv import conv_geometry, pair
from ..kernels import load
from ..kernels.inference import Ending, Images, cheapest
from ..kernels.memory import batch_first

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU"}      # that a layer can end in, and their names in kernels/direct.py
# steps that NumPy computes in place; the rest take the operators of the library
IN_PLACE = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "relu": lambda x, out: np.maximum(x, 0, out=out)}
TAIL = 1024         # numbers beyond the end of memory without padding that a kernel may read


class Layer:
    """Steps that are computed together: a convolution or linear layer and what follows it, or any single step."""

    def __init__(self, steps, number):
        self.steps, self.inputs, self.op = [number], steps[number].inputs, steps[number].op
        self.pool, self.activation, self.affine, self.early = 1, None, None, False

    def take(self, number, step):
        """Whether the step could be made a part of the layer."""
        size = _pool_size(step)
        if step.op in ACTIVATIONS and not self.activation:
            self.activation = step.op
        elif step.op == "affine" and self.pool > 1 and not self.affine and not self.activation:
            self.affine = step
        elif size and self.pool == 1:
            # ReLU and the largest of some numbers can change places
            self.pool, self.early = size, self.activation == "gelu"
        else:
            return False
        self.steps.append(number)
        return True

    def ending(self, bias):
        scale, shift = np.ones_like(bias), bias
        if self.affine:
            scale = self.affine.arrays["scale"]
            shift = self.affine.arrays["shift"] + scale * bias
        activation = getattr(load("direct"), ACTIVATIONS.get(self.activation, "PLAIN"))
        return Ending(scale, shift, self.pool, activation, self.early)


def _pool_size(step):
    """n where the step keeps the largest number of each n x n pixels, else None."""
    if step.op != "max_pool2d":
        return None
    options = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **step.options}
    kernel = pair(options["kernel_size"], "kernel_size")
    stride = kernel if options["stride"] is None else pair(options["stride"], "stride")
    simple = (pair(options["padding"], "padding"), pair(options["dilation"], "dilation")) == ((0, 0), (1, 1))
    same = kernel == stride == (kernel[0], kernel[0])
    return kernel[0] if simple and same and not options["ceil_mode"] and kernel[0] > 1 else None


def layers(steps):
    """The steps as a list of Layers."""
    readers = [[i for i, step in enumerate(steps) if j in step.inputs] for j in range(len(steps))]
    found, taken = [], set()
    for i, step in enumerate(steps):
        if i in taken:
            continue
        layer = Layer(steps, i)
        if step.op in ("conv2d", "linear"):
            while len(readers[layer.steps[-1]]) == 1:
                following = readers[layer.steps[-1]][0]
                if not layer.take(following, steps[following]):
                    break
        taken.update(layer.steps)
        found.append(layer)
    return found


def _images_shape(shape, batch):
    """(C, H, W) or (F,) or any other shape -> (C, H, W, N)."""
    if len(shape) == 3:
        return (*shape, batch)
    return int(np.prod(shape)), 1, 1, batch


def kernel(layer, steps, shapes, batch):
    """The kernel object for a layer that begins with a convolution or linear layer, None for any other."""
    step = steps[layer.steps[0]]
    if step.op not in ("conv2d", "linear"):
        return None
    weight = step.arrays["weight"]
    weight = weight.reshape(weight.shape + (1,) * (4 - weight.ndim))
    options = {"stride": 1, "padding": 0, "dilation": 1, **step.options}
    groups = options.pop("groups", 1)
    shape = _images_shape(shapes[layer.inputs[0]], batch)
    geometry = conv_geometry(np.broadcast_to(np.float32(0), (batch, *shape[:3])), weight.shape[2:], **options)
    return cheapest(weight, groups, geometry, shape, layer.ending(step.arrays["bias"]))


class Plan:
    """Run an engine's steps on batches of one size. Not for several threads at a time.

    kernels: `kernel` of each layer, prepared; shapes: of the values without the batch: of each step's result, and at
    the end of the engine's input (number -1).
    """

    def __init__(self, steps, layers, kernels, shapes, batch):
        readers = [[k for layer, k in zip(layers, kernels) for i in layer.inputs if i == j] for j in range(len(steps))]
        readers.append([k for layer, k in zip(layers, kernels) for i in layer.inputs if i == -1])

        def memory(j):
            """For a value: padded as its reader wants it, if that is one kernel."""
            if len(readers[j]) == 1 and readers[j][0] and readers[j][0].takes_padded:
                return readers[j][0].images()
            return Images(_images_shape(shapes[j], batch), tail=TAIL)
        values = {-1: memory(-1)}
        self.work = []
        for layer, found in zip(layers, kernels):
            end, sources = layer.steps[-1], [values[j] for j in layer.inputs]
            if layer.op == "flatten":
                values[end] = sources[0].flatten()
                self.work.append(lambda limit: None)
            else:
                out = values[end] = memory(end)
                if found:
                    self.work.append(found.bind(sources[0], out))
                else:
                    inputs = [x.view.reshape(*shapes[j], batch) for x, j in zip(sources, layer.inputs)]
                    view = out.view if len(shapes[end]) == 3 else out.view.reshape(*shapes[end], batch)
                    self.work.append(functools.partial(_single, steps[end], inputs, view))
        self.input, self.output, self.shape = values[-1].view, values[len(steps) - 1].view, shapes[len(steps) - 1]

    def __call__(self, images, out, limit, seconds=None):
        """images (n, ...) -> out (n, ...), n at most the batch. seconds: a list that gets the time of each layer.

        What an earlier, larger batch left in the rest of the memory does no harm: images do not see each other.
        """
        n = len(images)
        self.input[..., :n] = images.reshape(n, *self.input.shape[:3]).transpose(1, 2, 3, 0)
        for work in self.work:
            began = time.perf_counter()
            work(limit)
            if seconds is not None:
                seconds.append(time.perf_counter() - began)
        out[...] = batch_first(self.output[..., :n].reshape(*self.shape, n))


def _single(step, inputs, output, limit):
    """A step that is a layer by itself."""
    if step.op in IN_PLACE:
        IN_PLACE[step.op](*inputs, out=output)
    else:
        output[...] = np.moveaxis(step(*map(batch_first, inputs)), 0, -1)
