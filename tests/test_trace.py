"""Any forward() made of known operations becomes the steps of an engine; any other is refused by name."""
import numpy as np
import pytest

import minisparse as ms
import minisparse.nn.functional as F
from minisparse import deploy, nn, sparse

X = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)


class Net(nn.Module):
    """A module whose forward is the function `run`(self, x)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def conv(*args, **options):
    ms.manual_seed(len(args))
    return nn.Conv2d(*args, **options)


def norm(channels):
    layer, rng = nn.BatchNorm2d(channels), np.random.default_rng(1)
    for tensor in layer.running_mean, layer.running_var, layer.weight, layer.bias:
        tensor.data[:] = rng.uniform(0.5, 2, channels)
    return layer


MODELS = {
    "residual": (lambda s, x: F.relu(x + s.norm(s.conv(x))), ["conv2d", "add", "relu"]),
    "constants": (lambda s, x: 2 * s.conv(x) / 4 - 1, ["conv2d"]),
    "constants before": (lambda s, x: s.conv(1 - x), ["affine", "conv2d"]),
    "constants for each channel": (lambda s, x: s.conv(x) * ms.tensor(np.ones((3, 1, 1), np.float32) * 3), ["conv2d"]),
    "a result used twice is not folded": (lambda s, x: (lambda y: s.norm(y) + y)(s.conv(x)),
                                          ["conv2d", "affine", "add"]),
    "gate": (lambda s, x: x * ms.sigmoid(F.adaptive_avg_pool2d(x, 1)), ["adaptive_avg_pool2d", "sigmoid", "mul"]),
    "cat": (lambda s, x: ms.cat([x, s.conv(x)], dim=-3), ["conv2d", "cat"]),
    "cat and sub": (lambda s, x: ms.cat((x, x), 1) - ms.cat([s.conv(x), x], 1), ["cat", "conv2d", "cat", "sub"]),
    "mean": (lambda s, x: s.conv(x).mean((2, 3)), ["conv2d", "mean"]),
    "mean that keeps": (lambda s, x: x - x.mean(-1, keepdim=True), ["mean", "sub"]),
    "view": (lambda s, x: s.conv(x).view(x.shape[0], -1), ["conv2d", "flatten"]),
    "reshape": (lambda s, x: s.conv(x).reshape(-1, 108), ["conv2d", "flatten"]),
    "squeeze": (lambda s, x: F.avg_pool2d(x, 6).squeeze(), ["avg_pool2d", "flatten"]),
    "functions": (lambda s, x: F.max_pool2d(F.leaky_relu(F.gelu(x), 0.3), 3, stride=2, padding=1),
                  ["gelu", "leaky_relu", "max_pool2d"]),
    "functional convolution": (lambda s, x: F.conv2d(x, s.conv.weight, stride=2), ["conv2d"]),
    "methods": (lambda s, x: x.relu().flatten(1).softmax(1), ["relu", "flatten", "softmax"]),
    "dropout": (lambda s, x: F.dropout(x, 0.5, s.training).relu(), ["relu"]),
    "loops and choices": (lambda s, x: (lambda y: y)(s.conv(s.conv(x)) if x.ndim == 4 else x), ["conv2d", "conv2d"]),
    "what is not used": (lambda s, x: (s.conv(x), x.relu(), s.conv(x))[1], ["conv2d", "relu"]),
    "negative and copied": (lambda s, x: -s.conv((-x).clone()), ["affine", "conv2d"]),
    "the input itself": (lambda s, x: x, []),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_all_kinds(name):
    run, ops = MODELS[name]
    model = Net(run, conv=conv(3, 3, 3, padding=1), norm=norm(3)).eval()
    engine = deploy.compile(model, (3, 6, 6))
    assert [step.op for step in engine.steps] == ops
    for x in X[:1], X, np.repeat(X, 4, axis=0):
        if name == "squeeze" and len(x) == 1:
            continue        # the model itself drops the batch there
        np.testing.assert_allclose(engine(x), model(ms.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_sum_that_is_written_in_place():
    def run(s, x):
        h = s.a(x)
        h += s.b(h)
        h *= 2
        return h
    model = Net(run, a=conv(3, 4, 3, padding=1), b=conv(4, 4, 1)).eval()
    engine = deploy.compile(model, (3, 6, 6))
    np.testing.assert_allclose(engine(X), model(ms.tensor(X)).detach().numpy(), rtol=1e-4, atol=1e-5)

    def alias(s, x):        # in place, y would change with h
        y = h = s.a(x)
        h += s.b(h)
        return y
    with ms.no_grad(), pytest.raises(ValueError, match="not those of the recorded steps"):
        deploy.compile(Net(alias, a=conv(3, 4, 3, padding=1), b=conv(4, 4, 1)), (3, 6, 6))


def test_a_residual_net_of_modules():
    class Block(nn.Module):
        def __init__(self, channels, stride):
            super().__init__()
            self.body = nn.Sequential(conv(channels, 8, 3, stride=stride, padding=1), norm(8), nn.ReLU(),
                                      conv(8, 8, 3, padding=1), norm(8))
            self.short = nn.Sequential(conv(channels, 8, 1, stride=stride), norm(8))

        def forward(self, x):
            return F.relu(self.body(x) + self.short(x))
    model = nn.Sequential(Block(3, 1), Block(8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model.train()
    engine = deploy.compile(model, (3, 6, 6))
    assert all(module.training for module in model.modules())
    assert sum(step.op == "affine" for step in engine.steps) == 0
    model.eval()
    for n in 1, 16:
        x = np.resize(X, (n, 3, 6, 6))
        np.testing.assert_allclose(engine(x), model(ms.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gates", ["unit", "weight"])
def test_gated_layers(gates):
    ms.manual_seed(0)
    model = nn.Sequential(sparse.L0Conv2d(3, 8, 3, gates=gates), nn.ReLU(), nn.Flatten(),
                          sparse.L0Linear(128, 4, gates=gates)).eval()
    model[0].gate.log_alpha.data[::2] = -9      # closed
    engine = deploy.compile(model, (3, 6, 6))
    assert [step.op for step in engine.steps] == ["conv2d", "relu", "flatten", "linear"] and engine.steps[0].zeros
    np.testing.assert_allclose(engine(X), model(ms.tensor(X)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run, message", [
    (lambda s, x: x.exp(), "operation exp in model, Net"),
    (lambda s, x: s.inner(x), r"operation layer_norm in model.inner, LayerNorm\(\(6,\)"),
    (lambda s, x: x[:, :1], "operation index"),
    (lambda s, x: x.flatten(2), r"reshape.* from \('N', 3, 6, 6\) to \(2, 3, 36\), rather than \(N, -1\)"),
    (lambda s, x: x.permute(0, 2, 3, 1), "operation permute"),
    (lambda s, x: nn.BatchNorm2d(3, track_running_stats=False)(x), "batch_norm.*: it has no running statistics"),
    (lambda s, x: F.conv2d(x, x), "conv2d.*: its weight depends on the input"),
    (lambda s, x: x.mean(), "mean.* over the batch"),
    (lambda s, x: x / x, "div.* of two results"),
    (lambda s, x: 1 / x, "div.* of a constant by a result"),
    (lambda s, x: x * ms.ones(6, 6), r"mul.*: a constant of shape \(6, 6\) is not one number, nor one for each"),
    (lambda s, x: ms.cat([x, x]), "cat.* along the batch"),
    (lambda s, x: ms.cat([x, ms.ones(2, 3, 6, 6)], 1), "cat.*: one of its inputs is a constant"),
    (lambda s, x: ms.tensor(x.numpy() + 1), "does not come from its input"),
    (lambda s, x: (x, x), "returns a tuple"),
])
def test_what_is_refused(run, message):
    model = Net(run, inner=nn.LayerNorm(6))
    with pytest.raises(TypeError, match=message):
        deploy.compile(model, (3, 6, 6))
    assert model.training


def layer_by_name(name, *args, **options):
    layer = getattr(sparse, name)(*args, **options)
    rng = np.random.default_rng(0)
    if hasattr(layer, "gate"):
        layer.gate.log_alpha.data[...] = rng.standard_normal(layer.gate.log_alpha.shape)
        layer.gate.log_alpha.data.reshape(-1)[::3] = -9         # closed
    layer.bias.data[:] = rng.standard_normal(layer.bias.shape)
    return layer


@pytest.mark.parametrize("kind", ["Sparse", "DynamicSparse", "L0"])
def test_sparse_layers(kind):
    ms.manual_seed(0)
    model = nn.Sequential(layer_by_name(f"{kind}Conv2d", 3, 8, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(),
                          layer_by_name(f"{kind}Linear", 72, 10)).eval()
    engine = deploy.compile(model, (3, 6, 6))
    for n in 1, 5:
        np.testing.assert_allclose(engine(X[:n]), model(ms.tensor(X[:n])).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert all(step.zeros > 0 for step in engine.steps if "weight" in step.arrays)


@pytest.mark.parametrize("run", [lambda s, x: x.flatten(1).softmax(0), lambda s, x: F.softmax(x, dim=-4),
                                 lambda s, x: F.log_softmax(x.flatten(1), 0), nn.Softmax(0), nn.LogSoftmax(-4)])
def test_softmax_over_the_batch_is_refused(run):
    model = run if isinstance(run, nn.Module) else Net(run)
    with pytest.raises(TypeError, match="cannot take the operation (log_)?softmax.* over the batch"):
        deploy.compile(model, (3, 6, 6))


@pytest.mark.parametrize("run", [lambda s, x: -x.mean((1, 2, 3)), lambda s, x: 2 * x.mean((1, 2, 3))])
def test_arithmetic_with_one_number_for_each_image_is_refused(run):
    with pytest.raises(TypeError, match="cannot take the operation (neg|mul).* of one number for each image"):
        deploy.compile(Net(run), (3, 6, 6))


def test_what_hides_from_a_recording_is_found():
    """Arithmetic on .data cannot be seen, but the outputs differ."""
    def run(s, x):
        y = x.relu()
        y.data += x.data
        return y.relu()
    with pytest.raises(ValueError, match="its outputs are not those of the recorded steps"):
        deploy.compile(Net(run), (3, 6, 6))
    for run in (lambda s, x: x * x.shape[0], lambda s, x: x + ms.randn(1, 3, 1, 1), lambda s, x: x.relu().add_(x)):
        with pytest.raises(ValueError, match="its outputs are not those of the recorded steps"):
            deploy.compile(Net(run), (3, 6, 6))
    assert ms.tensor([1.0]).exp().item() > 2        # and nothing records any more


def test_results_of_unlike_dimensions_are_refused():
    class Mixing(nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True).mean(3) + x.mean((1, 2))     # (N, 1, 8) and (N, 8): images would meet
    with pytest.raises(TypeError, match="add .*of results with 3 and 2 dimensions"):
        deploy.compile(Mixing(), (3, 8, 8))


def test_options_may_be_numbers_of_numpy(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(np.int64(2), stride=(np.int32(2), 2)))
    engine = deploy.compile(model, (3, 8, 8))
    engine.save(tmp_path / "engine.safetensors")
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(deploy.load(tmp_path / "engine.safetensors")(x), engine(x))
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        engine.profile(x, rounds=0)
