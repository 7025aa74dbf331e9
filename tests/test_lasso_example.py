"""examples/l1_regression.py: what it claims about zeros, its picture and its errors."""
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import l1_regression  # noqa: E402
from l1_regression import FEATURES, RELEVANT  # noqa: E402


def test_the_example_shows_what_it_says(tmp_path, capsys):
    assert l1_regression.main(["--out", str(tmp_path / "new" / "folder"), "--seed", "3"]) == 0
    image = pytest.importorskip("PIL.Image").open(tmp_path / "new" / "folder" / "l1_path.png")
    assert image.format == "PNG" and min(image.size) > 500 and np.ptp(np.asarray(image.convert("L"))) > 100
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if "L1" in line[:22]]
    assert [line[:22].strip() for line in table] == ["without L1", "L1 in the loss", "L1 by proximal steps",
                                                     "then without L1"]
    zeros, small, kept, _, error = zip(*([float(word) for word in line[22:].split()] for line in table))
    assert zeros[:2] == (0, 0)
    assert small[0] < 20 and small[1] > 50
    assert 60 <= zeros[2] <= 75 and kept[2] >= 28
    assert zeros[2:] == (zeros[2],) * 2
    assert error[3] < error[0] < error[2]
    assert "weights   500,000 -> 100,000" in lines
    assert "bytes     2,000,000 -> 1,204,008 as CSR (float32 values, int64 indices)" in lines
    assert sum(line.startswith("batch") for line in lines) == 2


def test_every_point_of_the_path_is_a_lasso():
    train, held_out = l1_regression.make_data(np.random.default_rng(0))
    lambdas, weights, errors = l1_regression.follow_path(train, held_out)
    assert weights.shape == (len(lambdas), FEATURES) and not weights[0].any()
    x, y = (t.data.astype(float) for t in train)
    x, y = x - x.mean(axis=0), y.ravel() - y.mean()     # the bias takes the means, and is not penalised
    for strength, w in zip(lambdas, weights):
        g = x.T @ (x @ w - y) / len(y)
        violation = np.where(w != 0, np.abs(g + strength * np.sign(w)), np.maximum(np.abs(g) - strength, 0))
        assert violation.max() < 1e-4
    assert np.count_nonzero(weights[-1]) > 70 > RELEVANT
    assert [len(error) for error in errors.values()] == [len(lambdas)] * 2


def test_bad_input(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert l1_regression.main(["--out", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        l1_regression.main(["--seed", "-1"])
    assert "--seed" in capsys.readouterr().err
