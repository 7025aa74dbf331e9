"""Schedules against their formulas and at their corners."""
import math

import numpy as np
import pytest

from minisparse.sparse.schedules import Constant, Cosine, Cubic, Linear, OneShot


def test_cubic_is_equation_1_of_zhu_and_gupta():
    s_i, s_f, t_0, n, dt = 0.1, 0.9, 50, 12, 25
    schedule = Cubic(start=t_0, end=t_0 + n * dt, every=dt, initial=s_i)
    for t in range(t_0, t_0 + n * dt + 1, dt):
        assert schedule.due(t)
        s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3
        assert schedule(t, s_f) == pytest.approx(s_t, abs=1e-15)


def test_linear_and_cosine_formulas():
    for t in range(0, 41):
        assert Linear(0, 40)(t, 0.8) == pytest.approx(0.8 * t / 40, abs=1e-15)
        assert Cosine(0, 40)(t, 0.8) == pytest.approx(0.4 * (1 - math.cos(math.pi * t / 40)), abs=1e-15)


@pytest.mark.parametrize("kind", [Cubic, Linear, Cosine])
def test_gradual_corners(kind):
    schedule = kind(start=10, end=95, every=20, initial=0.2)
    assert schedule(0, 0.7) == schedule(9, 0.7) == 0.0
    assert schedule(10, 0.7) == pytest.approx(0.2)
    assert schedule(95, 0.7) == schedule(10**9, 0.7) == 0.7         # exactly, not to rounding
    assert [t for t in range(200) if schedule.due(t)] == [10, 30, 50, 70, 90, 95]
    for low, high in ((0.2, 0.7), (0.7, 0.2)):
        values = [kind(0, 100, initial=low)(t, high) for t in range(101)]
        assert values == sorted(values, reverse=low > high)
        assert min(low, high) <= min(values) and max(values) <= max(low, high)


def test_one_update_at_the_end_where_every_exceeds_the_way():
    assert [t for t in range(30) if Cubic(5, 12, every=100).due(t)] == [5, 12]


def test_one_shot():
    schedule = OneShot(3)
    assert [schedule(t, 0.6) for t in range(6)] == [0, 0, 0, 0.6, 0.6, 0.6]
    assert [t for t in range(20) if schedule.due(t)] == [3]
    assert OneShot().due(0) and OneShot()(0, 0.6) == 0.6


def test_constant():
    schedule = Constant(start=2, end=9, every=3)
    assert [schedule(t, 0.6) for t in range(4)] == [0, 0, 0.6, 0.6]
    assert [t for t in range(20) if schedule.due(t)] == [2, 5, 8, 9]


def test_schedules_are_values():
    assert Cubic(1, 5) == Cubic(1, 5) != Linear(1, 5)
    assert repr(Cubic(np.int64(1), 5, every=2)).startswith("Cubic(start=")
    assert len({Cubic(1, 5), Cubic(1, 5), OneShot(1)}) == 2


@pytest.mark.parametrize("make, message", [
    (lambda: Cubic(start=10, end=9), "Cubic.*end=9.*at least 10"),
    (lambda: Cubic(start=10, end=10), "at least 11"),
    (lambda: Linear(start=-1, end=10), "start must be"),
    (lambda: Cosine(start=0, end=10.5), "end=10.5"),
    (lambda: Cubic(start=0, end=10, every=0), "every must be"),
    (lambda: Cubic(start=0, end=10, initial=1.0), r"initial must be a number in \[0, 1\), got 1.0"),
    (lambda: Cubic(start=0, end=10, initial=-0.1), "initial"),
    (lambda: Constant(start=3, end=2), "at least 3"),
    (lambda: OneShot(-2), "OneShot.*start must be"),
])
def test_impossible_schedules_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
