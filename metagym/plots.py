"""Figures of adaptation and of training: the only module that knows matplotlib.

Figures are `matplotlib.figure.Figure` objects drawn by the Agg canvas: no display, no window, no pyplot
state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from metagym.errors import ConfigError
from metagym.files import replacing
from metagym.statistics import mean_ci
from metagym.types import Array, Float

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLORS", "Curve", "StatisticName", "plot_adaptation", "plot_learning", "save_figure"]

# Okabe and Ito's colours, darkest first; with markers and direct labels, colour is never the only difference.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C99", "#4D4D4D")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _MUTED, _RULE = "#23283A", "#6B7280", "#E3E6EB"
_STATISTICS = {"mean": "mean", "iqm": "interquartile mean"}
_LABEL_GAP = 0.055


StatisticName: TypeAlias = Literal["mean", "iqm"]


class Curve(Protocol):
    """What a curve must offer to be drawn; `metagym.curves.AdaptationCurve` does."""

    @property
    def scores(self) -> Float:
        """Returns, (R, K, E)."""

    @property
    def name(self) -> str:
        """The method."""

    @property
    def env_id(self) -> str:
        """Gymnasium id, or name of the family."""

    @property
    def split(self) -> str | None:
        """Part of the task distribution."""

    @property
    def task_ids(self) -> Array:
        """Content hashes of the tasks, (K,)."""

    @property
    def random(self) -> Float:
        """Expected return of random actions, (K,)."""

    @property
    def optimal(self) -> Float | None:
        """Expected return of the known-task optimum, (K,)."""

    @property
    def bayes(self) -> Float | None:
        """Expected return of the Bayes-optimal agent at each entry, (E,)."""

    @property
    def experience(self) -> Array:
        """What was had of the task before each entry, (E,)."""

    @property
    def unit(self) -> str:
        """What `experience` counts."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the scores were made."""

    def center(self, statistic: StatisticName = ...) -> Float:
        """Statistic over runs and tasks, (E,)."""

    def interval(self, statistic: StatisticName = ...) -> Float:
        """Its confidence interval, (2, E)."""


def plot_adaptation(
    curves: Sequence[Curve], *, ax: Axes | None = None, statistic: StatisticName = "mean", title: str | None = None
) -> Figure:
    """Return against episode, with 95 % intervals and the returns of random, optimal and Bayes-optimal behaviour.

    Learners that adapt by gradient steps are drawn against those. An entry after a budget of b episodes stands where
    episode b + 1 of a trial does, which also has b episodes behind it.

    Args:
        curves: one or more, on the same tasks.
        ax: axes to draw into; a new figure by default.
        statistic: "mean" or "iqm". The interquartile mean of successes saturates at 1; the mean does not.
        title: default: id, split and the numbers of tasks and runs.

    Returns:
        The figure.

    Raises:
        ConfigError: if there is no curve, the curves are on different tasks or scales, some count episodes and
            others gradient steps, or `statistic` is unknown.
    """
    first = _check_comparable(curves, statistic)
    axes = _new_axes() if ax is None else ax
    ends = []
    for index, curve in enumerate(curves):
        center = curve.center(statistic)
        low, high = curve.interval(statistic)
        color, episodes = COLORS[index % len(COLORS)], _places(curve)
        if np.isfinite(low).all():
            axes.fill_between(episodes, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)
            if len(center) == 1:
                axes.errorbar(
                    episodes, center, np.stack([center - low, high - center]), color=color, capsize=3, zorder=3
                )
        marker = _MARKERS[index % len(_MARKERS)] if len(center) <= 30 else None
        axes.plot(
            episodes, center, color=color, linewidth=2.2, marker=marker, markersize=6.5,
            markeredgecolor="white", markeredgewidth=1.0, label=curve.name, zorder=4,
        )  # fmt: skip
        ends.append((float(center[-1]), curve.name, color))
    _set_range(axes, curves)
    ends += _draw_limits(axes, curves)
    axes.set_xlabel("episode of the task" if first.unit == "episodes" else f"{first.unit} on the task")
    axes.set_ylabel(_return_label(curves, statistic))
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    _dress(axes, _default_title(curves) if title is None else title)
    _label_ends(axes, ends)
    return _figure_of(axes)


def plot_learning(
    frame: "pd.DataFrame",
    *,
    x: str = "time/total_timesteps",
    y: str = "rollout/ep_rew_mean",
    name: str = "name",
    run: str = "run",
    ax: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Learning curves: each run as a thin line, the mean of runs as a bold one with its 95 % t interval.

    Args:
        frame: progress of training, one row for each log entry; rows in which `y` is missing are left out.
        x: column of the horizontal axis, usually environment steps.
        y: column of the vertical axis.
        name: column that tells methods apart; if missing, all rows are one method.
        run: column that tells runs of a method apart; if missing, all rows are one run.
        ax: axes to draw into; a new figure by default.
        title: none by default.

    Returns:
        The figure.

    Raises:
        ConfigError: if `x` or `y` is no column, or there is no complete row.
    """
    if missing := [column for column in (x, y) if column not in frame.columns]:
        raise ConfigError(f"no column {missing}; accepted are {sorted(map(str, frame.columns))}")
    frame = frame.dropna(subset=[x, y])
    if frame.empty:
        raise ConfigError(f"no row has both {x!r} and {y!r}")
    axes, ends = _new_axes() if ax is None else ax, []
    methods = frame.groupby(name, sort=False) if name in frame else [("", frame)]
    for index, (method, rows) in enumerate(methods):
        color = COLORS[index % len(COLORS)]
        runs = [part for _, part in rows.groupby(run, sort=False)] if run in rows else [rows]
        lines = [part.sort_values(x)[[x, y]].to_numpy(dtype=np.float64).T for part in runs]
        ends.append((_draw_runs(axes, lines, color), str(method), color))
    axes.set_xlabel("environment steps" if x == "time/total_timesteps" else x)
    axes.set_ylabel("mean return of episodes in training" if y == "rollout/ep_rew_mean" else y)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)
    _dress(axes, title or "")
    _label_ends(axes, [end for end in ends if end[1]])
    return _figure_of(axes)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 160) -> Path:
    """Write a figure, in the format that the file's suffix names; it appears whole or not at all.

    Args:
        figure: the figure.
        path: such as ``curve.png``, ``curve.svg`` or ``curve.pdf``.
        dpi: pixels per inch.

    Returns:
        The path written.

    Raises:
        ConfigError: if the suffix names no format that matplotlib writes.
    """
    path = Path(path)
    formats = sorted(figure.canvas.get_supported_filetypes())
    kind = path.suffix.removeprefix(".").lower()
    if kind not in formats:
        raise ConfigError(f"{path.name!r} names no format; accepted suffixes are {', '.join(formats)}")
    with replacing(path) as partial:
        figure.savefig(partial, format=kind, dpi=dpi, facecolor="white")
    return path


def _check_comparable(curves: Sequence[Curve], statistic: StatisticName) -> Curve:
    if not curves:
        raise ConfigError("there must be at least one curve to plot, got none")
    if statistic not in _STATISTICS:
        raise ConfigError(f"statistic must be one of {', '.join(_STATISTICS)}, got {statistic!r}")
    first = curves[0]
    for curve in curves[1:]:
        if curve.env_id != first.env_id or not np.array_equal(curve.task_ids, first.task_ids):
            raise ConfigError(f"{curve.name!r} and {first.name!r} were evaluated on different tasks")
        if curve.settings.get("normalized") != first.settings.get("normalized"):
            raise ConfigError(f"of {curve.name!r} and {first.name!r} only one is normalized")
        if curve.unit != first.unit:
            raise ConfigError(f"{curve.name!r} counts {curve.unit}, {first.name!r} {first.unit}: draw them apart")
    return first


def _places(curve: Curve) -> Array:
    """Where the entries of a curve stand on the horizontal axis, (E,): the first episode is number 1."""
    return curve.experience + 1 if curve.unit == "episodes" else curve.experience


def _set_range(axes: Axes, curves: Sequence[Curve]) -> None:
    first = 1 if curves[0].unit == "episodes" else 0
    last = max(int(_places(curve)[-1]) for curve in curves)
    margin = 0.03 * max(last - first, 1)
    axes.set_xlim(first - margin, last + margin)


def _draw_limits(axes: Axes, curves: Sequence[Curve]) -> list[tuple[float, str, str]]:
    """Draw what random, optimal and Bayes-optimal behaviour return; where each line ends, with its name and colour."""
    first, ends = curves[0], []
    references = [("random", first.random, (0, (1, 1.8)))]
    if first.optimal is not None:
        references.append(("optimal", first.optimal, (0, (6, 3))))
    for name, column, dashes in references:
        level = float(np.mean(column))
        axes.axhline(level, color=_MUTED, linewidth=1.3, linestyle=dashes, zorder=1)
        ends.append((level, name, _MUTED))
    known = next((curve for curve in curves if curve.bayes is not None), None)
    if known is not None and known.bayes is not None:
        axes.plot(_places(known), known.bayes, color=_MUTED, linewidth=1.5, linestyle=(0, (4, 1.5, 1, 1.5)), zorder=1)
        ends.append((float(known.bayes[-1]), "Bayes", _MUTED))
    return ends


def _new_axes() -> Axes:
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    return axes


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _default_title(curves: Sequence[Curve]) -> str:
    first = curves[0]
    tasks, counts = first.scores.shape[1], sorted({curve.scores.shape[0] for curve in curves})
    part = f"{first.split} tasks" if first.split in {"train", "test", "ood"} else "tasks"
    runs = "1 run" if counts == [1] else f"{'-'.join(map(str, counts))} runs"
    return f"{first.env_id}: {tasks} {part}, {runs}"


def _return_label(curves: Sequence[Curve], statistic: StatisticName) -> str:
    scale = "normalized return" if curves[0].settings.get("normalized") else "return"
    units = {"runs" if curve.scores.shape[0] > 1 else "tasks" for curve in curves}
    over = f" over {units.pop()}" if len(units) == 1 else ""
    return f"{scale} ({_STATISTICS[statistic]}, 95 % CI{over})"


def _dress(axes: Axes, title: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#B6BCC6")
    axes.tick_params(color="#B6BCC6", labelcolor=_INK, labelsize=10)
    axes.xaxis.label.set(color=_INK, size=11)
    axes.yaxis.label.set(color=_INK, size=11)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold", pad=12)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names right of where the lines end, as (level, name, color), moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    heights = np.array([(level - bottom) / (top - bottom) for level, _, _ in ends])
    for (level, name, color), height in zip(ends, _spread(heights), strict=True):
        axes.annotate(
            name, (1.0, (level - bottom) / (top - bottom)), xytext=(1.035, height), xycoords="axes fraction",
            textcoords="axes fraction", color=color, fontsize=10.5, va="center", annotation_clip=False,
            fontweight="normal" if color == _MUTED else "bold",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 2,
            "shrinkB": 1},
        )  # fmt: skip
    axes.set_ylim(bottom, top)


def _spread(heights: Float) -> Float:
    """The least moved heights that keep a gap and their order: runs of crowded ones are centred as blocks."""
    order = np.argsort(heights, kind="stable")
    blocks: list[list[float]] = []  # of [sum of the heights less their places in the block, how many]
    for height in heights[order]:
        blocks.append([float(height), 1.0])
        while len(blocks) > 1 and _start(blocks[-2]) + blocks[-2][1] * _LABEL_GAP > _start(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - count * blocks[-1][1] * _LABEL_GAP
            blocks[-1][1] += count
    placed = [_start(block) + place * _LABEL_GAP for block in blocks for place in range(int(block[1]))]
    spread = np.empty_like(heights)
    spread[order] = placed
    return spread


def _start(block: list[float]) -> float:
    total, count = block
    return total / count


def _draw_runs(axes: Axes, lines: Sequence[Array], color: str) -> float:
    """Draw the runs of one method, each (2, points), and their mean; returns where the bold line ends."""
    if len(lines) == 1:
        axes.plot(*lines[0], color=color, linewidth=2.0, zorder=4)
        return float(lines[0][1, -1])
    for line in lines:
        axes.plot(*line, color=color, linewidth=0.9, alpha=0.35, zorder=2)
    start, stop = max(line[0, 0] for line in lines), min(line[0, -1] for line in lines)
    grid = np.linspace(start, stop, max(len(line[0]) for line in lines))
    values = np.stack([np.interp(grid, *line) for line in lines])  # (R, points)
    low, high = mean_ci(values[:, None])
    axes.fill_between(grid, low, high, color=color, alpha=0.16, linewidth=0, zorder=3)
    axes.plot(grid, values.mean(axis=0), color=color, linewidth=2.2, zorder=4)
    return float(values[:, -1].mean())
