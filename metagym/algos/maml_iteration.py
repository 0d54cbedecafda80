"""One iteration: tasks are drawn, played, adapted to and played again, and the meta-parameters take a step, or none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.maml_baselines import Experience, credited
from metagym.algos.maml_critic import CriticLoss
from metagym.algos.maml_objective import Batch, OuterLoss
from metagym.algos.maml_outer import Report
from metagym.algos.maml_policy import Parameters
from metagym.algos.maml_rollout import Collector
from metagym.algos.reptile_env import draw_tasks, give_task
from metagym.algos.reptile_run import derived_seed, seed_run
from metagym.errors import DivergenceError
from metagym.learner_state import preserved_rng

if TYPE_CHECKING:
    from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["Played", "iterate", "live", "play_and_adapt"]


class Played:
    """What K tasks were played and adapted to.

    Attributes:
        experiences: one for each time that the tasks were played.
        parameters: after the last step, (K, ...).
    """

    def __init__(self) -> None:
        self.experiences: list[Experience] = []
        self.parameters: Parameters = {}

    @property
    def timesteps(self) -> int:
        """Environment steps taken."""
        return sum(experience.rollout.timesteps for experience in self.experiences)


def live(agent: "GradientMetaLearner") -> dict[str, th.Tensor]:
    """All tensors that learning changes, by name, live: the policy's, and what is meta-learned besides."""
    return {**dict(agent.learner.policy.named_parameters()), **agent._parts.start.extras()}


def iterate(agent: "GradientMetaLearner", env: VecEnv, bar: Any) -> int:
    """One outer step; returns the number of episodes played.

    On any exception the meta-parameters and what optimisers remember are what they were before. The process's random
    states are so in any case.

    Raises:
        DivergenceError: if an inner or the outer step left numbers that are not finite.
    """
    rate = agent.lr_schedule(agent._current_progress_remaining)
    with preserved_rng(), _all_or_nothing(agent):
        tasks, seeds = _draw(agent, env)
        played = play_and_adapt(agent, _collector(agent, env), tasks, seeds, agent.n_inner_steps, plays_on=True)
        bar.update(played.timesteps)
        batch = Batch.of([own[0] for own in seeds], played.experiences)
        report = _outer_step(agent, batch, rate)
        _require_finite(agent, report)
        give_task(env, tasks[-1])
    agent._after_outer_step(report)
    return _count(agent, played, report)


def _collector(agent: "GradientMetaLearner", env: VecEnv) -> Collector:
    parts = agent._parts
    if parts.collector is None:
        parts.collector = Collector(parts.function, parts.law, env, agent.meta_batch_size, agent.n_steps)
    return parts.collector


def _draw(agent: "GradientMetaLearner", env: VecEnv) -> tuple[list[Any], list[list[int]]]:
    """The tasks of an iteration, K, and for each the seeds of its plays."""
    place = agent._n_updates
    seed_run(agent.learner, env, derived_seed(agent._entropy, place))
    env.reset()  # seeds take effect at a reset
    tasks = draw_tasks(env, agent.meta_batch_size)
    plays = range(agent.n_inner_steps + 1)
    return tasks, [[derived_seed(agent._entropy, place, index, play) for play in plays] for index in range(len(tasks))]


def play_and_adapt(
    agent: "GradientMetaLearner",
    collector: Collector,
    tasks: Sequence[Any],
    seeds: Sequence[Sequence[int]],
    n_steps: int,
    *,
    plays_on: bool,
) -> Played:
    """Play K tasks and take a step on each, several times.

    Args:
        agent: whose meta-parameters tasks begin with.
        collector: plays them.
        tasks: K.
        seeds: for each task, those of its plays.
        n_steps: steps.
        plays_on: whether the tasks are played after the last step too.

    Raises:
        DivergenceError: if a step leaves numbers that are not finite.
    """
    parts, played = agent._parts, Played()
    with th.no_grad():
        parameters = parts.start.begin(parts.start.tensors, [own[0] for own in seeds])
    for step in range(n_steps + plays_on):
        rollout = collector.collect(parameters, tasks, [own[step] for own in seeds])
        _require_finite_tasks(agent, {"log_probs": rollout.log_probs}, tasks, step - 1)
        values, last = parts.baseline.values(rollout, parameters)
        experience = credited(
            rollout, values, last, gamma=agent.gamma, gae_lambda=agent.gae_lambda, normalize=agent.normalize_advantage
        )
        played.experiences.append(experience)
        if step < n_steps:
            rates = parts.start.rates(parts.start.tensors, step)
            parameters = parts.inner.take(parameters, experience, rates)
            _require_finite_tasks(agent, parameters, tasks, step)
    played.parameters = parameters
    return played


def _outer_step(agent: "GradientMetaLearner", batch: Batch, rate: float) -> Report:
    parts = agent._parts
    loss = OuterLoss(
        parts.function, parts.law, parts.start, parts.inner, batch,
        clip_range=agent.clip_range if agent.outer == "ppo" else None, ent_coef=agent.ent_coef,
        order=1 if agent.first_order else 2, extra=agent._extra_loss,
        thinning=agent.sub_sampling_factor,
    )  # fmt: skip
    report = parts.outer.step(parts.start.tensors, loss, rate)
    if parts.critic is not None:
        critic = parts.function.parameters(parts.function.critic_names)
        parts.critic.step(critic, CriticLoss(parts.function, (*batch.inner, batch.outer)[0]), rate)
    return report


# --- when something goes wrong ---------------------------------------------------------------------------------------


@contextmanager
def _all_or_nothing(agent: "GradientMetaLearner") -> Iterator[None]:
    """Put everything learnt back if the block fails."""
    steps = [step for step in (agent._parts.outer, agent._parts.critic) if step is not None]
    before, moments = {name: tensor.detach().clone() for name, tensor in live(agent).items()}, [
        step.capture() for step in steps
    ]  # fmt: skip
    try:
        yield
    except BaseException:
        with th.no_grad():
            for name, tensor in live(agent).items():
                tensor.copy_(before[name])
        for step, captured in zip(steps, moments, strict=True):
            step.restore(captured)
        raise


def _require_finite_tasks(
    agent: "GradientMetaLearner", parameters: Mapping[str, th.Tensor], tasks: Sequence[Any], step: int
) -> None:
    finite = th.stack([th.isfinite(tensor).flatten(1).all(1) for tensor in parameters.values()]).all(0)
    for index, holds in enumerate(finite.tolist()):
        if not holds:
            raise DivergenceError(
                f"inner step {step + 1} with inner_learning_rate={agent._parts.start.rate(step):g} left NaN or "
                f"infinity on {tasks[index]!r}; the meta-parameters are those before this iteration: "
                "lower inner_learning_rate"
            )


def _require_finite(agent: "GradientMetaLearner", report: Report) -> None:
    broken = [name for name, tensor in live(agent).items() if not bool(th.isfinite(tensor).all())]
    if broken or not np.isfinite([report.loss_before, report.loss_after]).all():
        raise DivergenceError(
            f"the outer step left NaN or infinity in {broken[:4] or 'its loss'}; the meta-parameters are those before "
            "it: lower learning_rate, target_kl or inner_learning_rate"
        )


# --- what is counted and logged --------------------------------------------------------------------------------------


def _count(agent: "GradientMetaLearner", played: Played, report: Report) -> int:
    first, last = played.experiences[0].rollout, played.experiences[-1].rollout
    logger, episodes = agent.logger, 0
    for experience in played.experiences:
        rollout = experience.rollout
        episodes += rollout.lengths.size
        if agent.ep_info_buffer is not None and agent.ep_success_buffer is not None:
            pairs = zip(rollout.returns.ravel().tolist(), rollout.lengths.ravel().tolist(), strict=True)
            agent.ep_info_buffer.extend({"r": total, "l": length, "t": 0.0} for total, length in pairs)
            agent.ep_success_buffer.extend(rollout.successes)
    agent.num_timesteps += played.timesteps
    agent._n_iterations += 1
    agent._n_updates += 1
    logger.record("meta/pre_adapt_return", float(first.returns.mean()))
    logger.record("meta/post_adapt_return", float(last.returns.mean()))
    logger.record("meta/outer_loss", report.loss_before)
    logger.record("meta/improvement", report.loss_before - report.loss_after)
    logger.record("meta/divergence", report.divergence)
    logger.record("meta/line_search", report.line_search)
    log_std = agent._parts.start.tensors.get("log_std")
    if log_std is not None:
        logger.record("train/std", float(log_std.detach().exp().mean()))
    return episodes
