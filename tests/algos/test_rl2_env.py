"""RL² and envs: what it accepts, what it refuses, and what it makes of it."""

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import metagym
from metagym.algos.rl2 import RL2
from metagym.algos.rl2_env import is_of_trials
from metagym.errors import ConfigError, TaskError
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.algos.rl2_setup import LAKE, SMALL, lake, vector_lake


def test_every_kind_of_env_gives_the_same_spaces():
    expected = lake().observation_space
    settings = {**SMALL, "episodes_per_trial": 2}
    scalar = gym.make(LAKE, size=4)
    for env in (scalar, scalar.unwrapped, vector_lake(), vector_lake(mode=AutoresetMode.DISABLED)):
        agent = RL2("MlpPolicy", env, **settings)
        assert agent.observation_space == expected
        agent.learn(24)


def test_sb3_vec_envs_of_trials_are_taken_as_they_are():
    def wrapped():
        return RL2Context(Trial(gym.make(LAKE, size=4), episodes_per_trial=2))

    settings = {name: value for name, value in SMALL.items() if name != "n_envs"}
    native = VecMonitor(VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=2))))
    for env in (VecMonitor(DummyVecEnv([wrapped] * 3)), native):
        agent = RL2("MlpPolicy", env, **settings)
        assert agent.env is env
        agent.learn(24)


def test_trials_are_recognised():
    assert is_of_trials(DummyVecEnv([lambda: Trial(gym.make(LAKE), episodes_per_trial=2)]))
    assert is_of_trials(VectorEnvAdapter(Trial(vector_lake(), steps_per_trial=3)))
    assert not is_of_trials(DummyVecEnv([lambda: gym.make(LAKE)]))
    assert not is_of_trials(VectorEnvAdapter(vector_lake()))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (None, "RL2 needs an env"),
        ("MetaFrozenPond-v0", "'MetaFrozenPond-v0' is no registered environment id"),
        ("CartPole-v1", "is no environment of tasks"),
        ("Blackjack-v1", "'Blackjack-v1' is no environment of tasks"),
        (7, "environment of tasks.* not 7"),
    ],
)
def test_envs_without_tasks_are_refused(env, message):
    with pytest.raises(ConfigError, match=message):
        RL2("MlpPolicy", env, episodes_per_trial=2)


def test_other_unfit_envs_are_refused():
    with pytest.raises(ConfigError, match="environment of tasks"):
        RL2("MlpPolicy", gym.make("CartPole-v1"), episodes_per_trial=2)
    with pytest.raises(ConfigError, match="environment of tasks"):
        RL2("MlpPolicy", gym.make_vec("CartPole-v1", num_envs=2), episodes_per_trial=2)
    with pytest.raises(ConfigError, match="does not emit whole trials"):
        RL2("MlpPolicy", DummyVecEnv([lambda: gym.make(LAKE)]))
    with pytest.raises(ConfigError, match="give neither"):
        RL2("MlpPolicy", VectorEnvAdapter(Trial(vector_lake(), episodes_per_trial=2)), episodes_per_trial=2)
    with pytest.raises(ConfigError, match="SAME_STEP"):
        RL2("MlpPolicy", vector_lake(mode=AutoresetMode.NEXT_STEP), episodes_per_trial=2)
    with pytest.raises(ConfigError, match="n_envs=2, but the vector env that was given has 3 rows"):
        RL2("MlpPolicy", vector_lake(), episodes_per_trial=2, n_envs=2)
    with pytest.raises(ConfigError, match="policy 'MlpLstmPolicy' is unknown"):
        RL2("MlpLstmPolicy", LAKE, episodes_per_trial=2)


def test_set_env_takes_what_the_constructor_takes():
    agent = lake().learn(24)
    for env in (vector_lake(), LAKE, VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=4)))):
        agent.set_env(env)
        agent.learn(24, reset_num_timesteps=False)
    assert agent._source.episodes_per_trial == 4
    with pytest.raises(ConfigError, match="does not emit whole trials"):
        agent.set_env(VectorEnvAdapter(vector_lake()))


def test_make_env_gives_trials_of_the_task():
    agent = lake()
    task = agent.make_env(split="test").unwrapped.sample_task()
    env = agent.make_env(task)
    observation, info = env.reset(seed=0)
    assert env.observation_space == agent.observation_space
    assert info["task_id"] == task.id
    state, terminated = None, False
    episodes = []
    while not terminated:
        action, state = agent.predict(observation, state)
        observation, _, terminated, _, info = env.step(action)
        episodes += [info["trial_episode"]] * info["episode_end"]
    assert episodes == [0, 1]
    with pytest.raises(TaskError):
        agent.make_env({"nothing": 1})


def test_pinned_tasks_are_trained_on():
    agent = lake()
    task = agent.make_env().unwrapped.sample_task()
    metagym.set_tasks(agent.env, [task] * 3)
    agent.learn(24)
    assert [row.id for row in agent.env.venv.env.get_tasks()] == [task.id] * 3
