"""to_onnx: ONNX Runtime computes from the file what the model computes."""
import builtins

import numpy as np
import pytest

import minisparse as ms
from minisparse import deploy, nn

from test_deploy import NETS, images, outputs, shaken, small_net

# windows that ONNX has no operator for
REFUSED = {"avg pool": "avg_pool2d with ceil_mode", "adaptive pool": ": windows of several sizes"}


def scores(path, x):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(["scores"], {"images": x})[0]


@pytest.mark.parametrize("net", [net for net in NETS if net not in REFUSED])
def test_onnx_runtime_gives_the_outputs_of_the_model(net, tmp_path):
    pytest.importorskip("onnx")
    ms.manual_seed(0)
    layers, shape = NETS[net]()
    model = shaken(nn.Sequential(*layers), kept=0.5)
    deploy.to_onnx(model, tmp_path / "net.onnx", shape)
    for n in 1, 5:
        x = images(n, shape)
        expected = outputs(model, x)
        found = scores(tmp_path / "net.onnx", x)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, abs(expected).max()))


@pytest.mark.parametrize("layer", [
    nn.AvgPool2d(2), nn.AvgPool2d((3, 2), stride=1, padding=(1, 0)), nn.AvgPool2d(3, stride=2, ceil_mode=True),
    nn.AvgPool2d(3, padding=1, count_include_pad=False), nn.AvgPool2d(3, padding=1, divisor_override=5),
    nn.AvgPool2d(3, padding=1, count_include_pad=False, divisor_override=5),
    nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((7, 3)), nn.AdaptiveAvgPool2d((None, 1))], ids=repr)
def test_mean_pools(layer, tmp_path):
    pytest.importorskip("onnx")
    deploy.to_onnx(layer, tmp_path / "a", (2, 7, 9))
    x = images(3, (2, 7, 9))
    np.testing.assert_allclose(scores(tmp_path / "a", x), outputs(layer, x), rtol=0, atol=1e-6)


def test_an_engine_and_a_loaded_one(tmp_path):
    pytest.importorskip("onnx")
    engine = deploy.compile(small_net(0.3), (3, 9, 10))
    engine.save(tmp_path / "net")
    x = images(4, (3, 9, 10))
    for source in engine, deploy.load(tmp_path / "net"):
        deploy.to_onnx(source, tmp_path / "a")
        np.testing.assert_allclose(scores(tmp_path / "a", x), engine(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("net", REFUSED)
def test_what_onnx_cannot_say(net, tmp_path):
    pytest.importorskip("onnx")
    layers, shape = NETS[net]()
    with pytest.raises(NotImplementedError, match=REFUSED[net]):
        deploy.to_onnx(nn.Sequential(*layers), tmp_path / "a", shape)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package(monkeypatch, tmp_path):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return load(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="needs the package onnx: pip install onnx"):
        deploy.to_onnx(nn.ReLU(), tmp_path / "a", (2, 3, 4))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.end = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        y = ms.cat([self.conv(x) + x, x - 2 * self.gate(x)], 1)
        y = y * y
        return self.end(y.mean((2, 3)))


def test_a_graph_with_branches(tmp_path):
    pytest.importorskip("onnx")
    ms.manual_seed(0)
    model, x = Branches().eval(), images(3, (4, 5, 6))
    deploy.to_onnx(model, tmp_path / "a", (4, 5, 6))
    np.testing.assert_allclose(scores(tmp_path / "a", x), outputs(model, x), rtol=0, atol=1e-5)
