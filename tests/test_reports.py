import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from metagym.algos import Random
from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.reports import adaptation_table, check_places, draw, export, measure, save_scores, share_of_optimum


def curve(scores, *, optimal=1.0, random=0.0, name="method", settings=None, bayes=None):
    num_tasks = np.shape(scores)[1]
    return AdaptationCurve(
        scores=np.asarray(scores, dtype=np.float64),
        name=name,
        env_id="MetaFrozenLake-v0",
        split="test",
        task_ids=np.arange(num_tasks),
        random=np.full(num_tasks, random),
        optimal=np.full(num_tasks, optimal),
        settings=settings or {},
        bayes=bayes,
    )


def text_of(table):
    console = Console(width=160, record=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_shows_the_mean_of_each_episode_and_the_share_of_the_optimum():
    text = text_of(adaptation_table([curve([[[0.0, 1.0], [0.5, 0.5], [0.25, 0.0]]])]))
    assert re.search(r"│ 1 +│ 0\.25 \[", text)
    assert re.search(r"│ 2 +│ 0\.50 \[", text)
    assert "50 %" in text


def test_the_table_shows_at_most_ten_episodes_with_the_first_and_the_last():
    text = text_of(adaptation_table([curve(np.zeros((1, 3, 100)))]))
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 11
    assert rows[0].startswith("│ 1 ")
    assert rows[9].startswith("│ 100 ")


def test_the_share_of_an_optimum_that_is_not_positive_is_not_shown():
    assert share_of_optimum(curve([[[-2.0], [-1.0]]], optimal=-0.5)) == "-"
    assert share_of_optimum(curve([[[0.2], [0.4]]], optimal=0.6)) == "50 %"


def test_score_files_and_run_folders_are_not_mixed(tmp_path):
    scores = curve([[[0.0], [1.0]]]).save(tmp_path / "scores.npz")
    with pytest.raises(ConfigError, match="not both"):
        draw([scores, tmp_path], tmp_path / "out.png")
    with pytest.raises(ConfigError, match="statistic"):
        draw([scores], tmp_path / "out.png", statistic="mode")
    with pytest.raises(ConfigError, match=r"holds no progress"):
        draw([tmp_path], tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.npz"]


def test_curves_are_drawn_into_one_picture(tmp_path):
    files = [curve(np.random.default_rng(k).random((1, 5, 4)), name=str(k)).save(tmp_path / f"{k}.npz") for k in (0, 1)]
    path = draw(files, tmp_path / "both.svg")
    assert path == Path(tmp_path / "both.svg")
    assert "<svg" in path.read_text()


def test_negative_returns_are_placed_between_random_and_optimum():
    text = text_of(adaptation_table([curve([[[-9.0, -4.0]]], optimal=-1.0, random=-5.0)]))
    last = text.splitlines()[-2]
    assert "random to optimum" in last
    assert re.findall(r"-?\d+ %", last) == ["25 %", "0 %", "100 %"]


def test_entries_of_a_learner_that_adapts_by_gradient_are_budgets():
    text = text_of(adaptation_table([curve([[[0.0, 1.0], [0.0, 1.0]]], settings={"kind": "gradient"})]))
    assert "after episodes" in text
    assert re.search(r"│ 0 +│ 0\.00 \[", text)
    assert re.search(r"│ 1 +│ 1\.00 \[", text)


def test_the_bayes_optimum_has_a_column_where_it_is_known():
    text = text_of(adaptation_table([curve([[[0.0, 1.0]]], bayes=[0.25, 0.75])]))
    assert "Bayes" in text
    assert re.search(r"│ 1 +│.*│ 1\.00 +│ 0\.25 +│", text)
    assert re.search(r"of optimum.*│ 100 % +│ 75 %", text)
    assert "Bayes" not in text_of(adaptation_table([curve([[[0.0, 1.0]]])]))


def test_rows_of_budgets_are_named_by_their_experience():
    settings = {"budgets": [0, 5, 20]}
    after = text_of(adaptation_table([curve([[[0.0, 0.5, 1.0]]], settings={**settings, "kind": "gradient"})]))
    played = text_of(adaptation_table([curve([[[0.0, 0.5, 1.0]]], settings=settings)]))
    steps = {**settings, "kind": "gradient", "budget_unit": "gradient steps"}
    assert re.findall(r"^│ (\d+) ", after, flags=re.MULTILINE) == ["0", "5", "20"]
    assert re.findall(r"^│ (\d+) ", played, flags=re.MULTILINE) == ["1", "6", "21"]
    assert "after gradient steps" in text_of(adaptation_table([curve([[[0.0, 0.5, 1.0]]], settings=steps)]))


def test_curves_of_other_budgets_are_not_put_in_one_table():
    with pytest.raises(ConfigError, match=r"after \[0, 1\] episodes, 'method' after \[0, 2\]"):
        adaptation_table([curve([[[0.0, 1.0]]], settings={"budgets": [0, 2]}), curve([[[0.0, 1.0]]])])


def test_every_return_is_a_line_with_its_experience_and_limits(tmp_path):
    one = curve([[[1.0, 2.0], [3.0, 4.0]]], name="one", settings={"budgets": [0, 5]}, random=0.5)
    paths = export([one, curve([[[7.0], [8.0]]], name="other")], csv=tmp_path / "x.csv", json=tmp_path / "x.json")

    assert [path.name for path in paths] == ["x.csv", "x.json"]
    lines = paths[0].read_text().splitlines()
    assert lines[0] == "name,run,task,task_id,episode,return,experience,random,optimal"
    assert lines[2] == "one,0,0,0,1,2.0,5,0.5,1.0"
    assert len(lines) == 1 + 4 + 2
    first, second = json.loads(paths[1].read_text())["methods"]
    assert (first["name"], first["experience"], first["mean"]) == ("one", [0, 5], [2.0, 3.0])
    assert first["low"][0] <= 2.0 <= first["high"][0]
    assert second["unit"] == "episodes"


def test_an_interval_that_is_not_known_is_null(tmp_path):
    (path,) = export([curve([[[1.0]]])], json=tmp_path / "x.json")

    (method,) = json.loads(path.read_text())["methods"]
    assert method["low"] in ([None], [1.0])


def test_scores_of_several_methods_have_a_file_each(tmp_path):
    one, other = curve([[[1.0]]], name="RL2 PPO"), curve([[[1.0]]], name="random")

    assert [path.name for path in save_scores([one, other], tmp_path / "a.npz")] == ["a-rl2-ppo.npz", "a-random.npz"]
    assert [path.name for path in save_scores([one], tmp_path / "a")] == ["a.npz"]


def test_methods_are_measured_on_the_same_tasks_with_the_limits_of_the_first():
    floor = Random(env="MetaBandit-v0")
    one, other = measure({"a": [floor], "b": [floor]}, "MetaBandit-v0", n_tasks=3, episodes=2)

    assert (one.name, other.name) == ("a", "b")
    assert one.task_ids.tolist() == other.task_ids.tolist()
    assert np.array_equal(one.optimal, other.optimal)
    assert np.array_equal(one.scores, other.scores)


def test_places_are_looked_at_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"--csv .* is a folder"):
        check_places({"csv": tmp_path, "json": None})
    with pytest.raises(ConfigError, match=r"must end in one of \.pdf, \.png, \.svg"):
        check_places({"plot": tmp_path / "x.doc"})
    with pytest.raises(ConfigError, match=r"two outputs have one name: --out .*--csv"):
        check_places({"out": tmp_path / "x", "csv": tmp_path / "x"})
    check_places({"out": tmp_path / "new" / "x.npz"})
    assert (tmp_path / "new").is_dir()


def test_what_adapts_by_gradient_and_what_plays_trials_stand_in_one_table_by_their_experience():
    played = curve([[[0.0, 1.0]]], settings={"kind": "memory"})
    text = text_of(adaptation_table([played, curve([[[0.0, 1.0]]], settings={"kind": "gradient"})]))

    assert "after episodes" in text
    assert re.findall(r"^│ (\d) ", text, flags=re.MULTILINE) == ["0", "1"]
