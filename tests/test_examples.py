"""Every script of examples/ runs, with a tiny budget, in an empty folder."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BUDGETS = {"quickstart_env": 20, "set_tasks_everywhere": 3}
FEW_STEPS = 200


@pytest.fixture
def one_thread():
    import torch as th

    threads = th.get_num_threads()
    yield
    th.set_num_threads(threads)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
@pytest.mark.usefixtures("one_thread")
def test_the_example_runs_and_says_something(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--steps", str(BUDGETS.get(name, FEW_STEPS))])

    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_example_is_short_and_says_what_it_shows(path):
    lines = path.read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith('"""')
    assert len(lines) <= 90
