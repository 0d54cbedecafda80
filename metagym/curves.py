"""The result of an evaluation: returns by run, task and episode, with the limits they lie between."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.files import replacing, with_suffix
from metagym.statistics import Resample, Statistic, iqm, mean, stratified_bootstrap_ci
from metagym.types import Array, Float, Int

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AdaptationCurve", "StatisticName"]

StatisticName: TypeAlias = Literal["mean", "iqm"]
_STATISTICS: Mapping[str, Statistic] = {"mean": mean, "iqm": iqm}
_FORMAT = "metagym.AdaptationCurve/1"
_ARRAYS = ("scores", "task_ids", "random", "optimal", "bayes")


@dataclass(frozen=True, eq=False, repr=False)
class AdaptationCurve:
    """Returns of R independently trained learners on K tasks over E episodes.

    Entry e of a learner with memory is the return of episode e of a trial, after e episodes of experience;
    entry e of a learner that adapts by gradient is the return after adapting with a budget of e episodes.
    Both start at the return without any experience of the task, unless other `budgets` were asked for: `experience`
    says what each entry had.

    Successes are 0 or 1, and their interquartile mean is 1 as soon as three quarters of them are: read `mean`
    too.

    Attributes:
        scores: returns, (R, K, E).
        name: of the method.
        env_id: Gymnasium id, or name of the family.
        split: part of the task distribution: "train", "test", "ood" or None for all; "given" for a list of
            tasks.
        task_ids: content hashes of the tasks, (K,).
        random: expected return of one episode of uniformly random actions, (K,).
        optimal: expected return of one episode for an agent that knows the task, (K,); None if unknown.
        settings: how the scores were made (seed, action selection, ...): JSON values.
        bayes: expected return at each entry for the agent that knows the whole training distribution, but not the
            task, and maximises the return of the trial, (E,); None where the family cannot compute it or the tasks
            are others. It is an expectation over all tasks, not over these K.
    """

    scores: Float
    name: str
    env_id: str
    split: str | None
    task_ids: Int
    random: Float
    optimal: Float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bayes: Float | None = None

    def __post_init__(self) -> None:
        scores = np.array(self.scores, dtype=np.float64)
        if scores.ndim != 3 or scores.size == 0:
            raise ConfigError(f"scores must have shape (runs, tasks, episodes), got {scores.shape}")
        columns: dict[str, Array | None] = {
            "scores": scores,
            "task_ids": np.array(self.task_ids, dtype=np.int64),
            "random": np.array(self.random, dtype=np.float64),
            "optimal": None if self.optimal is None else np.array(self.optimal, dtype=np.float64),
            "bayes": None if self.bayes is None else np.array(self.bayes, dtype=np.float64),
        }
        for name, column in columns.items():
            if column is None:
                continue
            expected = scores.shape if name == "scores" else scores.shape[2:] if name == "bayes" else scores.shape[1:2]
            if column.shape != expected:
                raise ConfigError(f"{name} must have shape {expected}, got {column.shape}")
            if not np.isfinite(column).all():
                raise ConfigError(f"{name} of {self.name} must be finite, got NaN or infinite values")
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        object.__setattr__(self, "settings", dict(self.settings))
        if self.experience.shape != scores.shape[2:]:
            raise ConfigError(f"{self.experience.size} budgets do not fit {scores.shape[2]} entries")

    @property
    def num_runs(self) -> int:
        """Independently trained learners, R."""
        return int(self.scores.shape[0])

    @property
    def num_tasks(self) -> int:
        """Tasks, K."""
        return int(self.scores.shape[1])

    @property
    def num_episodes(self) -> int:
        """Episodes, E."""
        return int(self.scores.shape[2])

    @property
    def experience(self) -> Int:
        """What was had of the task before each entry, in units of `unit`, (E,): 0 .. E - 1 unless asked otherwise."""
        return np.array(self.settings.get("budgets", range(self.num_episodes)), dtype=np.int64)

    @property
    def unit(self) -> str:
        """What `experience` counts: "episodes", or "gradient steps" of learners that adapt by those."""
        return str(self.settings.get("budget_unit", "episodes"))

    @property
    def iqm(self) -> Float:
        """Interquartile mean over runs and tasks, (E,)."""
        return iqm(self.scores)

    @property
    def mean(self) -> Float:
        """Mean over runs and tasks, (E,)."""
        return mean(self.scores)

    @property
    def ci(self) -> Float:
        """95 % bootstrap interval of `iqm`, (2, E): over runs, or over tasks when there is only one run."""
        return self.interval("iqm")

    def center(self, statistic: StatisticName = "mean") -> Float:
        """`mean` or `iqm` by name, (E,).

        Raises:
            ConfigError: if the name is neither.
        """
        return _statistic(statistic)(self.scores)

    def interval(
        self, statistic: StatisticName = "mean", *, confidence: float = 0.95, resample: Resample | None = None
    ) -> Float:
        """Bootstrap interval of a statistic, (2, E): see `metagym.statistics.stratified_bootstrap_ci`."""
        return stratified_bootstrap_ci(self.scores, _statistic(statistic), confidence=confidence, resample=resample)

    def normalized(self) -> "AdaptationCurve":
        """The same on a scale where random is 0 and optimal is 1 on average over tasks.

        A score s of task k becomes ``(s - random[k]) / (mean(optimal) - mean(random))``. The mean over tasks
        is then (score - random) / (optimal - random) of the means. Dividing task by task would weigh the
        tasks by how little there is to gain in them, and fail where random actions are optimal.

        Raises:
            ConfigError: if the optimum is unknown, or no better than random on these tasks.
        """
        if self.optimal is None:
            raise ConfigError(f"{self.env_id} knows no optimal return, so its scores cannot be normalized")
        scale = float(self.optimal.mean() - self.random.mean())
        if not scale > 0.0:
            raise ConfigError(f"optimal {self.optimal.mean()} is not above random {self.random.mean()}")
        return replace(
            self,
            scores=(self.scores - self.random[:, None]) / scale,
            random=np.zeros_like(self.random),
            optimal=(self.optimal - self.random) / scale,
            bayes=None if self.bayes is None else (self.bayes - self.random.mean()) / scale,
            settings={**self.settings, "normalized": True},
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row for each score: name, run, task (index), task_id, episode, return."""
        import pandas as pd

        run, task, episode = (index.ravel() for index in np.indices(self.scores.shape))
        columns = {"run": run, "task": task, "task_id": self.task_ids[task], "episode": episode}
        return pd.DataFrame({"name": self.name, **columns, "return": self.scores.ravel()})

    def plot(self, ax: "Axes | None" = None, *, statistic: StatisticName = "mean") -> "Figure":
        """Draw the curve with its interval and its limits: `metagym.plots.plot_adaptation`."""
        from metagym.plots import plot_adaptation

        return plot_adaptation([self], ax=ax, statistic=statistic)

    def summary(self) -> dict[str, Any]:
        """What a table shows, as JSON values: sizes, first and last episode, limits."""
        average, middle = self.mean, self.iqm
        low, high = self.interval("mean")[:, -1]
        return {
            "name": self.name,
            "env_id": self.env_id,
            "split": self.split,
            "runs": self.num_runs,
            "tasks": self.num_tasks,
            "episodes": self.num_episodes,
            "first_mean": float(average[0]),
            "last_mean": float(average[-1]),
            "last_mean_low": float(low) if np.isfinite(low) else None,
            "last_mean_high": float(high) if np.isfinite(high) else None,
            "last_iqm": float(middle[-1]),
            "trial_mean": float(average.sum()),
            "random": float(self.random.mean()),
            "optimal": None if self.optimal is None else float(self.optimal.mean()),
            "bayes": None if self.bayes is None else self.bayes.tolist(),
            "settings": dict(self.settings),
        }

    @override
    def __repr__(self) -> str:
        average = ", ".join(f"{value:.3g}" for value in self.mean)
        limits = f"random={self.random.mean():.3g}"
        if self.optimal is not None:
            limits += f", optimal={self.optimal.mean():.3g}"
        if self.bayes is not None:
            limits += f", bayes=[{', '.join(f'{value:.3g}' for value in self.bayes)}]"
        return (
            f"AdaptationCurve({self.name!r} on {self.env_id}, split={self.split!r}, "
            f"{self.num_runs} run(s) x {self.num_tasks} tasks x {self.num_episodes} episodes, "
            f"mean=[{average}], {limits})"
        )

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` of arrays and JSON, without pickles; the file appears whole or not at all.

        Args:
            path: where; ``.npz`` is appended if missing.

        Returns:
            The path written.
        """
        path = with_suffix(path, ".npz")
        header = {
            "format": _FORMAT,
            "name": self.name,
            "env_id": self.env_id,
            "split": self.split,
            "settings": dict(self.settings),
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "AdaptationCurve":
        """The curve that `save` wrote; no code in the file is executed.

        Raises:
            FileNotFoundError: if there is no such file.
            ConfigError: if the file is no curve.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                header = json.loads(str(data["header"]))
                arrays = {name: data[name] for name in _ARRAYS if name in data.files}
            if header.pop("format") != _FORMAT:
                raise ConfigError("unknown format")
            return cls(**header, **arrays)
        except FileNotFoundError:
            raise
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
        ) as err:
            raise ConfigError(f"{path} is no curve as AdaptationCurve.save writes it: {err}") from err


def _statistic(name: str) -> Statistic:
    if name not in _STATISTICS:
        raise ConfigError(f"statistic must be one of {', '.join(_STATISTICS)}, got {name!r}")
    return _STATISTICS[name]
