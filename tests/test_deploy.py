"""The engine gives the model's outputs, whatever the kernels and the batch; its file gives the engine back."""
import collections
import json

import numpy as np
import pytest

import minisparse as ms
from minisparse import deploy, kernels, nn, serialize
from minisparse.deploy import engine as engine_file


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


def fix(engine, kernel):
    """Take the kernels "dense" or "sparse" rather than the faster ones, for any size of batch."""
    for step in engine.steps:
        step.fastest = collections.defaultdict(lambda: kernel)
        step.fastest.update(dict.fromkeys(range(32), kernel))
    return engine


def check(model, shape, batches=(1, 3, 15, 64)):
    """The engine's outputs are the model's, with either kernel and with those it chose itself."""
    engine = deploy.compile(model, shape)
    chosen = [dict(step.fastest) for step in engine.steps]
    for kernel in "chosen", "dense", "sparse":
        for step, fastest in zip(engine.steps, chosen):
            step.fastest = fastest
        if kernel != "chosen":
            fix(engine, kernel)
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
    engine, x = fix(deploy.compile(model, (3, 9, 10)), "dense"), images(2, (3, 9, 10))
    before = engine(x)
    for tensor in model.state_dict().values():
        tensor.data[...] = 1
    np.testing.assert_array_equal(engine(x), before)


def test_results_are_not_overwritten_by_later_calls():
    engine = fix(deploy.compile(small_net(0.5), (3, 9, 10)), "sparse")
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


def test_a_batch_is_filled_up_where_that_adds_half_at_most():
    x = images(81, (2, 3, 4))
    for n, filled in (1, 1), (10, 10), (11, 16), (15, 16), (16, 16), (17, 17), (21, 21), (22, 32), (33, 48), (50, 64):
        found = engine_file._whole_lines(x[:n])
        assert found.shape == (2, 3, 4, filled) and found.flags.c_contiguous
        np.testing.assert_array_equal(np.moveaxis(found, -1, 0)[:n], x[:n])
        assert not found[..., n:].any()
    for kernel, expected in ("sparse", [16, 17, 32]), ("dense", [15, 17, 24]):      # where any step gains from it
        engine, sizes = fix(deploy.compile(small_net(0.5), (3, 9, 10)), kernel), []
        engine.steps[0].kernel = lambda x: sizes.append(x.shape[-1]) or kernel
        assert [len(engine(images(n, (3, 9, 10)))) for n in (15, 17, 24)] == [15, 17, 24]
        assert sizes == expected


def test_schedules_are_built_once_for_a_shape_and_few_are_kept(monkeypatch):
    if not kernels.have_numba():
        pytest.skip("there are no schedules without Numba")
    module, built = engine_file.sparse_conv, []

    class Counted(module.Schedule):
        def __init__(self, taps, geometry, shape, outputs):
            built.append(shape[-1])
            super().__init__(taps, geometry, shape, outputs)
    engine = fix(deploy.compile(nn.Sequential(shaken(nn.Conv2d(2, 3, 3), kept=0.5)), (2, 5, 4)), "sparse")
    engine.steps[0].plans.clear()
    monkeypatch.setattr(module, "Schedule", Counted)
    for n in 1, 16, 1, 15, 16, 2, 1:
        engine(images(n, (2, 5, 4)))
    assert built == [1, 16, 2]
    for n in range(1, 12):
        engine(images(n, (2, 5, 4)))
    assert len(engine.steps[0].plans) == module.REMEMBERED


def test_engine_without_numba_is_the_model(monkeypatch):
    for module in kernels, engine_file.sparse_conv:
        monkeypatch.setattr(module, "have_numba", lambda: False)
    kernels.load.cache_clear()
    try:
        check(small_net(0.5), (3, 9, 10))
    finally:
        kernels.load.cache_clear()


def test_kernels_are_chosen_by_their_time_once_for_sizes_alike(monkeypatch):
    seconds = {"dense": 2.0, "sparse": 1.0}
    timed = []

    def measure(function, x):
        timed.append((function.__name__, x.shape[-1]))
        function(x)
        return seconds[function.__name__]
    monkeypatch.setattr(engine_file, "_seconds", measure)
    engine = deploy.compile(nn.Sequential(shaken(nn.Linear(6, 5), kept=0.5), nn.Linear(5, 4)), (6,))
    assert timed == [("dense", 1), ("sparse", 1)]       # no zeros, nothing to choose: the second layer
    seconds.update(dense=1.0, sparse=2.0)
    for n in 33, 1, 64, 40:
        engine(images(n, (6,)))
    assert timed[2:] == [("dense", 48), ("sparse", 48)]
    assert engine.steps[0].fastest == {0: "sparse", 6: "dense"} and engine.steps[1].fastest == {}


def test_images_of_other_kinds():
    model = small_net()
    engine, x = fix(deploy.compile(model, (3, 9, 10)), "dense"), images(4, (3, 9, 10))
    expected = engine(x)
    np.testing.assert_array_equal(engine(x.astype(np.float64)), expected)
    np.testing.assert_array_equal(engine(x.tolist()), expected)
    np.testing.assert_array_equal(engine(ms.tensor(x)), expected)
    np.testing.assert_array_equal(engine(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)), expected)
    np.testing.assert_array_equal(engine(np.repeat(x, 2, axis=0)[::2]), expected)
    for wrong in x[0], x[:0], x[:, :2], x[:, :, :8], np.zeros((4, 9, 10, 3)), 3.0, [[]]:
        with pytest.raises(ValueError, match=r"expected an array \(N, 3, 9, 10\)"):
            engine(wrong)


def test_double_precision_models_are_compiled_too():
    model = small_net().double()
    x = images(3, (3, 9, 10))
    expected = outputs(model, x.astype(np.float64))
    np.testing.assert_allclose(deploy.compile(model, (3, 9, 10))(x), expected, rtol=0, atol=1e-5)


# --- what cannot be compiled ------------------------------------------------------------------------------
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return x + self.conv(x)


class Doubled(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * 2


class Named(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 2, 1), nn.ReLU())


class Backwards(Named):
    def forward(self, x):
        return self[0](self[1](x))


def test_a_sequential_with_a_name_of_its_own():
    check(shaken(nn.Sequential(Named(), nn.Flatten())), (2, 3, 3))


@pytest.mark.parametrize("layer, message", [
    (Residual(), "cannot take model.0.1, a Residual with its own forward"),
    (Doubled(), "cannot take model.0.1, a Doubled with its own forward"),
    (Backwards(), "cannot take model.0.1, a Backwards with its own forward"),
    (nn.LayerNorm(4), r"cannot take model.0.1, LayerNorm\(\(4,\)"),
    (nn.BatchNorm2d(2, track_running_stats=False), "cannot take model.0.1, BatchNorm2d.*track_running_stats=False"),
    (nn.Flatten(2), r"cannot take model.0.1, Flatten\(start_dim=2"),
    (nn.Flatten(1, 2), "cannot take model.0.1, Flatten"),
    (nn.ModuleList([nn.ReLU()]), "cannot take model.0.1, ModuleList"),
])
def test_layers_it_cannot_take_are_named(layer, message):
    with pytest.raises(TypeError, match=message):
        deploy.compile(nn.Sequential(nn.Sequential(nn.ReLU(), layer)), (2, 4, 4))


def test_a_model_that_is_no_sequential():
    with pytest.raises(TypeError, match="cannot take model, a Residual with its own forward.*Sequential"):
        deploy.compile(Residual(), (2, 4, 4))
    check(shaken(nn.Conv2d(2, 3, 3), kept=0.5), (2, 4, 4))


@pytest.mark.parametrize("layers, shape, message", [
    ([nn.Conv2d(3, 2, 1)], (2, 4, 4), "3 input channels"),
    ([nn.Conv2d(2, 2, 5)], (2, 4, 4), "larger than the padded image"),
    ([nn.Conv2d(2, 3, 1), nn.BatchNorm2d(2)], (2, 4, 4), "model.1 is a batch norm of 2 channels"),
    ([nn.Conv2d(2, 3, 1), nn.BatchNorm2d(1)], (2, 4, 4), "model.1 is a batch norm of 1 channels"),
    ([nn.BatchNorm2d(1)], (2, 4, 4), "2 channels given, 1 expected"),
    ([nn.Flatten(), nn.Linear(31, 2)], (2, 4, 4), "linear"),
    ([nn.Linear(4, 2)], (2, 4, 4), "linear: expected inputs of 1 dimensions"),
    ([nn.Flatten(), nn.MaxPool2d(2)], (2, 4, 4), "max_pool2d: expected inputs of 3 dimensions"),
    ([nn.Conv2d(1, 1, 1)], (4, 4), "conv2d: expected inputs of 3 dimensions"),
    ([nn.MaxPool2d(8)], (2, 4, 4), "max_pool2d"),
    ([], (2, 0, 4), "input_shape"), ([], (-1,), "input_shape"), ([], (), "input_shape"), ([], (2.0, 3), "input_shape"),
])
def test_shapes_that_do_not_fit_are_found_when_compiling(layers, shape, message):
    with pytest.raises(ValueError, match=message):
        deploy.compile(nn.Sequential(*layers), shape)


# --- the file ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kept", [None, 0.3])
def test_a_saved_engine_comes_back_the_same(net, kept, tmp_path):
    ms.manual_seed(0)
    layers, shape = NETS[net]()
    engine = deploy.compile(shaken(nn.Sequential(*layers), kept=kept), shape)
    engine.save(tmp_path / "net.safetensors")
    loaded = deploy.load(tmp_path / "net.safetensors")
    assert loaded.input_shape == engine.input_shape and ops(loaded) == ops(engine) and repr(loaded) == repr(engine)
    for one, other in zip(engine.steps, loaded.steps):
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(other.arrays[name], array)
    for kernel in "dense", "sparse" if kept else "dense":
        for n in 1, 5:
            x = images(n, shape)
            np.testing.assert_array_equal(fix(loaded, kernel)(x), fix(engine, kernel)(x))


def test_zeros_make_the_file_smaller(tmp_path):
    sizes = {}
    for kept in 1, 0.45, 0.25, 0.1, 0:
        ms.manual_seed(0)
        model = shaken(nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 64)), kept=kept)
        deploy.compile(model, (32, 3, 3)).save(tmp_path / "net")
        sizes[kept] = (tmp_path / "net").stat().st_size
    weights = 32 * 64 * 9 + 64 * 64
    for kept, size in sizes.items():
        expected = weights * 4 if kept == 1 else weights * (4 * kept + 1 / 8)     # 32 bits a weight kept, 1 bit each
        assert abs(size - expected) < 0.02 * weights * 4 + 2000
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())


def test_the_safetensors_library_opens_the_file(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    engine = deploy.compile(small_net(0.3), (3, 9, 10))
    engine.save(tmp_path / "net")
    tensors = library.load_file(tmp_path / "net")
    np.testing.assert_array_equal(tensors["0.bias"], engine.steps[0].arrays["bias"])
    np.testing.assert_array_equal(np.sort(tensors["0.weight.values"]),
                                  np.sort(engine.steps[0].arrays["weight"][engine.steps[0].arrays["weight"] != 0]))


def test_files_that_hold_no_engine(tmp_path):
    ms.save_file({"a": np.zeros(2)}, tmp_path / "plain")
    ms.save({"a": 1}, tmp_path / "state")
    (tmp_path / "text").write_text("hello, this is no such file at all")
    (tmp_path / "empty").write_bytes(b"")
    for name in "plain", "state", "text", "empty":
        with pytest.raises(ValueError, match=name):
            deploy.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        deploy.load(tmp_path / "missing")
    deploy.compile(small_net(), (3, 9, 10)).save(tmp_path / "engine")
    with pytest.raises(ValueError, match="engine: not written by minisparse.save"):
        ms.load(tmp_path / "engine")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(arrays, plan) of the file of a small engine."""
    path = tmp_path_factory.mktemp("saved") / "net"
    deploy.compile(small_net(0.3), (3, 9, 10)).save(path)
    tensors, metadata = serialize.read_file(path)
    return {name: tensor.data for name, tensor in tensors.items()}, metadata["minisparse"]


def edit(step, **options):
    """A change of the plan: other options of a step."""
    return lambda tensors, plan: plan["steps"][step]["options"].update(options)


def replace(name, value):
    """A change of an array."""
    return lambda tensors, plan: tensors.update({name: value(tensors[name])})


def put(at, key, value):
    return lambda tensors, plan: (plan if at is None else plan["steps"][at]).update({key: value})


WRONG = {
    "unknown step": put(0, "op", "system"),
    "step of no text": put(0, "op", ["conv2d"]),
    "a method as a step": put(1, "op", "__class__"),
    "another step": put(0, "op", "linear"),
    "arrays where none belong": put(1, "shapes", {"weight": [8, 3, 3, 3]}),
    "no arrays": put(0, "shapes", {}),
    "arrays of a list": put(0, "shapes", ["weight", "bias"]),
    "no such option": edit(0, colour=3),
    "an array as an option": edit(0, weight=[1]),
    "stride 0": edit(0, stride=[0, 0]),
    "stride of text": edit(0, stride="1"),
    "negative padding": edit(0, padding=[-1, -1]),
    "padding beyond everything": edit(0, padding=[2 ** 61, 2 ** 61]),
    "huge dilation": edit(0, dilation=[2 ** 63, 1]),
    "groups 0": edit(0, groups=0),
    "negative groups": edit(0, groups=-1),
    "groups that do not divide": edit(0, groups=5),
    "kernel of a pool": edit(4, kernel_size=0),
    "options are a list": put(0, "options", [1]),
    "one option too few": lambda tensors, plan: plan["steps"][0].pop("options"),
    "more keys": put(0, "tensors", {}),
    "other input": put(None, "input_shape", [3, 9, 30]),
    "input too small": put(None, "input_shape", [3, 1, 1]),
    "input of nothing": put(None, "input_shape", []),
    "input of text": put(None, "input_shape", "abc"),
    "input of floats": put(None, "input_shape", [3.0, 9, 10]),
    "input beyond memory": put(None, "input_shape", [3, 2 ** 40, 2 ** 40]),
    "no input": lambda tensors, plan: plan.pop("input_shape"),
    "no steps": lambda tensors, plan: plan.pop("steps"),
    "steps are a number": put(None, "steps", 3),
    "steps of numbers": put(None, "steps", [1, 2]),
    "another shape": lambda tensors, plan: plan["steps"][0]["shapes"].update(weight=[8, 3, 3, 4]),
    "a shape of the same size": lambda tensors, plan: plan["steps"][0]["shapes"].update(weight=[8, 9, 3, 1]),
    "a shape of billions": lambda tensors, plan: plan["steps"][0]["shapes"].update(weight=[2 ** 40, 2 ** 40]),
    "a negative shape": lambda tensors, plan: plan["steps"][0]["shapes"].update(weight=[-8, -27]),
    "another shape, unmasked": lambda tensors, plan: plan["steps"][0]["shapes"].update(bias=[2, 4]),
    "too few nonzeros": replace("0.weight.values", lambda a: a[1:]),
    "too many nonzeros": replace("0.weight.values", lambda a: np.append(a, a[:1])),
    "nonzeros in rows": replace("0.weight.values", lambda a: a.reshape(1, -1)),
    "one bit more": replace("0.weight.mask", lambda a: a | np.uint8(255) * (np.arange(len(a)) == 1)),
    "a mask of bools": replace("0.weight.mask", lambda a: a.astype(bool)),
    "a mask too short": replace("0.weight.mask", lambda a: a[:-1]),
    "whole numbers": replace("0.bias", lambda a: a.astype(np.int32)),
    "doubles": replace("0.weight.values", lambda a: a.astype(np.float64)),
    "no bias": lambda tensors, plan: tensors.pop("0.bias"),
    "no mask": lambda tensors, plan: tensors.pop("0.weight.mask"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, saved, tmp_path):
    tensors, plan = dict(saved[0]), json.loads(saved[1])
    WRONG[case](tensors, plan)
    serialize.save_file(tensors, tmp_path / "net", {"minisparse": json.dumps(plan)})
    with pytest.raises(ValueError, match="net: not a valid minisparse model"):
        deploy.load(tmp_path / "net")


@pytest.mark.parametrize("plan", ["", "[", "[]", "3", "null", "{}", "[" * 100_000,
                                  '{"steps": [], "input_shape": null}'])
def test_wrong_plans(plan, tmp_path):
    serialize.save_file({}, tmp_path / "net", {"minisparse": plan})
    with pytest.raises(ValueError, match="net: not a valid minisparse model"):
        deploy.load(tmp_path / "net")


def test_damaged_files_give_an_error_or_an_engine(tmp_path):
    """Flipped bits: nothing but ValueError, or an engine that runs."""
    rng = np.random.default_rng(0)
    deploy.compile(small_net(0.3), (3, 9, 10)).save(tmp_path / "net")
    whole, x, refused = (tmp_path / "net").read_bytes(), images(2, (3, 9, 10)), 0
    for i in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=rng.integers(1, 5)):
            damaged[at] ^= 1 << int(rng.integers(8))
        path = tmp_path / str(i)
        path.write_bytes(damaged)
        try:
            engine = deploy.load(path)
        except ValueError:
            refused += 1
        else:
            with np.errstate(all="ignore"):
                assert engine(x).shape == (2, 10)
        path.unlink()
    assert 100 < refused < 400
