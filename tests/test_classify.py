"""classify.py names what is in a picture, and says in one line what it cannot read."""
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

import minisparse as ms
from minisparse import deploy, nn
from minisparse.data.decode import decode

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import classify  # noqa: E402

SIZE = 8
INFO = {"classes": ["red", "green", "blue", "dark"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def engine(info, outputs=4, shape=(3, SIZE, SIZE)):
    """Scores: the means of the three colours, normalised, and -0.5."""
    layer = nn.Linear(shape[0], outputs)
    with ms.no_grad():
        layer.weight.copy_(ms.tensor(np.eye(outputs, shape[0], dtype=np.float32)))
        layer.bias.copy_(ms.tensor(np.float32([0, 0, 0, -0.5][:outputs])))
    return deploy.compile(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer), shape, info)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model and pictures in the current folder."""
    monkeypatch.chdir(tmp_path)
    engine(INFO).save("model.safetensors")
    for name, colour in ("red.png", (250, 20, 10)), ("blue.jpg", (10, 20, 250)), ("black.gif", (0, 0, 0)):
        Image.new("RGB", (40, 30), colour).save(name)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    return tmp_path


def test_names_and_scores(folder, capsys):
    assert classify.main(["model.safetensors", "red.png", "blue.jpg", "black.gif"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) == 3
    for line, name, best in zip(lines, ("red.png", "blue.jpg", "black.gif"), ("red", "blue", "dark")):
        assert line.startswith(f"{name}: {best} ") and len(line.split(", ")) == 3
    means = (np.array([250, 20, 10]) / 255 - INFO["mean"]) / INFO["std"]
    likely = np.exp([*means, -0.5]) / np.exp([*means, -0.5]).sum()
    assert lines[0] == f"red.png: red {likely[0]:.1%}, dark {likely[3]:.1%}, blue {likely[2]:.1%}"


def test_a_picture_is_seen_as_in_training(folder):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(noise).save("noise.png")
    found = classify.read("noise.png", SIZE)
    np.testing.assert_array_equal(found, decode((folder / "noise.png").read_bytes(), SIZE).transpose(2, 0, 1))
    assert found.shape == (3, SIZE, SIZE) and found.dtype == np.uint8


def test_pictures_that_cannot_be_read_get_a_line_each(folder, capsys):
    assert classify.main(["model.safetensors", "text.jpg", "red.png", "cut.png", "missing.png", ".", "blue.jpg"]) == 2
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["red.png", "blue.jpg"]
    assert [line.split(": ")[1] for line in err.splitlines()] == ["text.jpg", "cut.png", "missing.png", "."]
    assert "text.jpg: unknown format" in err and "missing.png: No such file" in err


@pytest.mark.parametrize("info, shape, outputs, message", [
    ({}, (3, 8, 8), 4, "does not say which classes"), (INFO | {"classes": "abcd"}, (3, 8, 8), 4, "which classes"),
    (INFO | {"classes": [1, 2, 3, 4]}, (3, 8, 8), 4, "which classes"),
    (INFO | {"mean": [0.5, 0.5]}, (3, 8, 8), 4, "how its pictures are normalised"),
    (INFO | {"mean": [0, 0, "0"]}, (3, 8, 8), 4, "normalised"), (INFO | {"mean": None}, (3, 8, 8), 4, "normalised"),
    (INFO | {"mean": [0, 0, 10 ** 400]}, (3, 8, 8), 4, "normalised"),
    (INFO | {"std": [1, 1, 1e-300]}, (3, 8, 8), 4, "normalised"),
    (INFO | {"std": [1, 1, 0]}, (3, 8, 8), 4, "normalised"), (INFO | {"std": [1, 1, -1]}, (3, 8, 8), 4, "normalised"),
    (INFO, (3, 8, 9), 4, "square colour pictures"), (INFO, (1, 8, 8), 4, "square colour pictures"),
    (INFO, (3, 8, 8), 3, "scores for 4 classes"),
])
def test_models_that_do_not_name_pictures(info, shape, outputs, message, folder, capsys):
    engine(info, outputs, shape).save("other.safetensors")
    assert classify.main(["other.safetensors", "red.png"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("classify: other.safetensors: ") and message in err and err.count("\n") == 1


def test_models_that_are_none(folder, capsys):
    (folder / "damaged").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    ms.save_file({"a": np.zeros(2)}, folder / "plain")
    for name in "missing", "text.jpg", "damaged", "plain", ".":
        assert classify.main([name, "red.png"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"classify: {name}: ") and err.count("\n") == 1


def test_usage(capsys):
    for arguments in [], ["model.safetensors"]:
        with pytest.raises(SystemExit, match="2"):
            classify.main(arguments)
    assert "picture" in capsys.readouterr().err


def test_as_a_program(folder):
    import subprocess
    program = pathlib.Path(classify.__file__)
    environment = os.environ | {"PYTHONPATH": str(program.parent.parent), "NUMBA_DISABLE_JIT": "1",
                                "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "ascii"}
    (folder / "größe.png").write_bytes((folder / "red.png").read_bytes())       # more than the output can show
    done = subprocess.run([sys.executable, program, "model.safetensors", "red.png", "größe.png"], capture_output=True,
                          text=True, env=environment)
    first, second = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "") and first.startswith("red.png: red ") and ": red " in second
