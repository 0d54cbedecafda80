"""Runs of an iteration one after the other, and the same all at once."""

import numpy as np
from stable_baselines3 import PPO

from metagym.algos.batched_run import BatchedRuns
from metagym.algos.reptile import Reptile
from metagym.algos.reptile_env import draw_tasks
from metagym.algos.reptile_run import Job, Runs, Start, derived_seed
from metagym.learner_state import LearnerState, preserved_rng
from tests.algos.reptile_setup import POINT

NUM_TASKS = 2


def agent_of(env=POINT, *, learner_class=PPO, inner_timesteps=64, n_envs=4, **kwargs):
    """A Reptile whose runs are two rollouts of eight steps of four rows, with minibatches of 16."""
    inner = {"n_steps": 8, **kwargs.pop("learner_kwargs", {})}
    if learner_class is PPO:
        inner = {"batch_size": 16, "n_epochs": 2, **inner}
    policy_kwargs = {"net_arch": [8, 8], **kwargs.pop("policy_kwargs", {})}
    kwargs = {"seed": 0, "meta_batch_size": NUM_TASKS, **kwargs}
    return Reptile(
        "MlpPolicy", env, learner_class=learner_class, inner_timesteps=inner_timesteps, n_envs=n_envs,
        learner_kwargs=inner, policy_kwargs=policy_kwargs, device="cpu", **kwargs,
    )  # fmt: skip


def finishes(agent, num_tasks=NUM_TASKS, rounds=1):
    """Where runs end that are played one after the other, and all at once, and where they start."""
    start = Start(LearnerState.capture(agent.learner), [], "fresh", agent.inner_timesteps)
    tasks = draw_tasks(agent.env, num_tasks)
    jobs = [Job(index, task, derived_seed(7, index)) for index, task in enumerate(tasks)]
    batched = BatchedRuns(agent.learner, agent.env, agent._frozen_names)
    with preserved_rng():
        together = [list(batched.play(start, jobs)) for _ in range(rounds)][-1]
        alone = list(Runs(agent.learner, agent.env, agent._frozen_names).play(start, jobs))
    return alone, together, start


def distance(first, second):
    """The largest difference of two states in one number."""
    assert first.tensors.keys() == second.tensors.keys()
    return max(float((first.tensors[name] - second.tensors[name]).abs().max()) for name in first.tensors)


def records(finish):
    """What a run says of its episodes but for the clock: returns, and what has no rounding."""
    returns = [*finish.first, *finish.last, *(float(record["r"]) for record in finish.episodes)]
    lengths = [int(record["l"]) for record in finish.episodes]
    return returns, (
        len(finish.first),
        len(finish.last),
        finish.num_episodes,
        lengths,
        finish.successes,
        finish.timesteps,
    )


def require_equal(agent, *, tolerance=1e-6, **kwargs):
    """The runs end at the same parameters, to a tolerance far below the way they went, and saw the same episodes."""
    alone, together, start = finishes(agent, **kwargs)
    for one, other in zip(alone, together, strict=True):
        assert distance(one.phi, start.theta) > 100 * tolerance
        assert distance(one.phi, other.phi) < tolerance
        (expected, numbers), (returns, others) = records(one), records(other)
        assert numbers == others
        np.testing.assert_allclose(returns, expected, rtol=1e-6, atol=0)
