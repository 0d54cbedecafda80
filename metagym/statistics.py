"""Statistics of scores from several independently trained learners on a common set of tasks.

Scores have shape (R, K) or (R, K, ...): R runs, K tasks, and perhaps an axis of episodes. A run is one
trained learner; all runs meet the same K tasks. Statistics reduce the first two axes.

The aggregate is that of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice": the interquartile mean with bootstrap intervals stratified by task. Two departures, both against
intervals that are too short:

* They draw the runs of every task anew, which takes scores of one run on two tasks for independent. That
  holds for agents trained game by game, not for a meta-learner that meets all tasks with the same weights.
  Here a resample takes a run with all its tasks, so that every resample still holds each task R times.
* Percentile intervals of n units are too short by about sqrt((n - 1) / n) and use the normal distribution
  where Student's belongs. Their levels are widened accordingly ("expanded percentile", Hesterberg 2015, "What
  Teachers Should Know about the Bootstrap"). Five runs remain few: such an interval never reaches beyond
  the best and the worst run.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from metagym.errors import ConfigError
from metagym.types import Float, Int

__all__ = [
    "Resample",
    "Statistic",
    "iqm",
    "mean",
    "mean_ci",
    "paired_difference_ci",
    "probability_of_improvement",
    "stratified_bootstrap_ci",
]

Statistic: TypeAlias = Callable[[Float], Float]
"""From scores (R, K, ...) to (...)."""
Resample: TypeAlias = Literal["runs", "tasks", "both"]

_MAX_ELEMENTS = 1 << 22


def _as_scores(scores: ArrayLike, name: str = "scores") -> Float:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ConfigError(f"{name} must have shape (runs, tasks, ...) with at least one each, got {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} NaN or infinite")
    return array


def mean(scores: ArrayLike) -> Float:
    """Mean over runs and tasks, (R, K, ...) to (...).

    Raises:
        ConfigError: if the shape is wrong or a score is not finite.
    """
    result: Float = np.asarray(_as_scores(scores).mean(axis=(0, 1)))
    return result


def iqm(scores: ArrayLike) -> Float:
    """Interquartile mean over runs and tasks: the mean of the middle half, (R, K, ...) to (...).

    A quarter of the R * K scores, rounded down, is dropped at each end. It resists outliers, and it
    saturates: if more than three quarters of the scores are 1 (successes), it is 1 whatever the others are.

    Raises:
        ConfigError: if the shape is wrong or a score is not finite.
    """
    array = _as_scores(scores)
    flat = array.reshape(-1, *array.shape[2:])
    cut = len(flat) // 4
    ordered = np.partition(flat, (cut, len(flat) - cut - 1), axis=0)
    result: Float = np.asarray(ordered[cut : len(flat) - cut].mean(axis=0))
    return result


def stratified_bootstrap_ci(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    resample: Resample | None = None,
    rng: np.random.Generator | int = 0,
) -> Float:
    """Bootstrap confidence interval of a statistic of scores.

    Args:
        scores: (R, K, ...).
        statistic: reduces the first two axes of (R, K, ...).
        num_resamples: bootstrap resamples.
        confidence: nominal coverage in (0, 1).
        resample: what varies from resample to resample. "runs": whole runs, the tasks being a fixed
            benchmark; the interval speaks of training the same method again. "tasks": tasks, with all their
            runs; it speaks of these learners on other tasks of the distribution. "both": runs and tasks, each
            drawn by itself. Default: "runs", but "tasks" when there is only one run, which can tell nothing
            about training again.
        rng: generator or seed; the same seed gives the same interval, every element of ``...`` the same
            resamples.

    Returns:
        Lower and upper limits, (2, ...). NaN where there is a single unit to resample.

    Raises:
        ConfigError: if the shape is wrong, a score is not finite, or another argument is out of range.
    """
    array = _as_scores(scores)
    kind = _check_resampling(array, num_resamples, confidence, resample)
    tasks_rng, runs_rng = np.random.default_rng(rng).spawn(2)
    runs = _draw(runs_rng, array.shape[0], num_resamples, varies=kind != "tasks")
    tasks = _draw(tasks_rng, array.shape[1], num_resamples, varies=kind != "runs")
    values = _bootstrap(array, statistic, runs, tasks)
    return _expanded_percentiles(values, confidence, _num_units(array.shape, kind))


def mean_ci(scores: ArrayLike, *, confidence: float = 0.95) -> Float:
    """Student's t interval of the mean, from the means of runs, or of tasks when there is only one run.

    Args:
        scores: (R, K, ...).
        confidence: nominal coverage in (0, 1).

    Returns:
        Lower and upper limits, (2, ...). NaN where there is a single unit.

    Raises:
        ConfigError: if the shape is wrong, a score is not finite or `confidence` is out of range.
    """
    array = _as_scores(scores)
    kind = _check_resampling(array, 1, confidence, None)
    units = array.mean(axis=1 if kind == "runs" else 0)
    centre = units.mean(axis=0)
    if len(units) < 2:
        return np.full((2, *centre.shape), np.nan)
    half = stats.t.ppf((1 + confidence) / 2, len(units) - 1) * units.std(axis=0, ddof=1) / np.sqrt(len(units))
    return np.stack([centre - half, centre + half])


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> Float:
    """Probability that a run of one method beats one of another, averaged over tasks; ties count half.

    Args:
        scores: of the one method, (R, K, ...).
        others: of the other on the same tasks, (R', K, ...).

    Returns:
        Probabilities, (...).

    Raises:
        ConfigError: if the shapes do not match or a score is not finite.
    """
    left, right = _as_pair(scores, others)
    wins = np.sign(left[:, None] - right[None])  # (R, R', K, ...)
    result: Float = np.asarray(0.5 + 0.5 * wins.mean(axis=(0, 1, 2)))
    return result


def paired_difference_ci(
    scores: ArrayLike,
    others: ArrayLike,
    statistic: Statistic = mean,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    resample: Resample | None = None,
    rng: np.random.Generator | int = 0,
) -> Float:
    """Bootstrap confidence interval of ``statistic(scores) - statistic(others)`` on the same tasks.

    A task enters both sides of a resample or neither, so what tasks have in common cancels; runs of the two
    methods are independent and drawn independently.

    Args:
        scores: of the one method, (R, K, ...).
        others: of the other on the same tasks in the same order, (R', K, ...).
        statistic: reduces the first two axes.
        num_resamples: bootstrap resamples.
        confidence: nominal coverage in (0, 1).
        resample: as in `stratified_bootstrap_ci`; default "runs", but "tasks" when one side has only one run.
        rng: generator or seed.

    Returns:
        Lower and upper limits, (2, ...). NaN where there is a single unit to resample.

    Raises:
        ConfigError: if the shapes do not match, a score is not finite, or another argument is out of range.
    """
    left, right = _as_pair(scores, others)
    smaller = min(left, right, key=len)
    kind = _check_resampling(smaller, num_resamples, confidence, resample)
    tasks_rng, *run_rngs = np.random.default_rng(rng).spawn(3)
    tasks = _draw(tasks_rng, left.shape[1], num_resamples, varies=kind != "runs")
    values = []
    for array, run_rng in zip((left, right), run_rngs, strict=True):
        runs = _draw(run_rng, len(array), num_resamples, varies=kind != "tasks")
        values.append(_bootstrap(array, statistic, runs, tasks))
    return _expanded_percentiles(values[0] - values[1], confidence, _num_units(smaller.shape, kind))


def _as_pair(scores: ArrayLike, others: ArrayLike) -> tuple[Float, Float]:
    left, right = _as_scores(scores), _as_scores(others, "others")
    if left.shape[1:] != right.shape[1:]:
        raise ConfigError(f"both methods need the same tasks and episodes, got shapes {left.shape} and {right.shape}")
    return left, right


def _check_resampling(array: Float, num_resamples: int, confidence: float, resample: Resample | None) -> Resample:
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be at least 1, got {num_resamples}")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
    if resample not in {None, "runs", "tasks", "both"}:
        raise ConfigError(f"resample must be 'runs', 'tasks', 'both' or None, got {resample!r}")
    return resample or ("runs" if len(array) > 1 else "tasks")


def _draw(rng: np.random.Generator, num_units: int, num_resamples: int, *, varies: bool) -> Int:
    """Indices of units, (num_units, num_resamples)."""
    if varies:
        return rng.integers(num_units, size=(num_units, num_resamples))
    return np.broadcast_to(np.arange(num_units)[:, None], (num_units, num_resamples))


def _bootstrap(array: Float, statistic: Statistic, runs: Int, tasks: Int) -> Float:
    """The statistic of B resamples; runs (R, B) and tasks (K, B) are indices; returns (B, ...)."""
    num_resamples = runs.shape[1]
    chunk = max(1, _MAX_ELEMENTS // array.size)
    values = []
    for start in range(0, num_resamples, chunk):
        part = slice(start, start + chunk)
        values.append(statistic(array[runs[:, None, part], tasks[None, :, part]]))  # of (R, K, chunk, ...)
    return np.concatenate(values)


def _num_units(shape: tuple[int, ...], kind: Resample) -> int:
    return {"runs": shape[0], "tasks": shape[1], "both": min(shape[:2])}[kind]


def _expanded_percentiles(values: Float, confidence: float, num_units: int) -> Float:
    """Limits of B values of a statistic, (B, ...) to (2, ...), at levels widened for few units."""
    if num_units < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    quantile = stats.t.ppf((1 + confidence) / 2, num_units - 1)
    level = stats.norm.cdf(-np.sqrt(num_units / (num_units - 1)) * quantile)
    limits: Float = np.quantile(values, [level, 1.0 - level], axis=0)
    return limits
