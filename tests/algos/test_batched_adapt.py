"""`Reptile.adapt_many` returns what `adapt` returns for each task, and a learner that goes on like it."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO

from metagym.algos.reptile_run import derived_seed
from metagym.errors import DivergenceError
from metagym.learner_state import LearnerState, get_rng_state
from tests.algos.batched_setup import agent_of, distance
from tests.algos.reptile_setup import LAKE, POINT, same, tiny


def states(models):
    return [LearnerState.capture(model) for model in models]


def moments(model):
    stored = model.policy.optimizer.state_dict()["state"]
    return {(index, key): np.asarray(value) for index, own in stored.items() for key, value in own.items()}


def looks(model):
    """Everything of a learner but tensors that its next steps hang on, or that users read."""
    native = model.get_env().unwrapped.env
    episodes = [(float(record["r"]), int(record["l"])) for record in model.ep_info_buffer]
    return {
        **{f"env/{name}": value for name, value in native.get_state().items()},
        "observations": model._last_obs, "starts": model._last_episode_starts, "episodes": np.array(episodes),
        "successes": np.array(model.ep_success_buffer),
        "returns": model.get_env().episode_returns, "lengths": model.get_env().episode_lengths,
        "counts": np.array([
            model.num_timesteps, model._n_updates, model._total_timesteps, model._current_progress_remaining,
            model.get_env().episode_count, model.n_steps, model.ep_info_buffer.maxlen,
        ]),
    }  # fmt: skip


@pytest.mark.parametrize(("env", "learner_class"), [(LAKE, PPO), (POINT, A2C)])
def test_learners_adapted_at_once_are_those_adapted_by_themselves_and_go_on_alike(env, learner_class):
    agent = agent_of(env, learner_class=learner_class, batched=True, inner_timesteps=64)
    tasks = agent.env.unwrapped.env.sample_tasks(3)
    before, rng, rows = states([agent.learner])[0], get_rng_state(), agent.env.unwrapped.env.get_state()
    together = agent.adapt_many(tasks, 75, seed=5)
    assert same(states([agent.learner])[0], before)
    assert all(np.array_equal(value, get_rng_state()[name]) for name, value in rng.items())
    assert all(np.array_equal(value, agent.env.unwrapped.env.get_state()[name]) for name, value in rows.items())
    alone = [agent.adapt(task, 75, seed=derived_seed(5, place)) for place, task in enumerate(tasks)]
    for one, other in zip(alone, together, strict=True):
        assert type(other) is learner_class
        for name, value in looks(one).items():
            # To the bit but for positions, which hang on actions that are continuous.
            np.testing.assert_allclose(looks(other)[name], value, rtol=1e-6, err_msg=name)
        assert moments(one).keys() == moments(other).keys()
        for name, value in moments(one).items():
            np.testing.assert_allclose(moments(other)[name], value, atol=1e-6, err_msg=str(name))
        for model in (one, other):
            th.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002 (the stream that SB3 draws from)
            model.learn(64, reset_num_timesteps=False)
    for one, other, start in zip(states(alone), states(together), [before] * 3, strict=True):
        assert distance(one, other) < 1e-5
        assert distance(one, start) > 1e-3


def test_learners_are_independent_of_each_other_and_save_as_sb3_saves(tmp_path):
    agent = agent_of(LAKE, batched=True)
    first, second = agent.adapt_many(agent.env.unwrapped.env.sample_tasks(2), seed=0)
    kept = states([second])[0]
    first.learn(32)
    assert same(states([second])[0], kept)
    second.save(tmp_path / "second")
    assert same(states([PPO.load(tmp_path / "second", device="cpu")])[0], kept)


def test_tasks_are_adapted_one_after_the_other_where_not_batched():
    agent = tiny(LAKE, learner_class=DQN, seed=0)
    tasks = agent.env.unwrapped.env.sample_tasks(2)
    models = agent.adapt_many(tasks, 16, seed=3)
    assert [type(model) for model in models] == [DQN, DQN]
    alone = agent.adapt(tasks[1], 16, seed=derived_seed(3, 1))
    assert same(states([alone])[0], states([models[1]])[0])
    assert agent.adapt_many([]) == []


def test_envs_are_adapted_in_one_after_the_other():
    agent = agent_of(LAKE, batched=True)
    env = gym.make(LAKE)
    models = agent.adapt_many([env, env.unwrapped.sample_task()], 32, seed=0)
    assert [model.num_timesteps for model in models] == [32, 32]


def test_without_a_seed_the_noise_comes_from_the_process_and_differs_between_tasks():
    agent = agent_of(POINT, batched=True)
    task = agent.env.unwrapped.env.sample_tasks(1)[0]
    np.random.seed(0)  # noqa: NPY002 (the stream that SB3 draws from)
    first, second = states(agent.adapt_many([task, task], 32))
    again = states(agent.adapt_many([task, task], 32))[0]
    np.random.seed(1)  # noqa: NPY002
    other = states(agent.adapt_many([task, task], 32))[0]
    assert same(first, again)
    assert not same(first, second)
    assert not same(first, other)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("batched", [False, True])
def test_a_learner_that_diverged_is_not_returned(batched):
    options = {"learning_rate": 1e30, "n_steps": 8}
    agent = agent_of(LAKE, batched=batched, learner_class=A2C, learner_kwargs=options)
    with pytest.raises(DivergenceError, match=r"A2C diverged on .*lower learning_rate"):
        agent.adapt_many(agent.env.unwrapped.env.sample_tasks(2), 64, seed=0)
