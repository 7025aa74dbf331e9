"""The README's program runs as it stands there, and its tree names files that exist."""
import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_program_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = next(block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "deploy" in block)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert [round(share, 2) for share in names["pruner"].sparsity().values()] == [0.55, 0.75]
    assert np.mean(names["scores"].argmax(axis=1) == names["y"]) > 0.3      # six classes, ten short epochs
    assert (tmp_path / "model.safetensors").stat().st_size < names["model"][4].weight.numel()


def test_every_file_it_names_exists():
    tree = re.search(r"```\n(minisparse/\n.*?)```", TEXT, re.S)[1]
    existing = {path.name for folder in ("minisparse", "examples") for path in (ROOT / folder).rglob("*.py")}
    named = set(re.findall(r"\w+\.py", tree))
    assert len(named) > 30 and named <= existing
