"""What an optimizer step does to the weights: one pass over memory where NumPy takes a dozen.

Arrays are flat, of one length and one floating point type. Nothing is reordered and no product is fused with a sum, so
the weights are the reference's bit for bit.
"""
import numpy as np

from ._jit import jit


@jit()
def sgd(weight, grad, velocity, rate, momentum, added, decay, nesterov, maximize):
    """weight -= rate s; velocity v = momentum v + added g; s = g + momentum v if nesterov, else v.

    g = grad (negated if maximize) + decay weight. An empty velocity: s = g.
    """
    kind = weight.dtype.type
    rate, momentum, added, decay = kind(rate), kind(momentum), kind(added), kind(decay)
    sign = kind(-1 if maximize else 1)
    if not len(velocity):
        for i in range(len(weight)):
            weight[i] -= rate * (sign * grad[i] + decay * weight[i])
        return
    for i in range(len(weight)):
        g = sign * grad[i] + decay * weight[i]
        v = momentum * velocity[i] + added * g
        velocity[i] = v
        weight[i] -= rate * (g + momentum * v if nesterov else v)


@jit()
def adam(weight, grad, m, v, largest, rate, beta1, beta2, root, eps, shrink, decay):
    """weight = w - rate m / (sqrt(v) / root + eps), m and v the moving averages of g and g^2.

    w = shrink weight, g = grad + decay w. largest: the largest v so far takes the place of v, unless it is empty.
    """
    kind = weight.dtype.type
    new1, new2 = kind(1 - beta1), kind(1 - beta2)
    rate, beta2, root, eps, shrink, decay = kind(rate), kind(beta2), kind(root), kind(eps), kind(shrink), kind(decay)
    amsgrad = len(largest) > 0
    for i in range(len(weight)):
        w = shrink * weight[i]
        g = grad[i] + decay * w
        m[i] += new1 * (g - m[i])
        squares = v[i] = beta2 * v[i] + new2 * g * g
        if amsgrad:
            squares = largest[i] = largest[i] if largest[i] > squares else squares
        weight[i] = w - rate * (m[i] / (np.sqrt(squares) / root + eps))


@jit()
def keep(values, mask, out):
    """out = values where mask, 0 elsewhere, whatever stands there; mask: bool."""
    zero = values.dtype.type(0)
    for i in range(len(values)):
        value = values[i]       # read in any case: a choice of two numbers, not a branch
        out[i] = value if mask[i] else zero
