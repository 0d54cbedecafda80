"""Reptile: the outer step by hand, the rules of SB3, and learning."""

import random
import warnings
from inspect import signature

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from sb3_contrib import ARS
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule, set_random_seed

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_run import derived_seed, seed_run
from metagym.learner_state import LearnerState, get_rng_state, preserved_rng
from metagym.wrappers.sb3 import VectorEnvAdapter
from tests.algos.reptile_setup import (
    CONTINUOUS,
    DISCRETE,
    LAKE,
    NETS,
    POINT,
    Recorder,
    line_env,
    number_of_moments,
    same,
    state,
    tiny,
)


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_one_outer_step_is_theta_plus_epsilon_times_the_mean_of_phi_minus_theta(fraction, monkeypatch):
    agent = tiny(learning_rate=fraction, meta_batch_size=3, seed=0)
    theta, phis, starts = state(agent), [], []
    learn = agent.learner.learn

    def spy(*args, **kwargs):
        starts.append(state(agent))
        learn(*args, **kwargs)
        phis.append(state(agent))

    monkeypatch.setattr(agent.learner, "learn", spy)
    agent.learn(1)
    assert len(phis) == 3
    assert all(same(start, theta) for start in starts)
    for name, actual in state(agent).tensors.items():
        mean = (phis[0].tensors[name] + phis[1].tensors[name] + phis[2].tensors[name]) / 3
        expected = theta.tensors[name] + fraction * (mean - theta.tensors[name])
        th.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
        assert not th.equal(phis[0].tensors[name], theta.tensors[name])


def test_a_run_is_what_the_bare_learner_would_do_on_that_task():
    agent = tiny(line_env(), learning_rate=1.0, meta_batch_size=1, seed=3)
    arguments = {name: getattr(agent.learner, name) for name in ("n_steps", "batch_size", "n_epochs")}
    bare = PPO("MlpPolicy", line_env(), policy_kwargs=dict(NETS), device="cpu", **arguments)
    state(agent).restore(bare)
    agent.learn(32)
    with preserved_rng():
        for _ in range(2):  # tasks are drawn while one is pinned
            seed_run(bare, bare.env, derived_seed(3, 0))
            bare.env.reset()
            bare.env.env_method("set_task", bare.env.env_method("sample_task", indices=[0])[0])
        seed_run(bare, bare.env, derived_seed(3, 0, 0))
        bare.learn(32, log_interval=None)
    assert same(state(agent), LearnerState.capture(bare))


def test_all_rows_play_the_task_that_was_drawn_and_another_one_in_the_next_run():
    env = line_env()
    tiny(env, meta_batch_size=3).learn(1)
    rows = [played[-6:] for played in env.get_attr("played")]
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert len(set(rows[0])) == 3


def test_a_task_is_played_with_a_fresh_optimizer_or_one_carried_on(monkeypatch):
    for inner_optimizer, expected in (("fresh", [0, 0]), ("carry", [0, 9])):
        agent = tiny(meta_batch_size=2, inner_optimizer=inner_optimizer)
        learn, moments = agent.learner.learn, []

        def spy(*args, learn=learn, moments=moments, agent=agent, **kwargs):
            moments.append(number_of_moments(state(agent)))
            return learn(*args, **kwargs)

        monkeypatch.setattr(agent.learner, "learn", spy)
        agent.learn(1)
        assert moments == expected
        assert (number_of_moments(state(agent)) > 0) == (inner_optimizer == "carry")


def test_the_outer_schedule_follows_the_progress_of_the_whole_call():
    agent = tiny(learning_rate=LinearSchedule(1.0, 0.0, 1.0))
    seen = Recorder("meta/learning_rate")
    agent.learn(4 * 64, callback=seen, log_interval=None)
    assert seen.values == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("learner_class", CONTINUOUS + DISCRETE)
def test_every_learner_learns_adapts_saves_and_loads(learner_class, tmp_path):
    kwargs = {"n_delta": 1} if learner_class is ARS else {}
    if "buffer_size" in signature(learner_class).parameters:
        kwargs = {"batch_size": 4}
    env = line_env(discrete=learner_class in DISCRETE)
    agent = tiny(env, learner_class=learner_class, learner_kwargs=kwargs, seed=0).learn(100)
    assert agent.num_timesteps >= 100
    expert = agent.adapt(0.5, total_timesteps=32)
    assert type(expert) is learner_class
    assert not same(LearnerState.capture(expert), state(agent))
    agent.save(tmp_path / "agent")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = Reptile.load(tmp_path / "agent", env=line_env(discrete=learner_class in DISCRETE), device="cpu")
    assert same(state(loaded), state(agent))
    observation = np.array([[0.3], [-0.4]], np.float32)
    expected, _ = agent.predict(observation, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.learn(50, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 150


def test_steps_of_all_rows_and_tasks_are_counted_and_the_last_iteration_is_completed():
    agent = tiny()
    agent.learn(65)
    assert agent.num_timesteps == 128
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == 192
    agent.learn(1)
    assert agent.num_timesteps == 64


def test_callbacks_see_the_meta_parameters_once_an_iteration_and_can_stop():
    agent = tiny()
    recorder = Recorder()
    agent.learn(3 * 64, callback=recorder)
    assert recorder.steps == [64, 128, 192]
    assert same(recorder.states[-1], state(agent))
    agent.learn(10 * 64, callback=lambda local, _: local["self"].num_timesteps < 128)
    assert agent.num_timesteps == 128


def test_callbacks_of_sb3_work(tmp_path):
    agent = tiny(inner_timesteps=400)
    callbacks = [
        EvalCallback(tiny(n_envs=1).env, n_eval_episodes=1, eval_freq=1, best_model_save_path=tmp_path, verbose=0),
        CheckpointCallback(1, str(tmp_path), "agent"),
        StopTrainingOnMaxEpisodes(1),
    ]
    agent.learn(10_000, callback=callbacks)
    assert agent.num_timesteps == 800
    for name in ("best_model", "agent_800_steps"):
        assert same(state(Reptile.load(tmp_path / name)), state(agent))


def test_the_log_has_sb3s_keys_and_metas():
    logged = {}

    class Sink(KVWriter):
        def write(self, values, excluded, step):
            logged.update(values)

        def close(self):
            pass

    agent = tiny(LAKE, inner_timesteps=400, seed=0)
    agent.set_logger(Logger(None, [Sink()]))
    agent.learn(800, log_interval=1)
    assert set(logged) == {
        "meta/iterations", "meta/learning_rate", "meta/pre_adapt_return", "meta/post_adapt_return",
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate",
        "time/fps", "time/time_elapsed", "time/total_timesteps",
    }  # fmt: skip
    assert logged["time/total_timesteps"] == 800
    assert logged["meta/iterations"] == 1


def test_first_and_last_episodes_of_each_row_are_averaged():
    agent = tiny(line_env(2), inner_timesteps=40, meta_batch_size=1, learner_kwargs={"n_steps": 20})
    recorded = {}

    class Spy(BaseCallback):
        def _on_step(self):
            recorded.update(self.logger.name_to_value)
            return True

    agent.learn(40, callback=Spy(), log_interval=None)
    returns = [info["r"] for info in agent.ep_info_buffer]
    assert len(returns) == 8
    assert recorded["meta/pre_adapt_return"] == pytest.approx(np.mean(returns[:2]))
    assert recorded["meta/post_adapt_return"] == pytest.approx(np.mean(returns[-2:]))


def test_the_progress_bar_counts_environment_steps(capsys):
    tiny().learn(128, progress_bar=True)
    assert "128/128" in capsys.readouterr().err


def test_many_runs_open_one_tensorboard_folder(tmp_path):
    pytest.importorskip("tensorboard")
    tiny(tensorboard_log=tmp_path).learn(256)
    assert [path.name for path in tmp_path.iterdir()] == ["Reptile_1"]


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others():
    first, second, third = (state(tiny(seed=seed).learn(64)) for seed in (5, 5, 6))
    assert same(first, second)
    assert not same(first, third)


def test_runs_share_no_noise_and_learning_leaves_the_random_states_of_the_process(monkeypatch):
    agent = tiny(line_env(), meta_batch_size=2)
    drawn, before = [], get_rng_state()
    learn = agent.learner.learn

    def spy(*args, **kwargs):
        drawn.append((th.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
        return learn(*args, **kwargs)

    monkeypatch.setattr(agent.learner, "learn", spy)
    agent.learn(128)
    assert len({value for values in drawn for value in values}) == 4 * 3
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_what_callbacks_draw_changes_nothing():
    quiet = tiny(seed=0).learn(128)
    noisy = tiny(seed=0).learn(128, callback=lambda *_: bool(th.rand(3).sum() >= 0))
    assert same(state(quiet), state(noisy))


def test_a_second_call_goes_on_with_other_tasks_and_noise():
    env = line_env()
    agent = tiny(env, seed=0, meta_batch_size=1)
    for _ in range(2):
        agent.learn(1)
    tasks = [played for played in env.get_attr("played")[0] if played != env.get_attr("played")[0][0]]
    assert len(set(tasks)) == 3  # the first reset's and one in each call


def test_without_a_seed_training_hangs_on_the_state_of_the_process():
    agents = []
    for seed in (1, 1, 2):
        set_random_seed(seed)
        agents.append(state(tiny().learn(64)))
    assert same(agents[0], agents[1])
    assert not same(agents[0], agents[2])


def test_derived_seeds_differ_from_place_to_place():
    seeds = {derived_seed(entropy, *place) for entropy in (0, 1) for place in ((0,), (1,), (0, 0), (0, 1), (1, 0))}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derived_seed(7, 3, 1) == 1988353980


def test_what_the_user_passed_is_not_written_into():
    policy_kwargs, learner_kwargs = {"net_arch": [4]}, {"replay_buffer_kwargs": {}, "batch_size": 4}
    tiny(learner_class=SAC, policy_kwargs=policy_kwargs, learner_kwargs=learner_kwargs)
    assert (policy_kwargs, learner_kwargs) == ({"net_arch": [4]}, {"replay_buffer_kwargs": {}, "batch_size": 4})


def test_parameters_set_between_calls_are_where_learning_goes_on():
    agent, other = tiny(seed=0), tiny(seed=1)
    agent.set_parameters(other.get_parameters())
    assert same(state(agent), state(other))
    recorder = Recorder()
    agent.lr_schedule = lambda _: 1e-12
    agent.learn(1, callback=recorder)
    for name, tensor in state(other).tensors.items():
        th.testing.assert_close(recorder.states[0].tensors[name], tensor)


@pytest.mark.slow
def test_adaptation_improves_on_new_goals_and_beats_learning_them_from_scratch():
    kwargs = {"inner_timesteps": 3200, "meta_batch_size": 8, "learning_rate": 0.1, "n_envs": 16, "seed": 0}
    inner = {"n_steps": 100, "batch_size": 400, "n_epochs": 4, "learning_rate": 1e-3}
    scratch = Reptile("MlpPolicy", POINT, learner_kwargs=inner, **kwargs)
    agent = Reptile("MlpPolicy", POINT, learner_kwargs=inner, **kwargs).learn(300_000)
    env = gym.make(POINT, split="test")
    env.reset(seed=0)
    returns = []
    for task in env.unwrapped.sample_tasks(6):
        vector_env = gym.make_vec(POINT, num_envs=16, autoreset_mode=AutoresetMode.SAME_STEP)
        vector_env.set_tasks([task] * 16)
        policies = [agent, *(learner.adapt(task, total_timesteps=9600, seed=0) for learner in (agent, scratch))]
        returns.append(
            [evaluate_policy(policy, VectorEnvAdapter(vector_env), 16, warn=False)[0] for policy in policies]
        )
    before, adapted, from_scratch = np.mean(returns, axis=0)
    assert adapted > before + 15.0
    assert adapted > from_scratch
