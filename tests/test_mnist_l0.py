"""The MNIST program on a few made-up digits: every method, stopped and resumed, bad input."""
import gzip
import pathlib
import sys

import numpy as np
import pytest

import minisparse as ms
from minisparse import deploy, sparse
from minisparse.data.mnist import SHA256

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import mnist_l0  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 images, of which the class is the position of a bright bar, in MNIST's files."""
    path, rng = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    images = rng.integers(0, 60, (300, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[4:24, 2 * label + 4] = 255
    for name in SHA256:
        array = images if "images" in name else labels
        header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
        (path / name).write_bytes(gzip.compress(header + array.tobytes()))
    return path


def run(folder, out, *options):
    return mnist_l0.main(["--data", str(folder), "--out", str(out), "--seeds", "3", *map(str, options)])


@pytest.mark.parametrize("method", mnist_l0.METHODS)
@pytest.mark.parametrize("net", mnist_l0.PUBLISHED)
def test_a_run(folder, tmp_path, capsys, net, method):
    assert not run(folder, tmp_path, "--net", net, "--method", method, "--epochs", 2, "--sparsity", 0.9)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith(f"| {method}, seed 3 |"))
    assert all(any(line.startswith(f"| {name} |") for line in lines) for name, *_ in mnist_l0.PUBLISHED[net])
    file = tmp_path / f"{net}-{method}-3.safetensors"
    assert f"| {file.stat().st_size} |" in row
    if method == "magnitude":       # shrink may find more that is of no use
        total = 266_200 if net == "lenet-300-100" else 430_500
        assert 0 < int(row.split("|")[4].split()[0]) <= round(total * (1 - 0.9))
    assert deploy.load(file)(np.zeros((1, 1, 28, 28), np.float32)).shape == (1, 10)


@pytest.mark.parametrize("method", ["l0", "magnitude"])
def test_a_stopped_run_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch, method):
    options = "--method", method, "--epochs", 3, "--resume"
    assert not run(folder, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        one_epoch = mnist_l0.Run.one_epoch

        def stop(self):
            if self.epoch == 1:
                raise KeyboardInterrupt
            one_epoch(self)
        patch.setattr(mnist_l0.Run, "one_epoch", stop)
        assert run(folder, tmp_path / "stopped", *options) == 130
    assert not run(folder, tmp_path / "stopped", *options)
    name = f"lenet-300-100-{method}-3.checkpoint"
    whole, stopped = (ms.load(tmp_path / part / name)["model"] for part in ("whole", "stopped"))
    assert list(whole) == list(stopped)
    for key, tensor in whole.items():
        np.testing.assert_array_equal(tensor.data, stopped[key].data, err_msg=key)


def test_what_has_died_out_becomes_zero(folder, tmp_path):
    images, labels = np.zeros((100, 1, 28, 28), np.float32), np.zeros(100, np.int64)    # no input, no gradient
    recipe = mnist_l0.Recipe(epochs=1, weight_decay=0)
    run = mnist_l0.Run("lenet-300-100", "dense", recipe, 0, (images, labels), (images, labels), tmp_path)
    weight = next(iter(sparse.sparsifiable(run.model).values())).weight
    before = weight.data.copy()
    with ms.no_grad():
        weight.change()
        weight.data[:, :3] = 1e-40, -1e-40, 1e-16
    run.one_epoch()
    np.testing.assert_array_equal(weight.data[:, :2], 0)
    np.testing.assert_array_equal(weight.data[:, 2], np.float32(1e-16))
    np.testing.assert_array_equal(weight.data[:, 3:], before[:, 3:])


def test_bad_input(folder, tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out") == 2
    assert "train-images-idx3-ubyte.gz: no such file" in capsys.readouterr().err
    assert run(folder, tmp_path, "--strength", 1, 2) == 2
    assert "2 values of --strength for 3 layers" in capsys.readouterr().err
    assert not run(folder, tmp_path, "--epochs", 1)
    assert run(folder, tmp_path, "--epochs", 2, "--resume") == 2
    assert "was made with other settings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(folder, tmp_path, "--epochs", 0)


@pytest.mark.parametrize("option, value", [
    ("--epochs", "0"), ("--threads", "0"), ("--seeds", "-1"), ("--strength", "-1"), ("--strength", "nan"),
    ("--weight-decay", "-1"), ("--sparsity", "1"), ("--sparsity", "-0.1")])
def test_bad_options(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        mnist_l0.parse(["--data", "somewhere", option, value])
    assert option in capsys.readouterr().err.splitlines()[-1]


def test_kept_is_written_as_in_the_papers():
    ms.manual_seed(0)
    model = mnist_l0.build("lenet-5", "l0")
    for layer, count in zip((m for m in model if hasattr(m, "gate")), (9, 18, 0, 25)):
        log_alpha = layer.gate.log_alpha.data.reshape(-1)
        log_alpha[count:] = -9
    features = model[7].gate.log_alpha.data.reshape(50, 16)
    features[:17] = 3       # of 18 open filters, the last one has a single feature that is read
    features[17, 0] = 3
    assert mnist_l0.kept(sparse.shrink(model)) == f"9-18-{17 * 16 + 1}-25"
