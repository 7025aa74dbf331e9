"""The sweep: its Pareto front and table on made-up figures, tiny runs through every kind of executor, and stopping."""
import dataclasses
import json
import pathlib
import sys
from concurrent.futures import Executor, Future

import pytest
from PIL import Image

import minisparse as ms
from minisparse import data

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import tradeoff  # noqa: E402
import train_animals  # noqa: E402
import training  # noqa: E402

NAMES = ["dense", "gradual-0.5", "gradual-0.9", "rigl-0.5", "rigl-0.9"]


class Here(Executor):
    """Runs everything at once in the calling thread."""

    def submit(self, work, *args):
        future = Future()
        future.set_result(work(*args))
        return future


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, (image, label) in enumerate(zip(*data.drawn.draw(12, seed=0, size=32))):
        path = folder / data.drawn.CLASSES[label] / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return folder


@pytest.fixture(scope="module")
def sweep(photos, tmp_path_factory):
    """Run the program with tiny nets: (folder, executor) -> {name: figures of its result file, but for the time}."""
    before, tiny = ms.get_num_threads(), dataclasses.replace(
        train_animals.PRESETS["quick"], widths=(8, 8, 8), hidden=8, epochs=2, batch=16)

    def run(out, executor, status=None):
        assert tradeoff.main(["--data", str(photos), "--targets", ".5", ".9", "--threads", "1", "--out", str(out)],
                             executor) == status
        figures = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
        return {name: found | {"seconds": 0} for name, found in figures.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_animals.PRESETS, "accurate", tiny)
        yield run
    ms.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(sweep, tmp_path_factory):
    """(folder, figures) of a sweep in this thread."""
    out = tmp_path_factory.mktemp("whole")
    return out, sweep(out, Here())


def test_front():
    assert tradeoff.front([(3, .9), (2, .8), (2, .7), (1, .8), (4, .9), (0, .1)]) == [0, 3, 5]
    assert tradeoff.front([(1, .5), (1, .5)]) == [0, 1]


def test_table_marks_the_front():
    def job(name, method):
        return tradeoff.Job(name, training.Recipe(method=method), "drawn", 0, 1, pathlib.Path("out"))

    def found(accuracy, cost):
        return {"accuracy": accuracy, "zeros": 0.5} | dict.fromkeys(set(tradeoff.AXES) - {"zeros"}, cost)
    lines = tradeoff.table({job("dense", None): found(.9, 2), job("a", "gradual"): found(.8, 1),
                            job("b", "rigl"): found(.7, 1)}).splitlines()
    assert lines[2] == "| dense | 90.0 | 50 | **0.002** | **0.002** | **2e+03** | **2e+03** | **2** |"
    assert lines[3].startswith("| gradual | 80.0 | 50 | **0.001** |") and "**" not in lines[4]


def test_files_and_table(whole):
    out, figures = whole
    assert sorted(figures) == NAMES
    assert [round(figures[name]["zeros"], 2) for name in NAMES] == [0, .5, .9, .5, .9]
    sizes = [(out / f"{name}-float32.safetensors").stat().st_size for name in NAMES]
    assert sizes[0] > sizes[1] > sizes[2] and all((out / f"{name}-int8.safetensors").stat().st_size < size
                                                  for name, size in zip(NAMES, sizes))
    text = (out / "tradeoff.md").read_text()
    assert text.startswith("| method | accuracy % |") and text.count("\n") == 2 + len(NAMES)
    assert Image.open(out / "tradeoff.png").size[0] > 1000


def test_finished_runs_are_kept_and_a_stopped_one_goes_on(sweep, whole, monkeypatch, tmp_path):
    save, train = training.Run.save, training.Run.train

    def stop(run):
        save(run)
        if run.name == "gradual 0.9":
            raise KeyboardInterrupt
    monkeypatch.setattr(training.Run, "save", stop)
    sweep(tmp_path, Here(), 130)
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == NAMES[:2]
    monkeypatch.setattr(training.Run, "save", save)
    trained = []
    monkeypatch.setattr(training.Run, "train", lambda run, progress: trained.append((run.name, run.epoch))
                        or train(run, progress))
    assert sweep(tmp_path, Here()) == whole[1]
    assert trained == [("gradual 0.9", 1), ("rigl 0.5", 0), ("rigl 0.9", 0)]


def test_processes_give_the_same(sweep, whole, tmp_path):
    assert sweep(tmp_path, None) == whole[1]


def test_dask_gives_the_same(sweep, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        assert sweep(tmp_path, client.get_executor()) == whole[1]


def test_what_cannot_be_read_or_asked_for(tmp_path, photos, capsys):
    assert tradeoff.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")], Here()) == 2
    assert "nowhere" in capsys.readouterr().err
    assert tradeoff.main(["--data", str(photos), "--targets", "0.9999", "--methods", "gradual", "--threads", "1",
                          "--out", str(tmp_path / "out")], Here()) == 2
    assert "Ask for fewer zeros" in capsys.readouterr().err
