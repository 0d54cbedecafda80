"""What every learner logs, shows and monitors while it trains: keys, progress bars, and whose returns are counted."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from metagym.algos import RL2, FromScratch, JointTraining, Reptile, RevealedTask
from metagym.rollout import env_layers
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter

CLIFF, SHORT = "MetaCliffWalking-v0", {"episode_length": 5}
NETS = {"policy_kwargs": {"net_arch": [4]}, "n_envs": 2, "seed": 0, "device": "cpu"}
ROLLOUTS = {"n_steps": 20, "batch_size": 20, "n_epochs": 1}
REPLAY = {"learning_starts": 10, "batch_size": 4, "buffer_size": 200}
TRIALS = {"episodes_per_trial": 2, "n_envs": 2, "seed": 0, "device": "cpu"}
INNER = {"inner_timesteps": 40, "meta_batch_size": 2}
MAKES = {
    "RL2-PPO": lambda env, **kw: RL2("MlpPolicy", env, **{**TRIALS, "n_steps": 20, "batch_size": 20, **kw}),
    "RL2-A2C": lambda env, **kw: RL2("MlpPolicy", env, learner_class="A2C", **{**TRIALS, "n_steps": 20, **kw}),
    "RL2-DQN": lambda env, **kw: RL2("MlpPolicy", env, learner_class="DQN", **{**TRIALS, "window": 3, **REPLAY, **kw}),
    "Reptile-PPO": lambda env, **kw: Reptile("MlpPolicy", env, **{**NETS, **INNER, **kw}),
    "Reptile-DQN": lambda env, **kw: Reptile("MlpPolicy", env, learner_class="DQN", **{**NETS, **INNER, **kw}),
    "JointTraining-PPO": lambda env, **kw: JointTraining("MlpPolicy", env, learner_kwargs=ROLLOUTS, **{**NETS, **kw}),
    "JointTraining-DQN": lambda env, **kw: JointTraining(
        "MlpPolicy", env, learner_class="DQN", learner_kwargs=REPLAY, **{**NETS, **kw}
    ),
    "RevealedTask-PPO": lambda env, **kw: RevealedTask("MlpPolicy", env, learner_kwargs=ROLLOUTS, **{**NETS, **kw}),
}  # fmt: skip
ROLLOUT = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps", "time/fps"}
TRIAL_KEYS = {"meta/first_episode_return", "meta/last_episode_return"}
INNER_KEYS = {"meta/iterations", "meta/learning_rate", "meta/pre_adapt_return", "meta/post_adapt_return"}
KEYS = {
    "RL2-PPO": ROLLOUT | TRIAL_KEYS | {"meta/trials", "train/loss"},
    "RL2-A2C": ROLLOUT | TRIAL_KEYS | {"meta/trials", "train/value_loss"},
    "RL2-DQN": ROLLOUT | TRIAL_KEYS | {"train/loss"},
    "Reptile-PPO": ROLLOUT | INNER_KEYS,
    "Reptile-DQN": ROLLOUT | INNER_KEYS,
    "JointTraining-PPO": ROLLOUT | {"train/loss"},
    "JointTraining-DQN": ROLLOUT | {"train/loss"},
    "RevealedTask-PPO": ROLLOUT | {"train/loss"},
}
every_learner = pytest.mark.parametrize("name", MAKES)


def make(name, **kwargs):
    return MAKES[name](CLIFF, env_kwargs=SHORT, **kwargs)


def rows_of(folder):
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def tags_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])


@every_learner
def test_csv_and_tensorboard_hold_the_keys_and_the_mean_return_is_that_counted_by_hand(name, tmp_path, monkeypatch):
    returns, running = [], {}
    step, reset = VectorEnvAdapter.step_wait, VectorEnvAdapter.reset

    def counted_step(self):
        result = step(self)
        total = running.setdefault(id(self), np.zeros(self.num_envs))
        total += result[1]
        returns.extend(total[result[2]].tolist())
        total[result[2]] = 0.0
        return result

    def counted_reset(self):
        running.pop(id(self), None)
        return reset(self)

    monkeypatch.setattr(VectorEnvAdapter, "step_wait", counted_step)
    monkeypatch.setattr(VectorEnvAdapter, "reset", counted_reset)
    agent = make(name, stats_window_size=10_000)
    agent.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    agent.learn(240, progress_bar=True)
    agent.logger.close()

    rows = rows_of(tmp_path)
    logged = {key for row in rows for key, value in row.items() if value}
    assert KEYS[name] - logged == set()
    assert {key for key in KEYS[name] if not key.startswith("time/")} - tags_of(tmp_path) == set()
    assert {key for key in logged if key.startswith("meta/")} == {key for key in KEYS[name] if key.startswith("meta/")}
    counted = [episode["r"] for episode in agent.ep_info_buffer]
    assert min(returns) < max(returns) < 0.0
    assert counted == pytest.approx(returns)
    shown = [float(row["rollout/ep_rew_mean"]) for row in rows if row["rollout/ep_rew_mean"]]
    means = [np.mean(returns[: count + 1]) for count in range(len(returns))]
    assert [value for value in shown if not np.isclose(means, value, atol=1e-5).any()] == []


@every_learner
def test_the_progress_bar_ends_at_the_steps_taken_and_changes_nothing(name, capsys):
    quiet, shown = make(name).learn(120), make(name).learn(120, progress_bar=True)

    assert f"{shown.num_timesteps}" in "".join(capsys.readouterr()).replace(",", "")
    one, other = quiet.policy.state_dict(), shown.policy.state_dict()
    assert all(np.array_equal(one[key].numpy(), other[key].numpy()) for key in one)


@every_learner
@pytest.mark.parametrize("given", ["id", "scalar", "vector"])
def test_there_is_one_monitor_around_what_the_learner_sees(name, given):
    env = {
        "id": lambda: CLIFF,
        "scalar": lambda: gym.make(CLIFF, **SHORT),
        "vector": lambda: gym.make_vec(CLIFF, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, **SHORT),
    }[given]()
    changes = {"env_kwargs": SHORT} if given == "id" else {}
    if given == "vector":
        changes["n_envs"] = None
    agent = MAKES[name](env, **changes)
    agent.learn(80)

    layers = list(env_layers(agent.env))
    outside = sum(isinstance(layer, VecMonitor) for layer in layers)
    inside = 0
    if isinstance(layers[-1], DummyVecEnv):
        inside = sum(isinstance(layer, Monitor) for layer in wrappers_of(layers[-1].envs[0]))
    assert outside + inside == 1
    longest = 10 if name.startswith("RL2") else 5  # a trial of two episodes of five steps, or an episode
    assert 0 < max(episode["l"] for episode in agent.ep_info_buffer) <= longest


def wrappers_of(env):
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


@every_learner
def test_evaluate_policy_of_sb3_plays_it_to_the_end(name):
    agent = make(name).learn(40)
    vector = gym.make_vec(CLIFF, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, **SHORT)
    if name.startswith("RL2"):
        env = VecMonitor(VectorEnvAdapter(RL2Context(Trial(vector, episodes_per_trial=2))))
    elif name.startswith("Revealed"):
        env = Monitor(agent.make_env(split="test"))
    else:
        env = VecMonitor(VectorEnvAdapter(vector))
    returns, lengths = evaluate_policy(agent, env, n_eval_episodes=6, return_episode_rewards=True)

    assert len(returns) == 6
    assert all(value <= -1.0 and value == round(value) for value in returns)
    assert max(lengths) <= (10 if name.startswith("RL2") else 5)


@pytest.mark.parametrize("name", [name for name in MAKES if not name.startswith("Revealed")])
def test_scaled_rewards_are_learnt_from_and_the_monitor_inside_shows_the_true_ones(name):
    # Poles, since SB3's DQN in a VecNormalize fails on Discrete observations where an episode is cut off.
    env = gym.make_vec("MetaCartPole-v0", num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, **SHORT)
    if name.startswith("RL2"):
        env = RL2Context(Trial(env, episodes_per_trial=2))
    scaled = VecNormalize(VecMonitor(VectorEnvAdapter(env)), norm_obs=False)
    changes = {"episodes_per_trial": None} if name.startswith("RL2") else {}
    agent = MAKES[name](scaled, n_envs=None, **changes).learn(240)

    returns = np.array([episode["r"] for episode in agent.ep_info_buffer])
    assert set(returns.tolist()) == {10.0 if name.startswith("RL2") else 5.0}  # one a step
    assert scaled.ret_rms.count > 40


def test_from_scratch_has_nothing_to_log_and_its_experts_learn_with_a_monitor(tmp_path):
    agent = FromScratch("MlpPolicy", CLIFF, learner_class="A2C", env_kwargs=SHORT, inner_timesteps=40, **NETS)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(1000, progress_bar=True)
    agent.logger.close()

    assert (agent.num_timesteps, rows_of(tmp_path)) == (0, [])
    expert = agent.adapt(gym.make(CLIFF, **SHORT).unwrapped.sample_task())
    assert sum(isinstance(layer, VecMonitor) for layer in env_layers(expert.get_env())) == 1
    assert {episode["l"] for episode in expert.ep_info_buffer} <= {1, 2, 3, 4, 5}
