"""Gradients against central finite differences, in float64."""
import numpy as np

from minisparse.tensor import Tensor


def check(function, *arrays, step=1e-6, rtol=1e-6, atol=1e-8):
    """AssertionError unless backward through function(*tensors) -> tensor agrees with finite differences.

    arrays: float64, the inputs of function. The result is projected on a random direction. Compared are the
    slope along a random direction of all inputs and, for inputs of up to 60 numbers, each partial derivative.
    """
    rng = np.random.default_rng(0)
    arrays = [np.asarray(x, np.float64) for x in arrays]
    tensors = [Tensor(np.copy(x), requires_grad=True) for x in arrays]
    out = function(*tensors)
    projection = rng.standard_normal(out.shape)
    out.backward(projection)
    gradients = [np.zeros(x.shape) if t.grad is None else t.grad.data for x, t in zip(arrays, tensors)]

    def slope(directions):
        def at(s):
            return function(*(Tensor(x + s * d) for x, d in zip(arrays, directions))).data
        return ((at(step) - at(-step)) * projection).sum() / (2 * step)

    directions = [rng.standard_normal(x.shape) for x in arrays]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions))
    np.testing.assert_allclose(slope(directions), expected, rtol, atol, err_msg="slope in a random direction")
    for number, (x, gradient) in enumerate(zip(arrays, gradients)):
        if x.size <= 60:
            numeric = np.zeros(x.shape)
            for i in np.ndindex(x.shape):
                unit = [np.zeros(y.shape) for y in arrays]
                unit[number][i] = 1
                numeric[i] = slope(unit)
            np.testing.assert_allclose(gradient, numeric, rtol, atol, err_msg=f"gradient of input {number}")
