"""RL²: constructed like an SB3 learner, learns within a trial, is saved and resumed to the bit."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import metagym
from metagym.algos.rl2 import RL2, RL2A2C, RL2PPO
from metagym.algos.rl2_env import is_of_trials
from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.errors import CheckpointError, ConfigError, TaskError
from metagym.learner_state import get_rng_state
from metagym.saving import write_archive
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter

LAKE = "MetaFrozenLake-v0"
BANDIT = "MetaBandit-v0"
SMALL = {"n_envs": 3, "n_steps": 8, "batch_size": 12, "n_epochs": 2, "policy_kwargs": {"rnn_hidden_size": 4}}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


def lake(**kwargs):
    settings = {"episodes_per_trial": 2, "seed": 0, "env_kwargs": {"size": 4}, **SMALL}
    return RL2("MlpPolicy", LAKE, **settings | kwargs)


def vector_lake(n_envs=3, mode=AutoresetMode.SAME_STEP):
    return gym.make_vec(LAKE, num_envs=n_envs, autoreset_mode=mode, size=4)


def parameters(agent):
    return {name: p.detach().clone() for name, p in agent.policy.named_parameters()}


def assert_same_parameters(agent, expected):
    for name, parameter in agent.policy.named_parameters():
        assert th.equal(parameter, expected[name]), name


def observations(agent, n=5):
    return np.random.default_rng(0).random((n, *agent.observation_space.shape), np.float32)


def assert_predicts_alike(one, other):
    seen = observations(one)
    state = other_state = None
    for _ in range(3):
        actions, state = one.predict(seen, state, deterministic=True)
        other_actions, other_state = other.predict(seen, other_state, deterministic=True)
        np.testing.assert_array_equal(actions, other_actions)
        np.testing.assert_array_equal(state[0], other_state[0])


class Recorder(Logger):
    def __init__(self):
        super().__init__(None, [])
        self.lines = []

    def dump(self, step=0):
        self.lines.append(dict(self.name_to_value))
        super().dump(step)


def test_it_is_both_an_rl2_and_an_sb3_learner():
    agent = lake()
    assert isinstance(agent, RL2)
    assert isinstance(agent, PPO)
    assert type(agent) is RL2PPO
    other = RL2("MlpPolicy", LAKE, learner_class=A2C, episodes_per_trial=2, n_envs=2, n_steps=8)
    assert type(other) is RL2A2C
    assert isinstance(other, A2C)


def test_a_subclass_of_ppo_is_joined_once():
    class Mine(PPO):
        pass

    one, other = lake(learner_class=Mine), lake(learner_class=Mine)
    assert type(one) is type(other)
    assert isinstance(one, Mine)
    assert type(one).__name__ == "RL2Mine"


@pytest.mark.parametrize("learner_class", ["PPO", "A2C"])
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_it_learns_from_an_id(learner_class, rnn_type):
    kwargs = {"n_steps": 8, "policy_kwargs": {"rnn_hidden_size": 4, "rnn_type": rnn_type}, "n_envs": 2}
    if learner_class == "PPO":
        kwargs |= {"batch_size": 8, "n_epochs": 2}
    agent = RL2("MlpPolicy", LAKE, learner_class=learner_class, steps_per_trial=4, **kwargs)
    before = parameters(agent)
    agent.learn(32)
    assert agent.num_timesteps == 32
    assert any(not th.equal(before[name], p) for name, p in agent.policy.named_parameters())


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
    ("kwargs", "message"),
    [
        ({"episodes_per_trial": 0}, "episodes_per_trial must be an integer of at least 1, not 0"),
        ({"episodes_per_trial": 2.5}, "episodes_per_trial must be an integer of at least 1, not 2.5"),
        ({"steps_per_trial": 10}, "exactly one of episodes_per_trial and steps_per_trial"),
        ({"episodes_per_trial": None}, "exactly one of episodes_per_trial and steps_per_trial"),
        ({"learner_class": DQN}, "must be PPO, A2C, .* not DQN"),
        ({"learner_class": TRPO}, "must be PPO, A2C, .* not TRPO"),
        ({"learner_class": RecurrentPPO}, "must be PPO, A2C, .* not RecurrentPPO"),
        ({"learner_class": "SAC"}, "must be PPO, A2C, .* not 'SAC'"),
        ({"n_envs": 0}, "n_envs must be an integer of at least 1, not 0"),
        ({"n_stepz": 8}, "unknown keywords \\['n_stepz'\\]; PPO takes"),
        ({"split": "tset"}, "tset"),
        ({"env_kwargs": {"sizes": 4}}, "sizes"),
        ({"policy_kwargs": {"rnn_type": "rnn"}}, "'gru' or 'lstm'"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        lake(**kwargs)


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
    with pytest.raises(ConfigError, match="policy 'CnnPolicy' is unknown"):
        RL2("CnnPolicy", LAKE, episodes_per_trial=2)


def test_caller_arguments_are_not_changed():
    kwargs = {"policy_kwargs": {"rnn_hidden_size": 4}, "env_kwargs": {"size": 4}}
    given = copy.deepcopy(kwargs)
    RL2("MlpPolicy", LAKE, learner_class=A2C, episodes_per_trial=2, n_envs=2, n_steps=8, **kwargs)
    assert kwargs == given


@pytest.mark.parametrize(
    ("trials", "n_steps"),
    [
        ({"steps_per_trial": 100}, 100),
        ({"steps_per_trial": 20}, 80),
        ({"episodes_per_trial": 5}, 64),
    ],
)
def test_default_rollouts_are_whole_numbers_of_trials_or_short(trials, n_steps):
    agent = RL2("MlpPolicy", LAKE, n_envs=64, **trials)
    assert agent.n_steps == n_steps
    assert agent.batch_size == n_steps * 64 // 4


def test_default_rollouts_of_bandits_are_whole_trials():
    assert RL2("MlpPolicy", BANDIT, episodes_per_trial=30, n_envs=64).n_steps == 90


def test_set_env_takes_what_the_constructor_takes():
    agent = lake().learn(24)
    for env in (vector_lake(), LAKE, VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=4)))):
        agent.set_env(env)
        agent.learn(24, reset_num_timesteps=False)
    assert agent._source.episodes_per_trial == 4
    with pytest.raises(ConfigError, match="does not emit whole trials"):
        agent.set_env(VectorEnvAdapter(vector_lake()))


def test_it_logs_trials_and_what_is_learnt_within_them():
    agent = lake()
    logger = Recorder()
    agent.set_logger(logger)
    agent.learn(48)
    line = logger.lines[-1]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/loss"} <= line.keys()
    assert line["meta/trials"] >= 1
    assert 0.0 <= line["meta/first_episode_return"] <= 1.0
    assert 0.0 <= line["meta/last_episode_return"] <= 1.0


def test_returns_of_episodes_add_up_to_those_of_trials():
    agent = RL2("MlpPolicy", BANDIT, steps_per_trial=2, n_envs=4, n_steps=6, batch_size=24, seed=0)
    agent.learn(24)
    logger = Recorder()
    agent.set_logger(logger)
    agent._stats_window_size = 12
    agent.learn(24)
    line = logger.lines[-1]
    both = line["meta/first_episode_return"] + line["meta/last_episode_return"]
    assert line["meta/trials"] == 12
    assert both == pytest.approx(line["rollout/ep_rew_mean"], rel=1e-4)


def test_sb3_tools_work(tmp_path):
    agent = lake()
    evaluation_env = VecMonitor(DummyVecEnv([agent.make_env]))
    checkpoint = CheckpointCallback(save_freq=10, save_path=str(tmp_path))
    evaluation = EvalCallback(
        evaluation_env, n_eval_episodes=1, eval_freq=20, best_model_save_path=str(tmp_path), verbose=0
    )
    agent.learn(72, callback=[checkpoint, evaluation])
    saved = RL2.load(tmp_path / "rl_model_60_steps.zip")
    assert saved.num_timesteps == 60
    assert (tmp_path / "best_model.zip").exists()
    returns, lengths = evaluate_policy(agent, evaluation_env, n_eval_episodes=3, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 3


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


def test_adapt_remembers_and_leaves_the_learner_alone():
    agent = lake().learn(48)
    task = agent.make_env(split="test").unwrapped.sample_task()
    before, rng, obs = parameters(agent), get_rng_state(), agent._last_obs.copy()
    mode, steps = agent.policy.training, agent.num_timesteps
    env_state = agent.env.venv.env.get_state()
    adapted = agent.adapt(task, episodes=3, seed=1)
    assert adapted.returns.shape == (3,)
    assert adapted.task == task
    assert_same_parameters(agent, before)
    assert agent.num_timesteps == steps
    assert agent.policy.training == mode
    np.testing.assert_array_equal(agent._last_obs, obs)
    for name, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[name])
    for name, array in agent.env.venv.env.get_state().items():
        np.testing.assert_array_equal(array, env_state[name])
    again = agent.adapt(task, episodes=3, seed=1)
    np.testing.assert_array_equal(adapted.returns, again.returns)
    np.testing.assert_array_equal(adapted.state[0], again.state[0])


def test_an_adapted_policy_plays_on_with_its_memory():
    agent = lake()
    adapted = agent.adapt(agent.make_env(), seed=0)
    assert adapted.returns.shape == (2,)
    expected, expected_state = agent.policy.predict(adapted.observation, adapted.state, deterministic=True)
    action, state = adapted.predict(adapted.observation, deterministic=True)
    assert action == expected
    np.testing.assert_array_equal(state[0], expected_state[0])
    agent.learn(24)
    observation, *_ = adapted.env.step(action)
    adapted.predict(observation)
    assert agent.adapt(adapted.task, episodes=1).returns.shape == (1,)


def test_adapt_refuses_what_is_no_task():
    agent = lake()
    task = agent.make_env().unwrapped.sample_task()
    with pytest.raises(ConfigError, match="episodes must be an integer of at least 1, not 0"):
        agent.adapt(task, episodes=0)
    with pytest.raises(ConfigError, match="scalar metagym env, not CartPoleEnv"):
        agent.adapt(gym.make("CartPole-v1"))
    with pytest.raises(TaskError):
        agent.adapt({"nothing": 1})


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_a_loaded_learner_predicts_identically_and_trains_on(tmp_path, rnn_type):
    agent = lake(policy_kwargs={"rnn_hidden_size": 4, "rnn_type": rnn_type}).learn(48)
    agent.save(tmp_path / "agent")
    rng = get_rng_state()
    loaded = RL2.load(tmp_path / "agent")
    for name, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[name])
    assert type(loaded) is type(agent)
    assert_predicts_alike(agent, loaded)
    assert loaded.seed == 0
    assert (loaded.num_timesteps, loaded._n_updates) == (agent.num_timesteps, agent._n_updates)
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.num_timesteps >= agent.num_timesteps + 24


def test_a_learner_of_a_vec_env_predicts_without_one_and_trains_with_one(tmp_path):
    settings = {name: value for name, value in SMALL.items() if name != "n_envs"}
    agent = RL2("MlpPolicy", VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=2))), **settings)
    agent.learn(24)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent")
    assert_predicts_alike(agent, loaded)
    with pytest.raises(ConfigError, match="has no env"):
        loaded.learn(24)
    env = VectorEnvAdapter(RL2Context(Trial(vector_lake(), episodes_per_trial=2)))
    RL2.load(tmp_path / "agent", env=env).learn(24)
    with pytest.raises(ConfigError, match="was trained with"):
        RL2.load(tmp_path / "agent", env=VectorEnvAdapter(Trial(vector_lake(), episodes_per_trial=2)))


@pytest.mark.parametrize("learner_class", [PPO, A2C])
@pytest.mark.parametrize("at", [24, 31])
def test_resumed_training_is_uninterrupted_training(tmp_path, learner_class, at):
    """Saved at a rollout's end or in its middle, while trials are unfinished."""
    settings = {"n_envs": 3, "n_steps": 8, "seed": 3, "policy_kwargs": {"rnn_hidden_size": 4}}
    if learner_class is PPO:
        settings |= {"batch_size": 12, "n_epochs": 2}

    def make():
        return RL2("MlpPolicy", LAKE, learner_class=learner_class, episodes_per_trial=3, **settings)

    class SaveAt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps >= at and not (tmp_path / "agent.zip").exists():
                self.model.save(tmp_path / "agent")
            return True

    through = make().learn(96, callback=SaveAt())
    expected, monitor = parameters(through), through.env.episode_returns.copy()
    th.manual_seed(99)
    resumed = RL2.load(tmp_path / "agent")
    resumed.learn(96 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == through.num_timesteps
    assert_same_parameters(resumed, expected)
    np.testing.assert_array_equal(resumed.env.episode_returns, monitor)
    assert [info["r"] for info in resumed.ep_info_buffer] == [info["r"] for info in through.ep_info_buffer]
    for name, array in through.get_rollout_state().items():
        np.testing.assert_array_equal(array, resumed.get_rollout_state()[name])


def test_what_was_saved_before_training_trains_as_the_original(tmp_path):
    original = lake()
    original.save(tmp_path / "agent")
    original.learn(48)
    loaded = RL2.load(tmp_path / "agent").learn(48)
    assert_same_parameters(loaded, parameters(original))


def test_resuming_in_a_foreign_env_says_that_trials_start_anew(tmp_path):
    def wrapped():
        return RL2Context(Trial(gym.make(LAKE, size=4), episodes_per_trial=2))

    settings = {name: value for name, value in SMALL.items() if name != "n_envs"}
    agent = RL2("MlpPolicy", DummyVecEnv([wrapped] * 3), **settings).learn(24)
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="trials start anew"):
        loaded = RL2.load(tmp_path / "agent", env=DummyVecEnv([wrapped] * 3))
    loaded.learn(24, reset_num_timesteps=False)


def test_what_a_file_cannot_hold_is_asked_for_again(tmp_path):
    def schedule(progress):
        return 1e-3 * progress

    agent = lake(learning_rate=schedule)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="'learning_rate'"):
        RL2.load(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", custom_objects={"learning_rate": schedule})
    assert loaded.lr_schedule(0.5) == 5e-4


def test_a_learner_class_of_ones_own_is_passed_again(tmp_path):
    class Mine(PPO):
        pass

    agent = lake(learner_class=Mine)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="'learner_class'"):
        RL2.load(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", custom_objects={"learner_class": Mine}, verbose=1, device="cpu")
    assert isinstance(loaded, Mine)
    assert loaded.verbose == 1
    assert_predicts_alike(agent, loaded)


def test_a_learner_of_an_id_that_is_gone_still_predicts(tmp_path):
    metagym.register("MyLake-v0", "metagym.envs.frozen_lake:FrozenLake", size=4)
    agent = RL2("MlpPolicy", "MyLake-v0", episodes_per_trial=2, **SMALL)
    agent.save(tmp_path / "agent")
    del gym.registry["MyLake-v0"]
    with pytest.warns(UserWarning, match="'MyLake-v0', which is not registered"):
        loaded = RL2.load(tmp_path / "agent")
    assert_predicts_alike(agent, loaded)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        RL2.load(tmp_path / "nothing")
    write_archive(tmp_path / "other", meta={"kind": "Reptile"}, arrays={})
    with pytest.raises(CheckpointError, match="is a checkpoint of 'Reptile', not of RL2"):
        RL2.load(tmp_path / "other")
    write_archive(tmp_path / "broken", meta={"kind": "RL2"}, arrays={})
    with pytest.raises(CheckpointError, match="damaged"):
        RL2.load(tmp_path / "broken")


def test_pinned_tasks_are_trained_on():
    agent = lake()
    task = agent.make_env().unwrapped.sample_task()
    metagym.set_tasks(agent.env, [task] * 3)
    agent.learn(24)
    assert [row.id for row in agent.env.venv.env.get_tasks()] == [task.id] * 3


def test_it_learns_to_find_the_better_arm():
    family = metagym.make_family(BANDIT, num_arms=2)
    far_apart = TaskDistribution(family).where(lambda tasks: np.abs(tasks.means[:, 0] - tasks.means[:, 1]) > 0.6)
    agent = RL2(
        "MlpPolicy",
        TaskEnv(family, distribution=far_apart),
        steps_per_trial=20,
        n_steps=20,
        batch_size=640,
        learning_rate=1e-2,
        gae_lambda=0.3,
        seed=0,
        policy_kwargs={"rnn_hidden_size": 32},
    )
    agent.learn(60_000)
    returns = [info["r"] for info in agent.ep_info_buffer]
    # Random pulls earn 10 of 20 and the better arm 17.3: means differ by 0.6 to 1, by 0.73 on average.
    assert np.mean(returns) > 14.0
