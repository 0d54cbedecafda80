"""Every script of examples/ runs, with a tiny budget, in an empty folder."""

import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BUDGETS = {"quickstart_env": 20, "set_tasks_everywhere": 3}
FEW_STEPS = 200
SLOW = {"workers"}  # processes that import PyTorch
NEEDS = {"rl_zoo": "rl_zoo3"}


@pytest.fixture
def one_thread():
    import torch as th

    threads = th.get_num_threads()
    yield
    th.set_num_threads(threads)


@pytest.fixture
def own_gymnasium(monkeypatch):
    # RL Zoo puts a TimeLimit of its own into Gymnasium when it is imported; other tests need Gymnasium's back.
    for module in (gym.wrappers, gym.wrappers.common, gym.envs.registration):
        monkeypatch.setattr(module, "TimeLimit", gym.wrappers.common.TimeLimit, raising=False)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in sorted(EXAMPLES.glob("*.py"))
    ],
)
@pytest.mark.usefixtures("one_thread", "own_gymnasium")
def test_the_example_runs_and_says_something(name, monkeypatch, tmp_path, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--steps", str(BUDGETS.get(name, FEW_STEPS))])

    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_example_is_short_and_says_what_it_shows(path):
    lines = path.read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith('"""')
    assert len(lines) <= 90


def test_the_page_of_examples_lists_them_all():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")

    assert sorted(re.findall(r"\(\.\./examples/(\w+)\.py\)", page)) == sorted(
        path.stem for path in EXAMPLES.glob("*.py")
    )
