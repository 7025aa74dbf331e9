"""Max pooling on batch-innermost images (C, H, W, N); geometry: see conv.py."""
import numpy as np

from ._jit import jit


@jit()
def max_pool(x, geometry, out, taps):
    """out[c, y, x, n] = the largest number of the window, taps the first place ky kw + kx where it stands.

    What lies outside the image counts as absent (a window wholly outside, which dilation makes, gives minus
    infinity and tap 0); NaN wins. Cost: kh kw comparisons a number, over runs of N.
    """
    kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
    channels, height, width, batch = x.shape
    for c in range(channels):
        for y in range(ho):
            for xo in range(wo):
                best, tap = out[c, y, xo], taps[c, y, xo]
                seen = False
                for ky in range(kh):
                    iy = y * sy + ky * dy - py
                    if iy < 0 or iy >= height:
                        continue
                    for kx in range(kw):
                        ix = xo * sx + kx * dx - px
                        if ix < 0 or ix >= width:
                            continue
                        run = x[c, iy, ix]
                        at = taps.dtype.type(ky * kw + kx)
                        if not seen:
                            seen = True
                            for n in range(batch):
                                best[n] = run[n]
                                tap[n] = at
                        else:
                            for n in range(batch):
                                v = run[n]
                                better = v > best[n] or (v != v and best[n] == best[n])
                                best[n] = v if better else best[n]
                                tap[n] = at if better else tap[n]
                if not seen:
                    best[:] = -np.inf
                    tap[:] = 0


@jit()
def max_pool_grad(g, taps, geometry, gx):
    """gx = 0, and += g where the largest number stood. g, taps: (C, Ho, Wo, N); gx: (C, H, W, N)."""
    kh, kw, sy, sx, py, px, dy, dx, ho, wo = geometry
    channels, height, width, batch = gx.shape
    for c in range(channels):
        gx[c] = 0           # here, where the plane is still in the cache when it is added to
        for y in range(ho):
            for xo in range(wo):
                run, tap = g[c, y, xo], taps[c, y, xo]
                for ky in range(kh):
                    iy = y * sy + ky * dy - py
                    if iy < 0 or iy >= height:
                        continue
                    for kx in range(kw):
                        ix = xo * sx + kx * dx - px
                        if ix < 0 or ix >= width:
                            continue
                        target = gx[c, iy, ix]
                        at = ky * kw + kx
                        for n in range(batch):
                            target[n] += run[n] if tap[n] == at else 0
