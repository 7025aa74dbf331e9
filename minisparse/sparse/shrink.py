"""shrink: take closed units out of a model for good.

A unit is an output of a convolution or linear layer: a filter, or a row. It is of no use where nothing reads
it (its columns in the next layer are zero), or where it sends the same number whatever the input (its own row
is zero): that number can be added to the next layer's bias.
"""
import collections
import copy
import warnings

import numpy as np

from .. import nn
from ..tensor import Tensor, no_grad
from .layers import L0Conv2d, L0Linear, ordinary

POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh)
PASSING = (nn.Dropout, nn.Identity, nn.Flatten, nn.MaxPool2d, nn.AdaptiveAvgPool2d)     # a constant stays
MIXING = (nn.LayerNorm, nn.Softmax, nn.LogSoftmax)  # what comes out depends on how many units there are
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
OF_IMAGES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)


@no_grad()
def shrink(model):
    """A new, smaller model of ordinary layers that computes what `model` does in evaluation, to rounding.

    model: a Sequential (of Sequentials) of layers of minisparse.nn and minisparse.sparse. What made the zeros
    does not matter: gates, masks of units, group lasso. Rows, filters, channels of batch norm and the next
    layer's inputs go, through pooling and flatten; what stays keeps its name, values and mask. L0 layers
    become ordinary ones.

    What a closed unit still sends (a bias, the shift of a batch norm) goes into the next layer's bias. One
    place does not allow that: a convolution with zero padding reads that number inside the image and zeros
    around it, so before it a closed filter stays unless it sends 0. The inputs and outputs of the model all
    stay. A layer without an open unit keeps one, with a warning that names it: the model does not depend on
    its input any more.

    The parameters are new. An optimizer goes on with the ones it has, so make a new one to train further.

    A Linear is taken to see rows (N, features): what it makes of images is no unit of the next layer.

    TypeError: a module with a forward() of its own. NotImplementedError: groups, a module that comes twice,
    flatten of other dimensions, a Linear before layers of images. ValueError: layers whose sizes do not fit.
    """
    stages, new = [], {}
    for name, layer in _leaves(model, "model"):
        if layer in new:
            raise NotImplementedError(f"shrink: {name} comes twice in the model")
        new[layer] = layer
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            stages.append(_Stage(name, layer))
        elif stages:
            stages[-1].followers.append((name, layer))

    for stage, reader in zip(stages, stages[1:]):
        reader.fold(stage)
    for stage, reader in reversed(list(zip(stages, stages[1:]))):
        stage.drop_unread(reader)
    for stage in stages:
        new.update(stage.cut())
    return _rebuild(model, new).train(model.training)


def _leaves(module, name):
    """(name, layer) in the order of the computation; TypeError for what is no layer of the package."""
    if type(module).forward is nn.Sequential.forward:
        for key, child in module._modules.items():      # children() leaves out a layer's second appearance
            yield from _leaves(child, f"{name}.{key}")
    elif type(module) in (*POINTWISE, *PASSING, *MIXING, *NORMS, nn.AvgPool2d, L0Linear, L0Conv2d) \
            or type(module).forward in (nn.Linear.forward, nn.Conv2d.forward):
        yield name, module
    else:
        raise TypeError(f"shrink: cannot take {name}, a {type(module).__name__}: a model is a Sequential of "
                        f"layers of minisparse.nn and minisparse.sparse")


def _rebuild(module, new):
    if module in new:
        return copy.deepcopy(module) if new[module] is module else new[module]
    children = ((key, _rebuild(child, new)) for key, child in module._modules.items())
    return nn.Sequential(collections.OrderedDict(children))


class _Stage:
    """A layer with weights and the layers that follow it, up to the next one with weights."""

    def __init__(self, name, layer):
        self.name, self.original, self.followers = name, layer, []
        self.layer = layer.plain() if isinstance(layer, (L0Linear, L0Conv2d)) else layer
        self.is_conv = isinstance(layer, nn.Conv2d)
        if self.is_conv and layer.groups != 1:
            raise NotImplementedError(f"shrink: {name} is a convolution with groups={layer.groups}")
        self.weight = np.copy(self.layer.weight.data)
        self.units, self.inputs = self.weight.shape[:2]
        bias = self.layer.bias
        self.bias = np.zeros(self.units) if bias is None else bias.data.astype(np.float64)
        self.rows, self.columns = np.ones(self.units, bool), np.ones(self.inputs, bool)     # what is kept

    def constants(self):
        """What each unit sends to the next stage whatever the input; nan where it depends on the input."""
        varies = self.weight.reshape(self.units, -1).any(axis=1)
        value = np.where(varies, np.nan, self.bias)
        for name, layer in self.followers:
            if type(layer) in OF_IMAGES and not self.is_conv:
                raise NotImplementedError(f"shrink: {name}, a {type(layer).__name__}, reads what {self.name}, a "
                                          "Linear, makes")
            if type(layer) in POINTWISE:
                value = layer(Tensor(value)).data
            elif type(layer) in NORMS:
                value = self.widen(value, name, layer.num_features)
                value = _through_norm(layer, value)
            elif type(layer) in MIXING:
                value = np.full_like(value, np.nan)
            elif type(layer) is nn.AvgPool2d:
                padded = layer.count_include_pad and np.any(layer.padding)
                if padded or layer.divisor_override:
                    value = np.where(value == 0, 0, np.nan)
        return value

    def widen(self, values, name, width):
        """Values of units as values of `width` features: flatten makes H * W neighbours of each channel."""
        flat = [layer for _, layer in self.followers if type(layer) is nn.Flatten]
        if any((layer.start_dim, layer.end_dim) != (1, -1) for layer in flat):
            raise NotImplementedError(f"shrink: the Flatten after {self.name} is not from 1 to -1")
        if width % len(values) or width != len(values) and not (flat and self.is_conv):
            raise ValueError(f"shrink: {name} takes {width} features, {self.name} makes {self.units}")
        return np.repeat(values, width // len(values))

    def fold(self, before):
        """Add the inputs that are constant to the bias, and stop reading them."""
        flat = any(type(layer) is nn.Flatten for _, layer in before.followers)
        if self.is_conv and not before.is_conv:
            raise NotImplementedError(f"shrink: {self.name}, a convolution, reads what {before.name}, a Linear, makes")
        if before.is_conv and not self.is_conv and not flat:
            raise NotImplementedError(f"shrink: there is no Flatten between {before.name} and {self.name}")
        value = before.widen(before.constants(), self.name, self.inputs)
        if self.is_conv and self.pads():
            value = np.where(value == 0, 0, np.nan)     # another number is not the same at the border
        known = ~np.isnan(value)
        sums = self.weight.reshape(self.units, self.inputs, -1).sum(axis=2, dtype=np.float64)
        self.bias += sums[:, known] @ value[known]
        self.weight[:, known] = 0

    def pads(self):
        """Whether the convolution reads zeros around the image."""
        if self.layer.padding == "same":
            return self.layer.kernel_size != (1, 1)
        return self.layer.padding not in ("valid", (0, 0))

    def drop_unread(self, reader):
        """Keep the units that the next stage reads."""
        read = reader.weight[reader.rows].any(axis=(0, *range(2, reader.weight.ndim)))
        self.rows = read.reshape(self.units, -1).any(axis=1)
        if any(type(layer) in MIXING for _, layer in self.followers):
            self.rows[:] = True
        if not self.rows.any():
            warnings.warn(f"shrink: no unit of {self.name} is open; one is kept, the outputs are constant")
            self.rows[0] = True
        reader.columns = np.repeat(self.rows, reader.inputs // self.units)

    def cut(self):
        """{layer: the new one} for the layer and the batch norms that follow it."""
        kept = np.ix_(self.rows, self.columns)
        bias = self.bias[self.rows].astype(self.weight.dtype)
        needed = self.layer.bias is not None or bias.any()
        layer = ordinary(self.layer, self.weight[kept], bias if needed else None)
        mask = self.layer.weight.mask
        if mask is not None and not mask[kept].all():
            layer.weight.set_mask(mask[kept])
        norms = {norm: _cut_norm(norm, self.widen(self.rows, name, norm.num_features))
                 for name, norm in self.followers if type(norm) in NORMS}
        return {self.original: layer, **norms}


def _through_norm(norm, value):
    """Batch norm of units that send a constant (nan: that do not)."""
    scale = np.ones(len(value)) if norm.weight is None else norm.weight.data
    shift = np.zeros(len(value)) if norm.bias is None else norm.bias.data
    if norm.running_mean is None:           # the batch's own mean takes a constant to 0
        sent = np.where(np.isnan(value), np.nan, shift)
    else:
        sent = (value - norm.running_mean.data) / np.sqrt(norm.running_var.data + norm.eps) * scale + shift
    return np.where(scale == 0, shift, sent)


def _cut_norm(norm, kept):
    new = copy.deepcopy(norm)
    new.num_features = int(np.count_nonzero(kept))
    for name, parameter in norm.named_parameters():
        setattr(new, name, nn.Parameter(parameter.data[kept], parameter.requires_grad))
    for name, buffer in norm.named_buffers():
        if buffer.ndim:
            setattr(new, name, Tensor(buffer.data[kept]))
    return new
