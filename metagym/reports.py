"""What the command line shows of results: tables and pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError

__all__ = ["adaptation_table", "draw", "share_of_optimum"]


def share_of_optimum(curve: AdaptationCurve) -> str:
    """The last episode's mean as a percentage of the known-task optimum's; a dash where returns may be negative."""
    if curve.optimal is None or not curve.optimal.mean() > 0 or curve.random.mean() < 0:
        return "-"
    return f"{100 * curve.mean[-1] / curve.optimal.mean():.0f} %"


def adaptation_table(curves: Sequence[AdaptationCurve], *, title: str | None = None) -> Table:
    """Mean return in each episode with its 95 % interval, a column a method, beside random and the optimum.

    Args:
        curves: at least one; all of the same tasks and with the same experience at each entry.
        title: above the table; by default what was played.

    Raises:
        ConfigError: if entries of one curve had other experience than those of another.
    """
    first = curves[0]
    for curve in curves[1:]:
        if curve.unit != first.unit or not np.array_equal(curve.experience, first.experience):
            raise ConfigError(
                f"{curve.name!r} was measured after {curve.experience.tolist()} {curve.unit}, {first.name!r} after "
                f"{first.experience.tolist()} {first.unit}: give `evaluate` the same budgets"
            )
    played = (
        f"{first.env_id}, split {first.split}: {first.num_tasks} tasks, {first.num_runs} run(s); mean return [95 % CI]"
    )
    adapted = first.settings.get("kind") == "gradient"
    heading = f"after {first.unit}" if adapted else "episode"
    table = Table(heading, *(curve.name for curve in curves), "random", title=title or played, title_justify="left")
    if first.optimal is not None:
        table.add_column("optimum")
    bayes = next((curve.bayes for curve in curves if curve.bayes is not None), None)
    if bayes is not None:
        table.add_column("Bayes")
    intervals = [curve.interval("mean") for curve in curves]
    for episode in _episodes_shown(first.num_episodes):
        cells = [
            f"{curve.mean[episode]:.2f} [{low[episode]:.2f}, {high[episode]:.2f}]"
            for curve, (low, high) in zip(curves, intervals, strict=True)
        ]
        limits = [first.random, first.optimal, None if bayes is None else bayes[episode]]
        shown = [f"{np.mean(limit):.2f}" for limit in limits if limit is not None]
        table.add_row(str(first.experience[episode] + (not adapted)), *cells, *shown)
    if first.optimal is not None and first.optimal.mean() > first.random.mean():
        table.add_section()
        table.add_row(*_last_row(curves, None if bayes is None else float(bayes[-1])))
    return table


def _last_row(curves: Sequence[AdaptationCurve], bayes: float | None) -> list[str]:
    """Where the last episode stands: of the optimum, or from random to optimum where returns are negative."""
    low, high = float(curves[0].random.mean()), float(curves[0].optimal.mean())  # type: ignore[union-attr]
    if share_of_optimum(curves[0]) != "-":
        last = [] if bayes is None else [f"{100 * bayes / high:.0f} %"]
        return ["of optimum", *map(share_of_optimum, curves), f"{100 * low / high:.0f} %", "100 %", *last]
    last = [] if bayes is None else [f"{100 * (bayes - low) / (high - low):.0f} %"]
    shares = [f"{100 * curve.normalized().mean[-1]:.0f} %" for curve in curves]
    return ["random to optimum", *shares, "0 %", "100 %", *last]


def _episodes_shown(num_episodes: int) -> list[int]:
    """At most ten episodes, evenly spread, with the first and the last."""
    return sorted(set(np.linspace(0, num_episodes - 1, min(num_episodes, 10)).round().astype(int).tolist()))


def draw(sources: Sequence[Path], out: Path, *, statistic: str = "mean", y: str = "rollout/ep_rew_mean") -> Path:
    """Draw adaptation curves from score files, or learning curves from run folders.

    Args:
        sources: score files (.npz), or folders that `metagym.runs.train` made.
        out: the picture.
        statistic: "mean" or "iqm", for scores.
        y: column of the log, for folders.

    Returns:
        The path written.

    Raises:
        ConfigError: if files and folders are mixed, or something is missing.
    """
    import pandas as pd

    from metagym.plots import plot_adaptation, plot_learning, save_figure
    from metagym.runs import read_progress

    folders = [source for source in sources if source.is_dir()]
    if folders and len(folders) != len(sources):
        raise ConfigError("give either score files or run folders, not both")
    if statistic not in {"mean", "iqm"}:
        raise ConfigError(f"statistic {statistic!r} is unknown; accepted are 'mean' and 'iqm'")
    if folders:
        frames = [read_progress(folder).assign(run=str(folder)) for folder in folders]
        figure = plot_learning(pd.concat(frames, ignore_index=True), y=y)
    else:
        curves = [AdaptationCurve.load(source) for source in sources]
        figure = plot_adaptation(curves, statistic="iqm" if statistic == "iqm" else "mean")
    return save_figure(figure, out)
