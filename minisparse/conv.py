"""Convolution and pooling. Shapes are torch's (N, C, H, W); memory is batch innermost.

An image batch x of shape (N, C, H, W) lies in memory as (C, H, W, N): `np.moveaxis(x, 0, -1)` is C-contiguous. One
weight then acts on long runs of contiguous numbers, the product `weight @ columns` is the output already in place,
and what works by channel finds its channel in one piece. `batch_last` enters that view, `batch_first` leaves it;
neither copies unless an input comes from outside in another order.
"""
import numpy as np

from .kernels import dense_conv, load, memory, sparse_conv
from .kernels.memory import batch_first, batch_last
from .kernels.pool import parallel
from .tensor import Tensor

ALIGNED = 16            # a batch of a multiple of this keeps every tap on whole cache lines
# the largest share of kept weights at which a training step gains, and where each load crosses two cache lines
WORTH = 0.75, 0.5
WORTH_PRODUCT = 0.4, 0.25       # of kernels of one pixel and fully connected layers, whose dense form is one product,
WIDE = 1024                     # and of rows of so many numbers; in shorter ones proportionally less


def pair(value, name):
    """An int or two ints -> (vertical, horizontal)."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(isinstance(v, (int, np.integer)) for v in values):
        raise ValueError(f"{name} must be an int or two ints, got {value!r}")
    return int(values[0]), int(values[1])


def _images(name, x):
    """x as (N, C, H, W), and whether it came as one image (C, H, W)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: x has to be a Tensor, got {type(x).__name__}")
    if x.ndim not in (3, 4):
        raise ValueError(f"{name}: expected images (N, C, H, W) or (C, H, W), got shape {x.shape}")
    if x.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating point images, got {x.dtype}")
    if 0 in x.shape[-3:]:
        raise ValueError(f"{name}: expected images of at least one channel and pixel, got shape {x.shape}")
    return (x.data[None], True) if x.ndim == 3 else (x.data, False)


def _geometry(name, x, kernel, stride, padding, dilation=(1, 1), ceil_mode=False):
    """The geometry tuple of kernels/conv.py for images x (N, C, H, W)."""
    sizes = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation):
        if k < 1 or s < 1 or d < 1 or p < 0:
            raise ValueError(f"{name}: kernel_size {kernel}, stride {stride} and dilation {dilation} must be "
                             f"positive, padding {padding} not negative")
        span = n + 2 * p - d * (k - 1) - 1
        size = span // s + 1
        if ceil_mode and span % s and size * s < n + p:     # the last window must begin inside the image
            size += 1
        if size < 1:
            raise ValueError(f"{name}: kernel {kernel} with dilation {dilation} is larger than the padded image "
                             f"(x shape {x.shape}, padding {padding})")
        sizes.append(size)
    return (*kernel, *stride, *padding, *dilation, *sizes)


def conv_geometry(images, kernel, stride, padding, dilation):
    """The geometry of conv2d (see there) of images (N, C, H, W) with a kernel (kh, kw)."""
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"conv2d: padding='same' goes with stride 1, got {stride}")
        if min(dilation) < 1:
            raise ValueError(f"conv2d: dilation must be positive, got {dilation}")
        total = tuple(d * (k - 1) for k, d in zip(kernel, dilation))
        # an odd total has the one row or column more at the bottom or right
        return (*kernel, 1, 1, total[0] // 2, total[1] // 2, *dilation, *images.shape[2:])
    padding = (0, 0) if padding == "valid" else pair(padding, "padding")
    return _geometry("conv2d", images, kernel, stride, padding, dilation)


def masked_conv(weight, geometry, shape, groups):
    """The MaskedConv of a weight for inputs of this shape, made when first asked for; None where dense is faster.

    weight: a Tensor, (O, C, kh, kw) or (O, C); a Parameter with a mask keeps what is made here in `plans` until its
    mask changes.
    """
    mask = getattr(weight, "mask", None)
    if mask is None or groups != 1 or not sparse_conv.fits(geometry, shape, weight.dtype):
        return None
    shortest = min(geometry[-1], shape[2]) * shape[3]       # row, of output or input; in short ones padding prevails
    pixel, unaligned = geometry[:2] == (1, 1), shape[3] % ALIGNED > 0
    worth = min(WORTH_PRODUCT[unaligned], shortest / WIDE) if pixel else WORTH[unaligned]
    if shortest < ALIGNED or np.count_nonzero(mask) > mask.size * worth:
        return None
    return sparse_conv.remembered(weight.plans, (geometry, shape), lambda: sparse_conv.MaskedConv(
        mask.reshape(*mask.shape[:2], *geometry[:2]), geometry, shape))


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of images x (N, C, H, W) with weight (O, C/groups, kh, kw), plus bias (O).

    out[n, o, i, j] = bias[o] + sum over (c, u, v) of weight[o, c, u, v] x[n, c, i sy + u dy - py, j sx + v dx - px]

    stride, padding (or "same", "valid"), dilation: an int or (vertical, horizontal). Returns (N, O, Ho, Wo) with
    Ho = (H + 2 py - dy (kh - 1) - 1) // sy + 1. ValueError where the shapes do not fit.
    """
    images, single = _images("conv2d", x)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"conv2d: expected a weight (O, C/groups, kh, kw), got shape {weight.shape}")
    outputs, per_group, *kernel = weight.shape
    channels = images.shape[1]
    if groups < 1 or outputs % groups or channels != per_group * groups:
        raise ValueError(f"conv2d: weight {weight.shape} with groups={groups} has {per_group * groups} input "
                         f"channels, x has {channels} (x shape {x.shape})")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"conv2d: expected a bias of shape ({outputs},), got {bias.shape}")
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ValueError(f"conv2d: x is {x.dtype}, weight is {weight.dtype}"
                         + ("" if bias is None else f", bias is {bias.dtype}"))
    geometry = conv_geometry(images, tuple(kernel), stride, padding, dilation)
    xb, w, b = batch_last(images), np.ascontiguousarray(weight.data), None if bias is None else bias.data

    def incoming(g):
        return batch_last(g[None] if single else g)

    def outgoing(value):
        return batch_first(value)[0] if single else batch_first(value)
    masked = masked_conv(weight, geometry, xb.shape, groups)
    if masked is None:
        value = dense_conv.forward(xb, w, b, geometry, groups)
        edges = [(x, lambda g: outgoing(dense_conv.grad_input(incoming(g), w, xb.shape, geometry, groups))),
                 (weight, lambda g: dense_conv.grad_weight(xb, incoming(g), w.shape, geometry, groups))]
    else:
        padded = masked.pad(xb)
        value = masked.forward(padded, w, b)

        def grad_weight(g):
            if weight.keep_dense_grad:
                return dense_conv.grad_weight(masked.unpad(padded), incoming(g), w.shape, geometry, groups)
            return masked.grad_weight(padded, incoming(g))
        edges = [(x, lambda g: outgoing(masked.grad_input(incoming(g), w))), (weight, grad_weight)]
    if bias is not None:
        edges.append((bias, lambda g: incoming(g).reshape(outputs, -1).sum(axis=1)))
    return Tensor.from_op("conv2d", outgoing(value), *edges)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest number of each window of x (N, C, H, W); stride defaults to kernel_size.

    The gradient goes to the first of equal numbers, as in torch.
    """
    if return_indices:
        raise NotImplementedError("max_pool2d: return_indices")
    images, single = _images("max_pool2d", x)
    kernel = pair(kernel_size, "kernel_size")
    stride = kernel if stride is None else pair(stride, "stride")
    padding, dilation = pair(padding, "padding"), pair(dilation, "dilation")
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f"max_pool2d: padding {padding} is more than half of the kernel {kernel}")
    geometry = _geometry("max_pool2d", images, kernel, stride, padding, dilation, ceil_mode)
    xb = batch_last(images)
    whole, shape = xb.shape, (xb.shape[0], *geometry[-2:], xb.shape[3])
    out = memory.empty(shape, xb.dtype)
    taps = memory.empty(shape, np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)
    kernels = load("pooling")
    parallel(lambda first, last: kernels.max_pool(xb[first:last], geometry, out[first:last], taps[first:last]),
             len(xb))

    def vjp(g):
        gb = batch_last(g[None] if single else g)
        gx = memory.empty(whole, g.dtype)
        parallel(lambda first, last: kernels.max_pool_grad(gb[first:last], taps[first:last], geometry, gx[first:last]),
                 len(gx))
        return batch_first(gx)[0] if single else batch_first(gx)
    value = batch_first(out)
    return Tensor.from_op("max_pool2d", value[0] if single else value, (x, vjp))


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    """The mean of each window of x (N, C, H, W); stride defaults to kernel_size."""
    images, single = _images("avg_pool2d", x)
    kernel = pair(kernel_size, "kernel_size")
    stride = kernel if stride is None else pair(stride, "stride")
    padding = pair(padding, "padding")
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f"avg_pool2d: padding {padding} is more than half of the kernel {kernel}")
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0")
    *_, ho, wo = _geometry("avg_pool2d", images, kernel, stride, padding, ceil_mode=ceil_mode)
    rows, columns = (_window_means(n, k, s, p, size, count_include_pad, divisor_override)
                     for n, k, s, p, size in zip(images.shape[2:], kernel, stride, padding, (ho, wo)))
    if divisor_override:
        rows /= divisor_override
    return _separable("avg_pool2d", x, images, single, rows, columns)


def adaptive_avg_pool2d(x, output_size):
    """The mean of x (N, C, H, W) over output_size (an int or two, None keeps a side) nearly equal windows.

    Window i of a side of n numbers is floor(i n / size) ... ceil((i + 1) n / size), as in torch.
    """
    images, single = _images("adaptive_avg_pool2d", x)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(sizes) != 2 or not all(s is None or isinstance(s, int) and s > 0 for s in sizes):
        raise ValueError(f"adaptive_avg_pool2d: output_size must be a positive int, None, or two of them, "
                         f"got {output_size!r}")
    sides = []
    for n, size in zip(images.shape[2:], sizes):
        size = n if size is None else size
        i, at = np.arange(size)[:, None], np.arange(n)
        window = (at >= i * n // size) & (at < -(-(i + 1) * n // size))
        sides.append(window / window.sum(axis=1, keepdims=True))
    return _separable("adaptive_avg_pool2d", x, images, single, *sides)


def _window_means(n, k, s, p, size, include_padding, raw):
    """The matrix (size, n) that takes a side to the means of its windows (to their sums if raw)."""
    start = np.arange(size)[:, None] * s - p
    at = np.arange(n)
    window = (at >= start) & (at < start + k)
    if raw:
        return window.astype(float)
    inside = np.minimum(start + k, n + p) - start if include_padding else window.sum(axis=1, keepdims=True)
    return window / inside


def _separable(name, x, images, single, rows, columns):
    """rows (Ho, H) and columns (Wo, W) applied to the two sides of every image: out = rows @ image @ columns.T."""
    rows, columns = rows.astype(x.dtype), columns.astype(x.dtype)

    def apply(a, r, c):
        a = batch_last(a[None] if single and a.ndim == 3 else a)
        a = np.matmul(r, a.reshape(len(a), a.shape[1], -1)).reshape(len(a), len(r), *a.shape[2:])
        out = batch_first(np.matmul(c, a))
        return out[0] if single else out
    return Tensor.from_op(name, apply(images, rows, columns), (x, lambda g: apply(g, rows.T, columns.T)))
