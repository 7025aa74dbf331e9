"""The report of train_animals.py, on made-up results."""
import copy
import errno
import json
import os
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import comparison  # noqa: E402
import report  # noqa: E402

CLASSES = ["bird", "cat", "dog"]
PICTURES = {f"{name}.png" for name in ("accuracy", "confusion", "filters", "learning_curves", "overview",
                                       "predictions", "zeros")}


def net(right, epoch_seconds, per_call, size, zeros):
    """A net that names `right` of 1000 test images of each class."""
    confusion = [[right if i == j else (1000 - right) // 2 for j in range(3)] for i in range(3)]
    share = right / 1000
    layers = [("conv1", "conv", 1000), ("a.layer.with.a.really.long.name.conv2", "conv", 3000),
              ("fc", "linear", 2000)]
    return {"history": [{"epoch": e, "step": 20 * e, "loss": 1 / e, "accuracy": share, "held_out": share,
                         "lr": 0.1, "sparsity": e * zeros["conv"] / 3, "conv": 0.1, "linear": 0.1,
                         "seconds": epoch_seconds, "images_per_second": 10.0, "waited": 0.1, "worked": 0.2}
                        for e in (1, 2, 3)],
            "steps": [[step, 2.0] for step in range(10, 61, 10)],
            "schedule": [[0, 0.0, 0.0], [60, zeros["conv"], zeros["linear"]]],
            "test": {"accuracy": share, "counts": dict.fromkeys(CLASSES, 1000), "per_class": dict.fromkeys(CLASSES, share), "mean": share,
                     "confusion": confusion},
            "validation": {"photos": {"count": 300, "counts": {"cat": 300}, "accuracy": share - 0.1, "mean": share - 0.1,
                                      "per_class": {"cat": share - 0.1}}},
            "training": {"seconds": 3 * epoch_seconds, "data_waited": 0.3, "data_worked": 0.6},
            "inference": {"1": per_call, "64": 20 * per_call}, 
            "file_bytes": {"float32": size, "float16": size // 2, "int8": size // 4}, "one_look": share, "int8_accuracy": share,
            "layers": [{"name": name, "kind": kind, "shape": [n], "weights": n,
                        "zeros": round(n * zeros[kind])} for name, kind, n in layers]}


def made_up():
    results = {"command": "python examples/train_animals.py --seed 7",
               "settings": {"seed": 7, "preset": "quick", "looks": [0, -2]},
               "machine": {"cpu": "abacus", "cores": 2},
               "data": {"name": "zoo.zip", "classes": CLASSES, "train": 500, "held_out": 50, "test": 3000,
                        "validation": {"photos": 300}, "left_out": ["cat/7.png: truncated"]},
               "nets": {"dense": net(930, 60.0, 0.004, 1_000_000, {"conv": 0.0, "linear": 0.0}),
                        "sparse": net(924, 50.0, 0.002, 480_000, {"conv": 0.5, "linear": 0.75})}}
    rng = np.random.default_rng(0)
    weights, labels = rng.normal(size=(2, 6, 3, 3, 3)), rng.integers(0, 3, (3, 30))
    pictures = {"filters": dict(zip(report.NETS, weights)), "mask": weights[1] > 0,
                "examples": {"images": rng.integers(0, 255, (30, 3, 8, 8), np.uint8),
                             "truth": labels[0], "dense": labels[1], "sparse": labels[2],
                             "scores_sparse": rng.dirichlet([1, 1, 1], 30)}}
    return results, pictures


def row(results, name, detail=1):
    return next(r for r in comparison.table(results, detail) if r.name == name)


def sentence(results, topic):
    return next(f for f in comparison.findings(results) if f.topic == topic)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    results, pictures = made_up()
    text = report.write_report(out, results, pictures)
    return out, results, text


def test_files_are_whole(written):
    from PIL import Image
    out, results, _ = written
    assert {path.name for path in out.iterdir()} == PICTURES | {"report.md", "report.json"}
    for name in PICTURES:
        with Image.open(out / name) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 200
    assert json.loads((out / "report.json").read_text()) == results


def test_page_names_command_settings_machine_and_embeds_pictures(written):
    out, _, _ = written
    page = (out / "report.md").read_text()
    for text in ("train_animals.py --seed 7\n", "seed 7,", "preset quick", "abacus", "cat/7.png: truncated"):
        assert text in page
    assert all(f"]({name})" in page for name in PICTURES)


def test_figures(written):
    text, results = written[2], written[1]
    assert row(results, "overall")[1:4] == ("93.0 %", "92.4 %", "-0.6 points")
    assert row(results, "median epoch")[1:4] == ("60.0 s", "50.0 s", "1.20x faster")
    assert row(results, "whole")[1:4] == ("180 s (3 min)", "150 s (2 min)", "1.20x faster")
    assert row(results, "waited for data")[1:3] == ("300 ms, 0.2 %", "300 ms, 0.2 %")
    assert row(results, "batch 1, per call")[1:4] == ("4 ms", "2 ms", "2.00x faster")
    assert row(results, "batch 64, images/s")[1:3] == ("800", "1,600")
    assert row(results, "float32 values")[1:] == ("1,000,000", "480,000", "0.48 of the size", "30 % of the size")
    assert row(results, "int8 values")[1:4] == ("250,000", "120,000", "0.12 of dense float32")
    assert row(results, "conv layers")[1:4] == ("0.0 %", "50.0 %", "+50.0 points")
    assert row(results, "all of these")[2] == "58.3 %"                      # (2000 + 1500) / 6000
    for figure in ("93.0 %", "92.4 %", "1.20x faster", "480,000", "58.3 %", "photos, 300 images"):
        assert figure in text


def test_missing_classes_are_counted_and_left_out():
    results, _ = made_up()
    names = [r.name for r in comparison.table(results, detail=2)]
    assert "mean over 1 classes (2 not in this set)" in names
    assert names.count("cat") == 2 and names.count("dog") == 1


def test_difference_within_noise_is_called_noise():
    results, _ = made_up()
    found = sentence(results, "accuracy on test")
    error = 100 * np.sqrt((0.93 * 0.07 + 0.924 * 0.076) / 3000)
    assert found.verdict == "same"
    assert "0.6 points worse" in found.sentence and "within noise" in found.sentence
    assert f"{error:.1f} points" in found.sentence


def test_worse_and_slower_are_said_in_words():
    results, _ = made_up()
    results["nets"]["sparse"] = net(850, 75.0, 0.008, 1_200_000, {"conv": 0.5, "linear": 0.75})
    results["nets"]["sparse"]["training"]["data_waited"] = 45.0
    found = comparison.findings(results)
    worse = {f.topic for f in found if f.verdict == "worse"}
    assert worse >= {"accuracy on test", "accuracy on photos", "training", "inference at batch 1",
                     "inference at batch 64", "model file"}
    assert "8.0 points worse" in sentence(results, "accuracy on test").sentence
    assert "more than noise" in sentence(results, "accuracy on test").sentence
    assert "1.25x slower" in sentence(results, "training").sentence
    assert "150 s (2 min) against 120 s" in sentence(results, "training").sentence     # two of three epochs
    for history in comparison.both(results, "history"):
        del history[2:]
    assert sentence(results, "training").verdict == "same" and "too few" in sentence(results, "training").sentence
    assert "2.00x slower" in sentence(results, "inference at batch 1").sentence
    assert "larger" in sentence(results, "model file").sentence
    assert "sparse net's training time: 20.0 %" in sentence(results, "data").sentence
    assert "better, faster or smaller: nothing." in "\n".join(comparison.summary(found))


def test_the_looks_that_an_accuracy_is_of_are_named():
    results, _ = made_up()
    assert "of 4 looks at each image, as it is and mirrored, moved by 0, -2 pixels" in sentence(results, "looks").sentence
    results["settings"]["looks"] = [0]
    assert "of 2 looks at each image, as it is and mirrored, whose" in sentence(results, "looks").sentence


def test_times_too_close_to_call():
    assert comparison.faster(1.0, 1.02) == comparison.faster(1.0, 0.98) == "same speed"
    assert comparison.faster(1.0, 1.05) == "1.05x slower"


def test_bare_and_diverged_runs(tmp_path):
    """No external set, one epoch, no mask, no wrong answer, a class without test images, NaN."""
    results, pictures = made_up()
    results["data"] |= {"validation": {}, "left_out": []}
    for values in results["nets"].values():
        values["history"], values["steps"], values["validation"] = values["history"][:1], [], {}
        values["history"][0]["loss"] = np.float32("nan")
        values["test"]["per_class"]["dog"], values["test"]["confusion"][2] = float("nan"), [0, 0, 0]
        values["layers"] = values["layers"][:2]
    results["nets"]["dense"]["schedule"] = []
    results["data"]["classes"] = ["$bird^$", *CLASSES[1:]]     # no mathematics
    for values in results["nets"].values():
        for key in "per_class", "counts":
            values["test"][key]["$bird^$"] = values["test"][key].pop("bird")
    pictures["examples"]["sparse"] = pictures["examples"]["truth"]
    pictures |= {"mask": None, "filters": {name: np.full((4, 1, 5, 5), np.nan) for name in report.NETS}}
    before = copy.deepcopy(results)
    text = report.write_report(tmp_path, results, pictures)
    assert "mean over 2 classes (1 not in this set)" in text and "fully connected" not in text
    assert "nan" not in text.lower()
    loaded = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert loaded["nets"]["dense"]["test"]["per_class"]["dog"] is None
    assert repr(results) == repr(before)


def test_no_half_written_file(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="report.json"):
        report.write_report(tmp_path, *made_up())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": "old"}
