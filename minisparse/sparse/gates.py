"""L0 regularisation by hard-concrete gates: Louizos, Welling and Kingma, arXiv:1712.01312, in its symbols.

Every weight, or every unit of weights, is multiplied by a random gate z in [0, 1] that is exactly 0 with a
probability that can be learned. So the expected number of weights that are not zero has a gradient, which the
number itself has not.
"""
import math

import numpy as np

from ..creation import generator
from ..nn import Module, Parameter, init
from ..ops import unbroadcast
from ..tensor import Tensor


def _sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2     # no overflow, whatever x is


class HardConcrete(Module):
    """Gates z in [0, 1]: random in training, deterministic in evaluation.

    shape: of the gates; one that broadcasts to a weight's shape makes one gate for a whole slice of it.
    droprate: the probability in (0, 1) that the binary gate underneath is closed at the start.
    beta, gamma, zeta: temperature and limits of the distribution. A binary concrete variable s in (0, 1),
        stretched to (gamma, zeta) and clipped to [0, 1], is exactly 0, and exactly 1, with some probability.

    The parameter `log_alpha`, of the gates' shape, is the location: the higher, the more open. One sample is
    drawn a call, that is for a whole minibatch, as in the paper's experiments: theta = weight * z is then one
    ordinary weight for all examples, where a gate for each example would need a product for each of them.
    """

    def __init__(self, shape, droprate=0.5, beta=2 / 3, gamma=-0.1, zeta=1.1):
        super().__init__()
        if not 0 < droprate < 1:
            raise ValueError(f"HardConcrete: droprate must lie between 0 and 1, got {droprate}")
        if not (beta > 0 and gamma < 0 and zeta > 1):
            raise ValueError(f"HardConcrete: needs beta > 0, gamma < 0 and zeta > 1, got "
                             f"{beta}, {gamma} and {zeta}")
        self.droprate, self.beta, self.gamma, self.zeta = droprate, beta, gamma, zeta
        self.log_alpha = Parameter(np.zeros(shape, np.float32))
        self.reset_parameters()

    def reset_parameters(self):
        """A little noise around the droprate, so that gates can part ways."""
        init.normal_(self.log_alpha, math.log(1 - self.droprate) - math.log(self.droprate), 0.01)

    def forward(self):
        return self.sample() if self.training else self.deterministic()

    def sample(self):
        """Equations 10 and 11, with u uniform in (0, 1):

            s = sigmoid((log u - log(1 - u) + log alpha) / beta)
            z = min(1, max(0, s (zeta - gamma) + gamma))
        """
        u = generator().random(self.log_alpha.shape, self.log_alpha.dtype)
        with np.errstate(divide="ignore"):      # u may be 0: log u is -inf, s is 0
            return self._stretch(np.log(u) - np.log1p(-u), self.beta)

    def deterministic(self):
        """Equation 13: z = min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma))."""
        return self._stretch(0, 1)

    def _stretch(self, noise, beta):
        log_alpha, gamma, zeta = self.log_alpha, self.gamma, self.zeta
        s = _sigmoid((noise + log_alpha.data) / beta)
        z = np.clip(s * (zeta - gamma) + gamma, 0, 1)

        def vjp(g):     # (zeta - gamma) s (1 - s) / beta inside, where s = (z - gamma) / (zeta - gamma)
            inside = (z > 0) & (z < 1)
            return g * inside * ((z - gamma) * (zeta - z) / ((zeta - gamma) * beta))
        return Tensor.from_op("hard_concrete", z, (log_alpha, vjp))

    def open_probability(self):
        """Equation 12: P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)), an array like the gates."""
        return _sigmoid(self.log_alpha.data - self.beta * math.log(-self.gamma / self.zeta))

    def extra_repr(self):
        return f"{self.log_alpha.shape}, droprate={self.droprate:g}"


def _gated(model, name):
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "gate", None), HardConcrete)]
    if not layers:
        raise ValueError(f"{name}: there is no layer with gates, such as L0Linear, in the model")
    return layers


def expected_l0(model):
    """The expected number of weights that are not zero: the sum over gates of |g| P(z_g != 0), section 2.4.

    model: a Module with L0Linear and L0Conv2d layers, or one of these layers. |g| is the number of weights
    under gate g that no mask prunes; biases are not counted. A scalar with a gradient. The paper's loss for N
    examples is

        cross_entropy(model(x), y) + strength / N * expected_l0(model) + weight_decay * expected_l2(model)

    and a strength for each layer is a sum of `strength / N * expected_l0(layer)`.
    """
    layers = _gated(model, "expected_l0")
    sizes = []
    for layer in layers:
        log_alpha, mask = layer.gate.log_alpha, getattr(layer.weight, "mask", None)
        sizes.append(layer.weight.numel() / log_alpha.numel() if mask is None else
                     unbroadcast(mask.astype(log_alpha.dtype), log_alpha.shape))
    opens = [layer.gate.open_probability() for layer in layers]

    def vjp(g):
        gradients = tuple(g * size * p * (1 - p) for size, p in zip(sizes, opens))
        return gradients if len(layers) > 1 else gradients[0]
    value = sum((size * p).sum() for size, p in zip(sizes, opens))
    return Tensor.from_op("expected_l0", value, (tuple(layer.gate.log_alpha for layer in layers), vjp))


def expected_l2(model):
    """Weight decay under the gates: the sum of 1/2 P(z_g != 0) w_j^2 over all weights, sections 2.3 and 2.4.

    w is the layer's `weight`, without its gates. Plain weight decay would shrink what a gate holds back as
    well; here a weight decays in proportion to its chance of being in use. A scalar with a gradient; see
    expected_l0.
    """
    layers = _gated(model, "expected_l2")
    weights, opens = [layer.weight for layer in layers], [layer.gate.open_probability() for layer in layers]
    squares = [unbroadcast(w.data * w.data, p.shape) for w, p in zip(weights, opens)]

    def vjp(g):
        return tuple([g * p * w.data for w, p in zip(weights, opens)]
                     + [g / 2 * p * (1 - p) * square for p, square in zip(opens, squares)])
    value = sum((p * square).sum() for p, square in zip(opens, squares)) / 2
    inputs = *weights, *(layer.gate.log_alpha for layer in layers)
    return Tensor.from_op("expected_l2", value, (inputs, vjp))
