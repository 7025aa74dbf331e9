"""to_onnx: an engine as an ONNX file, for other runtimes. Needs the optional package onnx."""
import math

import numpy as np

from ..serialize import write_atomically
from .check import check, outline, pair
from .compile import compile
from .engine import Engine

OPSET, IR_VERSION = 17, 8       # of 2022, which runtimes in use today read


class _Graph:
    """Nodes in the order of the computation, and the constants that they read."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.constants = onnx, [], []

    def constant(self, name, array):
        """The name under which the next node finds the array."""
        name = f"{len(self.nodes)}.{name}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def node(self, op, *inputs, **attributes):
        """The name of the result."""
        output = f"{len(self.nodes)}.{op}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], **attributes))
        return output


def to_onnx(model, path, input_shape=None):
    """Write a model with the input "images" (N, *input_shape) and the output "scores", both float32.

    model: an Engine, or what `compile` takes, then with the input_shape. Batch norm is folded; zeros are stored
    as any other number. NotImplementedError for the rare pooling that ONNX has no operator for; ImportError where
    the package onnx is missing.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("to_onnx needs the package onnx: pip install onnx") from None
    engine = model if isinstance(model, Engine) else compile(model, input_shape)
    shapes = [*check(outline(engine.steps), engine.input_shape), engine.input_shape]    # the step -1 is the input
    graph, results = _Graph(onnx), ["images"]
    for step, after in zip(engine.steps, shapes):
        read = [results[j + 1] for j in step.inputs]
        if step.op in PLAIN:
            results.append(graph.node(PLAIN[step.op], *read))
        else:
            writer, before = WRITERS[step.op], shapes[step.inputs[0]]
            results.append(writer(graph, *read, before=before, after=after, **step.arrays, **step.options))
    graph.nodes.append(onnx.helper.make_node("Identity", results[-1:], ["scores"]))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
            for name, shape in (("images", engine.input_shape), ("scores", shapes[len(engine.steps) - 1]))]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "minisparse", ends[:1], ends[1:], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(proto)
    write_atomically(path, proto.SerializeToString())


# --- one function for each operation; before, after: the shapes of one image ------------------------------
def conv2d(graph, x, before, after, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    dilation = pair(dilation, "dilation")
    if padding == "same":       # an odd total has the one row or column more at the bottom or right
        total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation)]
        pads = [n // 2 for n in total] + [n - n // 2 for n in total]
    else:
        pads = pair(0 if padding == "valid" else padding, "padding", 0) * 2
    return graph.node("Conv", x, graph.constant("weight", weight), graph.constant("bias", bias),
                      strides=pair(stride, "stride"), pads=pads, dilations=dilation, group=groups)


def linear(graph, x, before, after, weight, bias):
    return graph.node("Gemm", x, graph.constant("weight", weight), graph.constant("bias", bias), transB=1)


def affine(graph, x, before, after, scale, shift):
    scale, shift = (a.reshape(-1, *(1,) * (len(before) - 1)) for a in (scale, shift))
    y = graph.node("Mul", x, graph.constant("scale", scale))
    return graph.node("Add", y, graph.constant("shift", shift))


def flatten(graph, x, before, after):
    return graph.node("Flatten", x, axis=1)


def max_pool2d(graph, x, before, after, **options):
    options.pop("return_indices", None)
    return graph.node("MaxPool", x, **_window(before, after, **options))


def avg_pool2d(graph, x, before, after, count_include_pad=True, divisor_override=None, **options):
    window = _window(before, after, **options)
    del window["dilations"]
    if window["pads"][:2] != window["pads"][2:]:
        raise NotImplementedError("to_onnx: avg_pool2d with ceil_mode, where it adds a row or a column")
    padding_counts = count_include_pad or divisor_override is not None      # as any other number
    y = graph.node("AveragePool", x, count_include_pad=int(padding_counts), **window)
    if divisor_override is None:
        return y
    return graph.node("Mul", y, graph.constant("share", math.prod(window["kernel_shape"]) / divisor_override))


def _window(before, after, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """The attributes of a pool. What ceil_mode adds, is padding at the bottom and right."""
    kernel, padding = pair(kernel_size, "kernel_size"), pair(padding, "padding", 0)
    stride, dilation = kernel if stride is None else pair(stride, "stride"), pair(dilation, "dilation")
    ends = [max(p, (m - 1) * s + d * (k - 1) + 1 - n - p) for n, m, k, s, p, d in
            zip(before[1:], after[1:], kernel, stride, padding, dilation)]
    return {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *ends], "dilations": dilation}


def adaptive_avg_pool2d(graph, x, before, after, output_size):
    if any(n % m for n, m in zip(before[1:], after[1:])):
        raise NotImplementedError(f"to_onnx: adaptive_avg_pool2d from {before} to {after}: windows of several sizes")
    window = [n // m for n, m in zip(before[1:], after[1:])]
    return graph.node("AveragePool", x, kernel_shape=window, strides=window)


def leaky_relu(graph, x, before, after, negative_slope=0.01):
    return graph.node("LeakyRelu", x, alpha=float(negative_slope))


def gelu(graph, x, before, after, approximate="none"):
    # x (1 + erf(x / sqrt 2)) / 2, in the form that runtimes know as one operation
    erf = graph.node("Erf", graph.node("Div", x, graph.constant("sqrt2", math.sqrt(2))))
    y = graph.node("Mul", x, graph.node("Add", erf, graph.constant("one", 1)))
    return graph.node("Mul", y, graph.constant("half", 0.5))


def silu(graph, x, before, after):
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def softmax(graph, x, before, after, dim):
    return graph.node("Softmax", x, axis=dim)


def log_softmax(graph, x, before, after, dim):
    return graph.node("LogSoftmax", x, axis=dim)


def cat(graph, *read, before, after, dim):
    return graph.node("Concat", *read, axis=dim)


def mean(graph, x, before, after, dim, keepdim):
    return graph.node("ReduceMean", x, axes=dim, keepdims=int(keepdim))


PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "add": "Add", "sub": "Sub", "mul": "Mul"}
WRITERS = {f.__name__: f for f in (conv2d, linear, affine, flatten, max_pool2d, avg_pool2d, adaptive_avg_pool2d,
                                   leaky_relu, gelu, silu, softmax, log_softmax, cat, mean)}
