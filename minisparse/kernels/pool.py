"""The worker threads. A kernel is serial and runs without the interpreter lock; `parallel` runs it over ranges.

Each worker owns a range of rows or channels, so nothing is shared and the result does not depend on timing.
BLAS is held at one thread from the first call on: its threads and ours, taking turns on the same cores, are
several times slower than either alone.
"""
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_local = threading.local()
_state = {"threads": None, "executor": None, "blas": None}


def get_num_threads():
    """How many threads kernels use (default: the cores this process may run on)."""
    if _state["threads"] is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        set_num_threads(cores or 1)
    return _state["threads"]


def set_num_threads(threads):
    """Use this many threads for every kernel and matrix product. Results repeat bit for bit at one number."""
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"set_num_threads: expected a positive whole number, got {threads!r}")
    try:
        import threadpoolctl    # on first use: it looks through all loaded libraries, which an import need not pay for
    except ImportError:         # an embedded engine does without, where BLAS was told by OMP_NUM_THREADS=1, say
        pass
    else:
        _state["blas"] = _state["blas"] or threadpoolctl.threadpool_limits(1, user_api="blas")
    _state["threads"] = threads
    _state["executor"] = ThreadPoolExecutor(threads - 1, "minisparse", _enter_worker) if threads > 1 else None


def _enter_worker():
    _local.worker = True


def split(count, parts, costs=None):
    """range(count) in at most `parts` contiguous ranges [(start, stop), ...] of nearly equal cost, none empty.

    costs: the running sum of what each of the `count` costs; None where all cost the same.
    """
    parts = max(1, min(parts, count))
    edges = [count * i // parts for i in range(parts + 1)]
    if costs is not None and count:
        middles = costs - np.diff(costs, prepend=0) / 2         # each falls to the part where its middle lies
        edges[1:-1] = np.searchsorted(middles, costs[-1] * np.arange(1, parts) / parts).tolist()
        edges = sorted(set(edges))
    return list(zip(edges, edges[1:]))


def parallel(work, count, limit=None, costs=None):
    """work(start, stop) over contiguous parts of range(count), one part a thread; the caller works too.

    Returns the results in the order of the parts. limit: at most so many parts; costs: see `split`. Called from a
    worker it runs there, serially.
    """
    threads = get_num_threads()
    parts = split(count, min(threads, limit or threads), costs)
    if len(parts) == 1 or getattr(_local, "worker", False):
        return [work(start, stop) for start, stop in parts]
    others = [_state["executor"].submit(work, *part) for part in parts[1:]]
    try:
        first = work(*parts[0])
    finally:
        results = [other.exception() or other.result() for other in others]
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [first, *results]


def threads(multiplications):
    """A limit for `parallel`: below about a million multiplications a second thread costs more than it brings."""
    return None if multiplications > 1 << 20 else 1


def elementwise(kernel, arrays, numbers=()):
    """kernel(*parts of the arrays, *numbers) over all elements of C-contiguous arrays of one size.

    An array may be None, which the kernel gets as an empty one.
    """
    size = arrays[0].size
    flats = [np.empty(0, arrays[0].dtype) if a is None else a.reshape(-1) for a in arrays]
    # to move a number takes as long as many multiplications
    parallel(lambda first, last: kernel(*(a[first:last] for a in flats), *numbers), size, threads(16 * size))


def _after_fork():
    """Threads do not survive a fork: the child starts its own."""
    if _state["threads"] is not None:
        set_num_threads(_state["threads"])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
