"""What Reptile trains in, and the mistakes that are named."""

import gymnasium as gym
import pytest
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

import metagym
from metagym.algos.reptile import Reptile
from metagym.errors import ConfigError
from tests.algos.reptile_setup import LAKE, POINT, TINY, Line, Plain, line_env, tiny
from tests.strategies import plainly


def test_ids_scalar_envs_and_vector_envs_are_accepted():
    scalar = gym.make(POINT, split="test")
    vector = gym.make_vec(POINT, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP)
    sync = SyncVectorEnv([lambda: gym.make(POINT)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    lines = SyncVectorEnv([Line] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    dummy = DummyVecEnv([lambda: gym.make(POINT)] * 2)
    for env, rows in ((POINT, 4), (scalar, 8), (Line(), 8), (vector, 3), (sync, 2), (lines, 2), (dummy, 2)):
        agent = tiny(env, meta_batch_size=1).learn(1)
        assert agent.n_envs == rows
    assert tiny(scalar).env.unwrapped.env.task_distribution == scalar.unwrapped.task_distribution


def test_copies_of_a_scalar_env_have_random_streams_of_their_own():
    env = Line()
    env.reset(seed=0)
    tasks = tiny(env).env.env_method("sample_task")
    assert len(set(tasks)) == 8


def test_keywords_reach_the_family():
    agent = tiny(LAKE, env_kwargs={"size": 5}, split="test")
    assert agent.observation_space.n == 25
    with pytest.raises(ConfigError, match="sizee"):
        tiny(LAKE, env_kwargs={"sizee": 5})


def test_the_training_env_is_unpinned_in_the_end():
    env = gym.make_vec(POINT, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP)
    tiny(env).learn(1)
    env.reset(seed=0)
    assert len(set(env.get_tasks())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "CartPole-v1"}, "CartPole-v1.*has no tasks"),
        ({"env": Plain()}, "Plain has no tasks"),
        ({"env": DummyVecEnv([Plain])}, "DummyVecEnv has no tasks"),
        ({"env": "Nothing-v0"}, "Nothing"),
        ({"env": None}, "got None"),
        ({"env": 3}, "got 3"),
        ({"env": gym.make_vec(POINT, num_envs=2)}, "SAME_STEP"),
        ({"env": line_env(2), "n_envs": 3}, "n_envs=3.*2 rows"),
        ({"env": line_env(2), "env_kwargs": {"a": 1}}, "goes with an id"),
        ({"env_kwargs": {"family": "os:system"}}, "family"),
        ({"n_envs": 0}, "n_envs must be an integer of at least 1, got 0"),
        ({"learner_class": "PPPO"}, "PPPO"),
        ({"learner_class": th.nn.Linear}, "Linear"),
        ({"learner_class": None}, "None"),
        ({"learner_class": Reptile}, "Reptile"),
        ({"policy": "MlpPolizei"}, "PPO has no policy 'MlpPolizei'"),
        ({"inner_timesteps": 0}, "inner_timesteps must be an integer of at least 1, got 0"),
        ({"meta_batch_size": 1.5}, "meta_batch_size .* 1.5"),
        ({"inner_optimizer": "warm"}, "'fresh' or 'carry', got 'warm'"),
        ({"learning_rate": 0.0}, "learning_rate .* 0.0"),
        ({"learning_rate": "1"}, "learning_rate .* '1'"),
        ({"learner_kwargs": {"seed": 3}}, r"\['seed'\]"),
        ({"learner_kwargs": {"n_stpes": 3}}, r"\['n_stpes'\], which PPO does not have"),
        ({"learner_kwargs": {"n_steps": 100}}, "100 steps in 4 envs is longer than inner_timesteps=32"),
        ({"learner_kwargs": {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}}, "lr_schedule of the inner PPO changes"),
        ({"learner_kwargs": {"clip_range": lambda progress: progress}}, "clip_range of the inner PPO changes"),
    ],
    ids=plainly,
)
def test_a_mistake_raises_an_error_that_names_it(arguments, message):
    arguments = {
        **TINY,
        **({"n_envs": None} if "env" in arguments else {}),
        "policy": "MlpPolicy",
        "env": POINT,
        **arguments,
    }
    with pytest.raises(ConfigError, match=message):
        Reptile(arguments.pop("policy"), arguments.pop("env"), **arguments)


def test_learners_of_sbx_are_refused():
    fake = type("PPO", (PPO,), {"__module__": "sbx.ppo.ppo"})
    with pytest.raises(ConfigError, match="JAX"):
        tiny(learner_class=fake)


def test_metagym_sets_tasks_of_the_training_env():
    agent = tiny()
    task = gym.make(POINT).unwrapped.sample_task()
    metagym.set_tasks(agent.env, [task] * 4)
    agent.env.reset()
    assert agent.env.unwrapped.env.get_tasks() == (task,) * 4
