"""compile: a trained model -> an Engine. Batch norm is folded into the layer that it directly follows."""
import numpy as np

from .engine import Engine, Step
from .trace import trace

TOLERANCE = 1e-3        # of the largest output: beyond it, the steps are not what the model does


def compile(model, input_shape, info=None, threads=None):
    """An Engine with the outputs of `model` in evaluation mode.

    model: any module whose forward() is made of convolutions, linear layers, batch norm, activations, pooling, sums,
    products, cat, flatten, means and dropout, and takes one tensor; TypeError names an operation it cannot take.
    input_shape: of one input, without the batch: (3, 32, 32); ValueError where it does not fit the model.
    info: a dict of plain values to keep with the model: classes, mean, std, ...; threads: at most so many of the worker
    threads (see minisparse.set_num_threads). The engine has its own copy of the weights.
    Masks: block_mask's 4x1 has a kernel of its own; n_m_mask's are passed over like any other zeros.
    """
    steps, x, expected = trace(model, input_shape)
    engine = Engine(_fold(steps), input_shape, info, threads)
    found = engine.plain(x)
    tolerance = TOLERANCE * abs(expected).max(initial=0)
    if found.shape != expected.shape or not np.allclose(found, expected, TOLERANCE, tolerance, equal_nan=True):
        raise ValueError("compile: the model does more than operations on tensors (choices by their values or their "
                         "number, random numbers, changes in place, arithmetic on .data): its outputs are not those of "
                         "the recorded steps")
    return engine


def _fold(steps):
    """The steps with each batch norm folded into the convolution or linear layer whose result nobody else reads."""
    folded, place = [], {-1: -1}        # number of a step -> its number among the folded ones
    readers = [i for step in steps for i in step.inputs]
    for i, step in enumerate(steps):
        source = step.inputs[0]
        before = folded[place[source]] if source >= 0 else None
        if step.op == "affine" and before and before.op in ("conv2d", "linear") and readers.count(source) == 1:
            weight, bias, scale, shift = (*before.arrays.values(), *step.arrays.values())
            # scale (W x + b) + shift = (scale W) x + (scale b + shift)
            weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
            folded[place[source]] = Step(before.op, before.options, before.inputs, weight=weight,
                                         bias=bias * scale + shift)
            place[i] = place[source]
        else:
            folded.append(Step(step.op, step.options, [place[j] for j in step.inputs], **step.arrays))
            place[i] = len(folded) - 1
    return folded
