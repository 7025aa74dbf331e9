"""Convolution on batch-innermost memory: images are (C, H, W, N) arrays, C-contiguous.

A shift of the image by one pixel is a shift of memory by N numbers, so a row of an image column matrix is made of
long runs of the image, and one weight acts on contiguous numbers.

Geometry is a tuple of ten whole numbers (kh, kw, sy, sx, py, px, dy, dx, Ho, Wo): kernel size, stride, zero
padding at the top and left, dilation, and size of the output. The bottom and right padding follows from Ho, Wo.
"""
from ._jit import jit


@jit()
def _inside(tap, stride, size, first, last):
    """The part of first..last whose source index i * stride + tap lies in 0..size, as (low, high)."""
    low = max(first, -(tap // stride))
    high = min(last, (size - 1 - tap) // stride + 1)
    low = min(low, last)
    return low, max(low, high)


@jit()
def im2col(x, geometry, first, last, columns):
    """columns[(c, ky, kx), (p, n)] = x[c, y sy + ky dy - py, x sx + kx dx - px, n], zero outside the image.

    p = y Wo + x runs over the output pixels first <= p < last. x: (C, H, W, N); columns: (C kh kw, (last - first) N),
    written whole. Cost: C kh kw (last - first) N copies, in runs of a row where sx = 1, of N numbers otherwise.
    """
    kh, kw, sy, sx, py, px, dy, dx, _, wo = geometry
    channels, height, width, batch = x.shape
    for c in range(channels):
        for ky in range(kh):
            for kx in range(kw):
                row = columns[(c * kh + ky) * kw + kx]
                tap = kx * dx - px
                for y in range(first // wo, (last - 1) // wo + 1):
                    begin, end = max(first, y * wo) - y * wo, min(last, (y + 1) * wo) - y * wo
                    at = (y * wo - first) * batch
                    source = y * sy + ky * dy - py
                    low, high = _inside(tap, sx, width, begin, end)
                    if source < 0 or source >= height:
                        low = high = end
                    row[at + begin * batch:at + low * batch] = 0
                    row[at + high * batch:at + end * batch] = 0
                    if low == high:
                        continue
                    if sx == 1:
                        run = x[c, source].ravel()[(low + tap) * batch:(high + tap) * batch]
                        target = row[at + low * batch:at + high * batch]
                        for j in range(len(target)):
                            target[j] = run[j]
                    else:
                        for i in range(low, high):
                            run = x[c, source, i * sx + tap]
                            target = row[at + i * batch:at + (i + 1) * batch]
                            for j in range(len(target)):
                                target[j] = run[j]


@jit()
def col2im(columns, geometry, first, last, x):
    """x[c, y sy + ky dy - py, x sx + kx dx - px, n] += columns[(c, ky, kx), (p, n)]: the transpose of im2col.

    Shapes, order and cost as there; x is added to, what falls outside the image is dropped.
    """
    kh, kw, sy, sx, py, px, dy, dx, _, wo = geometry
    channels, height, width, batch = x.shape
    for c in range(channels):
        for ky in range(kh):
            for kx in range(kw):
                row = columns[(c * kh + ky) * kw + kx]
                tap = kx * dx - px
                for y in range(first // wo, (last - 1) // wo + 1):
                    target_y = y * sy + ky * dy - py
                    if target_y < 0 or target_y >= height:
                        continue
                    at = (y * wo - first) * batch
                    low, high = _inside(tap, sx, width, max(first, y * wo) - y * wo, min(last, (y + 1) * wo) - y * wo)
                    if low == high:
                        continue
                    if sx == 1:
                        target = x[c, target_y].ravel()[(low + tap) * batch:(high + tap) * batch]
                        run = row[at + low * batch:at + high * batch]
                        for j in range(len(run)):
                            target[j] += run[j]
                    else:
                        for i in range(low, high):
                            target = x[c, target_y, i * sx + tap]
                            run = row[at + i * batch:at + (i + 1) * batch]
                            for j in range(len(run)):
                                target[j] += run[j]
