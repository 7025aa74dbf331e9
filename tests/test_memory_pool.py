"""Recycled memory and the worker threads."""
import _thread
import gc
import operator
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from minisparse.conv import conv2d
from minisparse.kernels import memory
from minisparse.kernels.pool import get_num_threads, parallel, set_num_threads, split
from minisparse.tensor import Tensor


def address(a):
    return a.__array_interface__["data"][0]


@pytest.fixture
def fresh(monkeypatch):
    """Nothing to recycle yet."""
    monkeypatch.setattr(memory, "_free", {})


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


# --- memory -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape, dtype", [((300, 301), np.float32), ((7, 5, 3, 1001), np.float64),
                                          ((1 << 16,), np.uint8), ((1, 99_999), np.int32),
                                          ((3, 2), np.float32), ((0, 5), np.float32), ((), float)])
def test_arrays_are_what_was_asked_for(fresh, shape, dtype):
    a, b = memory.empty(shape, dtype), memory.zeros(shape, dtype)
    a.fill(1)
    for array in a, b:
        assert array.shape == shape and array.dtype == dtype
        assert array.flags.c_contiguous and array.flags.writeable
        if array.nbytes >= memory.SMALL:
            assert address(array) % 64 == 0
    assert not b.any() and not np.may_share_memory(a, b)


def test_memory_comes_back_when_the_last_view_is_gone(fresh):
    a = memory.empty((100, 1000))
    at, view, tensor = address(a), a[3:, ::2].T, Tensor(a.reshape(-1))
    del a
    assert address(memory.empty((100, 1000))) != at         # two views live
    del view
    assert address(memory.empty((100, 1000))) != at
    tensor.data = None
    assert address(memory.empty((100, 1000))) == at
    assert address(memory.empty((1000, 99))) == at          # nearly the same size shares it
    assert address(memory.empty((100, 2000))) != at


def test_live_arrays_never_share(fresh):
    rng, live = np.random.default_rng(0), []
    for i in range(400):
        a = memory.empty((int(rng.integers(16_000, 60_000)),))
        a.fill(i)
        live.append((i, a))
        if len(live) > 20:
            live.pop(rng.integers(len(live)))
        assert all((b == j).all() for j, b in live[::5])


def test_memory_from_many_threads(fresh):
    problems = []

    def use(number):
        for i in range(300):
            a = memory.empty((20_000 + 5000 * (i % 3),))
            a.fill(number)
            b = memory.zeros((20_000,))
            if not (a == number).all() or b.any():
                problems.append((number, i))
    workers = [threading.Thread(target=use, args=(n,)) for n in range(1, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems


def test_sizes_that_went_out_of_use_are_given_back(fresh, monkeypatch):
    monkeypatch.setattr(memory, "STALE", 10)
    memory.empty((1000, 1000))
    (old,) = memory._free
    for _ in range(10):
        memory.empty((1000, 200))
    assert old in memory._free
    outlived = memory.empty((1000, 300))                    # a new size looks for what is stale
    assert old not in memory._free
    for _ in range(11):
        memory.empty((1000, 200))
    memory.empty((1000, 400))
    size = len(memory._free)
    del outlived                                            # of a size that is no longer kept
    assert len(memory._free) == size == 2


def test_empty_like_keeps_the_memory_order(fresh):
    x = np.zeros((5, 7, 11, 64), np.float32)
    for order in (0, 1, 2, 3), (3, 0, 1, 2), (3, 2, 1, 0), (1, 0, 3, 2):
        like = memory.empty_like(x.transpose(order))
        assert like.strides == x.transpose(order).strides and like.shape == x.transpose(order).shape
    assert memory.empty_like(x, bool).dtype == bool
    assert memory.empty_like(x[::2, ::-1, :, ::4]).flags.c_contiguous       # dense, whatever the gaps
    assert memory.empty_like(np.float32(1)).shape == ()


def test_batch_last_copies_only_what_is_in_another_order():
    x = np.arange(120).reshape(2, 3, 4, 5)
    last = memory.batch_last(x)
    assert last.shape == (3, 4, 5, 2) and last.flags.c_contiguous and not np.may_share_memory(last, x)
    first = memory.batch_first(last)
    np.testing.assert_array_equal(first, x)
    assert address(memory.batch_last(first)) == address(last)


def test_too_much_memory_is_an_ordinary_error(fresh, monkeypatch):
    behind = []
    monkeypatch.setattr(sys, "unraisablehook", behind.append)   # of what goes wrong in __del__
    with pytest.raises(MemoryError):
        memory.empty((1 << 50,))
    gc.collect()
    assert not behind


def test_arrays_that_live_at_the_end_of_the_program_make_no_noise():
    program = "from minisparse.kernels import memory; a = [memory.empty((99999,)) for _ in range(9)]"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == done.stderr == ""


def test_no_interrupt_is_lost_while_memory_comes_back(monkeypatch):
    """What is raised in a destructor, Python prints and ignores: a Ctrl-C there would not stop the program."""
    ignored, sent, caught = [], [], 0
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    def interrupt(*_):
        sent.append(1)
        raise KeyboardInterrupt
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        for _ in range(3):
            held = [memory.empty((99_999,))]
            try:        # compiled code that gets the signal and then frees the array: as a kernel does that takes long
                list(map(operator.methodcaller("__call__"), [_thread.interrupt_main, held.clear]))
            except KeyboardInterrupt:
                caught += 1
            assert not held
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == len(sent) == 3 and not ignored


# --- threads ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count, parts", [(10, 3), (3, 10), (1, 1), (7, 7), (100, 9)])
def test_split(count, parts):
    ranges = split(count, parts)
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(count))
    lengths = [stop - start for start, stop in ranges]
    assert len(ranges) == min(count, parts) and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
@pytest.mark.parametrize("costs", [[1, 1, 1, 1, 1, 1], [0, 0, 0, 9, 9, 9], [90, 1, 1, 1, 1], [0, 0, 0], [5], []])
def test_split_by_cost(costs, parts):
    ranges = split(len(costs), parts, np.cumsum(costs))
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(len(costs)))
    assert len(ranges) <= parts and all(start < stop for start, stop in ranges[1:])
    shares = [sum(costs[start:stop]) for start, stop in ranges]
    assert max(shares) <= sum(costs) / min(parts, len(costs) or 1) + max(costs, default=0)
    if costs == [90, 1, 1, 1, 1] and parts > 1:
        assert ranges[0] == (0, 1)


def test_results_come_in_order(threads):
    def work(start, stop):
        threading.Event().wait(0.02 if start == 0 else 0)   # the first part is the last to end
        return start, stop
    assert parallel(work, 23) == split(23, threads)
    assert parallel(work, 23, limit=2) == split(23, min(threads, 2))
    assert parallel(work, 2) == split(2, threads)
    assert parallel(work, 0) == [(0, 0)]


def test_the_parts_run_at_the_same_time(threads):
    meeting = threading.Barrier(threads, timeout=20)
    names = parallel(lambda start, stop: (meeting.wait(), threading.current_thread().name)[1], threads)
    assert len(set(names)) == threads and names[0] == threading.current_thread().name


def test_an_exception_of_any_part_comes_out_when_all_have_ended(threads):
    for bad in range(threads):
        ended = []

        def work(start, stop):
            if start == bad:
                raise KeyError(f"part {bad}")
            threading.Event().wait(0.01)
            ended.append(start)
        with pytest.raises(KeyError, match=f"part {bad}"):
            parallel(work, threads)
        assert sorted(ended) == [i for i in range(threads) if i != bad]
        assert parallel(lambda start, stop: start, threads) == list(range(threads))     # it still works


def test_nested_calls_run_where_they_are(threads):
    def outer(start, stop):
        here = threading.current_thread()

        def inner(a, b):
            return [(i, threading.current_thread() is here) for i in range(a, b)]
        return [pair for part in parallel(inner, 40) for pair in part]
    for i, result in enumerate(parallel(outer, threads)):
        assert [number for number, _ in result] == list(range(40))
        if i:       # a worker never waits for another
            assert all(same for _, same in result)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", None])
def test_set_num_threads_refuses(wrong):
    before = get_num_threads()
    with pytest.raises(ValueError, match=f"positive whole number, got {wrong!r}"):
        set_num_threads(wrong)
    assert get_num_threads() == before


def step():
    """A convolution, forward and back: its results, on every thread."""
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
            for shape in ((16, 5, 12, 12), (7, 5, 3, 3)))
    y = conv2d(x, w, padding=1)
    y.backward(y.data)
    return y.data, x.grad.data, w.grad.data


def test_runs_repeat_bit_for_bit(threads):
    expected = step()
    for _ in range(5):
        assert all(np.array_equal(a, b) for a, b in zip(step(), expected))


def test_old_threads_end_when_their_number_changes():
    before = get_num_threads()
    try:
        for n in (6, 3, 6, 1):
            set_num_threads(n)
            parallel(lambda start, stop: threading.Event().wait(0.01), n)
        for thread in threading.enumerate():
            if thread.name.startswith("minisparse"):
                thread.join(10)
                assert not thread.is_alive()
    finally:
        set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own(threads):
    expected = step()       # the workers of the parent run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # of forking a process that has threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            alike = all(np.array_equal(a, b) for a, b in zip(step(), expected))
            status = 0 if alike and parallel(lambda a, b: a, threads) == list(range(threads)) else 2
        finally:
            os._exit(status)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended and os.waitstatus_to_exitcode(status) == 0
    assert all(np.array_equal(a, b) for a, b in zip(step(), expected))


def test_blas_is_held_at_one_thread():
    program = """
import threadpoolctl
from minisparse.kernels.pool import parallel
parallel(lambda start, stop: None, 8)
assert {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"} <= {1}
"""
    others = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", program], check=True, env={**others, "OPENBLAS_NUM_THREADS": "2"})


