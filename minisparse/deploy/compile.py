"""compile: a trained model -> an Engine. Batch norm is folded into the layer that it directly follows."""
import numpy as np

from .. import nn
from .engine import Engine, Step

# layers without arrays: the operator, and the attributes that are its arguments
PLAIN = {
    nn.ReLU: ("relu",), nn.LeakyReLU: ("leaky_relu", "negative_slope"), nn.GELU: ("gelu", "approximate"),
    nn.SiLU: ("silu",), nn.Sigmoid: ("sigmoid",), nn.Tanh: ("tanh",),
    nn.Softmax: ("softmax", "dim"), nn.LogSoftmax: ("log_softmax", "dim"),
    nn.MaxPool2d: ("max_pool2d", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: ("avg_pool2d", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
                   "divisor_override"),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", "output_size"),
}


def compile(model, input_shape):
    """An Engine with the outputs of `model` in evaluation mode.

    model: a Sequential (of Sequentials) of convolutions, linear layers, batch norm, activations, pooling, flatten and
    dropout; TypeError names a layer it cannot take. input_shape: of one input, without the batch: (3, 32, 32);
    ValueError where it does not fit the model. The engine has its own copy of the weights.
    """
    steps = []
    for name, layer in _leaves(model, "model"):
        step = _step(name, layer)
        if step.op == "affine" and steps and steps[-1].op in ("conv2d", "linear"):
            steps[-1] = _fold(name, steps[-1], step)
        elif step.op != "nothing":
            steps.append(step)
    return Engine(steps, input_shape)


def _leaves(module, name):
    """(name, layer) in the order of the computation."""
    if type(module).forward is nn.Sequential.forward:
        for key, child in module._modules.items():      # named_children() leaves out a layer's second appearance
            yield from _leaves(child, f"{name}.{key}")
    else:
        yield name, module


def _step(name, layer):
    """The step of one layer."""
    kind = type(layer)
    if kind is nn.Conv2d:
        options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        return Step("conv2d", options, weight=layer.weight.data, bias=_bias(layer))
    if kind is nn.Linear:
        return Step("linear", weight=layer.weight.data, bias=_bias(layer))
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.running_mean is not None:
        scale = 1 / np.sqrt(layer.running_var.data + layer.eps)
        if layer.weight is not None:
            scale = scale * layer.weight.data
        shift = -layer.running_mean.data * scale
        return Step("affine", scale=scale, shift=shift if layer.bias is None else shift + layer.bias.data)
    if kind in PLAIN:
        op, *names = PLAIN[kind]
        return Step(op, {key: getattr(layer, key) for key in names})
    if kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
        return Step("flatten")
    if kind in (nn.Dropout, nn.Identity):
        return Step("nothing")
    if kind.__module__.partition(".")[0] == nn.__name__.partition(".")[0]:
        raise TypeError(f"compile: cannot take {name}, {layer!r}")
    raise TypeError(f"compile: cannot take {name}, a {kind.__name__} with its own forward(): a model is a Sequential "
                    f"of layers of minisparse.nn")


def _bias(layer):
    return np.zeros(len(layer.weight)) if layer.bias is None else layer.bias.data


def _fold(name, step, affine):
    """scale (W x + b) + shift = (scale W) x + (scale b + shift)."""
    weight, bias, scale, shift = (*step.arrays.values(), *affine.arrays.values())
    if scale.shape != bias.shape:
        raise ValueError(f"compile: {name} is a batch norm of {len(scale)} channels, "
                         f"the layer before it has {len(bias)}")
    weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    return Step(step.op, step.options, weight=weight, bias=bias * scale + shift)
