"""Arrays that recycle their memory: 64-byte aligned, handed out again when the last view on them is gone.

A training step makes the same large arrays each time. Fresh memory from the system costs a page fault for every
4 KB, which for a batch of activations takes longer than the arithmetic on it; a recycled array costs microseconds.
"""
import itertools
import weakref

import numpy as np

SMALL = 1 << 16             # below this many bytes the allocator of numpy is just as good
STALE = 2000                # a size that was not asked for during so many requests is given back to the system

_free = {}                  # bytes -> [number of the latest request, ended leases, {id: running lease}]
_requests = itertools.count()


class _Block:
    """Owner of one raw array, kept alive by every array on it (ndarray.base)."""

    def __init__(self, raw):
        self.raw = raw
        address = raw.ctypes.data
        self.__array_interface__ = {"version": 3, "shape": (len(raw) - 64,), "typestr": "|u1",
                                    "data": (address + -address % 64, False)}


class _Lease(weakref.ref):
    """Remembers the raw array of a block. When the block dies, its callback puts it among the ended leases.

    That callback is list.append, which is compiled: a Ctrl-C that meets a destructor written in Python is lost.
    """

    __slots__ = ("raw",)


def _take(nbytes):
    """A block of nbytes, recycled if there is one. Each step is atomic, so threads need no lock."""
    request = next(_requests)
    bucket = _free.setdefault(nbytes, [request, [], {}])
    bucket[0] = request
    _, ended, running = bucket
    try:
        lease = ended.pop()
        raw = running.pop(id(lease)).raw
    except IndexError:
        for size in [size for size, (latest, *_) in list(_free.items()) if request - latest > STALE]:
            _free.pop(size, None)
        raw = np.empty(nbytes + 64, np.uint8)
    block = _Block(raw)
    lease = _Lease(block, ended.append)
    lease.raw = raw
    running[id(lease)] = lease
    return block


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
    return np.asarray(_take(-(-nbytes // step) * step))[:nbytes].view(dtype).reshape(shape)


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
