"""Learning from scratch: no meta-training, and an initialisation for each task from a stream of its own."""

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos import FromScratch, GradientLearner
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState, get_rng_state
from tests.algos.multi_task_setup import LAKE, POINT, env_of, state, tiny
from tests.algos.reptile_setup import Line, line_env, same


def scratch(learner_class=PPO, **kwargs):
    return tiny(learner_class, kind=FromScratch, inner_timesteps=64, **kwargs)


TASKS = gym.make(POINT, split="test").unwrapped.sample_tasks(3)


@pytest.fixture
def initial(monkeypatch):
    """The parameters with which each adaptation begins."""
    learn, starts = PPO.learn, []

    def spy(self, *args, **kwargs):
        starts.append(LearnerState.capture(self))
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(PPO, "learn", spy)
    return starts


def test_learning_takes_no_step_and_changes_nothing():
    agent = scratch()
    before, rng = state(agent), get_rng_state()
    assert agent.learn(10_000, callback=lambda *_: False, progress_bar=True) is agent
    assert agent.num_timesteps == 0
    assert same(before, state(agent))
    assert all(np.array_equal(rng[name], value) for name, value in get_rng_state().items())


def test_every_task_has_an_initialisation_of_its_own_whatever_the_order_and_the_budget(initial):
    agent = scratch()
    for task in TASKS:
        agent.adapt(task)
    for task in reversed(TASKS):
        agent.adapt(task, total_timesteps=128)
    agent.adapt(TASKS[0], seed=5)
    agent.adapt(TASKS[0], seed=0)
    scratch().adapt(dict(TASKS[0]))
    scratch(seed=1).adapt(TASKS[0])
    distinct = [*initial[:3], initial[6], initial[7], initial[9], state(agent)]
    assert not any(same(left, right) for index, left in enumerate(distinct) for right in distinct[:index])
    assert all(same(left, right) for left, right in zip(initial[:3], initial[5:2:-1], strict=True))
    assert same(initial[8], initial[0])


def test_the_random_states_of_the_process_are_not_seen_in_it_and_not_touched(initial):
    agent = scratch()
    agent.adapt(TASKS[0])
    np.random.seed(7)  # noqa: NPY002
    before = get_rng_state()
    agent.adapt(TASKS[0])
    assert same(*initial)
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_without_a_seed_one_is_drawn_and_saved(initial, tmp_path):
    np.random.seed(3)  # noqa: NPY002
    first, second = scratch(seed=None), scratch(seed=None)
    assert first.seed != second.seed
    first.save(tmp_path / "agent")
    for agent in (first, second, FromScratch.load(tmp_path / "agent", device="cpu")):
        agent.adapt(TASKS[0])
    assert not same(initial[0], initial[1])
    assert same(initial[0], initial[2])


@pytest.mark.parametrize("learner_class", [PPO, SAC, DQN, ARS])
def test_every_learner_learns_a_task(learner_class):
    task = gym.make(env_of(learner_class)).unwrapped.sample_task()
    agent = scratch(learner_class, learner_kwargs={"learning_starts": 0} if learner_class in (SAC, DQN) else {})
    before = state(agent)
    expert = agent.adapt(task, total_timesteps=64)
    assert type(expert) is learner_class
    assert expert.num_timesteps >= 60
    assert same(before, state(agent))
    assert expert.get_env().unwrapped.env.get_tasks() == (task,) * 4


def test_tasks_that_are_no_tasks_of_metagyms_count_too(initial):
    agent = scratch(env=line_env())
    for goal in (0.25, 0.5, 0.25):
        agent.adapt(goal)
    env = Line()
    env.set_task(0.25)
    agent.adapt(env)
    assert same(initial[0], initial[2])
    assert not same(initial[0], initial[1])
    assert not same(initial[0], initial[3])


def test_it_is_evaluated_as_what_adapts_by_gradient():
    agent = scratch(DQN)
    assert isinstance(agent, GradientLearner)
    curve = evaluate(agent, LAKE, n_tasks=2, episodes=2, eval_episodes=2)
    assert (curve.name, curve.settings["kind"]) == ("FromScratch", "gradient")


def test_misuse_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"inner_timesteps .* got 0"):
        FromScratch("MlpPolicy", POINT, inner_timesteps=0)
    with pytest.raises(ConfigError, match="FromScratch needs"):
        FromScratch("MlpPolicy", 3)


def test_statistics_of_a_normalised_env_begin_anew_on_every_task_and_are_those_of_its_steps():
    env = VecNormalize(scratch().env)
    env.obs_rms.mean += 5.0  # as if it had seen other tasks
    agent = scratch(env=env)
    for steps in (64, 128):
        adapted = agent.adapt(TASKS[0], total_timesteps=steps).get_env()
        # The first observations and one for each step; epsilon is SB3's count of nothing seen.
        assert adapted.obs_rms.count == pytest.approx(steps + adapted.num_envs + 1e-4)
        assert np.abs(adapted.obs_rms.mean).max() < 1.0
        assert adapted.training
    assert env.obs_rms.mean.min() > 4.0
