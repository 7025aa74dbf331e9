"""trace: one run of a model in evaluation mode -> its operations as steps of an engine, whatever its forward() does.

Every operator announces its result (Tensor.from_op). Who called it with what is read from the frames of the running
functions: the operator's own arguments are all that a step needs, and the module it ran in makes errors readable.
"""
import sys

import numpy as np

from .. import nn
from ..tensor import Tensor, no_grad, recording
from .engine import ARRAYS, OPERATORS, Step, check_shape

# what a constant c makes of an operator of two tensors: (scale, shift); and where c comes first
WITH_CONSTANT = {"add": lambda c: (1, c), "sub": lambda c: (1, -c), "mul": lambda c: (c, 0),
                 "div": lambda c: (1 / c, 0)}
CONSTANT_FIRST = {"add": lambda c: (1, c), "sub": lambda c: (-1, c), "mul": lambda c: (c, 0)}
ROWS = 2        # images in the run that is recorded: 1 would hide which dimension is the batch


def trace(model, input_shape):
    """(steps, x, y): the steps of the model, and what it makes of images x (3, *input_shape).

    x are other images than the recorded ones, and more: steps that take x to y depend on neither.
    TypeError names an operation that no engine has, and the layer in which it was met.
    """
    check_shape(input_shape)
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    generator = np.random.default_rng(0)
    x, other = (Tensor(generator.standard_normal((n, *input_shape)).astype(dtype)) for n in (ROWS, ROWS + 1))
    recorder = _Recorder(model, x)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with no_grad():
            with recording(recorder):
                y = model(x)
            again = model(other)
    finally:
        for module in training:
            module.training = True
    if not isinstance(y, Tensor):
        raise TypeError(f"compile: the model returns a {type(y).__name__}, an engine returns one tensor")
    if id(y) not in recorder.values:
        raise TypeError("compile: the result of the model does not come from its input by operations on tensors")
    end = recorder.values[id(y)]
    if end != len(recorder.steps) - 1:
        del recorder.steps[end + 1:]        # what came later is of no use
    return recorder.steps, other.data, again.data


class _Recorder:
    """Called for every operator; `values` knows the tensors that come from the input: id -> number of their step."""

    def __init__(self, model, x):
        self.names = {module: name for name, module in model.named_modules(remove_duplicate=False)}
        self.steps, self.values, self.alive = [], {id(x): -1}, [x]      # alive: an id is good as long as its tensor

    def __call__(self, name, inputs, out):
        if not any(id(t) in self.values for t in inputs):
            return      # a constant: a weight under its gates, say
        self.name, self.module, arguments = name, None, None
        frame = sys._getframe(2)        # of the operator, which called from_op
        while frame is not None and self.module is None:
            code = frame.f_code
            if arguments is None and code.co_name == name:
                arguments = {key: frame.f_locals[key] for key in code.co_varnames[:code.co_argcount]}
            if code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
                self.module = frame.f_locals["self"]
            frame = frame.f_back
        if name not in READERS and name not in OPERATORS or arguments is None:
            self.refuse()
        step = READERS.get(name, _Recorder.plain)(self, out, **arguments)
        self.alive.append(out)
        if step is None:        # nothing changed
            self.values[id(out)] = self.index(inputs[0])
        else:
            self.values[id(out)] = len(self.steps)
            self.steps.append(step)

    def index(self, tensor):
        """The number of the step that a tensor comes from."""
        if id(tensor) not in self.values:
            self.refuse(": one of its inputs is a constant")
        return self.values[id(tensor)]

    def refuse(self, why=""):
        where = ""
        if self.module is not None:
            # of a module with others inside, the first line tells which it is
            name = ".".join(filter(None, ["model", self.names.get(self.module)]))
            where = f" in {name}, {repr(self.module).splitlines()[0].removesuffix('(')}"
        raise TypeError(f"compile: cannot take the operation {self.name}{where}{why}")

    # --- the step of an operation -----------------------------------------------------------------------------
    def plain(self, out, **arguments):
        """Tensors are inputs, or the weights that belong to the operation; the rest are options."""
        inputs, arrays, options = [], {}, {}
        for key, value in arguments.items():
            if key in ARRAYS.get(self.name, ()):
                if id(value) in self.values:
                    self.refuse(f": its {key} depends on the input")
                arrays[key] = np.zeros(len(arrays["weight"])) if value is None else value.data
            elif isinstance(value, Tensor):
                inputs.append(self.index(value))
            else:
                options[key] = value
        return Step(self.name, options, inputs, **arrays)

    def batch_norm(self, out, x, running_mean, running_var, weight, bias, training, eps, **_):
        if training:
            self.refuse(": it has no running statistics")
        scale = 1 / np.sqrt(running_var.data + eps)
        if weight is not None:
            scale = scale * weight.data
        shift = -running_mean.data * scale
        return Step("affine", None, [self.index(x)], scale=scale, shift=shift if bias is None else shift + bias.data)

    def reshape(self, out, a, **_):
        if out.shape == a.shape:
            return None
        if out.shape != (ROWS, a.numel() // ROWS):
            self.refuse(f": from {('N', *a.shape[1:])} to {out.shape}, rather than (N, -1)")
        return Step("flatten", None, [self.index(a)])

    def two(self, out, a, b, **_):
        """An operator of two tensors; with a constant it is scale * x + shift."""
        table, x, constant = (WITH_CONSTANT, a, b) if id(a) in self.values else (CONSTANT_FIRST, b, a)
        if id(constant) in self.values:
            if a.ndim != b.ndim:        # the batch of one would meet something else of the other
                self.refuse(f" of results with {a.ndim} and {b.ndim} dimensions")
            if self.name not in OPERATORS:
                self.refuse(" of two results")
            return Step(self.name, None, [self.index(a), self.index(b)])
        channels = (1, self.channels(x), *[1] * (x.ndim - 2))
        try:
            c = np.broadcast_to(constant.data, channels).reshape(-1).astype(np.float64)
        except ValueError:
            self.refuse(f": a constant of shape {constant.shape} is not one number, nor one for each channel")
        if self.name not in table:
            self.refuse(" of a constant by a result")
        scale, shift = table[self.name](c)
        return Step("affine", None, [self.index(x)], scale=scale + 0 * c, shift=shift + 0 * c)

    def channels(self, x):
        """How many numbers a scale and a shift of x have."""
        if x.ndim < 2:
            self.refuse(" of one number for each image")
        return x.shape[1]

    def neg(self, out, a):
        c = np.ones(self.channels(a))
        return Step("affine", None, [self.index(a)], scale=-c, shift=0 * c)

    def clone(self, out, a):
        return None

    def cat(self, out, tensors, dim):
        if dim == 0:
            self.refuse(" along the batch")
        return Step("cat", {"dim": dim}, [self.index(t) for t in tensors])

    def softmax(self, out, x, dim):
        if dim % x.ndim == 0:
            self.refuse(" over the batch")
        return self.plain(out, x=x, dim=dim)

    def mean(self, out, a, dim, keepdim, **_):
        dims = [d % a.ndim for d in (range(a.ndim) if dim is None or not np.size(dim) else np.atleast_1d(dim).tolist())]
        if 0 in dims:
            self.refuse(" over the batch")
        return Step("mean", {"dim": dims, "keepdim": keepdim}, [self.index(a)])


READERS = {name: getattr(_Recorder, name)
           for name in ("batch_norm", "reshape", "neg", "clone", "cat", "softmax", "mean")}
READERS["log_softmax"] = _Recorder.softmax
READERS |= dict.fromkeys(("add", "sub", "mul", "div"), _Recorder.two)
