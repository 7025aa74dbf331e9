"""Matrix products and Einstein sums."""
import string

import numpy as np

from .ops import method, mul, named, operator, promote, unbroadcast
from .tensor import Tensor


@method
def matmul(a, b):
    """The matrix product of the last two dimensions; those before broadcast. Vectors are rows, columns."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return a @ b        # sparse tensors bring their own product
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: the tensors must have one dtype, they are {a.dtype} and {b.dtype}")
    value = np.matmul(a.data, b.data)
    x = a.data if a.ndim > 1 else a.data[None]
    y = b.data if b.ndim > 1 else b.data[:, None]

    def matrices(g):
        g = g if b.ndim > 1 else g[..., None]
        return g if a.ndim > 1 else np.expand_dims(g, -2)

    def left(g):
        return unbroadcast(matrices(g) @ y.swapaxes(-1, -2), x.shape).reshape(a.shape)

    def right(g):
        g = matrices(g)
        if y.ndim == 2:     # one product instead of a sum of many
            return (x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])).reshape(b.shape)
        return unbroadcast(x.swapaxes(-1, -2) @ g, y.shape)
    name = {(1, 1): "dot", (2, 1): "mv", (2, 2): "mm"}.get((a.ndim, b.ndim), "matmul")
    return Tensor.from_op(name, value, (a, left), (b, right))


def product(name, left, right):
    def function(a, b):
        if (a.ndim, b.ndim) != (left, right):
            raise RuntimeError(f"{name}: expected {left}-D and {right}-D tensors, got {a.shape}, {b.shape}")
        return matmul(a, b)
    return named(name, function, f"matmul of a {left}-D and a {right}-D tensor, nothing else.")


dot, mv, mm, bmm = product("dot", 1, 1), product("mv", 2, 1), product("mm", 2, 2), product("bmm", 3, 3)


@method
def outer(a, b):
    """The products of all pairs of elements of two vectors: (len(a), len(b))."""
    if (a.ndim, b.ndim) != (1, 1):
        raise RuntimeError(f"outer: expected two vectors, got shapes {a.shape} and {b.shape}")
    return mul(a[:, None], b)


@operator
def einsum(equation, *operands):
    """Einstein's sum, as numpy.einsum, for an equation in letters such as "bij,bjk->bik" ("..." allowed)."""
    operands = promote(*operands)
    arrays = [x.data for x in operands]
    inputs, output = explicit(equation.replace(" ", ""), [x.ndim for x in operands])

    def vjp(i):     # the same sum, with the gradient of the result in the place of operand i
        own, others = inputs[i], inputs[:i] + inputs[i + 1:]
        length = dict(zip(own, operands[i].shape))
        letters = "".join(length)       # without repetition: a letter that comes twice reads a diagonal
        known = [x for x in letters if x in output or any(x in other for other in others)]

        def back(g):
            grad = np.einsum(",".join([output, *others]) + "->" + "".join(known),
                             g, *arrays[:i], *arrays[i + 1:], optimize=True)
            stretched = tuple(axis for axis, x in enumerate(known) if length[x] == 1)
            grad = np.expand_dims(grad.sum(axis=stretched, keepdims=True),
                                  [axis for axis, x in enumerate(letters) if x not in known])
            out = np.zeros(operands[i].shape, g.dtype)
            np.einsum(own + "->" + letters, out)[...] = grad    # written through a view, with broadcasting
            return out
        return back
    return Tensor.from_op("einsum", np.einsum(",".join(inputs) + "->" + output, *arrays, optimize=True),
                          *((x, vjp(i)) for i, x in enumerate(operands)))


def explicit(equation, ndims):
    """([letters of each operand], letters of the result), with letters of its own for every "..."."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ndims):
        raise RuntimeError(f"einsum: {equation!r} is for {len(inputs)} tensors, got {len(ndims)}")
    free = [x for x in string.ascii_letters if x not in equation]
    counts = [ndim - len(letters.replace("...", "")) for letters, ndim in zip(inputs, ndims)]
    inputs = [letters.replace("...", "".join(free[:n][::-1])) for letters, n in zip(inputs, counts)]
    batch = "".join(free[:max(counts)][::-1]) if "..." in left else ""
    if not arrow:
        output = batch + "".join(sorted(x for x in set(left) - set(",.") if left.count(x) == 1))
    return inputs, output.replace("...", batch)


Tensor.__matmul__ = lambda a, b: matmul(a, b) if isinstance(b, Tensor) else NotImplemented
