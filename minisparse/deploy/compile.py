"""compile: a trained model -> an Engine. Batch norm is folded into the layer before it where it directly follows."""
import numpy as np

from .. import nn
from .engine import Engine, Step


def compile(model, input_shape):
    """An Engine with the outputs of `model` in evaluation mode.

    model: a Sequential (of Sequentials) of convolutions, linear layers, batch norm, activations, pooling, flatten and
    dropout; TypeError names a layer it cannot take. input_shape: of one input, without the batch: (3, 32, 32).
    """
    steps = []
    for name, layer in _leaves(model, ""):
        step = _step(layer)
        if step is None:
            raise TypeError(f"compile: cannot take layer {name or 'model'!r}, a {type(layer).__name__}")
        if step.op == "affine" and steps and steps[-1].op in ("conv", "linear"):
            steps[-1] = _fold(steps[-1], step)
        elif step.op != "nothing":
            steps.append(step)
    engine = Engine(steps, input_shape)
    engine(np.zeros((1, *input_shape), np.float32))      # errors of shape now rather than in use
    return engine


def _leaves(module, prefix):
    if type(module) is nn.Sequential:
        for name, child in module.named_children():
            yield from _leaves(child, f"{prefix}{name}." if prefix or name else "")
    else:
        yield prefix.rstrip("."), module


def _step(layer):
    """The step of one layer, or None if there is none for it."""
    kind = type(layer)
    if kind is nn.Conv2d:
        same = layer.padding == "same"
        kernel, dilation = layer.kernel_size, layer.dilation
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation)) if same else layer.padding
        padding = (0, 0) if padding == "valid" else padding
        options = {"kernel": list(kernel), "stride": list(layer.stride), "padding": list(padding),
                   "dilation": list(dilation), "same": same, "groups": layer.groups}
        return Step("conv", options, weight=np.array(layer.weight.data, order="C"), bias=_bias(layer))
    if kind is nn.Linear:
        return Step("linear", weight=np.array(layer.weight.data, order="C"), bias=_bias(layer))
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.running_mean is not None:
        scale = 1 / np.sqrt(layer.running_var.data + np.float32(layer.eps))
        if layer.weight is not None:
            scale = scale * layer.weight.data
        shift = -layer.running_mean.data * scale
        return Step("affine", scale=scale, shift=shift if layer.bias is None else shift + layer.bias.data)
    if kind is nn.LeakyReLU:
        return Step("leaky_relu", {"negative_slope": layer.negative_slope})
    if kind in (nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh):
        return Step(kind.__name__.lower())
    if kind in (nn.MaxPool2d, nn.AvgPool2d):
        options = ("kernel_size", "stride", "padding", "ceil_mode")
        return Step("max_pool2d" if kind is nn.MaxPool2d else "avg_pool2d", {k: getattr(layer, k) for k in options})
    if kind is nn.AdaptiveAvgPool2d:
        return Step("adaptive_avg_pool2d", {"output_size": layer.output_size})
    if kind is nn.Flatten:
        return Step("flatten")
    if kind in (nn.Dropout, nn.Identity):
        return Step("nothing")
    return None


def _bias(layer):
    return np.zeros(len(layer.weight), np.float32) if layer.bias is None else np.array(layer.bias.data)


def _fold(step, affine):
    """scale (W x + b) + shift = (scale W) x + (scale b + shift)."""
    scale, shift = affine.arrays["scale"], affine.arrays["shift"]
    weight, bias = step.arrays["weight"], step.arrays["bias"]
    weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    return Step(step.op, step.options, weight=weight, bias=bias * scale + shift)
