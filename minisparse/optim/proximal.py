"""Penalties that give exact zeros: SGD and Adam, each step followed by a proximal step.

Both minimise

    loss + l1 sum |w| + group_lasso sum over rows sqrt(p) ||w[i]|| + weight_decay / 2 sum w^2

where a row w[i], of p weights, is a row of a Linear or a filter of a Conv2d. The optimizer steps along the
gradient of the loss. The penalty has no gradient at zero, so it is minimised exactly around the point z where
that step has led; a weight whose gradient is smaller than the penalty stays at 0.0.

Weights that no longer move satisfy the optimality (KKT) conditions of this objective. For L1 alone they are:
gradient = -l1 sign(w) where w != 0, |gradient| <= l1 where w = 0. With weight_decay it is the elastic net.
"""
import math

import numpy as np

from ..tensor import Tensor
from .adam import Adam
from .optimizer import Optimizer, check_number
from .sgd import SGD


# --- the proximal step, on arrays --------------------------------------------------------------------------
def soft_threshold(z, threshold):
    """argmin_w (w - z)^2 / 2 + threshold |w|, elementwise: sign(z) max(|z| - threshold, 0).

    threshold: >= 0, a number or an array of z's shape. Where |z| <= threshold the result is exactly 0.0.
    """
    return z - np.clip(z, -threshold, threshold)


def block_soft_threshold(z, threshold):
    """argmin_w sum (w - z)^2 / (2 threshold) + sqrt(p) ||w||, for each row z[i] of p numbers.

    With one threshold for all of a row that is max(1 - sqrt(p) threshold / ||z||, 0) z (Yuan and Lin 2006,
    equation 2.4). With one for each number, w = r z / (r + sqrt(p) threshold), where r = ||w|| solves
    h(r) = ||z / (r + sqrt(p) threshold)|| = 1; where h(0) <= 1 no r does, and the row is exactly 0.0.

    threshold: > 0, a number or an array of z's shape.
    """
    # in float64: where thresholds are small, h^3 is too large for float32
    rows = np.float64(z).reshape(*z.shape[:1] or (1,), math.prod(z.shape[1:]))
    t = np.broadcast_to(np.float64(threshold), z.shape).reshape(rows.shape) * rows.shape[1] ** 0.5
    out = np.zeros(rows.shape, z.dtype)
    kept = ~(np.linalg.norm(rows / t, axis=1) <= 1)      # a NaN is kept, so that it is seen
    rows, t = rows[kept], t[kept]
    # Newton's steps for 1 / h(r) = 1. It is concave, so r rises from 0 to the solution and never past it; and
    # it is a straight line where the thresholds of a row are equal, so that one step is all it takes.
    r = np.zeros((len(rows), 1))
    for _ in range(50):
        squares = (rows / (r + t)) ** 2
        h = np.sqrt(squares.sum(axis=1, keepdims=True))
        change = (h - 1) * h ** 2 / (squares / (r + t)).sum(axis=1, keepdims=True)
        r += change
        if not (change > 4 * np.finfo(z.dtype).eps * r).any():
            break
    out[kept] = rows * (r / (r + t))
    return out.reshape(z.shape)


def proximal_step(z, step, group):
    """argmin_w sum (w - z)^2 / (2 step) + the group's penalties. step: > 0, a number or an array like z."""
    if group["l1"]:
        z = soft_threshold(z, step * float(group["l1"]))
    if group["group_lasso"]:        # after the other: together they are the sparse group lasso's step
        z = block_soft_threshold(z, step * float(group["group_lasso"]))
    return z


# --- the optimizers ----------------------------------------------------------------------------------------
def parameter_groups(params, l1, group_lasso):
    """Tensors in two groups, the penalised and the others; dicts as they are."""
    params = params if isinstance(params, Tensor) else list(params)
    if not (l1 or group_lasso) or isinstance(params, Tensor) or any(isinstance(p, dict) for p in params):
        return params
    weights = [p for p in params if getattr(p, "ndim", 2) > 1]
    others = [p for p in params if getattr(p, "ndim", 2) <= 1]
    if others and not weights:
        raise ValueError(f"l1 and group_lasso are for tensors of two or more dimensions, and all have fewer "
                         f"({', '.join(str(p.shape) for p in others[:3])}); to penalise them nevertheless, "
                         f"give a parameter group: {{'params': ..., 'l1': {l1}}}")
    return [group for group in ({"params": weights}, {"params": others, "l1": 0, "group_lasso": 0})
            if group["params"]]


def check_penalties(options):
    for name in ("l1", "group_lasso"):
        check_number(f"{name} value", options[name])


class ProximalSGD(SGD):
    """SGD, and after each step the proximal step of size lr (the module says what is minimised).

        optimizer = ProximalSGD(model.parameters(), lr=0.1, momentum=0.9, l1=1e-4)

    params: tensors, of which those of two or more dimensions are penalised, the others (biases, batch norm)
    not; or dicts, where each parameter group says "l1" and "group_lasso" itself, or has them from here.

    Without momentum this is the proximal gradient method (ISTA). Momentum is that of the whole step: with s
    the subgradient of the penalty that the proximal step chose, SGD goes along gradient + s. So it is iPiano
    (Ochs et al., arXiv:1404.4805: w + momentum (w - w_before) - lr gradient, then the proximal step), and
    minimises the same. Threshold after SGD's own momentum instead, and the gradient counts
    1 / (1 - momentum) times, the penalty once.
    """

    def __init__(self, params, lr=1e-3, momentum=0, weight_decay=0, nesterov=False, *, l1=0, group_lasso=0):
        defaults = dict(lr=lr, momentum=momentum, dampening=0, weight_decay=weight_decay, nesterov=nesterov,
                        maximize=False, l1=l1, group_lasso=group_lasso)
        Optimizer.__init__(self, parameter_groups(params, l1, group_lasso), defaults)

    def check_options(self, options):
        super().check_options(options)
        check_penalties(options)
        if options["dampening"] or options["maximize"]:
            raise NotImplementedError("ProximalSGD has no dampening and no maximize")

    def update(self, weight, grad, state, group):
        super().update(weight, grad, state, group)
        # the weight has moved by lr times the gradient; with Nesterov's momentum by (1 + momentum) lr
        step = float(group["lr"]) * (1 + float(group["momentum"]) * bool(group["nesterov"]))
        if not step or not (group["l1"] or group["group_lasso"]):
            return
        after = proximal_step(weight, step, group)
        if group["momentum"]:
            weight -= after     # now s times step
            state["momentum_buffer"] += np.divide(weight, step, out=weight)
        np.copyto(weight, after)


class ProximalAdam(Adam):
    """Adam, and after each step the proximal step of Adam's own size, lr / (sqrt(v / (1 - beta2^t)) + eps).

        optimizer = ProximalAdam(model.parameters(), lr=1e-3, l1=1e-4)

    params: as for ProximalSGD. Each weight has its own step size, so it has its own threshold, that size
    times l1 (ProxGen: Yun, Lozano and Yang, arXiv:2006.07484); where nothing moves, and m is the gradient,
    the sizes drop out of the conditions. One threshold lr l1 for all would penalise |w| by l1 (sqrt(v) +
    eps): by more where gradients are large, and whatever the scale of the loss.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *,
                 l1=0, group_lasso=0):
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                        l1=l1, group_lasso=group_lasso)
        Optimizer.__init__(self, parameter_groups(params, l1, group_lasso), defaults)

    def check_options(self, options):
        super().check_options(options)
        check_penalties(options)

    def update(self, weight, grad, state, group):
        super().update(weight, grad, state, group)
        if not group["lr"] or not (group["l1"] or group["group_lasso"]):
            return
        v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        step = np.sqrt(v)
        step /= (1 - float(group["betas"][1]) ** state["step"]) ** 0.5
        step += float(group["eps"])
        np.divide(float(group["lr"]), step, out=step)
        np.copyto(weight, proximal_step(weight, step, group))
