"""What the command line shows of results: tables and pictures."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.files import replacing, with_suffix

__all__ = ["adaptation_table", "check_places", "draw", "export", "measure", "save_scores", "share_of_optimum"]

_PICTURES = (".pdf", ".png", ".svg")


def check_places(files: Mapping[str, Path | None]) -> None:
    """Make the folders that files will be written to, and make sure that they can be.

    Args:
        files: by the option that names them: "out", "csv", "json", "plot".

    Raises:
        ConfigError: if one cannot be written, is a folder, two are the same, or a picture has an unknown suffix.
    """
    from metagym.runs import make_folder

    given = {option: path for option, path in files.items() if path is not None}
    for option, path in given.items():
        if path.is_dir():
            raise ConfigError(f"--{option} {path} is a folder; give the name of a file")
        if option == "plot" and path.suffix not in _PICTURES:
            raise ConfigError(f"--plot {path} must end in one of {', '.join(_PICTURES)}")
    if len(set(given.values())) < len(given):
        raise ConfigError(f"two outputs have one name: {', '.join(f'--{name} {path}' for name, path in given.items())}")
    for path in given.values():
        make_folder(path.parent)


def measure(
    methods: Mapping[str, Sequence[Any]], env_id: str, *, limits: str | Path | None = None, **protocol: Any
) -> list[AdaptationCurve]:
    """Each method by `evaluate`, on the same tasks; what limits it is computed once.

    Args:
        methods: name to runs.
        env_id: id of the family.
        limits: file of scores whose limits are taken over.
        **protocol: keywords of `evaluate`.

    Raises:
        ConfigError: as `evaluate` does.
    """
    known = None if limits is None else AdaptationCurve.load(limits)
    curves: list[AdaptationCurve] = []
    for name, learners in methods.items():
        known = known or next(iter(curves), None)
        curves.append(evaluate(list(learners), env_id, name=name, limits=known, **protocol))
    return curves


def save_scores(curves: Sequence[AdaptationCurve], out: Path) -> list[Path]:
    """Write scores: one curve into `out`, several into a file each, whose names end in the methods'."""
    if len(curves) == 1:
        return [curves[0].save(out)]
    stem = with_suffix(out, ".npz").with_suffix("")
    names = [re.sub(r"[^\w.]+", "-", curve.name).strip("-").lower() for curve in curves]
    return [curve.save(f"{stem}-{name}.npz") for curve, name in zip(curves, names, strict=True)]


def export(
    curves: Sequence[AdaptationCurve],
    *,
    csv: Path | None = None,
    json: Path | None = None,
    plot: Path | None = None,
) -> list[Path]:
    """Write what was measured in other formats.

    Args:
        curves: one a method.
        csv: a line for each return: name, run, task, task_id, episode (number of the entry, from 0), return,
            experience (what was had of the task before), random and optimal (of the task).
        json: a summary of each method, with the mean and its 95 % interval at each entry.
        plot: a picture.

    Returns:
        The files.
    """
    if csv is not None:
        _write_csv(curves, csv)
    if json is not None:
        _write_json(curves, json)
    if plot is not None:
        from metagym.plots import plot_adaptation, save_figure

        plot = save_figure(plot_adaptation(list(curves)), plot)
    return [path for path in (csv, json, plot) if path is not None]


def _write_csv(curves: Sequence[AdaptationCurve], path: Path) -> None:
    import pandas as pd

    frames = []
    for curve in curves:
        frame = curve.to_frame()
        frame["experience"] = curve.experience[frame["episode"]]
        frame["random"] = curve.random[frame["task"]]
        if curve.optimal is not None:
            frame["optimal"] = curve.optimal[frame["task"]]
        frames.append(frame)
    with replacing(path) as partial:
        pd.concat(frames, ignore_index=True).to_csv(partial, index=False)


def _write_json(curves: Sequence[AdaptationCurve], path: Path) -> None:
    methods = []
    for curve in curves:
        low, high = curve.interval("mean")
        columns = {"experience": curve.experience, "mean": curve.mean, "low": low, "high": high}
        lists = {name: [_number(value) for value in column.tolist()] for name, column in columns.items()}
        methods.append(curve.summary() | {"unit": curve.unit, **lists})
    with replacing(path) as partial:
        partial.write_text(json.dumps({"methods": methods}, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _number(value: float) -> float | None:
    """What JSON can hold."""
    return value if np.isfinite(value) else None


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
    adapted = any(curve.settings.get("kind") == "gradient" for curve in curves)
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
