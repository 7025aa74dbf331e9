"""The engine gives the model's outputs, whatever the kernels and the batch; its file gives the engine back."""
import contextlib
import copy
import inspect
import math
import os
import pickle
import threading
import tracemalloc
from unittest import mock

import numpy as np
import pytest

import minisparse as ms
from minisparse import deploy, kernels, nn, sparse
from minisparse.deploy import __main__ as command
from minisparse.deploy import engine as engine_file
from minisparse.deploy import plan
from minisparse.kernels import inference, reference


def shaken(model, seed=0, kept=None):
    """The model in evaluation, with batch norms as if trained; kept: the part of the weights that masks keep."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            n = module.num_features
            if module.running_mean is not None:
                module.running_mean.data[:] = rng.standard_normal(n)
                module.running_var.data[:] = rng.uniform(0.2, 3, n)
            if module.weight is not None:
                module.weight.data[:] = rng.standard_normal(n)
                module.bias.data[:] = rng.standard_normal(n)
        elif kept is not None and isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.set_mask(rng.random(module.weight.shape) < kept)
    return model.eval()


def images(n, shape, seed=1):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def outputs(model, x):
    with ms.no_grad():
        return model(ms.tensor(x)).data


@contextlib.contextmanager
def kernel(name):
    """Engines that plan inside take this kernel wherever it can be had, rather than the cheapest."""
    def choose(*layer):
        found = inference.choices(*layer)
        return next((one for one in found if one.name == name), inference.cheapest(*layer))
    with mock.patch.object(plan, "cheapest", choose):
        yield


KERNELS = "cheapest", "dense", "direct", "block 4x1", "csr"


def check(model, shape, batches=(1, 3, 15, 64), names=KERNELS):
    """The engine's outputs are the model's, with any kernel."""
    for name in names:
        with kernel(name):
            engine = deploy.compile(model, shape)
            for n in batches:
                x = images(n, shape)
                before = x.copy()
                found, expected = engine(x), outputs(model, x)
                assert found.dtype == np.float32 and found.flags.c_contiguous and found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, abs(expected).max()))
                np.testing.assert_array_equal(x, before)
    return engine


def ops(engine):
    return [step.op for step in engine.steps]


NETS = {
    "conv, norm, relu": lambda: ([nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()], (3, 6, 5)),
    "conv without bias": lambda: ([nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)], (3, 5, 5)),
    "norm after pooling": lambda: ([nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.SiLU()], (2, 7, 8)),
    "norm first, and twice": lambda: ([nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)], (2, 3, 4)),
    "norm after norm after conv": lambda: ([nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)], (2, 3, 4)),
    "norm without weights": lambda: ([nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False, eps=0.3)], (2, 3, 4)),
    "norm after dropout": lambda: ([nn.Conv2d(2, 3, 2), nn.Dropout(0.9), nn.BatchNorm2d(3), nn.Identity()], (2, 3, 4)),
    "1x1": lambda: ([nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)], (6, 3, 5)),
    "one pixel": lambda: ([nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(),
                           nn.Linear(4, 2)], (3, 1, 1)),
    "stride 2": lambda: ([nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 5, 1, stride=2)], (3, 9, 8)),
    "stride (3, 2)": lambda: ([nn.Conv2d(3, 4, (4, 3), stride=(3, 2), padding=(2, 1))], (3, 10, 11)),
    "groups": lambda: ([nn.Conv2d(6, 9, 3, padding=1, groups=3), nn.BatchNorm2d(9), nn.Conv2d(9, 9, 3, groups=9)],
                       (6, 5, 6)),
    "dilation": lambda: ([nn.Conv2d(2, 3, (3, 2), dilation=(2, 3), padding=2)], (2, 8, 7)),
    "same and valid": lambda: ([nn.Conv2d(2, 3, (2, 4), padding="same"), nn.Conv2d(3, 2, 3, padding="valid")],
                               (2, 5, 6)),
    "same with dilation": lambda: ([nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(3, 2))], (2, 9, 5)),
    "max pool": lambda: ([nn.MaxPool2d((3, 2), stride=(2, 1), padding=1, dilation=(2, 1), ceil_mode=True)], (2, 8, 7)),
    "avg pool": lambda: ([nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
                          nn.AvgPool2d(2, ceil_mode=True, divisor_override=3)], (2, 8, 9)),
    "adaptive pool": lambda: ([nn.AdaptiveAvgPool2d((3, None)), nn.Conv2d(2, 3, 2),
                               nn.AdaptiveAvgPool2d(1)], (2, 7, 5)),
    "linear": lambda: ([nn.Linear(7, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.2), nn.Linear(5, 3, bias=False)], (7,)),
    "norm of features": lambda: ([nn.Flatten(), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3),
                                  nn.Softmax(1)], (3, 2, 2)),
    "every activation": lambda: ([nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.LeakyReLU(), nn.GELU(),
                                  nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.Flatten(), nn.LogSoftmax(-1)], (1, 3, 3)),
    "nested": lambda: ([nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())), nn.Sequential(),
                        nn.Flatten(), nn.Flatten(), nn.Linear(12, 2)], (2, 2, 2)),
    "nothing": lambda: ([], (2, 3, 4)),
    "only flatten": lambda: ([nn.Flatten()], (2, 3, 4)),
}


@pytest.mark.parametrize("net", NETS)
def test_engine_is_the_model(net):
    ms.manual_seed(0)
    layers, shape = NETS[net]()
    check(shaken(nn.Sequential(*layers), kept=0.5), shape)


@pytest.mark.parametrize("size", [24, 33, 40])
def test_rows_that_the_last_tile_does_not_have_leave_the_padding_alone(size):
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(16, 8, 3, padding=1))
    check(shaken(model, kept=0.1), (3, size, size), (1, 2, 3))


@pytest.mark.parametrize("layers, shape", [
    ([nn.Conv2d(3, 12, 1, padding=2), nn.MaxPool2d(2)], (3, 23, 23)), ([nn.Conv2d(3, 4, 2, padding=3)], (3, 5, 4)),
    ([nn.Conv2d(3, 4, 1, stride=3, padding=1)], (3, 1, 1)), ([nn.Conv2d(64, 64, 1, padding=1)], (64, 1, 1))])
def test_padding_wider_than_the_kernel(layers, shape):
    model = shaken(nn.Sequential(*layers), kept=0.1)
    check(model, shape, (1, 2, 16, 17))
    x = images(1, shape)
    np.testing.assert_allclose(deploy.compile(model, shape)(x), outputs(model, x), rtol=0, atol=1e-4)


def small_net(kept=None, seed=0):
    ms.manual_seed(seed)
    return shaken(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, groups=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.Flatten(), nn.Dropout(), nn.Linear(24, 10)), seed, kept)


@pytest.mark.parametrize("kept", [None, 1, 0.5, 0.03, 0])
def test_any_part_of_zeros(kept):
    engine = check(small_net(kept), (3, 9, 10), batches=(1, 17, 64))
    assert ops(engine) == ["conv2d", "relu", "conv2d", "relu", "max_pool2d", "affine", "flatten", "linear"]
    for step in engine.steps:
        if "weight" in step.arrays and kept is not None:
            assert (step.zeros == 0) == (kept == 1) and (step.zeros == step.arrays["weight"].size) == (kept == 0)


def test_empty_filters_and_unused_inputs():
    model = small_net()
    for layer in model[0], model[3], model[9]:
        mask = np.ones(layer.weight.shape, bool)
        mask[1:3] = mask[:, 0] = mask[-1] = False
        layer.weight.set_mask(mask)
    check(model, (3, 9, 10))


def test_what_is_pruned_is_exactly_zero():
    model = small_net(0.5)
    weights = [p for name, p in model.named_parameters() if p.mask is not None]
    compiled = [step.arrays["weight"] for step in deploy.compile(model, (3, 9, 10)).steps if "weight" in step.arrays]
    assert len(weights) == len(compiled) == 3
    for weight, array in zip(weights, compiled):
        np.testing.assert_array_equal(array != 0, weight.mask)


def test_a_layer_that_stands_twice():
    ms.manual_seed(0)
    conv, relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
    model = shaken(nn.Sequential(conv, relu, conv, nn.BatchNorm2d(3), relu), kept=0.5)
    engine = check(model, (3, 4, 5))
    assert ops(engine) == ["conv2d", "relu", "conv2d", "relu"]


def test_a_model_in_training_is_compiled_as_in_evaluation():
    model = small_net()
    x = images(5, (3, 9, 10))
    expected = outputs(model, x)
    model.train()
    np.testing.assert_allclose(deploy.compile(model, (3, 9, 10))(x), expected, rtol=0, atol=1e-5)
    assert all(module.training for module in model.modules())


def test_the_engine_has_its_own_weights():
    model = small_net()
    engine, x = deploy.compile(model, (3, 9, 10)), images(2, (3, 9, 10))
    before = engine(x)
    for tensor in model.state_dict().values():
        tensor.data[...] = 1
    np.testing.assert_array_equal(engine(x), before)


def test_results_are_not_overwritten_by_later_calls():
    engine = deploy.compile(small_net(0.5), (3, 9, 10))
    x = images(64, (3, 9, 10))
    first = engine(x)
    kept = first.copy()
    for n in 64, 1, 17, 64:
        engine(-x[:n])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(engine(x), kept)


def test_each_image_has_the_same_scores_in_any_batch():
    engine = deploy.compile(small_net(0.5), (3, 9, 10))
    x = images(70, (3, 9, 10))
    one_by_one = np.concatenate([engine(x[i:i + 1]) for i in range(70)])
    for n in 2, 15, 16, 17, 33, 70, 3:
        np.testing.assert_allclose(engine(x[:n]), one_by_one[:n], rtol=0, atol=1e-4)


def test_images_of_other_kinds():
    model = small_net()
    engine, x = deploy.compile(model, (3, 9, 10)), images(4, (3, 9, 10))
    expected = engine(x)
    np.testing.assert_array_equal(engine(x.astype(np.float64)), expected)
    np.testing.assert_array_equal(engine(x.tolist()), expected)
    np.testing.assert_array_equal(engine(ms.tensor(x)), expected)
    np.testing.assert_array_equal(engine(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)), expected)
    np.testing.assert_array_equal(engine(np.repeat(x, 2, axis=0)[::2]), expected)
    for wrong in x[0], x[:0], x[:, :2], x[:, :, :8], np.zeros((4, 9, 10, 3)), 3.0, [[]]:
        with pytest.raises(ValueError, match=r"expected an array \(N, 3, 9, 10\)"):
            engine(wrong)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_images_of_whole_numbers_are_refused(dtype):
    engine = deploy.compile(small_net(), (3, 9, 10))
    with pytest.raises(ValueError, match=f"expected floating-point images, normalised as in training, got "
                                         f"{np.dtype(dtype)}"):
        engine(np.ones((2, 3, 9, 10), dtype))
    np.testing.assert_array_equal(engine(np.ones((2, 3, 9, 10), np.float16)), engine(np.ones((2, 3, 9, 10))))


def test_double_precision_models_are_compiled_too():
    model = small_net().double()
    x = images(3, (3, 9, 10))
    expected = outputs(model, x.astype(np.float64))
    np.testing.assert_allclose(deploy.compile(model, (3, 9, 10))(x), expected, rtol=0, atol=1e-5)


# --- kernels, plans, threads ------------------------------------------------------------------------------
def test_engine_without_numba_is_the_model(monkeypatch):
    monkeypatch.setattr(kernels, "have_numba", lambda: False)
    monkeypatch.setattr(engine_file, "have_numba", lambda: False)
    kernels.load.cache_clear()
    try:
        engine = check(small_net(0.5), (3, 9, 10), names=["cheapest"])
        assert "numpy" in repr(engine)
        engine.profile(images(2, (3, 9, 10)))
    finally:
        kernels.load.cache_clear()


# what follows a convolution: fused, or a step of its own where the order does not allow it
ENDINGS = {
    "relu, pool": ([nn.ReLU(), nn.MaxPool2d(2)], 1), "pool, relu": ([nn.MaxPool2d(2), nn.ReLU()], 1),
    "gelu, pool": ([nn.GELU(), nn.MaxPool2d(3)], 1), "pool, gelu": ([nn.MaxPool2d(3), nn.GELU()], 1),
    "pool, norm, gelu": ([nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.GELU()], 1),
    "norm, gelu, pool": ([nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2)], 1),
    "relu, pool, norm": ([nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(8)], 2),
    "relu, gelu": ([nn.ReLU(), nn.GELU()], 2), "two pools": ([nn.MaxPool2d(2), nn.MaxPool2d(2)], 2),
    "pool of a whole image": ([nn.GELU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(8, 4), nn.GELU()], 3),
    "pool with padding": ([nn.MaxPool2d(3, 2, 1)], 2), "pool with ceil_mode": ([nn.MaxPool2d(2, ceil_mode=True)], 2),
    "another activation": ([nn.SiLU(), nn.MaxPool2d(2)], 3)}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_follows_a_convolution(ending):
    ms.manual_seed(0)
    layers, count = ENDINGS[ending]
    model = shaken(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers), kept=0.4)
    assert len(check(model, (3, 7, 8), batches=(1, 2, 16, 17, 48)).layers) == count


@pytest.mark.parametrize("name", ["direct", "block 4x1", "dense"])
def test_kernels_are_their_reference(name):
    for ending in "pool, norm, gelu", "gelu, pool", "relu, pool", "another activation":
        ms.manual_seed(0)
        layers, _ = ENDINGS[ending]
        model = shaken(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers), kept=0.4)
        results = []
        for module in None, reference:
            with kernel(name), mock.patch.object(inference, "load", lambda name: module or kernels.load(name)):
                engine = deploy.compile(model, (3, 7, 8))
                results.append([engine(images(n, (3, 7, 8))) for n in (1, 3, 32)])
        for found, expected in zip(*results):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for twin in "convolve_layer", "finish_layer":
        one = getattr(kernels.load("direct"), twin)
        assert inspect.signature(getattr(one, "py_func", one)) == inspect.signature(getattr(reference, twin))


@pytest.mark.parametrize("name", ["direct", "block 4x1"])
def test_narrow_batches_of_large_planes(name):
    """Several blocks of channels and several tiles, whose copies overlap; rows of any length; windows of any size."""
    model = shaken(nn.Sequential(nn.Conv2d(40, 8, 5, padding=2), nn.MaxPool2d(3), nn.GELU(),
                                 nn.Conv2d(8, 12, (2, 3), padding=(1, 2), dilation=(1, 2)), nn.GELU(), nn.MaxPool2d(4),
                                 nn.Conv2d(12, 8, 2, groups=2), nn.ReLU()), kept=0.3)
    engine = check(model, (40, 29, 30), batches=(1, 5), names=[name])
    first = engine._kernels(1)[0]
    _, _, _, length, width, *_ = first.walk
    assert first.name == name and first.blocks > 1 and length > width and len(first.shifts) > 1
    x = images(1, (40, 29, 30))
    with mock.patch.object(inference, "load", lambda name: reference), kernel(name):
        expected = deploy.compile(model, (40, 29, 30))(x)
    np.testing.assert_allclose(engine(x), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_nan_is_seen_through_pooling_and_relu():
    model = shaken(nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.ReLU()))
    x = images(3, (1, 4, 4))
    x[1, 0, 1, 2] = np.nan
    for name in KERNELS:
        with kernel(name):
            for n in 3, 2:
                found = deploy.compile(model, (1, 4, 4))(np.repeat(x[:n], 8, axis=0))
                np.testing.assert_array_equal(np.isnan(found), np.isnan(outputs(model, np.repeat(x[:n], 8, axis=0))))


def test_block_pattern_takes_its_kernel():
    model = shaken(nn.Sequential(nn.Conv2d(16, 32, 3, padding=1)))
    weight = model[0].weight
    names = []
    for pattern in sparse.block_mask(abs(weight.data), 0.75), sparse.topk_mask(abs(weight.data), 0.75):
        weight.set_mask(pattern)
        engine = check(model, (16, 8, 8), batches=(1, 64))
        names.append([engine._kernels(n)[0].name for n in (1, 64)])
    assert names == [["block 4x1"] * 2, ["direct"] * 2]


@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_patterns(n, m):
    ms.manual_seed(0)
    model = shaken(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                                 nn.Linear(16 * 12, 32)))
    for layer in model[0], model[4]:
        layer.weight.set_mask(sparse.n_m_mask(abs(layer.weight.data), n, m))
    check(model, (8, 6, 8), batches=(1, 64))
    with kernel("direct"):      # every second or fourth weight is passed over, as in any other mask
        engine = deploy.compile(model, (8, 6, 8))
        for batch in 1, 64:
            done = [found.multiplications for found in engine._kernels(batch) if found]
            assert done[0] == 16 * 8 * 9 * n // m * 48 * batch
    assert [step.zeros for step in engine.steps if "weight" in step.arrays] == [16 * 72 * (m - n) // m,
                                                                                 32 * 192 * (m - n) // m]


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("early", [True, False])
def test_gelu_in_a_layer_makes_no_subnormal_numbers(batch, pool, early):
    steps = [nn.Conv2d(1, 4, 1), nn.GELU(), nn.MaxPool2d(pool)] if early else \
        [nn.Conv2d(1, 4, 1), nn.MaxPool2d(pool), nn.GELU()]
    model = nn.Sequential(*(step for step in steps if pool > 1 or not isinstance(step, nn.MaxPool2d))).eval()
    model[0].weight.data[:] = 1
    x = np.linspace(-30, 5, batch * 36, dtype=np.float32).reshape(batch, 1, 6, 6)
    for name in "dense", "direct", "block 4x1":
        with kernel(name):
            y = deploy.compile(model, (1, 6, 6))(x)
        assert (y == 0).any() or pool > 1
        assert not ((y != 0) & (abs(y) < np.finfo(np.float32).tiny)).any()
        assert abs(y[y != 0]).min() > 1e-25       # products with small weights stay normal, too


@pytest.mark.parametrize("batch", [1, 64])
def test_gelu_in_a_layer_is_that_of_the_normal_distribution(batch):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.GELU()).eval()
    model[0].weight.data[:], model[0].bias.data[:] = 1, 0
    x = np.append(np.linspace(-20, 20, batch * 400 - 2), [np.inf, -np.inf]).astype(np.float32)
    x = x.reshape(batch, 1, 20, 20)
    with kernel("direct"):
        y = deploy.compile(model, (1, 20, 20))(x)
    expected = np.array([0.0 if v == -np.inf else v * (1 + math.erf(v / math.sqrt(2))) / 2
                         for v in x.ravel().tolist()])
    near = abs(x.ravel()) < 8
    np.testing.assert_allclose(y.ravel()[near], expected[near], rtol=0, atol=2.5e-6)
    np.testing.assert_allclose(y.ravel(), expected, rtol=4e-7, atol=2.5e-6)


def test_rows_that_pooling_drops_are_not_computed():
    model = shaken(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)), kept=0.5)
    kept = np.count_nonzero(model[0].weight.data)
    for n in 1, 16:
        with kernel("direct"):
            assert deploy.compile(model, (4, 7, 5))._kernels(n)[0].multiplications == kept * 6 * 4 * n


@pytest.mark.parametrize("n", [*range(1, 40), 63, 64, 65, 81, 128, 200])
def test_a_batch_in_parts(n):
    covered = 0
    for first, last, size in engine_file.parts(n):
        assert first == covered and last - first <= size <= 64 and (size % 16 == 0 or size == last - first < 16)
        covered = last
    assert covered == n


def test_memory_is_planned_once():
    engine, x = deploy.compile(small_net(0.5), (3, 9, 10)), images(64, (3, 9, 10))
    for n in 1, 64:
        engine(x[:n])
    plans = [free[0] for free in engine._plans.values()]
    tracemalloc.start()
    try:
        for _ in range(3):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = engine(x)
            assert tracemalloc.get_traced_memory()[1] - before < result.nbytes + 50_000
    finally:
        tracemalloc.stop()
    assert [free[0] for free in engine._plans.values()] == plans


def test_an_engine_that_has_run_can_be_pickled_and_copied():
    engine = deploy.compile(small_net(0.5), (3, 9, 10), {"classes": ["a"]})
    x = images(5, (3, 9, 10))
    expected = engine(x)
    for other in pickle.loads(pickle.dumps(engine)), copy.deepcopy(engine):
        assert not other._plans and other.info == engine.info and np.array_equal(other(x), expected)
    assert len(engine._plans) == 1


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system does not tell a process its memory")
def test_ten_thousand_calls_from_four_threads_are_right_and_keep_no_memory():
    engine = deploy.compile(small_net(0.5), (3, 9, 10))
    x = images(80, (3, 9, 10))
    expected = {n: engine(x[:n]) for n in (1, 2, 5, 64, 80)}
    wrong, used = [], []

    def caller(seed, calls):
        sizes = np.random.default_rng(seed).choice([1] * 40 + list(expected), calls).tolist()
        for n in sizes:
            if not np.array_equal(engine(x[:n]), expected[n]):
                wrong.append(n)
    for calls in 500, 1000, 1000:
        callers = [threading.Thread(target=caller, args=(seed, calls)) for seed in range(4)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
        used.append(resident())
    assert not wrong and all(1 <= len(free) <= 4 for free in engine._plans.values())
    assert used[2] - used[1] < 1 << 20


def test_callers_and_workers_side_by_side(monkeypatch):
    """Four callers, each of which shares its layers with the worker threads, however small they are."""
    monkeypatch.setattr(inference, "WORTH", 0)
    before = ms.get_num_threads()
    ms.set_num_threads(3)
    try:
        engines = [deploy.compile(small_net(kept), (3, 9, 10)) for kept in (None, 0.4)]
        x = images(33, (3, 9, 10))
        expected = [[engine(x[:n]) for n in (1, 33)] for engine in engines]
        wrong = []

        def caller(seed):
            for i in range(150):
                which, part = (seed + i) % 2, i % 10 == 0
                if not np.array_equal(engines[which](x[:33 if part else 1]), expected[which][part]):
                    wrong.append((seed, i))
        callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
    finally:
        ms.set_num_threads(before)
    assert not wrong


def test_any_number_of_threads_and_any_engine_gives_the_same_bits():
    ms.manual_seed(0)
    model = shaken(nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(),
                                 nn.Linear(32 * 36, 64)), kept=0.4)
    x, before = images(64, (16, 8, 8)), ms.get_num_threads()
    try:
        for n in 1, 64:
            results = []
            for threads in 1, 2, 3:
                ms.set_num_threads(threads)
                results += [deploy.compile(model, (16, 8, 8))(x[:n]), deploy.compile(model, (16, 8, 8), threads=1)(x[:n])]
            for result in results:
                np.testing.assert_array_equal(result, results[0])
    finally:
        ms.set_num_threads(before)
    with pytest.raises(ValueError, match="threads must be a positive whole number, got 0"):
        deploy.compile(model, (16, 8, 8), threads=0)


def test_the_table():
    engine = deploy.compile(small_net(0.5), (3, 9, 10), info={"classes": ["a", "b"]})
    assert engine.info == {"classes": ["a", "b"]}
    text = repr(engine)
    for part in "conv2d + relu", "conv2d + relu + max_pool2d", "affine", "flatten", "linear", "8x3x3x3", "batch 1":
        assert part in text
    assert engine.profile(images(64, (3, 9, 10)), rounds=2) > 0
    seconds = [line.split()[-1] for line in repr(engine).splitlines()[2:-1]]
    assert "batch 64" in repr(engine) and all(float(s) >= 0 for s in seconds)
    engine.warmup(3)
    assert engine._plans[3]


@pytest.mark.parametrize("inputs", [[0], [1], [-2], [], ["0"], [0.5]])
def test_steps_take_what_came_before(inputs):
    with pytest.raises(ValueError, match="step 0 .relu. takes the results of steps"):
        deploy.Engine([engine_file.Step("relu", inputs=inputs)], (3,))


# --- what cannot be compiled ------------------------------------------------------------------------------
@pytest.mark.parametrize("layers, shape, message", [
    ([nn.Conv2d(3, 2, 1)], (2, 4, 4), "3 input channels"),
    ([nn.Conv2d(2, 2, 5)], (2, 4, 4), "larger than the padded image"),
    ([nn.Conv2d(2, 3, 1), nn.BatchNorm2d(2)], (2, 4, 4), "x has 3 channels"),
    ([nn.Flatten(), nn.Linear(31, 2)], (2, 4, 4), "linear"),
    ([nn.Linear(4, 2)], (2, 4, 4), "linear: expected inputs of 1 dimensions"),
    ([nn.Flatten(), nn.MaxPool2d(2)], (2, 4, 4), "max_pool2d: expected images"),
    ([nn.Conv2d(1, 1, 1)], (4, 4), "conv2d"),
    ([nn.MaxPool2d(8)], (2, 4, 4), "max_pool2d"),
    ([], (2, 0, 4), "input_shape"), ([], (-1,), "input_shape"), ([], (), "input_shape"), ([], (2.0, 3), "input_shape"),
    ([], 3, "input_shape"), ([], "abc", "input_shape"),
])
def test_shapes_that_do_not_fit_are_found_when_compiling(layers, shape, message):
    with pytest.raises(ValueError, match=message):
        deploy.compile(nn.Sequential(*layers), shape)


def test_a_saved_engine_gives_the_same_bits(tmp_path):
    engine, x = deploy.compile(small_net(0.5), (3, 9, 10), info={"mean": [0.5]}), images(17, (3, 9, 10))
    engine.save(tmp_path / "net.safetensors")
    loaded = deploy.load(tmp_path / "net.safetensors")
    assert loaded.info == engine.info and repr(loaded) == repr(engine)
    np.testing.assert_array_equal(loaded(x), engine(x))


def test_kernels_can_be_compiled_at_install_time(tmp_path, capsys):
    deploy.compile(small_net(0.5), (3, 9, 10)).save(tmp_path / "net.safetensors")
    command.main([str(tmp_path / "net.safetensors"), "--batch", "1", "3"])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["batch 1", "batch 3"]
    (tmp_path / "other").write_bytes(b"no model")
    for wrong, message in ([str(tmp_path / "other")], "other"), ([str(tmp_path / "none")], "No such file"):
        with pytest.raises(SystemExit, match=message):
            command.main(wrong)
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "net.safetensors"), "--batch", "0"])
    assert "at least one image, got 0" in capsys.readouterr().err
