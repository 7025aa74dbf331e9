import gc
import threading
import time

import numpy as np
import pytest

from minisparse.data.augment import Augment, channel_stats
from minisparse.data.loader import Loader
from minisparse.kernels import load, reference

IDENTITY = [[1, 0, 0], [0, 1, 0]]


def photographs(n, channels, height, width):
    return np.random.default_rng(n).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def warped(images, maps, kernel=None):
    """The images, one for each map, unnormalised, in (N, C, H, W)."""
    maps = np.asarray(maps, dtype=np.float32)
    n, channels, height, width = images.shape
    out = np.full((channels, height, width, n), np.nan, dtype=np.float32)
    one = np.ones(channels, dtype=np.float32)
    (kernel or load("augment").warp)(images, np.arange(n), maps, one, 0 * one, out)
    return out.transpose(3, 0, 1, 2)


def batches(loader, epoch, start=0, pause=0.0):
    found = []
    for batch in loader.epoch(epoch, start):
        time.sleep(pause)
        found.append(batch)
    return found


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(x, u) and np.array_equal(y, v) for (x, y), (u, v) in zip(one, other))


def loader(n=23, batch_size=5, **options):
    return Loader(photographs(n, 3, 8, 8), np.arange(n), batch_size, **{"mean": 0.5, "std": 0.25, **options})


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 1, 5), (2, 1, 6, 1), (17, 3, 5, 7), (16, 2, 8, 8),
                                   (33, 1, 4, 9)])
def test_kernel_is_the_reference(shape):
    n, channels, height, width = shape
    rng = np.random.default_rng(1)
    images, index = photographs(*shape), rng.integers(0, n, n)
    maps = rng.normal(size=(n, 2, 3)).astype(np.float32)
    maps[:, :, 2] *= 4 * max(height, width)  # far outside: many reflections
    scale, offset = rng.normal(size=(2, channels)).astype(np.float32)
    found, expected = np.empty((2, channels, height, width, n), dtype=np.float32)
    load("augment").warp(images, index, maps, scale, offset, found)
    reference.warp(images, index, maps, scale, offset, expected)
    rounding = 255 * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * rounding * abs(scale).max())


@pytest.mark.parametrize("kernel", [None, reference.warp])
def test_shifts_flips_and_quarter_turns_copy_pixels(kernel):
    images = photographs(4, 2, 6, 6)
    maps = [IDENTITY, [[1, 0, 2], [0, 1, -3]], [[1, 0, 0], [0, -1, 5]], [[0, 1, 0], [-1, 0, 5]]]
    padded = np.pad(images[1], ((0, 0), (3, 3), (3, 3)), mode="reflect")
    expected = [images[0], padded[:, 5:11, 0:6], images[2, :, :, ::-1], np.rot90(images[3], axes=(1, 2))]
    np.testing.assert_array_equal(warped(images, maps, kernel), expected)


def test_the_maps_of_augment_shift_and_flip():
    images, rng = photographs(400, 1, 7, 10), np.random.default_rng(0)
    mirrored = rng.random(400) < 0.5
    maps = Augment(shift=2).maps(rng, mirrored, 7, 10)
    seen = set()
    for image, new, flip in zip(images[:, 0], warped(images, maps)[:, 0], mirrored):
        padded, way = np.pad(image, 2, mode="reflect"), -1 if flip else 1
        views = {(y, x): padded[y:y + 7, x:x + 10][:, ::way] for y in range(5) for x in range(5)}
        (at,) = [at for at, view in views.items() if np.array_equal(view, new)]
        seen.add((at, flip))
    assert len(seen) == 50  # every shift, both ways round


def test_rotation_turns_about_the_centre_within_its_limits():
    maps = Augment(shift=0, flip=False, rotate=30).maps(np.random.default_rng(0), np.ones(2000, bool), 9, 17)
    angle = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert -30 <= angle.min() < -29 and 29 < angle.max() <= 30 and abs(angle.mean()) < 2
    np.testing.assert_allclose(maps @ [4, 8, 1], np.tile([4, 8], (2000, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(maps[:, :, :2]), 1, atol=1e-6)


def test_rotation_against_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    images, rng = photographs(6, 2, 12, 9), np.random.default_rng(0)
    maps = Augment(shift=3, rotate=25).maps(rng, rng.random(6) < 0.5, 12, 9)
    expected = [[ndimage.affine_transform(plane.astype(float), map[:, :2], map[:, 2], order=1, mode="mirror")
                 for plane in image] for image, map in zip(images, maps.astype(float))]
    np.testing.assert_allclose(warped(images, maps), expected, atol=1e-3)


def test_zoom_is_about_the_centre_and_up_to_its_factor_each_way():
    maps = Augment(shift=0, flip=False, zoom=1.5).maps(np.random.default_rng(0), np.ones(3000, bool), 9, 17)
    centre = maps @ np.array([4, 8, 1], np.float32)
    np.testing.assert_allclose(centre, np.broadcast_to([4, 8], centre.shape), atol=1e-5)
    factor = maps[:, 0, 0]
    np.testing.assert_array_equal(factor, maps[:, 1, 1])
    assert not maps[:, 0, 1].any() and not maps[:, 1, 0].any()
    assert 1 / 1.5 <= factor.min() < 0.68 and 1.49 < factor.max() <= 1.5 + 1e-6
    assert abs(np.mean(factor > 1) - 0.5) < 0.03


def test_cutout_covers_one_square():
    out = np.ones((2, 9, 11, 500), dtype=np.float32)
    Augment(cutout=4).cover(np.random.default_rng(0), out)
    covered = out == 0
    assert np.array_equal(covered[0], covered[1]) and np.isin(out, (0, 1)).all()
    rows, columns = covered[0].any(axis=1), covered[0].any(axis=0)
    assert np.array_equal(covered[0], rows[:, None] & columns)  # a rectangle,
    for sides, size in (rows, 9), (columns, 11):
        jumps = np.abs(np.diff(sides.astype(int), axis=0, prepend=0, append=0)).sum(axis=0)
        assert (jumps == 2).all()  # in one piece,
        assert sides.sum(axis=0).min() == 2 and sides.sum(axis=0).max() == 4  # cut at the border,
        assert sides.any(axis=1).all()  # anywhere


def test_flips_alternate_from_a_random_first_epoch():
    images = photographs(64, 3, 8, 8)
    plain = Loader(images, np.arange(64), 64, mean=0, std=1, shuffle=False)
    flipping = Loader(images, np.arange(64), 64, mean=0, std=1, shuffle=False, augment=Augment(shift=0))
    ((x, _),) = plain.epoch(0)
    views = [next(flipping.epoch(e))[0] for e in range(3)]
    kept = (views[0] == x).all(axis=(1, 2, 3))
    assert 16 < kept.sum() < 48
    np.testing.assert_array_equal(views[0], np.where(kept[:, None, None, None], x, x[..., ::-1]))
    np.testing.assert_array_equal(views[1], views[0][..., ::-1])
    np.testing.assert_array_equal(views[2], views[0])


def test_evaluation_batches_are_the_normalised_images_in_order():
    images, mean, std = photographs(23, 3, 5, 4), np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    found = batches(Loader(images, np.arange(23, dtype=np.uint8), 5, mean=mean, std=std, shuffle=False), 0)
    assert [len(x) for x, _ in found] == [5, 5, 5, 5, 3]
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(np.concatenate([x for x, _ in found]), expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), np.arange(23))
    for x, y in found:
        assert x.dtype == np.float32 and y.dtype == np.int64
        assert x.shape[1:] == (3, 5, 4) and x.transpose(1, 2, 3, 0).flags.c_contiguous


def test_an_epoch_is_a_permutation_and_labels_go_with_their_images():
    train = loader(augment=None)
    orders = []
    for epoch in range(2):
        x, y = (np.concatenate(parts) for parts in zip(*batches(train, epoch)))
        assert sorted(y) == list(range(23))
        np.testing.assert_allclose(x, (train.images[y] / 255 - 0.5) / 0.25, rtol=0, atol=2e-6)
        orders.append(list(y))
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    assert len(loader(drop_last=True)) == 4 == len(batches(loader(drop_last=True), 0))


def test_batches_are_the_same_however_fast_they_are_taken():
    augment = Augment(rotate=15, cutout=3)
    expected = batches(loader(augment=augment), 3)
    assert same(batches(loader(augment=augment), 3, pause=0.02), expected)
    assert not same(batches(loader(augment=augment, seed=1), 3), expected)
    slow = loader(augment=augment)
    warp = slow._warp
    slow._warp = lambda *args: (time.sleep(0.02), warp(*args))
    assert same(batches(slow, 3), expected)
    assert slow.waited > 0.05 > slow.worked > 0  # sleeping costs time, not CPU


def test_an_epoch_can_be_started_in_the_middle():
    augment = Augment(rotate=15, cutout=3)
    whole = batches(loader(augment=augment), 2)
    for start in range(6):
        assert same(batches(loader(augment=augment), 2, start), whole[start:])


def test_two_batches_and_two_epochs_have_their_own_randomness():
    maps = []
    train = Loader(photographs(12, 1, 8, 8), np.zeros(12, int), 4, mean=0, std=1, augment=Augment(rotate=9))
    warp = train._warp
    train._warp = lambda images, index, m, *rest: (maps.append(m), warp(images, index, m, *rest))
    batches(train, 0), batches(train, 1)
    assert len({m.tobytes() for m in maps}) == 6


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("minisparse-loader")]


def ended(seconds=5):
    stop = time.monotonic() + seconds
    while loader_threads() and time.monotonic() < stop:
        time.sleep(0.005)
    return not loader_threads()


def test_an_error_in_the_thread_reaches_the_consumer():
    train = loader()
    warp, calls = train._warp, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("third batch")
        warp(*args)

    train._warp = failing
    taken = 0
    with pytest.raises(MemoryError, match="third batch"):
        for _ in train.epoch(0):
            taken += 1
    assert taken == 2 and ended()


def test_few_batches_are_made_ahead_and_an_abandoned_iterator_ends_its_thread():
    train = loader(n=200, batch_size=2)
    warp, calls = train._warp, []
    train._warp = lambda *args: (calls.append(1), warp(*args))
    iterator = train.epoch(0)
    next(iterator)
    time.sleep(0.1)
    assert loader_threads() and len(calls) <= 3
    del iterator
    gc.collect()
    assert ended() and len(calls) <= 4


def test_channel_stats_are_exact():
    images = photographs(31, 3, 6, 5)
    images[:, 2] = 77
    mean, std = channel_stats(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12, atol=1e-14)
    assert std[2] == 0


@pytest.mark.parametrize("change, message", [
    ({"images": np.zeros((4, 3, 8, 8))}, r"uint8 .* found float64 \(4, 3, 8, 8\)"),
    ({"images": np.zeros((4, 8, 8), np.uint8)}, r"found uint8 \(4, 8, 8\)"),
    ({"images": np.zeros((0, 3, 8, 8), np.uint8)}, "not empty"),
    ({"labels": np.zeros(5, int)}, r"4 integers.* found int64 \(5,\)"),
    ({"labels": np.zeros(4)}, "found float64"),
    ({"batch_size": 2.5}, "batch_size must be a whole number, at least 1, found 2.5"),
    ({"batch_size": 0}, "batch_size must be a whole number, at least 1, found 0"),
    ({"mean": [0.5, 0.5]}, "mean must be 1 or 3 finite numbers"),
    ({"mean": np.nan}, "mean must be"),
    ({"std": [0.2, 0.0, 0.2]}, "std must be above 0"),
])
def test_bad_arguments(change, message):
    good = {"images": photographs(4, 3, 8, 8), "labels": np.zeros(4, int), "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        Loader(**good | {"mean": 0, "std": 1} | change)


@pytest.mark.parametrize("options", [{"shift": -1}, {"shift": 1.5}, {"rotate": np.nan}, {"cutout": "8"}, {"zoom": 0.5},
                                     {"zoom": np.nan}])
def test_bad_augmentation(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be a"):
        Augment(**options)


def test_bad_epoch_or_start_is_refused_at_once():
    for arguments in (-1,), (0, -1), (0, 6):
        with pytest.raises(ValueError, match="epoch"):
            loader().epoch(*arguments)
