"""The study of overfitting: which images it takes, its verdicts on made-up figures, and tiny runs."""
import dataclasses
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from minisparse import data

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import overfitting  # noqa: E402
import train_animals  # noqa: E402
import training  # noqa: E402


def test_sample():
    images = train_animals.drawn(data.drawn.STYLES[0], 30, 0)
    train, held_out = overfitting.sample(images, 7, 1)
    assert np.bincount(train.labels).tolist() == [7] * 6 and np.bincount(held_out.labels).tolist() == [20] * 6
    assert not set(train.names) & set(held_out.names)
    assert overfitting.sample(images, 7, 1)[0].names == train.names != overfitting.sample(images, 7, 2)[0].names
    assert len(overfitting.sample(images, 25, 1)[1]) == 30         # what is left
    with pytest.raises(data.DataError, match="30 images of each class asked for.* 30 is all"):
        overfitting.sample(images, 30, 1)


def test_pairs_and_verdicts():
    def runs(*accuracies):
        return [{"accuracy": a, "training": 1.0, "zeros": .5} for a in accuracies]
    figures = {("x", "dense", 0): runs(.5, .6, .7, .5, .6), ("x", "gradual", .5): runs(.51, .62, .73, .51, .61),
               ("x", "gradual", .9): runs(.51, .59, .73, .51, .61), ("x", "rigl", .9): runs(.4, .5, .6, .4, .5)}
    rows = [line.split(" | ") for line in overfitting.table(figures).splitlines()[2:]]
    assert [row[-1].strip(" |") for row in rows] == ["", "better", "seeds disagree", "worse"]
    assert rows[1][2:6] == ["50.0 ± 0.0", "100.0 ± 0.0", "59.6 ± 11.0", "+1.6, +1.0 to +3.0"]
    assert overfitting.verdict([1.0] * 4) == "too few seeds to tell"


def test_tiny_runs_from_beginning_to_end_and_again_from_their_files(tmp_path, monkeypatch, capsys):
    tiny = dataclasses.replace(train_animals.PRESETS["quick"], widths=(8, 8, 8), hidden=8, batch=16)
    monkeypatch.setitem(train_animals.PRESETS, "quick", tiny)
    monkeypatch.setattr(train_animals, "DRAWN_TRAIN", 20)
    monkeypatch.setattr(train_animals, "DRAWN_TEST", 5)
    augments, train = [], training.Run.train
    monkeypatch.setattr(training.Run, "train", lambda run, progress: augments.append(run.loader.augment)
                        or train(run, progress))
    args = ["--out", str(tmp_path), "--count", "8", "--epochs", "2", "--seeds", "0", "1", "--threads", "1",
            "--methods", "gradual", "lottery", "--sparsities", "0.5", "0.8"]
    assert overfitting.main(args) is None
    plain, moved = data.Augment(shift=0, flip=False), data.Augment(shift=2)
    assert augments == ([plain] * 5 + [moved] * 5) * 2
    text = (tmp_path / "overfitting.md").read_text()
    assert text in capsys.readouterr().out
    rows = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [row[1] for row in rows] == ["dense", "gradual", "gradual", "lottery", "lottery"] * 2
    assert [round(float(row[2].split()[0])) for row in rows] == [0, 50, 80, 50, 80] * 2
    assert Image.open(tmp_path / "overfitting.png").size[0] > 500
    assert overfitting.main(args) is None and len(augments) == 20          # nothing is trained again
    assert (tmp_path / "overfitting.md").read_text() == text
    assert overfitting.main([*args, "--count", "20"]) == 2


def test_studies_leave_out_what_cannot_be_read_where_they_are_asked_to(tmp_path):
    for name in "cat", "dog":
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.new("RGB", (8, 8), (20 * i, 9 * i, 90 + i)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(data.DataError, match="--skip-bad-images"):
        overfitting.study.read(str(tmp_path))
    train, test = overfitting.study.read(str(tmp_path), skip_bad=True)
    assert len(train) + len(test) == 24
