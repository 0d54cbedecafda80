import json

import numpy as np
import pytest

from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.statistics import stratified_bootstrap_ci


def curve(scores=None, **changes):
    """Two runs, three tasks, two episodes."""
    if scores is None:
        scores = [[[0, 1], [0, 2], [0, 6]], [[1, 1], [2, 2], [3, 3]]]
    fields = {
        "name": "RL2",
        "env_id": "MetaFrozenLake-v0",
        "split": "test",
        "task_ids": [11, 22, 2**62],
        "random": [0.0, 1.0, 2.0],
        "optimal": [2.0, 1.0, 12.0],
        "settings": {"seed": 3},
    }
    return AdaptationCurve(scores=scores, **{**fields, **changes})


def test_mean_and_iqm_are_taken_over_runs_and_tasks_for_each_episode():
    assert curve().mean.tolist() == [1.0, 2.5]
    assert curve().iqm.tolist() == [0.75, 2.0]
    assert curve().center("mean").tolist() == [1.0, 2.5]
    assert (curve().num_runs, curve().num_tasks, curve().num_episodes) == (2, 3, 2)


def test_ci_is_the_bootstrap_interval_of_the_iqm():
    expected = stratified_bootstrap_ci(curve().scores)
    assert np.array_equal(curve().ci, expected)
    assert curve().ci.shape == (2, 2)


def test_normalized_mean_is_the_ratio_of_means():
    normalized = curve().normalized()
    assert normalized.mean == pytest.approx((np.array([1.0, 2.5]) - 1.0) / (5.0 - 1.0))
    assert normalized.random.mean() == 0.0
    assert normalized.optimal.mean() == pytest.approx(1.0)
    assert normalized.settings["normalized"]


def test_normalizing_survives_a_task_where_random_actions_are_optimal():
    assert np.isfinite(curve().normalized().scores).all()


def test_normalizing_twice_changes_nothing():
    once = curve().normalized()
    assert once.normalized().scores == pytest.approx(once.scores)


def test_without_an_optimum_or_a_gap_nothing_can_be_normalized():
    with pytest.raises(ConfigError, match="no optimal return"):
        curve(optimal=None).normalized()
    with pytest.raises(ConfigError, match="not above random"):
        curve(optimal=[0.0, 1.0, 2.0]).normalized()


def test_frame_has_one_row_for_each_score():
    frame = curve().to_frame()
    assert list(frame.columns) == ["name", "run", "task", "task_id", "episode", "return"]
    assert len(frame) == 12
    row = frame[(frame["run"] == 1) & (frame["task"] == 2) & (frame["episode"] == 1)].iloc[0]
    assert row["return"] == 3.0
    assert row["task_id"] == 2**62
    assert frame.groupby("episode")["return"].mean().tolist() == curve().mean.tolist()


@pytest.mark.parametrize("optimal", [[2.0, 1.0, 12.0], None])
def test_saved_curve_is_read_back_unchanged(tmp_path, optimal):
    original = curve(optimal=optimal, split=None)
    path = original.save(tmp_path / "curve")
    assert path == tmp_path / "curve.npz"
    assert list(tmp_path.iterdir()) == [path]
    loaded = AdaptationCurve.load(path)
    for name in ("scores", "task_ids", "random"):
        assert np.array_equal(getattr(loaded, name), getattr(original, name))
    assert (loaded.optimal is None) == (optimal is None)
    assert (loaded.name, loaded.env_id, loaded.split, loaded.settings) == (
        "RL2",
        "MetaFrozenLake-v0",
        None,
        {"seed": 3},
    )
    assert repr(loaded) == repr(original)


def test_what_is_no_curve_is_refused_on_loading(tmp_path):
    with pytest.raises(FileNotFoundError):
        AdaptationCurve.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a curve")
    np.savez(tmp_path / "other.npz", header=np.array(json.dumps({"format": "other/1"})), scores=np.ones((1, 1, 1)))
    np.savez(tmp_path / "pickle.npz", header=np.array([{"format": 1}], dtype=object))
    for name in ("text", "other", "pickle"):
        with pytest.raises(ConfigError, match=f"{name}.npz is no curve"):
            AdaptationCurve.load(tmp_path / f"{name}.npz")


def test_summary_is_json_and_tells_the_sizes_and_the_limits():
    summary = json.loads(json.dumps(curve().summary()))
    assert (summary["runs"], summary["tasks"], summary["episodes"]) == (2, 3, 2)
    assert (summary["first_mean"], summary["last_mean"], summary["trial_mean"]) == (1.0, 2.5, 3.5)
    assert (summary["random"], summary["optimal"]) == (1.0, 5.0)
    assert summary["last_mean_low"] <= 2.5 <= summary["last_mean_high"]


def test_summary_of_a_single_score_has_no_interval():
    single = curve([[[1.0]]], task_ids=[1], random=[0.0], optimal=[1.0])
    assert single.summary()["last_mean_low"] is None
    assert np.isnan(single.ci).all()


def test_repr_tells_what_was_measured():
    text = repr(curve())
    assert "'RL2' on MetaFrozenLake-v0" in text
    assert "2 run(s) x 3 tasks x 2 episodes" in text
    assert "mean=[1, 2.5], random=1, optimal=5" in text


def test_curve_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        curve().scores[0, 0, 0] = 5.0
    with pytest.raises(AttributeError):
        curve().name = "other"
    scores = np.zeros((1, 3, 2))
    built = curve(scores)
    scores[:] = 1.0
    assert built.mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [[1.0, 2.0]]}, r"\(1, 2\)"),
        ({"scores": np.empty((0, 3, 1))}, r"\(0, 3, 1\)"),
        ({"random": [0.0]}, r"random must have shape \(3,\)"),
        ({"optimal": [0.0, np.inf, 0.0]}, "optimal of RL2 must be finite"),
        ({"scores": np.full((1, 3, 2), np.nan)}, "scores of RL2 must be finite"),
    ],
)
def test_damaged_scores_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        curve(**changes)


def test_unknown_statistic_is_refused():
    with pytest.raises(ConfigError, match="'median'"):
        curve().center("median")


def test_the_bayes_optimum_and_the_budgets_have_one_number_for_each_entry():
    assert curve(bayes=[0.5, 1.0]).bayes.tolist() == [0.5, 1.0]
    with pytest.raises(ConfigError, match=r"bayes must have shape \(2,\), got \(3,\)"):
        curve(bayes=[0.5, 1.0, 1.5])
    with pytest.raises(ConfigError, match="3 budgets do not fit 2 entries"):
        curve(settings={"budgets": [0, 1, 2]})
