"""Gradient clipping, under torch.nn.utils' names. Both change the gradients in place."""
import numpy as np

from ..tensor import Tensor, no_grad


def _gradients(parameters):
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in parameters if p.grad is not None]


@no_grad()
def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scale all gradients so that their norm, as one long vector, is at most max_norm.

    parameters: Tensors, or one Tensor. norm_type: p of the p-norm, inf for the largest absolute value.
    Returns the norm before clipping, a Tensor. RuntimeError if it is inf or nan and error_if_nonfinite.
    """
    grads = _gradients(parameters)
    if not grads:
        return Tensor(np.float32(0))
    norm_type = float(norm_type)
    norms = [np.linalg.norm(grad.data.ravel(order="K"), norm_type) for grad in grads]
    total = np.linalg.norm(np.array(norms), norm_type)
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"clip_grad_norm_: the total norm of order {norm_type} is {total}; "
                           f"error_if_nonfinite=False scales them nevertheless")
    scale = max_norm / (total + 1e-6)
    if not scale >= 1:      # nan scales, as in torch
        for grad in grads:
            grad.change()
            grad.data *= scale
    return Tensor(total)


@no_grad()
def clip_grad_value_(parameters, clip_value):
    """Clip every entry of every gradient to [-clip_value, clip_value]. parameters: Tensors, or one Tensor."""
    for grad in _gradients(parameters):
        grad.change()
        np.clip(grad.data, -clip_value, clip_value, out=grad.data)
