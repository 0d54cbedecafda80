"""What users of SB3 put around a learner: loggers, progress bars, monitors, normalisation, `evaluate_policy`."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3.common import callbacks
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from metagym import ConfigError
from metagym.algos import iterative
from metagym.algos.rl2 import RL2
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.algos.reptile_setup import LAKE, POINT, tiny
from tests.algos.rl2_setup import SMALL, lake

LEARNERS = pytest.mark.parametrize(
    "make", [lake, lambda **kwargs: tiny(seed=0, inner_timesteps=400, **kwargs)], ids=["RL2", "Reptile"]
)
KEYS = {
    "RL2": {
        "meta/trials", "meta/first_episode_return", "meta/last_episode_return", "rollout/ep_rew_mean",
        "rollout/ep_len_mean", "rollout/success_rate", "time/fps", "time/iterations", "time/time_elapsed",
        "time/total_timesteps", "train/loss", "train/n_updates", "train/learning_rate",
    },
    "Reptile": {
        "meta/iterations", "meta/learning_rate", "meta/pre_adapt_return", "meta/post_adapt_return",
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/time_elapsed", "time/total_timesteps",
    },
}  # fmt: skip


def name_of(agent):
    return "RL2" if isinstance(agent, RL2) else "Reptile"


def log_of(folder):
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def scalars_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# --- logging ---------------------------------------------------------------------------------------------------------


@LEARNERS
def test_csv_and_tensorboard_hold_the_documented_keys_in_order_of_steps(make, tmp_path):
    agent = make()
    agent.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    for _ in range(3):
        agent.learn(500, reset_num_timesteps=False)
    agent.logger.close()

    rows, expected = log_of(tmp_path), KEYS[name_of(agent)]
    assert expected <= set(rows[-1])
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] <= agent.num_timesteps
    scalars = scalars_of(tmp_path)
    assert expected - {"time/time_elapsed", "time/iterations", "time/total_timesteps", "train/n_updates"} <= set(
        scalars
    )
    assert all(found == sorted(set(found)) for found in scalars.values())
    assert scalars["time/fps"] == steps


@LEARNERS
def test_a_log_of_one_learn_ends_at_the_last_step_but_for_the_update_after_it(make, tmp_path):
    agent = make()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(500)
    agent.logger.close()

    assert int(log_of(tmp_path)[-1]["time/total_timesteps"]) == agent.num_timesteps


def test_twenty_runs_inside_make_one_run_of_tensorboard(tmp_path):
    agent = tiny(seed=0, tensorboard_log=str(tmp_path))
    agent.learn(20 * 32)

    assert agent._n_iterations == 10  # of two tasks each
    assert [path.name for path in tmp_path.iterdir()] == ["Reptile_1"]
    assert len(list((tmp_path / "Reptile_1").iterdir())) == 1


@LEARNERS
def test_going_on_goes_on_in_the_same_run_of_tensorboard(make, tmp_path):
    agent = make(tensorboard_log=str(tmp_path))
    agent.learn(100)
    for _ in range(3):
        agent.learn(100, reset_num_timesteps=False)
    agent.learn(100)

    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name_of(agent)}_1", f"{name_of(agent)}_2"]


def test_what_adapts_writes_no_log(tmp_path):
    agent = tiny(seed=0, tensorboard_log=str(tmp_path))
    agent.adapt(gym.make(POINT).unwrapped.sample_task(), total_timesteps=32)

    assert list(tmp_path.iterdir()) == []


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [True, False])
def test_the_bar_of_rl2_shows_the_steps_taken(resets, monkeypatch):
    shown = []
    monkeypatch.setattr(
        callbacks.ProgressBarCallback, "_on_training_end", lambda self: shown.append(self.pbar.n) or self.pbar.close()
    )
    agent = lake().learn(50)
    before = 0 if resets else agent.num_timesteps
    agent.learn(50, reset_num_timesteps=resets, progress_bar=True)

    assert shown == [agent.num_timesteps - before]


@pytest.mark.parametrize("resets", [True, False])
def test_the_bar_of_reptile_shows_the_steps_taken(resets, monkeypatch):
    bars, plain = [], iterative.tqdm
    monkeypatch.setattr(iterative, "tqdm", lambda **kwargs: bars.append(plain(**kwargs)) or bars[-1])
    agent = tiny(seed=0).learn(100)
    agent.learn(100, reset_num_timesteps=resets, progress_bar=True)

    assert bars[-1].n == agent.num_timesteps
    assert bars[-1].total == (100 if resets else 228)


# --- monitors and normalisation --------------------------------------------------------------------------------------


def trials(n_envs=3, **kwargs):
    envs = gym.make_vec(LAKE, num_envs=n_envs, autoreset_mode=AutoresetMode.SAME_STEP, size=4)
    return VectorEnvAdapter(RL2Context(Trial(envs, **kwargs or {"episodes_per_trial": 2})))


def test_a_monitor_outside_the_trial_counts_trials():
    agent = RL2("MlpPolicy", VecMonitor(trials()), seed=0, **{**SMALL, "n_envs": None})
    agent.learn(200)

    lengths = [episode["l"] for episode in agent.ep_info_buffer]
    assert max(lengths) > 0
    assert all(episode["r"] <= 2.0 for episode in agent.ep_info_buffer)  # two episodes, each with at most 1


@pytest.mark.parametrize("kwargs", [{"episodes_per_trial": 2}, {"steps_per_trial": 7}], ids=["episodes", "steps"])
def test_evaluate_policy_counts_trials_and_ends(kwargs):
    agent = lake()
    rewards, lengths = evaluate_policy(
        agent, VecMonitor(trials(2, **kwargs)), n_eval_episodes=5, return_episode_rewards=True
    )

    assert len(rewards) == len(lengths) == 5
    assert kwargs == {"episodes_per_trial": 2} or set(lengths) == {7}


def test_evaluate_policy_counts_trials_of_a_scalar_env():
    agent = lake()
    rewards, lengths = evaluate_policy(
        agent, Monitor(agent.make_env(split="test")), n_eval_episodes=3, return_episode_rewards=True
    )

    assert len(rewards) == 3
    assert min(lengths) >= 2  # two episodes have a step each, at least


def test_evaluate_policy_plays_episodes_with_what_reptile_starts_from():
    rewards, lengths = evaluate_policy(
        tiny(seed=0), Monitor(gym.make(POINT, split="test")), n_eval_episodes=3, return_episode_rewards=True
    )

    assert len(rewards) == 3
    assert max(lengths) <= 100


def test_scaling_rewards_leaves_what_rl2_sees_and_what_a_monitor_inside_counts():
    plain, scaled = VecMonitor(trials()), VecNormalize(VecMonitor(trials()), norm_obs=False)
    plain.seed(0)
    scaled.seed(0)
    assert np.array_equal(plain.reset(), scaled.reset())
    rng, returns = np.random.default_rng(0), []
    for _ in range(200):
        actions = rng.integers(4, size=3)
        (one, *_, infos), (other, *_, same) = plain.step(actions), scaled.step(actions)
        assert np.array_equal(one, other)
        returns += [
            (info["episode"]["r"], twin["episode"]["r"]) for info, twin in zip(infos, same, strict=True) if info
        ]

    assert len(returns) > 3
    assert all(one == other for one, other in returns)


def test_normalising_observations_would_change_the_flag_that_starts_episodes():
    normalised = VecNormalize(VecMonitor(trials()))
    normalised.reset()
    seen = [normalised.step(np.ones(3, np.int64))[0] for _ in range(50)]

    flags = np.unique(np.concatenate(seen)[:, -1])
    assert not set(flags.tolist()) <= {0.0, 1.0}
    with pytest.raises(ConfigError, match="accepted is norm_obs=False"):
        RL2("MlpPolicy", normalised, seed=0, **{**SMALL, "n_envs": None})


def test_rl2_learns_with_scaled_rewards():
    env = VecNormalize(VecMonitor(trials()), norm_obs=False)
    agent = RL2("MlpPolicy", env, seed=0, **{**SMALL, "n_envs": None}).learn(200)

    assert agent.get_vec_normalize_env() is env
    assert all(episode["r"] in {0.0, 1.0, 2.0} for episode in agent.ep_info_buffer)  # the monitor's are not scaled


def test_a_monitor_inside_the_trial_does_not_mislead_rl2():
    def make():
        env = gym.make(LAKE, size=4)
        return Monitor(RL2Context(Trial(Monitor(env), episodes_per_trial=2)))

    agent = RL2("MlpPolicy", DummyVecEnv([make] * 2), seed=0, **{**SMALL, "n_envs": None}).learn(200)

    assert len(agent.ep_info_buffer) > 0
    assert all(episode["l"] >= 2 for episode in agent.ep_info_buffer)
