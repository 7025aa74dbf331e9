"""Drawn animals: reproducible, extendable, different in each style, and no task for a linear model."""

import numpy as np
import pytest

from minisparse.data import drawn


def linear_accuracy(train, test, ridge):
    """Test accuracy of ridge regression from pixels to one-hot labels, solved in its dual."""
    (x, y), (x_test, y_test) = train, test
    a, b = (np.c_[v.reshape(len(v), -1) / 255.0 - 0.5, np.ones(len(v))] for v in (x, x_test))
    dual = np.linalg.solve(a @ a.T + ridge * np.eye(len(a)), np.eye(len(drawn.CLASSES))[y])
    return np.mean((b @ (a.T @ dual)).argmax(axis=1) == y_test)


@pytest.mark.parametrize("style", drawn.STYLES)
def test_shapes_and_classes(style):
    images, labels = drawn.draw(4, style, seed=3)
    assert images.shape == (24, 3, 32, 32) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.shape == (24,) and labels.dtype == np.int64
    assert drawn.CLASSES == ("bird", "cat", "deer", "dog", "frog", "horse")
    assert np.array_equal(np.bincount(labels), [4] * 6)
    assert images.std(axis=(1, 2, 3)).min() > 3        # no picture is blank


def test_the_seed_gives_the_same_bits_and_a_larger_set_begins_with_the_smaller():
    n = drawn.BATCH // len(drawn.CLASSES) + 3          # more than a batch
    images, labels = drawn.draw(n, seed=5)
    again, again_labels = drawn.draw(n, seed=5)
    fewer, fewer_labels = drawn.draw(7, seed=5)
    assert np.array_equal(images, again) and np.array_equal(labels, again_labels)
    assert np.array_equal(images[:42], fewer) and np.array_equal(labels[:42], fewer_labels)


def test_seeds_share_no_image():
    first, second = (drawn.draw(5, seed=seed)[0] for seed in (0, 1))
    both = np.concatenate([first, second]).reshape(60, -1)
    assert len(np.unique(both, axis=0)) == 60


def test_styles_paint_differently():
    assert len(drawn.STYLES) >= 3
    sets = {style: drawn.draw(20, style, seed=2)[0].astype(float) for style in drawn.STYLES}
    colourfulness = {style: np.abs(x[:, 0] - x[:, 2]).mean() for style, x in sets.items()}
    brightness = {style: x.mean() for style, x in sets.items()}
    assert brightness["night"] < 0.7 * brightness["field"] < brightness["sketch"]
    assert colourfulness["sketch"] < 0.5 * colourfulness["field"]
    assert colourfulness["poster"] > 1.2 * colourfulness["field"]


def test_other_sizes():
    assert drawn.draw(1, size=48)[0].shape == (6, 3, 48, 48)
    assert drawn.draw(1, size=8)[0].shape == (6, 3, 8, 8)
    images, labels = drawn.draw(0)
    assert images.shape == (0, 3, 32, 32) and labels.shape == (0,)


@pytest.mark.parametrize("arguments, found", [
    (dict(n_per_class=-1), "-1"), (dict(n_per_class=2.5), "2.5"), (dict(n_per_class=1, style="oil"), "'oil'"),
    (dict(n_per_class=1, seed=-3), "-3"), (dict(n_per_class=1, size=4), "4"), (dict(n_per_class=1, size="32"), "'32'")])
def test_bad_arguments_are_named(arguments, found):
    with pytest.raises(ValueError, match=f"draw: .*found {found}$"):
        drawn.draw(**arguments)


def test_a_linear_model_does_badly():
    train, test = drawn.draw(200, seed=0), drawn.draw(100, seed=1)
    best = max(linear_accuracy(train, test, ridge) for ridge in (10, 100, 1000))
    assert 0.25 < best < 0.5                # chance is 1/6; a small convolutional net reaches about 0.9
