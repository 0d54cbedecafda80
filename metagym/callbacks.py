"""Callbacks of Stable-Baselines3 for meta-learners: held-out tasks are adapted to while training goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from metagym.curves import AdaptationCurve
from metagym.engine.drivers import PlayableFamily
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.files import replacing
from metagym.registry import make_family
from metagym.rollout import env_layers
from metagym.tasks import Task

__all__ = ["AdaptationEvalCallback"]

_EPISODES = 10


class AdaptationEvalCallback(EventCallback):
    """Evaluates a learner on the same held-out tasks again and again, as `metagym.evaluation.evaluate` does.

    What SB3's ``EvalCallback`` is to a learner of one task: it logs, saves the best model so far in metagym's format,
    writes ``evaluations.npz``, and SB3's ``StopTrainingOnRewardThreshold`` and ``StopTrainingOnNoModelImprovement``
    work as its children. Training is the same to the bit with it and without.

    Best is the highest mean return of the *last* entry: of a trial's last episode, or after the largest budget. It is
    chosen by these very tasks: its score on them is too high as an estimate, all the more the more often they were
    played. Report the final model, or evaluate the best one anew with another `seed`.

    Logged, means over tasks: ``meta/eval_first_episode`` and ``meta/eval_last_episode`` (returns), and, where the
    optimum is known, ``meta/eval_first_score`` and ``meta/eval_last_score`` (0 is random, 1 is the optimum of the known
    task).

    Args:
        env: id of a family, or a family; default: what the learner is trained in.
        eval_freq: calls between evaluations: steps of the vector env with RL², iterations with Reptile; 0: never.
        callback_on_new_best: called when the model is the best so far.
        callback_after_eval: called after every evaluation.
        split: part of the distribution the tasks are drawn from: "test", "train", "ood", or None for all.
        n_tasks: number of tasks, K.
        episodes: number of episodes; default: those of a training trial, or 10.
        budgets: see `evaluate`; default for a learner with `inner_timesteps`: none, and as many episodes as these are.
        tasks: play these instead of drawing.
        env_kwargs: keywords of the family, with an id.
        seed: of the tasks, the environments and the actions; the same in every evaluation.
        deterministic: take the most probable action instead of sampling.
        eval_episodes: for gradient learners, episodes whose mean return is an entry.
        log_path: folder for ``evaluations.npz``; None writes none. As with SB3, it begins anew with the callback.
        best_model_save_path: folder for ``best_model.zip``; None saves none.
        verbose: 1 says what came out.

    Attributes:
        best_mean_reward: highest mean return of the last entry so far.
        last_mean_reward: that of the latest evaluation.
        last_curve: result of the latest evaluation; None before the first.

    Raises:
        ConfigError: if `eval_freq` is out of range; at the start of training, if there is no `env` to evaluate in.
    """

    def __init__(
        self,
        env: str | PlayableFamily | None = None,
        *,
        eval_freq: int,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        split: str | None = "test",
        n_tasks: int = 20,
        episodes: int | None = None,
        budgets: Sequence[int] | None = None,
        tasks: Sequence[Task] | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        deterministic: bool = False,
        eval_episodes: int = 5,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        if isinstance(eval_freq, bool) or not isinstance(eval_freq, int) or eval_freq < 0:
            raise ConfigError(f"eval_freq must be an integer of at least 0, got {eval_freq!r}")
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.env, self.env_kwargs, self.eval_freq = env, env_kwargs, eval_freq
        self.episodes, self.budgets = episodes, budgets
        self.settings: dict[str, Any] = {
            "split": split, "n_tasks": n_tasks, "tasks": tasks, "seed": seed, "deterministic": deterministic,
            "eval_episodes": eval_episodes,
        }  # fmt: skip
        self.log_path = None if log_path is None else Path(log_path) / "evaluations.npz"
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.last_curve: AdaptationCurve | None = None
        self.evaluations_timesteps: list[int] = []
        self.evaluations_scores: list[Any] = []
        self._family: PlayableFamily | None = None

    @override
    def _init_callback(self) -> None:
        self._family = self._family_to_play()
        self.last_curve = None  # its limits are those of the tasks of before
        for folder in (self.best_model_save_path, None if self.log_path is None else self.log_path.parent):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    @override
    def _on_step(self) -> bool:
        if self.eval_freq == 0 or self.n_calls % self.eval_freq:
            return True
        curve = self._evaluate()
        self._log(curve)
        goes_on = True
        if self.last_mean_reward > self.best_mean_reward:
            self.best_mean_reward = self.last_mean_reward
            if self.best_model_save_path is not None:
                self.model.save(self.best_model_save_path / "best_model.zip")
            if self.callback_on_new_best is not None:
                goes_on = self.callback_on_new_best.on_step()
        return goes_on and self._on_event()

    def _evaluate(self) -> AdaptationCurve:
        assert self._family is not None
        learner: Any = self.model
        length: dict[str, Any] = {"episodes": self.episodes or _EPISODES, "budgets": self.budgets}
        if self.episodes is None and self.budgets is None:
            length |= self._own_length(learner, self._family)
        curve = evaluate(learner, self._family, limits=self.last_curve, **length, **self.settings)
        self.last_curve, self.last_mean_reward = curve, float(curve.mean[-1])
        return curve

    @staticmethod
    def _own_length(learner: Any, family: PlayableFamily) -> dict[str, Any]:
        """How long the learner was made to adapt, where it says so."""
        if hasattr(learner, "inner_timesteps"):
            return {"budgets": (0, max(1, round(learner.inner_timesteps / family.episode_length)))}
        return {"episodes": _attribute(learner.get_env(), "episodes_per_trial") or _EPISODES}

    def _family_to_play(self) -> PlayableFamily:
        learner: Any = self.model
        env: Any = self.env
        env_kwargs = self.env_kwargs
        if env is None:
            env = _attribute(learner.get_env(), "family")
        if isinstance(env, str):
            env, env_kwargs = make_family(env, **(env_kwargs or {})), None
        if env is None:
            raise ConfigError("the training env does not tell its family: give the callback an env to evaluate in")
        if env_kwargs:
            raise ConfigError(f"env_kwargs={dict(env_kwargs)} go with an id, which was not given")
        family: PlayableFamily = env
        return family

    def _log(self, curve: AdaptationCurve) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_scores.append(curve.scores[0])
        if self.log_path is not None:
            self._write(curve, self.log_path)
        self.logger.record("meta/eval_first_episode", float(curve.mean[0]))
        self.logger.record("meta/eval_last_episode", self.last_mean_reward)
        if curve.optimal is not None and curve.optimal.mean() > curve.random.mean():
            scores = curve.normalized().mean
            self.logger.record("meta/eval_first_score", float(scores[0]))
            self.logger.record("meta/eval_last_score", float(scores[-1]))
        if self.verbose >= 1:
            self.logger.info(f"{self.num_timesteps} steps: {curve}")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _write(self, curve: AdaptationCurve, path: Path) -> None:
        scores = np.stack(self.evaluations_scores)
        limits = {name: getattr(curve, name) for name in ("random", "optimal", "bayes")}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                timesteps=np.array(self.evaluations_timesteps),
                results=scores[:, :, -1],
                scores=scores,
                experience=curve.experience,
                task_ids=curve.task_ids,
                **{name: limit for name, limit in limits.items() if limit is not None},
            )

    @override
    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        for child in (self.callback, self.callback_on_new_best):
            if child is not None:
                child.update_locals(locals_)


def _attribute(env: VecEnv | None, name: str) -> Any:
    """What a layer of a vector env, or its first row, has by that name; None if nothing does."""
    if env is None:
        return None
    found = [vars(layer)[name] for layer in env_layers(env) if vars(layer).get(name) is not None]
    if found:
        return found[0]
    try:
        return env.get_attr(name)[0]
    except (AttributeError, ConfigError):
        return None
