"""The search for the smallest net: bisection and choice on a made-up search, and a tiny one as a user runs it."""
import dataclasses
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import budget  # noqa: E402
import train_animals  # noqa: E402
import training  # noqa: E402

CURVES = {"a": [0.9, 0.9, 0.9, 0.85, 0.7, 0.5, 0.3], "b": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]}


class Pretended:
    """Candidates lose a tenth of what a layer may lose alone; trained in full they gain or lose `change` besides."""

    accuracy, dense, fits, within = 0.9, "dense", budget.Search.fits, 0.01

    def __init__(self, change=0.0):
        self.change = change

    def candidate(self, loss, targets):
        return {"accuracy": 0.9 - loss / 10, "zeros": loss}

    def full(self, loss, targets):
        return f"full {loss:.3f}", {"accuracy": 0.9 - loss / 10 + self.change, "zeros": loss}


def test_bisection_closes_in_on_the_largest_loss_that_fits():
    tried = budget.bisect(Pretended(), CURVES, tries=12)
    assert [c["loss"] for c in tried[:2]] == pytest.approx([0.001 ** 0.5, 0.001 ** 0.25])
    assert [c["fits"] for c in tried[:2]] == [True, False]
    assert max(c["loss"] for c in tried if c["fits"]) == pytest.approx(0.1, rel=0.01)
    assert all(c["fits"] == (c["loss"] <= 0.1) for c in tried)
    small, large = (min(tried, key=lambda c: c["loss"]), max(tried, key=lambda c: c["loss"]))
    assert all(small["targets"][name] < large["targets"][name] for name in CURVES)


def test_the_smallest_that_still_fits_after_the_full_training_wins():
    tried = budget.bisect(Pretended(), CURVES, tries=8)
    fitting = sorted((c["loss"] for c in tried if c["fits"]), reverse=True)
    winner, trained = budget.smallest(Pretended(), tried)
    assert winner == f"full {fitting[0]:.3f}" and len(trained) == 1
    winner, trained = budget.smallest(Pretended(change=-0.003), tried)      # the first ones lose too much then
    expected = next(loss for loss in fitting if loss / 10 + 0.003 <= 0.01)
    assert winner == f"full {expected:.3f}" and len(trained) == fitting.index(expected) + 1
    winner, trained = budget.smallest(Pretended(change=-0.5), tried)
    assert winner == "dense" and len(trained) == len(fitting)


def test_a_search_from_beginning_to_end_and_again_from_its_files(tmp_path, monkeypatch, capsys):
    tiny = dataclasses.replace(train_animals.PRESETS["quick"], widths=(8, 8, 8), hidden=8, epochs=2, batch=16)
    monkeypatch.setitem(train_animals.PRESETS, "quick", tiny)
    monkeypatch.setattr(train_animals, "DRAWN_TRAIN", 20)
    monkeypatch.setattr(train_animals, "DRAWN_TEST", 5)
    asked = []
    evaluate = training.Run.evaluate
    monkeypatch.setattr(training.Run, "evaluate", lambda run, images: asked.append(len(images)) or evaluate(run, images))
    args = ["--out", str(tmp_path), "--tries", "2", "--within", "50", "--threads", "1"]
    assert budget.main(args) is None
    # Held out: eight layers at six sparsities and the whole, and each of four nets; the test set at the end.
    assert asked == [24] * (8 * 6 + 1 + 4) + [30] * 2
    text = (tmp_path / "budget.md").read_text()
    assert text in capsys.readouterr().out
    assert "96 images trained on, 24 held out, 30 in the test set" in text
    rows = [line.split("|") for line in text.splitlines() if line.endswith("| yes |")]
    zeros = [float(row[-4]) for row in rows if len(row) > 9]
    assert len(zeros) == 2 and 0 < zeros[0] <= zeros[1]
    assert f"{max(zeros):.1f}% zeros" in text
    monkeypatch.setattr(training.Run, "train", lambda *_: pytest.fail("trained again"))
    assert budget.main(args) is None and (tmp_path / "budget.md").read_text() == text
    assert budget.main([*args, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
