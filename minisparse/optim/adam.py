"""Adam (Kingma and Ba, arXiv:1412.6980) and AdamW (Loshchilov and Hutter, arXiv:1711.05101)."""
import numpy as np

from ..kernels import load
from ..kernels.pool import elementwise
from .optimizer import Optimizer, check_number


class Adam(Optimizer):
    """Algorithm 1 of the paper, in its symbols (moments m and v), as torch orders the operations:

        w -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)

    weight_decay times w is added to the gradient (L2). amsgrad: the largest v so far takes v's place (Reddi et
    al. 2018). State of a parameter: "step" t, "exp_avg" m, "exp_avg_sq" v; with amsgrad "max_exp_avg_sq".
    """

    decoupled = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                      amsgrad=amsgrad))

    def check_options(self, options):
        check_number("learning rate", options["lr"])
        check_number("epsilon value", options["eps"])
        check_number("weight_decay value", options["weight_decay"])
        if not isinstance(options["betas"], (tuple, list)) or len(options["betas"]) != 2:
            raise ValueError(f"betas must be two numbers, got {options['betas']!r}")
        for i, beta in enumerate(options["betas"]):
            check_number(f"beta parameter at index {i}", beta, below=1)

    def state_names(self, group):
        return ["step", "exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * bool(group["amsgrad"])

    def update(self, weight, grad, state, group):
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        beta1, beta2 = map(float, group["betas"])
        if not state:
            state.update({name: np.zeros_like(weight) for name in self.state_names(group)}, step=0)
        state["step"] += 1
        numbers = (lr / (1 - beta1 ** state["step"]), beta1, beta2, (1 - beta2 ** state["step"]) ** 0.5,
                   float(group["eps"]), *((1 - lr * decay, 0.0) if self.decoupled else (1.0, decay)))
        elementwise(load("update").adam, (weight, grad, state["exp_avg"], state["exp_avg_sq"],
                                          state["max_exp_avg_sq"] if group["amsgrad"] else None), numbers)


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient: w *= 1 - lr weight_decay, before Adam's step."""

    decoupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)
