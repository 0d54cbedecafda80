"""A learner around a learner of SB3: it learns as that one would alone, and is SB3's to callbacks, logs and users."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import ARS, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecMonitor

from metagym.algos import JointTraining, RevealedTask
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState
from metagym.replay import TaskReplayBuffer
from metagym.wrappers.sb3 import VectorEnvAdapter
from tests.algos.multi_task_setup import KWARGS, LAKE, NETS, POINT, SaveAt, env_of, state, tiny
from tests.algos.reptile_setup import Plain, line_env, same


def task_env(env_id, seed=0):
    return VecMonitor(VectorEnvAdapter(gym.make_vec(env_id, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP)))


@pytest.mark.parametrize("learner_class", [PPO, A2C, SAC, DQN, ARS])
def test_it_learns_what_the_bare_learner_would_to_the_bit(learner_class):
    agent = tiny(learner_class).learn(200)
    bare = learner_class(
        "MlpPolicy", task_env(env_of(learner_class)), seed=0, policy_kwargs=dict(NETS), device="cpu",
        **KWARGS[learner_class],
    )  # fmt: skip
    bare.learn(200)
    assert same(state(agent), LearnerState.capture(bare))
    assert agent.num_timesteps == bare.num_timesteps


def test_every_reset_draws_another_task_and_each_row_its_own():
    agent = tiny(env=LAKE)
    native, seen = agent.env.unwrapped.env, set()

    class Watch(BaseCallback):
        def _on_step(self):
            seen.update(task.id for task in native.get_tasks())
            return True

    agent.learn(1200, callback=Watch())
    assert len(seen) >= 10
    assert len({task.id for task in native.get_tasks()}) > 1


def test_callbacks_see_it_as_their_model_with_the_locals_of_the_learner(tmp_path):
    seen = []

    class Look(BaseCallback):
        def _on_training_start(self):
            seen.append(("start", self.model.num_timesteps))

        def _on_rollout_end(self):
            seen.append(("rollout", "rollout_buffer" in self.locals))

        def _on_step(self):
            seen.append((self.model, self.num_timesteps, self.locals["dones"].shape, self.training_env))
            return True

        def _on_training_end(self):
            seen.append(("end", self.model.num_timesteps))

    agent = tiny().learn(64, callback=[Look()])
    assert seen[0] == ("start", 0)
    assert seen[-2:] == [("rollout", True), ("end", 64)]
    assert seen[1:-2] == [(agent, steps, (4,), agent.get_env()) for steps in range(4, 65, 4)]


def test_callbacks_of_sb3_work(tmp_path):
    agent = tiny()
    callbacks = [
        EvalCallback(task_env(POINT), n_eval_episodes=1, eval_freq=20, best_model_save_path=tmp_path, verbose=0),
        CheckpointCallback(30, str(tmp_path), "agent"),
        StopTrainingOnMaxEpisodes(1),
    ]
    agent.learn(10_000, callback=callbacks)
    assert agent.num_timesteps == 400
    for name in ("best_model", "agent_120_steps"):
        assert JointTraining.load(tmp_path / name, device="cpu").num_timesteps > 0
    assert isinstance(agent, BaseAlgorithm)


@pytest.mark.parametrize("learner_class", [PPO, SAC])
def test_after_a_callback_stopped_it_it_begins_with_fresh_episodes(learner_class, tmp_path):
    agent = tiny(learner_class).learn(400, callback=SaveAt(21, tmp_path / "agent", stop=True))
    assert agent.num_timesteps == 84
    assert agent.learner._last_obs is None
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == 148


@pytest.mark.parametrize("learner_class", [PPO, DQN, ARS])
def test_an_interruption_leaves_a_learner_that_can_be_saved_and_learns_on(learner_class, tmp_path):
    own = {"replay_buffer_class": TaskReplayBuffer} if learner_class is DQN else {}
    agent = tiny(learner_class, learner_kwargs=own).learn(64)
    train, calls = getattr(agent.learner, "train", None), []

    def interrupt(*args, **kwargs):
        calls.append(1)
        if train is not None:
            train(*args, **kwargs)
        raise KeyboardInterrupt

    callback = (lambda *_: interrupt()) if train is None else None
    vars(agent.learner)["train"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        agent.learn(200, callback=callback, reset_num_timesteps=False)
    del vars(agent.learner)["train"]
    assert agent.num_timesteps == agent.learner.num_timesteps > 64
    assert agent._mark is None
    agent.save(tmp_path / "agent")
    loaded = JointTraining.load(tmp_path / "agent", device="cpu")
    assert same(state(loaded), state(agent))
    assert agent.learn(64, reset_num_timesteps=False).num_timesteps > 100
    assert same(state(loaded.learn(64, reset_num_timesteps=False)), state(agent))


def test_the_log_has_sb3s_keys(capsys):
    logged = {}

    class Sink(KVWriter):
        def write(self, values, excluded, step):
            logged.update(values)

        def close(self):
            pass

    agent = tiny(env=LAKE)
    agent.set_logger(Logger(None, [Sink()]))
    agent.learn(800)
    assert {"rollout/ep_rew_mean", "rollout/success_rate", "time/total_timesteps", "train/loss"} <= set(logged)
    assert logged["time/total_timesteps"] == agent.num_timesteps == 832
    tiny(verbose=1).learn(64)
    assert "total_timesteps" in capsys.readouterr().out


def test_tensorboard_gets_one_folder(tmp_path):
    pytest.importorskip("tensorboard")
    tiny(tensorboard_log=tmp_path).learn(64)
    assert [path.name for path in tmp_path.iterdir()] == ["JointTraining_1"]


def test_the_progress_bar_counts_environment_steps(capsys):
    tiny().learn(128, progress_bar=True)
    out = capsys.readouterr()
    assert "128/128" in out.out + out.err


def test_evaluate_policy_of_sb3_plays_it():
    mean, _ = evaluate_policy(tiny(), task_env(POINT), 4)
    assert np.isfinite(mean)


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others():
    first, second, third = (state(tiny(seed=seed).learn(64)) for seed in (5, 5, 6))
    assert same(first, second)
    assert not same(first, third)


def test_what_the_user_passed_is_not_written_into():
    policy_kwargs, learner_kwargs = {"net_arch": [4]}, {"replay_buffer_kwargs": {}, "batch_size": 4, "buffer_size": 50}
    JointTraining("MlpPolicy", POINT, learner_class=SAC, policy_kwargs=policy_kwargs, learner_kwargs=learner_kwargs)
    assert policy_kwargs == {"net_arch": [4]}
    assert learner_kwargs == {"replay_buffer_kwargs": {}, "batch_size": 4, "buffer_size": 50}


def test_parameters_set_between_calls_are_where_learning_goes_on():
    agent, other = tiny(seed=0), tiny(seed=1)
    agent.set_parameters(other.get_parameters())
    assert same(state(agent), state(other))
    assert agent.get_env() is agent.learner.get_env()


def test_another_env_of_tasks_can_be_set():
    agent = tiny(SAC, env=POINT, learner_kwargs={"replay_buffer_class": TaskReplayBuffer}).learn(32)
    agent.set_env(gym.make_vec(POINT, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP))
    agent.learn(32)
    native = agent.env.unwrapped.env
    assert agent.learner.get_env() is agent.env
    assert {task.id for task in native.get_tasks()} <= set(agent.learner.replay_buffer.present_tasks.tolist())


def test_a_file_cannot_hold_more_or_less_than_it_does(tmp_path):
    with pytest.raises(ConfigError, match="fixed contents"):
        tiny().save(tmp_path / "agent", exclude=["policy"])
    with pytest.raises(ConfigError, match=r"\['n_envs'\]"):
        JointTraining.load(tmp_path / "agent", n_envs=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JointTraining("MlpPolicy", None), "JointTraining needs an id.* got None"),
        (lambda: JointTraining("MlpPolicy", Plain()), "JointTraining needs .* has no tasks"),
        (lambda: JointTraining("MlpPolicy", line_env(), n_envs=2), "has 4 rows"),
        (lambda: JointTraining("MlpPolicy", POINT, learner_class="SARSA"), "got 'SARSA'"),
        (lambda: JointTraining("MlpPolicy", POINT, learner_kwargs={"seed": 1}), r"\['seed'\].*of JointTraining itself"),
        (lambda: RevealedTask("MlpPolicy", POINT, learner_kwargs={"speed": 1}), "(?s)PPO does not .*'speed'"),
        (lambda: tiny(learner_kwargs={"speed": 1}), r"\['speed'\], which PPO does not have"),
        (lambda: JointTraining("Mlp", POINT), "PPO has no policy 'Mlp'"),
        (lambda: JointTraining("MlpPolicy", LAKE, learner_class=MaskablePPO), "action_masks"),
    ],
)
def test_misuse_is_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
