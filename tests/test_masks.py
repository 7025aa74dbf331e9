"""Masks against tables that can be checked by eye, and against sorting."""
import numpy as np
import pytest

from minisparse.sparse.masks import block_mask, n_m_mask, random_mask, topk_mask, unit_mask
from minisparse.sparse.scores import magnitude

WEIGHT = np.array([[0.1, -0.9, 0.3, 0.0],
                   [-0.5, 0.2, 0.8, -0.4],
                   [0.6, -0.7, 0.05, 1.0],
                   [-1.1, 0.15, -0.25, 0.35]], np.float32)


def table(text):
    return np.array([[int(digit) for digit in line] for line in text.split()], bool)


def by_sorting(scores, sparsity):
    flat = scores.ravel().tolist()
    kept = round(len(flat) * (1 - sparsity))
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    mask = np.zeros(len(flat), bool)
    mask[order[:kept]] = True
    return mask.reshape(scores.shape)


def test_magnitude_is_the_absolute_value():
    assert np.array_equal(magnitude(WEIGHT), np.where(WEIGHT < 0, -WEIGHT, WEIGHT))


@pytest.mark.parametrize("sparsity, expected", [
    (0.0, "1111 1111 1111 1111"),
    (0.25, "0110 1111 1101 1011"),
    (0.5, "0100 1011 1101 1000"),
    (0.75, "0100 0010 0001 1000"),
    (0.9, "0000 0000 0001 1000"),
    (0.99, "0000 0000 0000 0000"),
])
def test_topk_table(sparsity, expected):
    assert np.array_equal(topk_mask(magnitude(WEIGHT), sparsity), table(expected))


def test_ties_keep_the_lower_index():
    scores = np.array([[2, 1, 2, 1],
                       [1, 3, 1, 2],
                       [2, 1, 0, 1],
                       [1, 2, 1, 2]])
    assert np.array_equal(topk_mask(scores, 0.75), table("1010 0101 0000 0000"))
    assert np.array_equal(topk_mask(scores, 0.5), table("1110 0101 1000 0101"))
    assert np.array_equal(topk_mask(np.zeros((4, 4)), 0.625), table("1111 1100 0000 0000"))
    assert np.array_equal(topk_mask(scores.T, 0.75), by_sorting(scores.T, 0.75))    # index in the shape given


def test_a_half_goes_to_the_even_count():
    assert [topk_mask(np.arange(n), 0.5).sum() for n in (1, 3, 5, 7)] == [0, 2, 2, 4]


def test_counts_and_choice_are_those_of_sorting():
    generator = np.random.default_rng(0)
    for n in list(range(1, 33)) + [100, 257]:
        for levels in (1, 2, 5, 1000):
            scores = generator.integers(0, levels, n).astype(np.float32)
            for sparsity in (0, 0.01, 0.1, 0.3, 1 / 3, 0.5, 0.55, 0.75, 0.9, 0.95, 0.999):
                mask = topk_mask(scores, sparsity)
                assert mask.dtype == bool and mask.sum() == round(n * (1 - sparsity))
                assert np.array_equal(mask, by_sorting(scores, sparsity)), (n, levels, sparsity)


def test_infinite_scores_are_scores():
    scores = np.array([-np.inf, 0.0, np.inf, -np.inf])
    assert topk_mask(scores, 0.5).tolist() == [False, True, True, False]
    assert topk_mask(scores, 0.25).tolist() == [True, True, True, False]


def test_scores_are_not_changed_and_may_be_read_only():
    scores = magnitude(WEIGHT)
    scores.flags.writeable = False
    topk_mask(scores, 0.5)
    assert np.array_equal(scores, magnitude(WEIGHT))


def test_random_mask_has_the_exact_count_and_follows_the_seed():
    a, b, c = (random_mask((7, 5), 0.6, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert a.shape == (7, 5) and a.dtype == bool and a.sum() == c.sum() == 14
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    generator = np.random.default_rng(0)
    share = np.mean([random_mask(10, 0.7, generator) for _ in range(4000)], axis=0)
    assert np.all(np.abs(share - 0.3) < 0.04)       # 5 standard deviations


@pytest.mark.parametrize("n, m, dim, expected", [
    (2, 4, 1, "0110 1010 0101 1001"),
    (1, 2, 1, "0110 1010 0101 1001"),
    (2, 4, 0, "0110 0011 1101 1000"),
    (1, 4, -1, "0100 0010 0001 1000"),
    (4, 4, 1, "1111 1111 1111 1111"),
])
def test_n_of_m_table(n, m, dim, expected):
    assert np.array_equal(n_m_mask(magnitude(WEIGHT), n, m, dim), table(expected))


def test_n_of_m_of_a_filter_bank():
    scores = np.random.default_rng(0).integers(0, 3, (6, 8, 3, 3))
    mask = n_m_mask(scores, 2, 4)
    assert np.all(mask.reshape(6, 2, 4, 3, 3).sum(axis=2) == 2)
    for o, i in np.ndindex(6, 2):
        group = scores[o, 4 * i:4 * i + 4, 1, 2]
        assert np.array_equal(mask[o, 4 * i:4 * i + 4, 1, 2], by_sorting(group, 0.5))


def test_n_of_many_with_ties_is_that_of_sorting():
    scores = np.random.default_rng(0).integers(0, 4, (3, 128), dtype=np.uint8)
    mask = n_m_mask(scores, 24, 64)
    for row, half in np.ndindex(3, 2):
        group = slice(64 * half, 64 * half + 64)
        assert np.array_equal(mask[row, group], by_sorting(scores[row, group], 0.625))


def test_block_table():
    # sums of the columns 2.3 1.95 1.4 1.75, of the 2 x 2 blocks 1.7 1.5 2.55 1.65
    assert np.array_equal(block_mask(magnitude(WEIGHT), 0.5), table("1100 1100 1100 1100"))
    assert np.array_equal(block_mask(magnitude(WEIGHT), 0.75, (2, 2)), table("0000 0000 1100 1100"))
    filters = block_mask(np.random.default_rng(0).random((8, 3, 3, 3)), 0.75)
    assert filters.sum() == 4 * round(2 * 27 * 0.25)
    assert np.array_equal(filters[:4], np.broadcast_to(filters[:1], (4, 3, 3, 3)))


def test_unit_table():
    # sums of the rows 1.3 1.9 2.35 1.85
    assert np.array_equal(unit_mask(magnitude(WEIGHT), 0.5), table("0000 1111 1111 0000"))
    assert np.array_equal(unit_mask(magnitude(WEIGHT), 0.25, dim=1), table("1101 1101 1101 1101"))
    assert np.array_equal(unit_mask(np.ones((4, 2, 1, 1)), 0.5)[:, 0, 0, 0], [True, True, False, False])


def test_patterns_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="2:4 does not fit.*dimension 1, which is 6"):
        n_m_mask(np.ones((4, 6)), 2, 4)
    with pytest.raises(ValueError, match="5:4 does not fit"):
        n_m_mask(np.ones((4, 8)), 5, 4)
    with pytest.raises(ValueError, match=r"4 x 1 do not divide .* shape \(6, 3, 3, 3\), a matrix of 6 x 27"):
        block_mask(np.ones((6, 3, 3, 3)), 0.5)
    for make in (lambda s: n_m_mask(s, 1, 2), lambda s: block_mask(s, 0, (1, 1)), lambda s: unit_mask(s, 0)):
        with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
            make(np.array([[1.0, np.nan], [2.0, 3.0]]))


def test_nan_is_an_error_that_counts_them():
    scores = np.ones((2, 3))
    scores[1, 1] = scores[0, 2] = np.nan
    for sparsity in (0.0, 0.5, 0.99):
        with pytest.raises(ValueError, match="2 of 6 scores are NaN"):
            topk_mask(scores, sparsity)


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        topk_mask(np.zeros((0, 3)), 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan"), "0.5", None, True])
def test_sparsity_outside_its_range_is_an_error(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        topk_mask(np.ones(4), sparsity)
