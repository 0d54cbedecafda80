import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.plots import COLORS, _spread, plot_adaptation, plot_learning, save_figure


def curve(name="RL2", num_runs=3, num_tasks=4, num_episodes=5, **changes):
    scores = np.random.default_rng(len(name)).random((num_runs, num_tasks, num_episodes))
    ids, zeros = np.arange(num_tasks), np.zeros(num_tasks)
    fields = {"env_id": "MetaBandit-v0", "split": "test", "task_ids": ids, "random": zeros, "optimal": zeros + 0.9}
    return AdaptationCurve(scores=scores, name=name, **{**fields, **changes})


def training_frame():
    rows = [
        {"name": name, "run": run, "time/total_timesteps": step, "rollout/ep_rew_mean": step * gain + run}
        for name, gain in (("RL2", 2.0), ("Reptile", 1.0))
        for run in range(2)
        for step in (0, 10, 20)
    ]
    return pd.DataFrame(rows)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_line_is_the_statistic_and_its_band_the_interval():
    drawn = curve()
    axes = plot_adaptation([drawn], statistic="iqm").axes[0]
    line = axes.lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(line.get_ydata(), drawn.iqm)
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == pytest.approx((drawn.ci[0].min(), drawn.ci[1].max()))


def test_limits_are_drawn_at_their_means_and_everything_is_named():
    axes = plot_adaptation([curve("RL2"), curve("Reptile")]).axes[0]
    assert texts(axes) == ["RL2", "Reptile", "random", "optimal"]
    levels = [line.get_ydata()[0] for line in axes.lines[2:]]
    assert levels == pytest.approx([0.0, 0.9])
    assert axes.get_title(loc="left") == "MetaBandit-v0: 4 test tasks, 3 runs"
    assert axes.get_ylabel() == "return (mean, 95 % CI over runs)"


def test_unknown_optimum_is_not_drawn():
    axes = plot_adaptation([curve(optimal=None)]).axes[0]
    assert "optimal" not in texts(axes)


def test_single_run_single_episode_and_single_score_can_be_drawn(tmp_path):
    for sizes in ((1, 4, 3), (3, 4, 1), (1, 1, 1), (1, 2, 100)):
        figure = plot_adaptation([curve("x", *sizes)], title="")
        assert save_figure(figure, tmp_path / "curve.png").stat().st_size > 0


def test_normalized_curves_say_so():
    axes = plot_adaptation([curve(num_runs=1).normalized()]).axes[0]
    assert axes.get_ylabel() == "normalized return (mean, 95 % CI over tasks)"


def test_drawing_into_given_axes_returns_their_figure():
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert curve().plot(axes[1]) is figure
    assert not axes[0].lines
    assert axes[1].lines


def test_more_methods_than_colours_can_be_drawn():
    curves = [curve(f"method {index}") for index in range(len(COLORS) + 1)]
    assert len(plot_adaptation(curves).axes[0].texts) == len(curves) + 2


@pytest.mark.parametrize(
    ("curves", "statistic", "message"),
    [
        ([], "mean", "got none"),
        ([curve()], "median", "'median'"),
        ([curve(), curve("B", task_ids=[5, 6, 7, 8])], "mean", "different tasks"),
        ([curve(), curve("B", env_id="Other-v0")], "mean", "different tasks"),
        ([curve(), curve("B").normalized()], "mean", "only one is normalized"),
    ],
)
def test_what_cannot_be_compared_is_refused(curves, statistic, message):
    with pytest.raises(ConfigError, match=message):
        plot_adaptation(curves, statistic=statistic)


def test_learning_curves_are_the_mean_of_runs():
    axes = plot_learning(training_frame()).axes[0]
    bold = [line for line in axes.lines if line.get_linewidth() > 2]
    assert [line.get_ydata().tolist() for line in bold] == [[0.5, 20.5, 40.5], [0.5, 10.5, 20.5]]
    assert len(axes.lines) == 6
    assert texts(axes) == ["RL2", "Reptile"]
    assert axes.get_xlabel() == "environment steps"


def test_learning_curve_of_one_unnamed_run_skips_rows_without_a_value():
    frame = training_frame()[["time/total_timesteps", "rollout/ep_rew_mean"]].head(3)
    frame.loc[1, "rollout/ep_rew_mean"] = np.nan
    axes = plot_learning(frame).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0, 20]
    assert texts(axes) == []


def test_frames_without_the_columns_or_values_are_refused():
    with pytest.raises(ConfigError, match=r"no column \['loss'\]"):
        plot_learning(training_frame(), y="loss")
    empty = training_frame().assign(**{"rollout/ep_rew_mean": np.nan})
    with pytest.raises(ConfigError, match="no row has both"):
        plot_learning(empty)


def test_figure_is_written_whole_in_the_format_of_its_suffix(tmp_path):
    figure = plot_adaptation([curve()])
    path = save_figure(figure, tmp_path / "a.png", dpi=50)
    assert sorted(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (360, 215))
    assert save_figure(figure, str(tmp_path / "a.svg")).read_text().startswith("<?xml")
    with pytest.raises(ConfigError, match=r"'a\.xyz' names no format"):
        save_figure(figure, tmp_path / "a.xyz")
    assert len(list(tmp_path.iterdir())) == 2


def test_crowded_labels_are_spread_about_where_they_belong_and_keep_their_order():
    spread = _spread(np.array([0.5, 0.9, 0.5, 0.0]))
    assert spread == pytest.approx([0.4725, 0.9, 0.5275, 0.0])
    heights = np.array([0.10, 0.11, 0.12, 0.16])
    moved = _spread(heights)
    assert np.diff(moved) == pytest.approx([0.055] * 3)
    assert moved.mean() == pytest.approx(heights.mean())


def test_plots_need_neither_pyplot_nor_a_display():
    code = "import sys, metagym.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bayes_optimum_is_a_line_of_its_own_with_its_name():
    bayes = np.linspace(0.4, 0.7, 5)
    axes = plot_adaptation([curve(), curve("Other", bayes=bayes)]).axes[0]
    (line,) = [line for line in axes.lines if np.array_equal(line.get_ydata(), bayes)]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert "Bayes" in texts(axes)
    assert "Bayes" not in texts(plot_adaptation([curve()]).axes[0])


def test_entries_of_budgets_stand_at_their_experience():
    drawn = curve(num_episodes=3, settings={"budgets": [0, 2, 9]})
    axes = plot_adaptation([drawn, curve("Other")]).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 3, 10]
    assert axes.get_xlim()[1] > 10
    assert axes.get_xlabel() == "episode of the task"


def test_gradient_steps_have_an_axis_of_their_own():
    steps = curve(settings={"budget_unit": "gradient steps"})
    axes = plot_adaptation([steps]).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4]
    assert axes.get_xlabel() == "gradient steps on the task"
    with pytest.raises(ConfigError, match="counts episodes, 'Steps' gradient steps: draw them apart"):
        plot_adaptation([curve("Steps", settings={"budget_unit": "gradient steps"}), curve()])
