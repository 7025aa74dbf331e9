"""Arrays that recycle their memory: 64-byte aligned, handed out again when the last view on them is gone.

A training step makes the same large arrays each time. Fresh memory from the system costs a page fault for every
4 KB, which for a batch of activations takes longer than the arithmetic on it; a recycled array costs microseconds.
"""
import itertools

import numpy as np

SMALL = 1 << 16             # below this many bytes the allocator of numpy is just as good
STALE = 2000                # a size that was not asked for during so many requests is given back to the system

_free = {}                  # bytes -> [number of the latest request, raw arrays]
_requests = itertools.count()


def _take(nbytes):
    """A raw array of nbytes and 64 more, recycled if there is one. Each step is atomic, so threads need no lock."""
    request = next(_requests)
    bucket = _free.setdefault(nbytes, [request, []])
    bucket[0] = request
    try:
        return bucket[1].pop()
    except IndexError:
        for size in [size for size, (latest, _) in list(_free.items()) if request - latest > STALE]:
            _free.pop(size, None)
        return np.empty(nbytes + 64, np.uint8)


class _Block:
    """Owner of one raw array, kept alive by every array on it (ndarray.base)."""

    def __init__(self, raw):
        self.raw = raw
        address = raw.ctypes.data
        self.__array_interface__ = {"version": 3, "shape": (len(raw) - 64,), "typestr": "|u1",
                                    "data": (address + -address % 64, False)}

    def __del__(self):
        bucket = _free.get(len(self.raw) - 64)
        if bucket is not None:
            bucket[1].append(self.raw)


def empty(shape, dtype=np.float32):
    """An uninitialised C-contiguous array of this shape on recycled memory."""
    dtype = np.dtype(dtype)
    nbytes = dtype.itemsize
    for n in shape:
        nbytes *= n
    if nbytes < SMALL:
        return np.empty(shape, dtype)
    # sizes are rounded up by at most 1/8, so that batches of nearly the same size share buckets
    step = 1 << max(12, nbytes.bit_length() - 4)
    return np.asarray(_Block(_take(-(-nbytes // step) * step)))[:nbytes].view(dtype).reshape(shape)


def zeros(shape, dtype=np.float32):
    """`empty`, filled with zeros."""
    out = empty(shape, dtype)
    out.fill(0)
    return out


def empty_like(array, dtype=None):
    """`empty` with the shape and the memory order of `array` (batch innermost stays batch innermost)."""
    order = np.argsort([-abs(s) for s in array.strides], kind="stable")
    out = empty(tuple(array.shape[i] for i in order), dtype or array.dtype)
    return out.transpose(np.argsort(order))


def batch_last(x):
    """(N, C, ...) -> the same as a C-contiguous array (C, ..., N); a view where memory already is batch innermost."""
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))


def batch_first(x):
    """(C, ..., N) -> the view (N, C, ...): torch's shape over batch-innermost memory."""
    return np.moveaxis(x, -1, 0)
