"""Stochastic gradient descent."""
import numpy as np

from ..kernels import load
from ..kernels.pool import elementwise
from .optimizer import Optimizer, check_number


class SGD(Optimizer):
    """w -= lr v,  v = momentum v + (1 - dampening) g (the first v is g),  g = gradient + weight_decay w.

    nesterov: w -= lr (g + momentum v) (Sutskever et al. 2013, in torch's form). maximize: the gradient's sign
    is turned. State of a parameter, where momentum is not 0: "momentum_buffer", v.
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *,
                 maximize=False):
        super().__init__(params, dict(lr=lr, momentum=momentum, dampening=dampening,
                                      weight_decay=weight_decay, nesterov=nesterov, maximize=maximize))

    def check_options(self, options):
        check_number("learning rate", options["lr"])
        check_number("momentum value", options["momentum"])
        check_number("weight_decay value", options["weight_decay"])
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(f"Nesterov momentum requires a momentum and zero dampening, got momentum "
                             f"{options['momentum']} and dampening {options['dampening']}")

    def state_names(self, group):
        return ["momentum_buffer"]

    def update(self, weight, grad, state, group):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        v = state.get("momentum_buffer")
        if momentum and v is None:
            v = state["momentum_buffer"] = np.zeros_like(weight)
            dampening = 0.0
        elementwise(load("update").sgd, (weight, grad, v if momentum else None),
                    (float(group["lr"]), momentum, 1 - dampening, float(group["weight_decay"]),
                     bool(group["nesterov"]), bool(group["maximize"])))
