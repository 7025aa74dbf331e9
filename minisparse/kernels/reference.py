"""What every kernel means, in plain NumPy; same names and signatures as the Numba files."""
import math

import numpy as np


def warp(images, index, maps, scale, offset, out):
    """out[c, y, x, b] = scale[c] * p + offset[c], p being images[index[b], c] at maps[b] @ (y, x, 1).

    Here: coordinates as one matrix product, reflection by looking up a padded list of indices, and p as the
    weighted sum of four corners.
    """
    C, H, W, B = out.shape
    pixels = np.stack([*np.mgrid[:H, :W], np.ones((H, W))]).reshape(3, H * W)
    for b in range(B):
        source = maps[b] @ pixels
        corner = np.floor(source).astype(np.int64)
        reach = 1 + max(abs(corner.min()), corner.max() + 1)
        rows, columns = (np.pad(np.arange(n), reach, mode="reflect") for n in (H, W))
        image, total = images[index[b]], 0
        for y, x in (0, 0), (0, 1), (1, 0), (1, 1):
            weight = np.prod(1 - np.abs(source - corner - [[y], [x]]), axis=0)
            total = total + weight * image[:, rows[corner[0] + y + reach], columns[corner[1] + x + reach]]
        out[..., b] = (scale[:, None] * total + offset[:, None]).reshape(C, H, W)


def _sources(geometry, first, last, height, width):
    """The pixel y W + x of the image under each tap of output pixels first..last, and whether it is inside.

    Two arrays (kh kw, last - first); geometry: see conv.py.
    """
    kh, kw, sy, sx, py, px, dy, dx, _, wo = geometry
    pixel, tap = np.arange(first, last), np.arange(kh * kw)[:, None]
    y = pixel // wo * sy + tap // kw * dy - py
    x = pixel % wo * sx + tap % kw * dx - px
    return y * width + x, (0 <= y) & (y < height) & (0 <= x) & (x < width)


def im2col(x, geometry, first, last, columns):
    """columns[(c, ky, kx), (p, n)] = x[c, y sy + ky dy - py, x sx + kx dx - px, n], zero outside the image.

    Here: pixels taken from the flat image by their number, then zeros written over those that lie outside.
    """
    channels, height, width, batch = x.shape
    source, inside = _sources(geometry, first, last, height, width)
    columns = columns.reshape(channels, *source.shape, batch)
    x.reshape(channels, height * width, batch).take(source, axis=1, mode="clip", out=columns)
    columns[:, ~inside] = 0


def col2im(columns, geometry, first, last, x):
    """x[c, y sy + ky dy - py, x sx + kx dx - px, n] += columns[(c, ky, kx), (p, n)]: the transpose of im2col.

    Here: one tap at a time, since no two output pixels see the same pixel of the image under the same tap.
    """
    channels, height, width, batch = x.shape
    source, inside = _sources(geometry, first, last, height, width)
    columns = columns.reshape(channels, *source.shape, batch)
    flat = x.reshape(channels, height * width, batch)
    for tap, (at, kept) in enumerate(zip(source, inside)):
        flat[:, at[kept]] += columns[:, tap, kept]


def max_pool(x, geometry, out, taps):
    """out[c, y, x, n] = the largest number of the window, taps the first place ky kw + kx where it stands.

    Here: np.argmax over all windows laid side by side; outside the image is minus infinity.
    """
    channels, height, width, batch = x.shape
    pixels = out.shape[1] * out.shape[2]
    source, inside = _sources(geometry, 0, pixels, height, width)
    windows = x.reshape(channels, height * width, batch).take(source, axis=1, mode="clip")
    windows[:, ~inside] = -np.inf
    best = windows.argmax(axis=1)
    out[...] = np.take_along_axis(windows, best[:, None], axis=1).reshape(out.shape)
    # a window of nothing but minus infinities: the first that is no padding
    padding = ~inside[best, np.arange(pixels)[:, None]]
    taps[...] = np.where(padding, inside.argmax(axis=0)[:, None], best).reshape(out.shape)


def max_pool_grad(g, taps, geometry, gx):
    """gx = 0, and += g where the largest number stood. Here: col2im of g in the columns of its taps."""
    gx[...] = 0
    channels, ho, wo, batch = g.shape
    chosen = taps[:, None] == np.arange(geometry[0] * geometry[1])[:, None, None, None]
    col2im(np.where(chosen, g[:, None], 0), geometry, 0, ho * wo, gx)


def moments(x, mean, variance):
    """mean[c] and (biased) variance[c] of each row of x; here summed in double precision."""
    mean[:] = x.mean(axis=1, dtype=np.float64)
    variance[:] = x.var(axis=1, dtype=np.float64)


def gradient_sums(g, x, mean, sum_g, sum_gx):
    """sum_g[c] = sum of g, sum_gx[c] = sum of g (x - mean[c]), over each row; here in double precision."""
    sum_g[:] = g.sum(axis=1, dtype=np.float64)
    sum_gx[:] = np.einsum("cm,cm->c", g, x - mean[:, None], dtype=np.float64)


def scale_shift(x, scale, shift, out):
    """out = scale[c] x + shift[c]."""
    np.multiply(x, scale[:, None], out=out)
    out += shift[:, None]


def normalize(x, weight, bias, eps, mean, variance, out):
    """The moments of each row of x, and out = (x - mean) / sqrt(variance + eps) weight + bias."""
    moments(x, mean, variance)
    out[...] = (x - mean[:, None]) / np.sqrt(variance + eps)[:, None] * weight[:, None] + bias[:, None]


def normalize_grad(g, x, mean, scale, inverse, sum_g, sum_gx, out):
    """The sums of `gradient_sums`, and out = scale (g - mean(g) - xhat mean(g xhat)), xhat = (x - mean) inverse."""
    gradient_sums(g, x, mean, sum_g, sum_gx)
    xhat = (x - mean[:, None]) * inverse[:, None]
    means = [(a / x.shape[1])[:, None] for a in (sum_g, sum_gx * inverse)]
    out[...] = scale[:, None] * (g - means[0] - xhat * means[1])


def combine(g, x, a, b, shift, out):
    """out = a[c] g + b[c] x + shift[c]."""
    np.multiply(g, a[:, None], out=out)
    out += b[:, None] * x
    out += shift[:, None]


def sgd(weight, grad, velocity, rate, momentum, added, decay, nesterov, maximize):
    """weight -= rate s; velocity v = momentum v + added g; s = g + momentum v if nesterov, else v.

    g = grad (negated if maximize) + decay weight. An empty velocity: s = g. Here: array by array.
    """
    g = (-grad if maximize else grad) + decay * weight
    if len(velocity):
        velocity *= momentum
        velocity += added * g
        g = g + momentum * velocity if nesterov else velocity
    weight -= rate * g


def adam(weight, grad, m, v, largest, rate, beta1, beta2, root, eps, shrink, decay):
    """weight = w - rate m / (sqrt(v) / root + eps), m and v the moving averages of g and g^2.

    w = shrink weight, g = grad + decay w. largest: the largest v so far takes the place of v, unless it is empty.
    """
    weight *= shrink
    g = grad + decay * weight
    m += (1 - beta1) * (g - m)
    v *= beta2
    v += (1 - beta2) * g * g
    if len(largest):
        v = np.maximum(largest, v, out=largest)
    weight -= rate * (m / (np.sqrt(v) / root + eps))


def keep(values, mask, out):
    """out = values where mask, 0 elsewhere, whatever stands there; mask: bool."""
    out[...] = np.where(mask, values, 0)


def multiply_matrix(indptr, column, value, x, out):
    """out[o, t] += sum over k in indptr[o] ... indptr[o + 1] of value[k] x[column[k], t].

    Here: for each o its rows of x gathered, and a product of a vector with them.
    """
    for o, (first, last) in enumerate(zip(indptr[:-1], indptr[1:])):
        out[o] += value[first:last] @ x[column[first:last]]


def multiply_vector(indptr, column, value, x, out):
    """out[o] = sum over k in indptr[o] ... indptr[o + 1] of value[k] x[column[k]].

    Here: all the products at once, then added to the row that each belongs to.
    """
    first, last = int(indptr[0]), int(indptr[-1])
    rows = np.repeat(np.arange(len(out)), np.diff(indptr.astype(np.int64)))
    out[:] = np.bincount(rows, value[first:last] * x[column[first:last]], minlength=len(out))


def sample_product(indptr, column, g, x, out):
    """out[k] = g[o] . x[column[k]] for k in indptr[o] ... indptr[o + 1].

    Here: both sides gathered, and one einsum.
    """
    kept = slice(indptr[0], indptr[-1])
    out[kept] = np.einsum("kn,kn->k", np.repeat(g, np.diff(indptr), axis=0), x[column[kept]])


def normal(x):
    """(distribution function, density) of the standard normal distribution.

    float32: erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error below 1.5e-7, which is
    the rounding of float32), whose exponential the density shares; float64: the C library's erf.
    """
    e = np.exp(x * x * x.dtype.type(-0.5))
    if x.dtype == np.float64:
        tail = np.array([0.5 * math.erfc(abs(v) / math.sqrt(2)) for v in x.tolist()])
    else:
        t = 1 / (1 + np.abs(x) * x.dtype.type(0.3275911 / math.sqrt(2)))
        tail = t * x.dtype.type(1.061405429)
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += x.dtype.type(coefficient)
            tail *= t
        tail *= e * x.dtype.type(0.5)
    return np.where(x > 0, 1 - tail, tail), e * x.dtype.type(1 / math.sqrt(2 * math.pi))


def gelu(x, out):
    """out = x Phi(x). x, out: (n,)."""
    np.multiply(x, normal(x)[0], out=out)


def gelu_grad(x, g, out):
    """out = g (Phi(x) + x phi(x)). x, g, out: (n,)."""
    cumulative, density = normal(x)
    np.multiply(g, cumulative + x * density, out=out)


def _windows(x, offset, first, length):
    """x[first + offset[k] ... + length] for every k: (nonzeros, length)."""
    return np.lib.stride_tricks.sliding_window_view(x, length)[first + offset]


def pad(x, top, left, columns, phases, out):
    """out[c, y + top, (i + left) % phases, (i + left) // phases] = x[c, y, i], zero elsewhere.

    Here: the rows of pixels in order, and then their phases as a dimension that is moved.
    """
    channels, height, width, batch = x.shape
    rows = out.shape[1] // (phases * columns * batch)
    padded = np.zeros((channels, rows, columns * phases, batch), x.dtype)
    padded[:, top:top + height, left:left + width] = x
    padded = padded.reshape(channels, rows, columns, phases, batch).swapaxes(2, 3).reshape(channels, -1)
    out[:, :padded.shape[1]] = padded
    out[:, padded.shape[1]:] = 0


def convolve(tile, x, segments, offset, value, bias, stride, first, last, part, out):
    """out[o, y, t] = bias[o] + sum over the nonzeros k of o of value[k] x[y stride + offset[k] + t], first <= o < last.

    Here: the whole row of every nonzero gathered, and one sum over those of an output; tile is of no consequence.
    """
    outputs, height, length = out.shape
    output = np.repeat(np.arange(len(segments) - 1) % outputs, np.diff(segments))
    for o in range(first, last):
        mine = np.flatnonzero(output == o)
        for y in range(height):
            out[o, y] = bias[o] + value[mine] @ _windows(x, offset[mine], y * stride, length)


def convolve_grad_weight(tile, x, segments, offset, g, stride, first, last, part, out):
    """out[k] += sum over y, t of g[o, y, t] x[y stride + offset[k] + t] for the nonzeros k of the outputs o."""
    outputs, height, length = g.shape
    output = np.repeat(np.arange(len(segments) - 1) % outputs, np.diff(segments))
    mine = np.flatnonzero((output >= first) & (output < last))
    for y in range(height):
        out[mine] += (g[output[mine], y] * _windows(x, offset[mine], y * stride, length)).sum(axis=1)


def _ended(x, ending, scale, shift, batch):
    """What finish_layer makes of the sums (rows, count) of one output."""
    pool, early, activation = ending

    def activate(x):
        x = scale * x + shift
        return (x, np.where(x < 0, 0, x), x * normal(x.astype(np.float32))[0])[activation]
    if pool == 1:
        return activate(x)
    rows, columns = len(x) // pool, x.shape[1] // pool // batch
    windows = x[:rows * pool].reshape(rows, pool, columns, pool, batch)
    best = (activate(windows) if early else windows).max(axis=(1, 3))
    return (best if early else activate(best)).reshape(rows, columns * batch)


def finish_layer(sums, rows, pitch, count, batch, ending, scale, shift, first, last, out, plane, stride, place):
    """out[place + o plane + y stride + j] = what the layer makes of sums[o, y pitch + j], for first <= o < last.

    Here: the rows gathered, the windows of the pooling as two more dimensions.
    """
    for o in range(first, last):
        x = sums[o][np.arange(rows)[:, None] * pitch + np.arange(count)]
        _put(_ended(x, ending, scale[o], shift[o], batch), out, place + o * plane, stride)


def _put(values, out, at, stride):
    rows, count = values.shape
    out[at + np.arange(rows)[:, None] * stride + np.arange(count)] = values


def convolve_layer(tile, x, shifts, window, segments, offset, value, walk, batch, ending, scale, shift, first, last,
                   sums, out, plane, stride, place):
    """A convolution, and all that `finish_layer` does. Here: whole rows, the run of x of every nonzero gathered."""
    bands, rows, step, length, _, _, whole, row, total, count = walk
    block = len(tile)
    groups = len(sums) // block
    offset = offset.astype(np.int64)
    section, group = np.divmod(np.repeat(np.arange(len(segments) - 1), np.diff(segments)), groups)
    if len(shifts):     # the place in x rather than in a copy of it
        channels, _, x_plane, span = window
        channel, rest = np.divmod(offset, len(shifts) * span)
        offset = (section * channels + channel) * x_plane + shifts[rest // span] + rest % span
    for g in range(first, last):
        mine = np.flatnonzero(group == g)
        for band in range(bands):
            found = [value[mine].T @ _windows(x, offset[mine], (band * rows + h) * step, length)
                     for h in range(rows)]
            for b in range(block):
                o, y = g * block + b, np.stack([f[b] for f in found])
                if whole:
                    y = y[0][np.arange(total)[:, None] * row + np.arange(count)]
                _put(_ended(y, ending, scale[o], shift[o], batch), out,
                     place + o * plane + band * (rows // ending[0]) * stride, stride)
