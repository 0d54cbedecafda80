"""Trainings of RL² for tables of results, the trials they are measured on, and means over seeds."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.utils import LinearSchedule
from typing_extensions import override

from benchmarks import trainings
from benchmarks.trainings import Journal, measure_all
from metagym.algos import RL2
from metagym.wrappers import RL2Context, Trial

__all__ = [
    "PLAIN_FIRST_LAMBDA",
    "PLAIN_LAST_LAMBDA",
    "RL2Journal",
    "Training",
    "measure",
    "plain_settings",
    "summary",
    "trials",
]

PLAIN_FIRST_LAMBDA, PLAIN_LAST_LAMBDA = 0.7, 0.98
"""Lambda at the start and at the end of the training of a plain GRU.

It begins lower: all that a trial pays is noisy, and no value can yet tell what an action is worth that only informs."""


@dataclass(frozen=True, kw_only=True)
class Training(trainings.Training):
    """One training of RL² and its measurement.

    Attributes:
        steps: environment steps.
        policy: as `RL2` takes it.
        entropy: coefficient of the entropy bonus at the start, from which it falls to zero linearly; None: as in
            `keywords` throughout.
        last_gae_lambda: lambda at the end, to which it goes linearly from that in `keywords`; None: it stays.
        test: measures the trained agent on so many held-out tasks; a function of a module.
        custom_objects: what a checkpoint cannot hold, as `RL2.load` takes it.
    """

    steps: int
    policy: Any = "MlpPolicy"
    entropy: float | None = None
    last_gae_lambda: float | None = None
    test: Callable[[RL2, int], dict[str, Any]]
    custom_objects: Mapping[str, Any] = field(default_factory=dict)

    @property
    @override
    def settings(self) -> list[Any]:
        policy = self.policy if isinstance(self.policy, str) else self.policy.__name__
        told = [self.env_id, policy, sorted(self.keywords.items()), self.entropy, self.steps, self.tasks]
        # Only where it is set, so that finished trainings without it keep the names of their files.
        return told if self.last_gae_lambda is None else [*told, self.last_gae_lambda]

    @override
    def trained(self) -> RL2:
        checkpoint = self.path(".zip")
        if checkpoint.exists():
            agent: RL2 = RL2.load(checkpoint, device="cpu", custom_objects=dict(self.custom_objects))
        else:
            self.path(".jsonl").unlink(missing_ok=True)
            agent = RL2(self.policy, self.env_id, seed=self.seed, device="cpu", **self.keywords)
        left = self.steps - agent.num_timesteps
        if left > 0:
            agent.learn(left, callback=RL2Journal(self), log_interval=None, reset_num_timesteps=False)
        return agent

    @override
    def tested(self, agent: RL2) -> dict[str, Any]:
        return self.test(agent, self.tasks)


class RL2Journal(Journal):
    """Also lets the entropy bonus fall to zero, and lambda go to its last value, linearly, where training says so."""

    def __init__(self, training: Training, *, seconds_between: float = 20.0) -> None:
        super().__init__(training, seconds_between=seconds_between)
        self._entropy, self._steps, self._last_lambda = training.entropy, training.steps, training.last_gae_lambda

    @override
    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._set_lambda()

    @override
    def _on_step(self) -> bool:
        # Before the last step of a rollout is judged, and from steps alone: an interrupted training goes on to the bit.
        self._set_lambda()
        return super()._on_step()

    @override
    def _on_rollout_end(self) -> None:
        if self._entropy is not None:
            self.model.ent_coef = self._entropy * self._left  # type: ignore[attr-defined]

    @property
    def _left(self) -> float:
        return max(0.0, 1.0 - self.num_timesteps / self._steps)

    def _set_lambda(self) -> None:
        if self._last_lambda is not None:
            model: Any = self.model
            model.rollout_buffer.gae_lambda = self._last_lambda + self._left * (model.gae_lambda - self._last_lambda)

    @override
    def progress(self) -> dict[str, Any]:
        returns = [float(episode["r"]) for episode in self.model.ep_info_buffer or ()]
        return {"mean_return": float(np.mean(returns)) if returns else None}


def trials(
    env_id: str,
    rows: int,
    episodes: int,
    *,
    split: str | None = "test",
    autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
    **env_kwargs: Any,
) -> Any:
    """Trials side by side, as RL² agents see them: the vector env that a measurement plays."""
    vector: Any = gym.make_vec(
        env_id,
        num_envs=rows,
        vectorization_mode="vector_entry_point",
        autoreset_mode=autoreset_mode,
        split=split,
        **env_kwargs,
    )
    return RL2Context(Trial(vector, episodes_per_trial=episodes))


def plain_settings(
    trial_steps: int,
    *,
    rows: int,
    minibatches: int,
    units: int,
    vf_coef: float,
    gamma: float = 0.99,
    gae_lambda: float = PLAIN_FIRST_LAMBDA,
) -> dict[str, Any]:
    """How a plain GRU learns trials in which exploring pays: many of them in a rollout, and small minibatches.

    Args:
        trial_steps: of a trial.
        rows: trials of a rollout, all at the same time.
        minibatches: of a rollout.
        units: of the memory.
        vf_coef: weight of the loss of values. They read the memory that the policy reads, and a loss of the size of
            squared returns drowns its gradient.
        gamma: discount.
        gae_lambda: lambda at the start.
    """
    return {
        "n_envs": rows,
        "n_steps": trial_steps,
        "batch_size": rows * trial_steps // minibatches,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(5e-3, 2.5e-4, 1.0),
        "gamma": gamma,
        "gae_lambda": gae_lambda,
        "vf_coef": vf_coef,
        "policy_kwargs": {"rnn_hidden_size": units},
    }


def measure(trainings: Sequence[Training], given: Namespace, score: str = "score") -> dict[str, Any]:
    """All trainings, as `benchmarks.trainings.measure_all`; `score` is the key of what is printed of each."""
    return measure_all(trainings, given, lambda test: f"{test[score]:.4f}")


def summary(runs: Sequence[Mapping[str, Any]], score: str = "score") -> tuple[float, float]:
    """Mean over seeds, and half of its 95 % interval.

    The seeds share their test tasks, so the error of the tasks (``score + "_error"``, 0 where it is not given) does not
    shrink with the number of seeds.
    """
    scores = np.array([one["test"][score] for one in runs])
    of_tasks = np.mean([one["test"].get(f"{score}_error", 0.0) for one in runs])
    of_seeds = scores.std(ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return float(scores.mean()), float(1.96 * np.hypot(of_tasks, of_seeds))
