"""The main program as a user runs it: a whole run, runs that are stopped and resumed, bad input, progress."""
import errno
import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import minisparse as ms
from minisparse import data, deploy, nn

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import train_animals  # noqa: E402
import training  # noqa: E402
from animal_net import animal_net  # noqa: E402

TINY = training.Recipe(widths=(8, 8, 8), hidden=8, epochs=3, batch=16)
PICTURES = ("overview", "learning_curves", "accuracy", "zeros", "confusion", "filters", "predictions")

# Run main with a tiny net and without the report. WHEN: "net epoch", in the middle of which SIGNAL is sent.
DRIVER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)       # in the background of a shell it would be ignored
sys.path.insert(0, sys.argv[1])
import train_animals, training
train_animals.PRESETS["quick"] = training.Recipe(widths=(8, 8, 8), hidden=8, epochs=3, batch=16)
train_animals.write_report = lambda *_: ""
train_animals.inference_seconds = lambda engines, *_: [1.0] * len(engines)
show = training.Progress.show
def stop(self, run, images, *figures):
    self.every = 0
    show(self, run, images, *figures)
    if f"{run.name} {run.epoch + 1}" == os.environ.get("WHEN") and images > 32:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
training.Progress.show = stop
sys.exit(train_animals.main(sys.argv[2:]))
"""


def write_images(folder, count, classes=data.drawn.CLASSES, style=data.drawn.STYLES[0], seed=0):
    images, labels = data.drawn.draw(count, style, seed=seed, size=32)
    for i, (image, label) in enumerate(zip(images, labels)):
        name = data.drawn.CLASSES[label]
        if name in classes:
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = ms.get_num_threads()
    yield
    ms.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    """Tiny nets, no report. The list that it returns gets the results and pictures that the report would get."""
    handed = []
    monkeypatch.setitem(train_animals.PRESETS, "quick", TINY)
    monkeypatch.setattr(train_animals, "write_report", lambda out, *rest: handed.append(rest) or "")
    monkeypatch.setattr(train_animals, "inference_seconds", lambda engines, *_: [1.0] * len(engines))
    return handed


def main(*arguments):
    return train_animals.main([*map(str, arguments), "--preset", "quick", "--threads", "2"])


def drive(*arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run([sys.executable, "-c", DRIVER, EXAMPLES, *map(str, arguments), "--preset", "quick",
                           "--threads", "2"], env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
                          stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_animals.PRESETS, "quick", TINY)
        patch.setattr(train_animals, "write_report", lambda *_: "")
        patch.setattr(train_animals, "inference_seconds", lambda engines, *_: [1.0] * len(engines))
        assert main("--data", photos, "--out", out) == 0
    return out


def bits(value):
    """Nested state with each array as its bytes, so that == compares bit for bit."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    value = value.data if isinstance(value, ms.Tensor) else value
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def state(out, name):
    """A checkpoint without its times."""
    found = ms.load(out / f"{name}.checkpoint")
    times = ("seconds", "images_per_second", "waited", "worked")
    found["history"] = [{k: v for k, v in row.items() if k not in times} for row in found["history"]]
    return bits(found)


def same_nets(out, other):
    return all(state(out, name) == state(other, name) for name in ("dense", "sparse"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else None


# A whole run

def test_a_run_from_photographs_to_the_report(photos, tmp_path):
    """As in the README, with class folders and an external set in a zip that lacks four of six classes."""
    few = write_images(tmp_path / "few", 5, ("cat", "dog"), data.drawn.STYLES[1], seed=1)
    shutil.make_archive(few, "zip", few)
    out = tmp_path / "new" / "out"
    done = subprocess.run([sys.executable, EXAMPLES / "train_animals.py", "--data", photos, "--val", f"few={few}.zip",
                           "--preset", "quick", "--epochs", "1", "--out", out],
                          env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("Accuracy on the test set, 12 images", "Accuracy on few, 10 images",
                 "mean over 2 classes (4 not in this set)", "Training time", "batch 64, per call", "conv3b",
                 "fully connected layers", "dense epoch 1/1  loss", "sparse epoch 1/1  loss"):
        assert text in done.stdout
    assert "\r" not in done.stdout and "\033" not in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "report.md", "report.json", *(f"{name}.png" for name in PICTURES),
        *(f"{net}{kind}" for net in ("dense", "sparse")
          for kind in (".checkpoint", ".safetensors", "-float16.safetensors", "-int8.safetensors"))}
    for name in PICTURES:
        with Image.open(out / f"{name}.png") as picture:
            picture.load()
    assert "Accuracy on few" in (out / "report.md").read_text()

    report = json.loads((out / "report.json").read_text())
    assert report["data"] | {"name": ""} == {
        "name": "", "classes": list(data.drawn.CLASSES), "train": 57, "held_out": 3, "test": 12,
        "validation": {"few": 10}, "left_out": []}
    settings = report["settings"]
    targets = {"conv": settings["conv"], "linear": settings["linear"]}
    x = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    for name, net in report["nets"].items():
        assert np.sum(net["test"]["confusion"]) == 12
        assert net["test"]["accuracy"] == pytest.approx(np.trace(net["test"]["confusion"]) / 12)
        assert set(net["validation"]["few"]["per_class"]) == {"cat", "dog"}
        assert net["file_bytes"]["float32"] == (out / f"{name}.safetensors").stat().st_size
        assert net["file_bytes"]["int8"] == (out / f"{name}-int8.safetensors").stat().st_size
        assert set(net["inference"]) == {"1", "64"} and min(net["inference"].values()) > 0
        assert 0 < net["training"]["seconds"] < 100
        for layer in net["layers"]:
            dense = name == "dense" or layer["name"] == "whiten"
            share = 0 if dense else targets[layer["kind"]]
            assert layer["zeros"] == layer["weights"] - round(layer["weights"] * (1 - share)), layer

        model = animal_net(6, settings["widths"], settings["hidden"])
        trained = ms.load(out / f"{name}.checkpoint")["model"]
        for key in (key for key in trained if key.endswith("_mask")):
            assert not trained[key.removesuffix("_mask")].data[~trained[key].data].any()
        model.load_state_dict(trained)
        model.eval()
        with ms.no_grad():
            expected = model(ms.Tensor(x)).numpy()
        np.testing.assert_allclose(deploy.load(out / f"{name}.safetensors")(x), expected, rtol=1e-4, atol=1e-5)
    nets = report["nets"]
    assert nets["sparse"]["file_bytes"]["float32"] < 0.6 * nets["dense"]["file_bytes"]["float32"]
    assert {layer["kind"] for layer in nets["sparse"]["layers"]} == {"conv", "linear"}


# Stopped and resumed

def test_ctrl_c_then_kill_9_then_resume_is_the_run_that_never_stopped(photos, finished, tmp_path):
    run = ("--data", photos, "--out", tmp_path, "--resume")
    screen, terminal = pty.openpty()
    stopped = drive(*run, stdout=terminal, WHEN="dense 2", SIGNAL=str(int(signal.SIGINT)), COLUMNS="80")
    os.close(terminal)
    with open(screen, "rb", buffering=0) as file:
        shown = file.read(1 << 16).decode()
    assert stopped.returncode == 130
    assert stopped.stderr == "train_animals: stopped; the same command with --resume goes on from the last whole epoch\n"
    assert ms.load(tmp_path / "dense.checkpoint")["epoch"] == 1
    redrawn = shown.split("\r\n")[-2]       # the line of epoch 2, one text over the other
    assert redrawn.count("\r") == redrawn.count("\033[K") == 2 and " left  loss " in redrawn
    assert all(40 < len(text.strip("\r")) < 80 for text in redrawn.split("\033[K")[:-1])

    killed = drive(*run, WHEN="sparse 2", SIGNAL=str(int(signal.SIGKILL)))
    assert killed.returncode == -signal.SIGKILL
    assert "dense: 1 of 3 epochs are done" in killed.stdout and "sparse epoch 2/3" in killed.stdout
    assert "\r" not in killed.stdout and "\033" not in killed.stdout
    assert ms.load(tmp_path / "sparse.checkpoint")["epoch"] == 1

    assert drive(*run).returncode == 0
    assert same_nets(tmp_path, finished)
    assert contents(tmp_path)["sparse.safetensors"] == contents(finished)["sparse.safetensors"]


@pytest.mark.parametrize("method, epoch", [("global", 1), ("one-shot", 1), ("set", 1), ("rigl", 1), ("lottery", 0)])
def test_every_method_resumes_to_the_same_bits(method, epoch, photos, tmp_path, tiny, monkeypatch):
    run = ("--data", photos, "--method", method, "--out")
    assert main(*run, tmp_path / "whole") == 0

    def stop(self, net, images, *figures):
        if (net.name, net.epoch, images) == ("sparse", epoch, 32):
            raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(training.Progress, "show", stop)
        assert main(*run, tmp_path / "stopped") == 130
    assert main(*run, tmp_path / "stopped", "--resume") == 0
    assert same_nets(tmp_path / "stopped", tmp_path / "whole")


def test_a_full_disk_costs_one_epoch(photos, finished, tmp_path, tiny, monkeypatch, capsys):
    written = []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert main("--data", photos, "--out", tmp_path) == 2
    assert capsys.readouterr().err == f"train_animals: {tmp_path}/dense.checkpoint: No space left on device\n"
    assert set(contents(tmp_path)) == {"dense.checkpoint"}
    assert ms.load(tmp_path / "dense.checkpoint")["epoch"] == 1
    assert main("--data", photos, "--out", tmp_path, "--resume") == 0
    assert same_nets(tmp_path, finished)


@pytest.mark.parametrize("option, value, named", [
    ("--epochs", 4, "epochs 3, this run has 4"), ("--seed", 1, "seed 0, this run has 1"),
    ("--l1", 0.5, "l1 "), ("--conv-sparsity", 0.5, "conv "), ("--data", "others", "images (CRC-32) "),
    ("--data", "more", "training images 57, this run has ")])
def test_resume_refuses_other_settings_and_data(option, value, named, photos, finished, tmp_path, tiny, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    if option == "--data":
        new = {"others": sorted(path.name for path in (photos / "cat").iterdir()), "more": ["x.png", "y.png"]}[value]
        value = shutil.copytree(photos, tmp_path / value)
        for name in new:
            shutil.copy(next((value / "dog").iterdir()), value / "cat" / name)
    assert main("--data", photos, "--out", out, "--resume", option, value) == 2
    error = capsys.readouterr().err
    net = "sparse" if option in ("--l1", "--conv-sparsity") else "dense"    # which the dense net does not have
    assert f"{out}/{net}.checkpoint: made with {named}" in error and len(error.splitlines()) == 2
    assert contents(out) == contents(finished) and not tiny


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "model", "field", "net"])
def test_resume_from_a_damaged_checkpoint(damage, photos, finished, tmp_path, tiny, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    path = out / "sparse.checkpoint"
    found = ms.load(path)
    if damage == "model":
        shutil.copy(out / "sparse.safetensors", path)
    elif damage == "field":
        del found["settings"]
        ms.save(found, path)
    elif damage == "net":
        del found["model"]["fc1.weight"]
        ms.save(found, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-100], "empty": b"", "garbage": whole[::-1]}[damage])
    before = contents(out)
    assert main("--data", photos, "--out", out, "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train_animals: {path}: ") and len(error.splitlines()) == 2
    assert contents(out) == before


def test_without_resume_a_run_begins_anew(photos, finished, tmp_path, tiny, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")

    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(training.Progress, "show", interrupt)
    assert main("--data", photos, "--out", out, "--seed", 1) == 130
    assert all(name.endswith(".safetensors") for name in contents(out))     # models of the older run, no checkpoint


# Bad input

def damaged(folder, kind):
    """The arguments of a run that cannot work, and what the error must name."""
    photos, bad = write_images(folder / "photos", 2), folder / "bad"
    picture = next((photos / "cat").iterdir()).read_bytes()
    files = {"cat/0.png": picture, "cat/1.png": picture, "dog/0.png": picture, "dog/1.png": picture}
    if kind == "missing":
        return ["--data", bad], str(bad)
    if kind == "no zip":
        bad.write_bytes(b"PK\3\4 and no more")
        return ["--data", bad], str(bad)
    if kind == "cifar10":
        return ["--data", "cifar10", "--data-dir", folder], str(folder)
    if kind == "val twice":
        return ["--data", photos, "--val", f"a={photos}", "--val", f"a={photos}"], f"--val a={photos}"
    if kind == "val without name":
        return ["--data", photos, "--val", photos], f"--val {photos}"
    if kind == "val missing":
        return ["--data", photos, "--val", f"a={bad}"], str(bad)
    if kind == "val style":
        return ["--data", photos, "--val", "a=drawn:cubism"], "--val a=drawn:cubism"
    if kind == "val test":
        return ["--data", photos, "--val", "test=drawn:field"], "--val test=drawn:field"
    if kind == "val unknown class":
        write_images(bad, 1, ("cat", "dog"))
        (bad / "cat").rename(bad / "axolotl")
        return ["--data", photos, "--val", f"a={bad}"], "axolotl"
    if kind in ("bomb", "zip slip"):
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
            if kind == "bomb":
                with file.open("dog/bomb.png", "w") as entry:
                    Image.new("1", (9000, 9000)).save(entry, "PNG")
            else:
                file.writestr("../dog/bomb.png", picture)
        return ["--data", bad], "dog/bomb.png"
    files |= {"truncated": {"dog/1.png": picture[:-200]}, "empty class": {"owl/notes.txt": b""},
              "no image": {"dog/1.png": b"GIF89a"}}.get(kind, {})
    for name, content in files.items():
        path = bad / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if kind == "one class":
        shutil.rmtree(bad / "cat")
        return ["--data", bad], "dog"
    if kind == "too few":       # two are for testing, one is held out, one is left
        return ["--data", bad], str(bad)
    if kind == "one colour":
        for path in bad.glob("*/*"):
            Image.new("RGB", (40, 40), "red").save(path)
        Image.new("RGB", (40, 40), "red").save(bad / "dog" / "2.png")
        return ["--data", bad], str(bad)
    return ["--data", bad], {"empty class": "owl"}.get(kind, "dog/1.png")


@pytest.mark.parametrize("kind", [
    "missing", "no zip", "cifar10", "val twice", "val without name", "val missing", "val test", "val style", "val unknown class",
    "bomb", "zip slip", "truncated", "empty class", "no image", "one class", "too few", "one colour"])
def test_bad_data(kind, tmp_path, tiny, capsys):
    arguments, named = damaged(tmp_path, kind)
    out = tmp_path / "out"
    assert main(*arguments, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_animals: ") and named in error and len(error.splitlines()) <= 2
    assert not out.exists()


def test_bad_input_leaves_an_older_run_alone(finished, tmp_path, tiny, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    assert main("--data", tmp_path / "nothing", "--out", out) == 2
    assert contents(out) == contents(finished)


def test_bad_places_for_the_results(photos, tmp_path, tiny, capsys, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")
    for out in (file, file / "below"):
        assert main("--data", photos, "--out", out) == 2
        error = capsys.readouterr()
        assert error.err == f"train_animals: {file}: --out needs a folder, this is a file\n" and not error.out
    assert file.read_text() == "old"
    monkeypatch.setattr(os, "access", lambda path, mode: False)     # root may write anywhere
    assert main("--data", photos, "--out", tmp_path / "a" / "b") == 2
    assert capsys.readouterr().err == f"train_animals: {tmp_path}: --out cannot be written\n"


@pytest.mark.parametrize("option, value", [
    ("--epochs", "0"), ("--epochs", "many"), ("--threads", "0"), ("--seed", "-1"), ("--conv-sparsity", "1"),
    ("--fc-sparsity", "nan"), ("--l1", "-1"), ("--l1", "inf"), ("--preset", "best")])
def test_bad_options(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_animals.main([option, value])
    assert stopped.value.code == 2 and option in capsys.readouterr().err.splitlines()[-1]


def test_one_sparsity_or_two(capsys):
    with pytest.raises(SystemExit, match="2"):
        train_animals.main(["--sparsity", "0.9", "--fc-sparsity", "0.5"])
    assert "--sparsity is in place of" in capsys.readouterr().err


def test_a_run_that_cannot_work(photos, tmp_path, tiny, capsys, monkeypatch):
    assert main("--data", photos, "--out", tmp_path / "out", "--fc-sparsity", "0.9999") == 2
    error = capsys.readouterr().err
    assert "keeps none at sparsity 0.9999" in error and len(error.splitlines()) == 2

    monkeypatch.setattr(training.nn.CrossEntropyLoss, "forward", lambda self, scores, y: (scores * np.nan).sum())
    assert main("--data", photos, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "dense: the loss is nan in epoch 1" in error and len(error.splitlines()) == 2
    assert not any((tmp_path / "out").iterdir())


def test_bad_images_are_left_out_and_listed(photos, tmp_path, tiny, capsys):
    bad = shutil.copytree(photos, tmp_path / "photos")
    (bad / "dog" / "broken.png").write_bytes(b"\x89PNG and no more")
    (bad / "cat" / "broken.gif").write_bytes(b"GIF89a")
    assert main("--data", bad, "--out", tmp_path / "out", "--epochs", 1, "--skip-bad-images") == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert len(listed) == 2 and "cat/broken.gif" in listed[0] and "dog/broken.png" in listed[1]
    results, _ = tiny[0]
    assert [f"left out: {line}" for line in results["data"]["left_out"]] == listed
    assert results["data"]["train"] == 57


# Threads, Numba, progress

def test_threads(photos, finished, tmp_path, tiny):
    for name, threads in (("a", 1), ("b", 1), ("c", 2)):
        assert train_animals.main(["--data", str(photos), "--out", str(tmp_path / name), "--preset", "quick",
                                   "--threads", str(threads)]) == 0
        assert tiny[-1][0]["settings"]["threads"] == threads
    assert same_nets(tmp_path / "a", tmp_path / "b")
    assert same_nets(tmp_path / "c", finished)
    one, two = (ms.load(tmp_path / name / "dense.checkpoint")["history"][0]["loss"] for name in "ac")
    assert one == pytest.approx(two, rel=1e-5)


def test_without_numba(photos, finished, tmp_path):
    done = drive("--data", photos, "--out", tmp_path, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0
    assert done.stderr.count("Warning") == 1 and "NUMBA_DISABLE_JIT is set" in done.stderr
    for name in ("dense", "sparse"):
        with_it, without = (ms.load(out / f"{name}.checkpoint")["history"] for out in (finished, tmp_path))
        assert without[0]["loss"] == pytest.approx(with_it[0]["loss"], rel=1e-5)
        assert without[-1]["loss"] == pytest.approx(with_it[-1]["loss"], rel=1e-3)
        assert without[-1]["sparsity"] == with_it[-1]["sparsity"]


def test_six_looks_are_one_look_at_moved_and_mirrored_images(tmp_path):
    images, labels = data.drawn.draw(2, data.drawn.STYLES[0], seed=0, size=32)
    train = data.ImageSet(images, labels, data.drawn.CLASSES, [""] * len(labels))
    run = training.Run("net", train, train, data.channel_stats(images), training.without_zeros(TINY), 0, tmp_path / "x")
    looks = run.looks(images, run.recipe.looks)
    np.testing.assert_allclose(run.evaluate(images), looks.mean(axis=0))
    inside = np.arange(32)
    moved = {0: inside, -1: np.append(inside[1:], 30), 1: np.append(1, inside[:-1])}    # reflected about the edge pixel
    expected = []
    for rows in moved.values():
        view = images[:, :, rows][:, :, :, rows]
        expected += [run.look(view), run.look(np.ascontiguousarray(view[..., ::-1]))]
    np.testing.assert_array_equal(looks, expected)
    np.testing.assert_array_equal(looks[0], run.look(images))
    assert len({look.tobytes() for look in looks}) == 6


def test_progress_counts_the_time_left_of_both_nets(monkeypatch, capsys):
    loader = type("Loader", (), {"images": np.zeros(100), "batch_size": 10, "__len__": lambda self: 10})()
    runs = [SimpleNamespace(name=name, epoch=epoch, recipe=TINY, loader=loader, model=nn.Linear(2, 2))
            for name, epoch in (("dense", 1), ("sparse", 0))]
    clock = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    progress = training.Progress(sys.stdout, runs)
    progress.show(runs[0], 10, 1.5, 0.25, 60.0)     # with compilation
    progress.show(runs[0], 20, 1.5, 0.25, 61.0)
    assert capsys.readouterr().out == ""            # too soon for a log
    clock[0] = 3600.0
    progress.show(runs[0], 50, 1.5, 0.25, 64.0)     # 10 images a second; 450 of 600 are left
    assert capsys.readouterr().out == ("dense epoch 2/3  50%  0:00:45 left  loss 1.500  accuracy 25.0%  zeros 0.0%  "
                                       "10 images/s\n")
