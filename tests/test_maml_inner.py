"""The speed of inner updates: both ways lead to the same parameters, and the table shows ratios."""

import pytest

from benchmarks import maml_inner


def test_both_ways_are_measured_and_agree():
    result = maml_inner.measure(1, num_tasks=3, num_steps=4, width=8)

    asked = [(work, episodes) for work in maml_inner.WORK for episodes in maml_inner.EPISODES]
    assert [(row["work"], row["episodes"]) for row in result["rows"]] == asked
    assert all(0 <= row["difference"] <= maml_inner.TOLERANCE for row in result["rows"])
    assert all(time > 0 for row in result["rows"] for way in ("at once", "loop") for time in row[way])


def test_ways_that_do_not_agree_are_not_measured(monkeypatch):
    monkeypatch.setattr(maml_inner, "TOLERANCE", -1.0)
    with pytest.raises(AssertionError, match="the two ways differ by"):
        maml_inner.measure(1, num_tasks=2, num_steps=3, width=4)


def test_the_table_shows_ratios():
    row = {"work": "step", "episodes": 5, "at once": [2.0, 1.0], "loop": [10.0, 3.0], "difference": 2e-7}
    result = {"rows": [row], "rounds": 1, "tasks": 2, "steps": 3, "width": 4}

    assert "| step | 5 | 10.0 | 2.0 | 5.0x | 3.0x | 2e-07 |" in maml_inner.render(result)
