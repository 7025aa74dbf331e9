"""What each operation of an engine may be given, and the shape of what it gives: by arithmetic alone.

A model file is checked here before anything is computed, or allocated, by numbers that stand in it. Shapes are of
one image, without the batch. A rule has the name and the parameters of its operation, with shapes in the place of
arrays, and returns (shape of the result, multiply-adds or looks at a number); ValueError where they do not fit.
"""
import inspect
import math

import numpy as np

from ..conv import _geometry, conv_geometry

MAX_STEPS = 4000            # and how often results are read
MAX_SIDE = 4096             # of an image with its padding, of a pool's kernel, of a stride or dilation
MAX_IMAGE = 1 << 26         # numbers of an image with its padding: 256 MB
MAX_RESULTS = 1 << 28       # numbers in the results of all steps together, for one image: 1 GB
MAX_WEIGHTS = 1 << 28       # numbers in all arrays together: 1 GB
MAX_WORK = 1 << 38          # multiply-adds of all steps together, for one image: about half a minute
LOOK = 16                   # multiply-adds that max pooling could do in the time of a look at a number
ARRAYS = {"weight", "bias", "scale", "shift"}       # the parameters of rules that stand for arrays


def whole(value, name, least=1, most=MAX_SIDE):
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {str(value)[:80]}")
    return value


def pair(value, name, least=1):
    """A whole number or two -> (vertical, horizontal)."""
    values = value if isinstance(value, (list, tuple)) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{name} must be a whole number or two, got {str(value)[:80]}")
    return tuple(whole(v, name, least) for v in values)


def images(shape, padding=(0, 0)):
    """An array of one image of this shape, which takes no memory."""
    if len(shape) != 3:
        raise ValueError(f"expected inputs (C, H, W), got shape {shape}")
    sides = [n + 2 * p for n, p in zip(shape[1:], padding)]
    if max(sides) > MAX_SIDE or shape[0] * math.prod(sides) > MAX_IMAGE:
        raise ValueError(f"images of shape {shape} with the padding {tuple(padding)} are too large: at most "
                         f"{MAX_SIDE} a side and {MAX_IMAGE} numbers")
    return np.broadcast_to(np.float32(0), (1, *shape))


# --- the rules --------------------------------------------------------------------------------------------
def conv2d(shape, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    if len(weight) != 4 or bias != weight[:1]:
        raise ValueError(f"expected a weight (O, C/groups, kh, kw) and a bias (O), got {weight} and {bias}")
    outputs, channels, *kernel = weight
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    if padding == "same":
        border = [-(-d * (k - 1) // 2) for k, d in zip(kernel, dilation)]
    else:
        padding = border = pair(0 if padding == "valid" else padding, "padding", 0)
    x = images(shape, border)
    if outputs % whole(groups, "groups", 1, outputs) or shape[0] != channels * groups:
        raise ValueError(f"the weight {weight} with groups={groups} does not fit inputs of shape {shape}")
    result = (outputs, *conv_geometry(x, tuple(kernel), stride, padding, dilation)[-2:])
    return result, math.prod(result) * math.prod(weight[1:])


def linear(shape, weight, bias):
    if len(weight) != 2 or bias != weight[:1]:
        raise ValueError(f"expected a weight (out, in) and a bias (out), got shapes {weight} and {bias}")
    if shape != weight[1:]:
        raise ValueError(f"the weight {weight} does not fit inputs of shape {shape}")
    return weight[:1], math.prod(weight)


def affine(shape, scale, shift):
    if not scale == shift == shape[:1]:
        raise ValueError(f"a scale {scale} and a shift {shift} do not fit inputs of shape {shape}")
    return shape, math.prod(shape)


def max_pool2d(shape, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if return_indices is not False:
        raise ValueError(f"return_indices is not supported, got {str(return_indices)[:80]}")
    result, looks = _pool("max_pool2d", shape, kernel_size, stride, padding, dilation, ceil_mode)
    return result, LOOK * looks


def avg_pool2d(shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    if type(count_include_pad) is not bool:
        raise ValueError(f"count_include_pad must be true or false, got {str(count_include_pad)[:80]}")
    if divisor_override is not None:
        whole(divisor_override, "divisor_override", 1, MAX_IMAGE)
    result, _ = _pool("avg_pool2d", shape, kernel_size, stride, padding, 1, ceil_mode)
    return result, _separable(shape, result)


def _pool(name, shape, kernel, stride, padding, dilation, ceil_mode):
    kernel = pair(kernel, "kernel_size")
    stride = kernel if stride is None else pair(stride, "stride")
    padding, dilation = pair(padding, "padding", 0), pair(dilation, "dilation")
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f"padding {padding} is more than half of the kernel {kernel}")
    if type(ceil_mode) is not bool:
        raise ValueError(f"ceil_mode must be true or false, got {str(ceil_mode)[:80]}")
    geometry = _geometry(name, images(shape, padding), kernel, stride, padding, dilation, ceil_mode)
    result = (shape[0], *geometry[-2:])
    return result, math.prod(result) * math.prod(kernel)


def adaptive_avg_pool2d(shape, output_size):
    images(shape)
    sizes = output_size if isinstance(output_size, (list, tuple)) else (output_size, output_size)
    if len(sizes) != 2:
        raise ValueError(f"output_size must be a whole number, none, or two of them, got {str(output_size)[:80]}")
    sides = [n if size is None else whole(size, "output_size") for n, size in zip(shape[1:], sizes)]
    result = (shape[0], *sides)
    return result, _separable(shape, result)


def _separable(shape, result):
    """Multiply-adds where the sides are reduced one after the other, each by a matrix."""
    return math.prod(shape) * result[1] + math.prod(result) * shape[2]


def flatten(shape):
    if not shape:
        raise ValueError("expected more than one number for each image")
    return (math.prod(shape),), 1


def relu(shape):
    return shape, math.prod(shape)


sigmoid = silu = tanh = relu


def leaky_relu(shape, negative_slope=0.01):
    largest = float(np.finfo(np.float32).max)
    if not isinstance(negative_slope, (int, float)) or not abs(negative_slope) <= largest:
        raise ValueError(f"negative_slope must be a number of float32, got {str(negative_slope)[:80]}")
    return shape, math.prod(shape)


def gelu(shape, approximate="none"):
    if approximate != "none":
        raise ValueError(f"approximate={str(approximate)[:80]} is not supported")
    return shape, math.prod(shape)


def softmax(shape, dim):
    if whole(dim, "dim", -len(shape), len(shape)) == 0:
        raise ValueError("dim 0 is the batch")
    return shape, math.prod(shape)


log_softmax = softmax


def add(a, b):
    if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b)):
        raise ValueError(f"the shapes {a} and {b} do not fit each other")
    shape = tuple(map(max, a, b))
    return shape, math.prod(shape)


sub = mul = add


def cat(shape, *others, dim):
    axis = whole(dim, "dim", -len(shape), len(shape)) % (len(shape) + 1) - 1
    if axis < 0:
        raise ValueError("dim 0 is the batch")
    before, after = shape[:axis], shape[axis + 1:]
    if any(len(s) != len(shape) or (s[:axis], s[axis + 1:]) != (before, after) for s in others):
        raise ValueError(f"the shapes {shape} and {', '.join(map(str, others))[:80]} differ beside dim {dim}")
    result = (*before, sum(s[axis] for s in (shape, *others)), *after)
    return result, math.prod(result)


def mean(shape, dim, keepdim):
    if not isinstance(dim, (list, tuple)) or not dim or len({whole(d, "dim", 1, len(shape)) for d in dim}) != len(dim):
        raise ValueError(f"dim must be different whole numbers, got {str(dim)[:80]}")
    if type(keepdim) is not bool:
        raise ValueError(f"keepdim must be true or false, got {str(keepdim)[:80]}")
    result = tuple(1 if i in dim else n for i, n in enumerate(shape, 1) if keepdim or i not in dim)
    return result, math.prod(shape)


RULES = dict(conv2d=conv2d, linear=linear, affine=affine, flatten=flatten, max_pool2d=max_pool2d,
             avg_pool2d=avg_pool2d, adaptive_avg_pool2d=adaptive_avg_pool2d, relu=relu, leaky_relu=leaky_relu,
             gelu=gelu, silu=silu, sigmoid=sigmoid, tanh=tanh, softmax=softmax, log_softmax=log_softmax,
             add=add, sub=sub, mul=mul, cat=cat, mean=mean)


# --- a whole engine ---------------------------------------------------------------------------------------
def sizes(shape, name):
    """`shape` as a tuple of positive numbers whose product is at most MAX_WEIGHTS, or ValueError."""
    if not isinstance(shape, (list, tuple)) or not 1 <= len(shape) <= 8:
        raise ValueError(f"{name} must be 1 to 8 sizes, got {str(shape)[:80]}")
    shape = tuple(whole(n, name, 1, MAX_WEIGHTS) for n in shape)
    if math.prod(shape) > MAX_WEIGHTS:
        raise ValueError(f"{name} {shape} is too large: at most {MAX_WEIGHTS} numbers")
    return shape


def outline(steps):
    """The Steps of an engine as `check` takes them."""
    return [(s.op, s.options, s.inputs, {name: array.shape for name, array in s.arrays.items()}) for s in steps]


def check(steps, input_shape):
    """The shape after each step; ValueError with the place. What passes keeps the limits at the top of this file.

    steps: [(operation, options, numbers of the steps whose results it takes, {name: shape of an array})]; the
    step -1 is the input.
    """
    first, shapes, results, weights, work = sizes(input_shape, "input_shape"), [], 0, 0, 0
    reads = sum(len(inputs) for _, _, inputs, _ in steps)
    if max(len(steps), reads) > MAX_STEPS:
        raise ValueError(f"{len(steps)} steps that read {reads} results are too many: at most {MAX_STEPS}")
    for i, (op, options, inputs, arrays) in enumerate(steps):
        rule = RULES.get(op) if isinstance(op, str) else None
        try:
            if rule is None:
                raise ValueError("no such operation")
            if set(arrays) != ARRAYS & set(inspect.signature(rule).parameters):
                raise ValueError(f"got the arrays {', '.join(sorted(arrays))[:80] or 'none'}")
            arrays = {name: sizes(sides, f"the shape of {name}") for name, sides in arrays.items()}
            read = [first if whole(j, "an input", -1, i - 1) < 0 else shapes[j] for j in inputs]
            bound = inspect.signature(rule).bind(*read, **arrays, **options)
            shape, needed = rule(*bound.args, **bound.kwargs)
            results += math.prod(shape)
            weights += sum(map(math.prod, arrays.values()))
            work += needed
            if results > MAX_RESULTS or weights > MAX_WEIGHTS or work > MAX_WORK:
                raise ValueError(f"too large: {results} results, {weights} weights and {work} multiply-adds so "
                                 f"far; at most {MAX_RESULTS}, {MAX_WEIGHTS} and {MAX_WORK}")
        except (TypeError, ValueError) as error:        # a TypeError of bind: an option is missing or unknown
            raise ValueError(f"step {i} ({str(op)[:40]}): {error}") from None
        shapes.append(shape)
    return shapes
