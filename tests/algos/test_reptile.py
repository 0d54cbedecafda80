"""Reptile: the outer step by hand, the rules of SB3, adaptation that changes nothing, resuming to the bit."""

import subprocess
import sys
import warnings
from inspect import signature

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import metagym
from metagym.algos.base import GradientLearner, MemoryLearner, Policy
from metagym.algos.reptile import Reptile
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import LearnerState, get_rng_state, preserved_rng
from metagym.saving import read_archive, write_archive

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
NETS = {"net_arch": [8]}
TINY = {"inner_timesteps": 32, "meta_batch_size": 2, "n_envs": 4, "policy_kwargs": NETS, "device": "cpu"}


class Line(gym.Env):
    """Five steps on a line towards a hidden goal; its tasks are floats."""

    def __init__(self, discrete=False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task = None
        self.played = []

    def sample_task(self):
        return float(self.np_random.uniform(-1, 1))

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.sample_task() if self.task is None else self.task
        self.played.append(self.goal)
        self.position, self.steps = 0.0, 0
        return np.array([self.position], np.float32), {}

    def step(self, action):
        self.steps += 1
        self.position += 2.0 * action - 1.0 if np.ndim(action) == 0 else float(action[0])
        return np.array([self.position], np.float32), -abs(self.position - self.goal), False, self.steps == 5, {}


class Plain(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, True, False, {}


def line_env(n_envs=4, seed=0, **kwargs):
    return make_vec_env(lambda: Line(**kwargs), n_envs, seed=seed)


def tiny(env=POINT, **kwargs):
    kwargs = {**TINY, **kwargs}
    if not isinstance(env, str):
        kwargs.pop("n_envs")
    if kwargs.get("learner_class", PPO) in (PPO, RecurrentPPO):
        kwargs["learner_kwargs"] = {"n_epochs": 1, **kwargs.get("learner_kwargs", {})}
    policy = "MlpLstmPolicy" if kwargs.get("learner_class") is RecurrentPPO else "MlpPolicy"
    return Reptile(policy, env, **kwargs)


def state(agent):
    return LearnerState.capture(agent.learner)


def same(left, right):
    assert left.tensors.keys() == right.tensors.keys()
    return all(th.equal(value, right.tensors[name]) for name, value in left.tensors.items())


def same_moments(left, right):
    pairs = [(left.optimizers[name]["state"], right.optimizers[name]["state"]) for name in left.optimizers]
    return all(
        a.keys() == b.keys() and all(th.equal(a[i][key], b[i][key]) for i in a for key in a[i]) for a, b in pairs
    )


def number_of_moments(learner_state):
    return sum(len(optimizer["state"]) for optimizer in learner_state.optimizers.values())


# --- the algorithm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_one_outer_step_is_theta_plus_epsilon_times_the_mean_of_phi_minus_theta(fraction, monkeypatch):
    agent = tiny(learning_rate=fraction, meta_batch_size=3, seed=0)
    theta, phis = state(agent), []
    run = agent._run
    starts = []

    def spy(env, task):
        starts.append(state(agent))
        returns = run(env, task)
        phis.append(state(agent))
        return returns

    monkeypatch.setattr(agent, "_run", spy)
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
    bare = PPO("MlpPolicy", line_env(), policy_kwargs=dict(NETS), device="cpu", seed=3, **arguments)
    # Again, because constructing either seeds the process's random states.
    agent = tiny(line_env(), learning_rate=1.0, meta_batch_size=1, seed=3)
    state(agent).restore(bare)
    with preserved_rng():
        agent.learn(32)
    bare.env.reset()
    task = bare.env.env_method("sample_task", indices=[0])[0]
    bare.env.env_method("set_task", task)
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
        run, moments = agent._run, []

        def spy(env, task, run=run, moments=moments, agent=agent):
            moments.append(number_of_moments(state(agent)))
            return run(env, task)

        monkeypatch.setattr(agent, "_run", spy)
        agent.learn(1)
        assert moments == expected
        assert (number_of_moments(state(agent)) > 0) == (inner_optimizer == "carry")


def test_the_outer_schedule_follows_the_progress_of_the_whole_call():
    agent = tiny(learning_rate=LinearSchedule(1.0, 0.0, 1.0))
    seen = Recorder("meta/learning_rate")
    agent.learn(4 * 64, callback=seen, log_interval=None)
    assert seen.values == [1.0, 0.75, 0.5, 0.25]


class Recorder(BaseCallback):
    def __init__(self, key=None):
        super().__init__()
        self.key, self.values, self.states, self.steps = key, [], [], []

    def _on_step(self):
        self.values.append(self.logger.name_to_value.get(self.key))
        self.states.append(LearnerState.capture(self.model.learner))
        self.steps.append(self.num_timesteps)
        return True


# --- SB3's rules -------------------------------------------------------------------------------------------------

CONTINUOUS = [PPO, A2C, TRPO, RecurrentPPO, ARS, SAC, TD3, DDPG, TQC, CrossQ]
DISCRETE = [DQN, QRDQN]


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


def test_constructing_without_a_seed_leaves_nothing_seeded_and_tasks_share_no_noise():
    agent = tiny(line_env(), seed=1)
    before = th.get_rng_state()
    agent.learn(64)
    assert not th.equal(before, th.get_rng_state())


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


# --- envs --------------------------------------------------------------------------------------------------------


def test_ids_scalar_envs_and_vector_envs_are_accepted():
    scalar = gym.make(POINT, split="test")
    vector = gym.make_vec(POINT, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP)
    sync = SyncVectorEnv([lambda: gym.make(POINT)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    dummy = DummyVecEnv([lambda: gym.make(POINT)] * 2)
    for env, rows in ((POINT, 4), (scalar, 8), (Line(), 8), (vector, 3), (sync, 2), (dummy, 2)):
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
    ids=str,
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


# --- adaptation --------------------------------------------------------------------------------------------------


def everything(agent):
    native = agent.env.unwrapped.env
    return (
        {**get_rng_state(), **{f"env/{name}": value for name, value in native.get_state().items()}},
        (agent.num_timesteps, agent._n_iterations, agent.learner.num_timesteps, agent.learner._n_updates),
        repr(agent.action_space.np_random.bit_generator.state),
        list(agent.ep_info_buffer),
    )


@pytest.mark.parametrize("learner_class", [PPO, SAC, ARS])
def test_adapting_leaves_the_meta_learner_as_it_was_to_the_last_bit(learner_class):
    agent = tiny(learner_class=learner_class, inner_optimizer="carry", inner_timesteps=64, seed=0).learn(64)
    task = gym.make(POINT).unwrapped.sample_task()
    before, parameters = everything(agent), state(agent)
    expert = agent.adapt(task, total_timesteps=64, seed=4)
    after = everything(agent)
    assert all(np.array_equal(before[0][name], after[0][name], equal_nan=True) for name in before[0])
    assert before[1:] == after[1:]
    assert same(parameters, state(agent))
    assert same_moments(parameters, state(agent))
    assert not same(LearnerState.capture(expert), state(agent))
    expert.learn(64, log_interval=None)
    assert same(parameters, state(agent))


def test_training_goes_on_the_same_with_and_without_adaptations_between():
    states = []
    for adapts in (False, True):
        agent = tiny(seed=0).learn(64)
        if adapts:
            agent.adapt(agent.env.unwrapped.env.task_distribution.sample(np.random.default_rng(0)), seed=9)
        states.append(state(agent.learn(64, reset_num_timesteps=False)))
    assert same(*states)


def test_the_adapted_learner_plays_the_task_and_keeps_to_the_budget():
    agent = tiny(LAKE, seed=0, inner_timesteps=400)
    task = gym.make(LAKE).unwrapped.sample_task()
    for budget, used in ((400, 400), (350, 300), (100, 100), (50, 48), (3, 4)):
        expert = agent.adapt(task, total_timesteps=budget)
        assert expert.num_timesteps == used
        assert expert.get_env().unwrapped.env.get_tasks() == (task,) * 4


def test_adaptations_repeat_each_other_unless_the_seed_differs():
    agent = tiny(seed=0)
    task = gym.make(POINT).unwrapped.sample_task()
    experts = [agent.adapt(task), agent.adapt(task), agent.adapt(task, seed=1), agent.adapt(task, seed=1)]
    states = [LearnerState.capture(expert) for expert in experts]
    assert same(states[0], states[1])
    assert same(states[2], states[3])
    assert not same(states[0], states[2])


def test_adaptation_starts_from_carried_moments_or_none(monkeypatch):
    for inner_optimizer in ("fresh", "carry"):
        agent = tiny(inner_optimizer=inner_optimizer).learn(1)
        moments = []
        learn = PPO.learn

        def spy(self, *args, learn=learn, moments=moments, **kwargs):
            moments.append(LearnerState.capture(self))
            return learn(self, *args, **kwargs)

        monkeypatch.setattr(PPO, "learn", spy)
        agent.adapt(gym.make(POINT).unwrapped.sample_task())
        monkeypatch.undo()
        assert same(moments[0], state(agent))
        assert same_moments(moments[0], state(agent))
        assert (number_of_moments(moments[0]) > 0) == (inner_optimizer == "carry")


def test_adapting_in_an_env_that_was_given():
    agent = tiny(line_env())
    env = Line()
    env.set_task(0.25)
    assert agent.adapt(env, total_timesteps=40).get_env().get_attr("goal") == [0.25] * 4
    env = gym.make(POINT)
    task = env.unwrapped.sample_task()
    env.unwrapped.set_task(task)
    assert set(tiny().adapt(env).get_env().get_attr("task")) == {task}
    vec_env = line_env(2)
    assert agent.adapt(vec_env, total_timesteps=40).get_env() is vec_env


def test_adapting_with_normalized_observations_leaves_the_statistics_alone():
    env = VecNormalize(line_env())
    agent = tiny(env).learn(64)
    before = env.obs_rms.mean.copy()
    expert = agent.adapt(0.5)
    np.testing.assert_array_equal(env.obs_rms.mean, before)
    np.testing.assert_array_equal(expert.get_vec_normalize_env().obs_rms.mean, before)
    assert expert.get_env() is not env
    assert expert.get_env().get_attr("goal") == [0.5] * 4
    assert env.training


def test_an_env_that_cannot_be_copied_asks_for_one_to_adapt_in():
    env = SubprocVecEnv([Line, Line], start_method="fork")
    agent = tiny(env).learn(1)
    with pytest.raises(ConfigError, match="processes of SubprocVecEnv cannot be copied: give adapt an env"):
        agent.adapt(0.5)
    agent.adapt(line_env(2))
    env.close()


class Unique(Line):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one")


def test_a_scalar_env_that_cannot_be_copied_is_named():
    with pytest.raises(ConfigError, match="Unique cannot be copied"):
        tiny(Unique())


def test_what_was_adapted_is_saved_and_loaded_by_sb3_without_metagym(tmp_path):
    agent = tiny(LAKE, learner_class=A2C).learn(1)
    expert = agent.adapt(gym.make(LAKE).unwrapped.sample_task())
    expert.save(tmp_path / "expert")
    code = f"""
import sys
sys.modules["metagym"] = None
from stable_baselines3 import A2C
model = A2C.load({str(tmp_path / "expert")!r}, device="cpu")
print([int(model.predict(i, deterministic=True)[0]) for i in range(4)])
assert not [name for name in sys.modules if name.startswith("metagym.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([int(expert.predict(i, deterministic=True)[0]) for i in range(4)])
    loaded = A2C.load(tmp_path / "expert", env=expert.get_env(), device="cpu")
    loaded.learn(40)
    expert.learn(40)


def test_sb3_evaluates_the_meta_learner_and_what_it_adapted():
    agent = tiny(line_env())
    for policy in (agent, agent.adapt(0.5)):
        mean, _ = evaluate_policy(policy, line_env(1), n_eval_episodes=2)
        assert np.isfinite(mean)


def test_the_protocols_tell_reptile_from_learners_with_memory():
    agent = tiny()
    assert isinstance(agent, Policy)
    assert isinstance(agent, GradientLearner)
    assert not isinstance(agent, MemoryLearner)


# --- from a learner ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner_class", CONTINUOUS + DISCRETE)
def test_a_learner_becomes_the_initialisation_with_its_hyperparameters(learner_class):
    kwargs = {"gamma": 0.7} if "gamma" in signature(learner_class).parameters else {"n_delta": 3}
    if learner_class in (TD3, DDPG):
        kwargs["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, 0.1))
    if "buffer_size" in signature(learner_class).parameters:
        kwargs |= {"train_freq": 3, "buffer_size": 50, "batch_size": 4, "learning_starts": 1}
    elif learner_class is not ARS:
        kwargs |= {"n_steps": 8}
    policy = "MlpLstmPolicy" if learner_class is RecurrentPPO else "MlpPolicy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = learner_class(
            policy, line_env(discrete=learner_class in DISCRETE), policy_kwargs=dict(NETS), **kwargs
        )
    learner.learn(24, log_interval=None)
    before = LearnerState.capture(learner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent = Reptile.from_learner(learner, inner_timesteps=40, meta_batch_size=1)
    assert same(state(agent), before)
    assert same_moments(state(agent), before)
    for name, value in vars(learner).items():
        if (
            isinstance(value, int | float | str)
            and not name.startswith("_")
            and name not in {"num_timesteps", "start_time"}
        ):
            assert name in {"exploration_rate", "seed"} or vars(agent.learner)[name] == value
    agent.learn(1)
    assert not same(state(agent), before)
    assert same(LearnerState.capture(learner), before)
    assert same_moments(LearnerState.capture(learner), before)
    assert learner.num_timesteps < agent.num_timesteps + 24


def test_a_learner_with_a_schedule_inside_is_refused():
    learner = PPO("MlpPolicy", line_env(), n_steps=8, batch_size=32, learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    with pytest.raises(ConfigError, match="lr_schedule"):
        Reptile.from_learner(learner)


def test_a_learner_without_tasks_is_refused():
    learner = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ConfigError, match="has no tasks"):
        Reptile.from_learner(learner)


# --- interruptions and checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_optimizer", ["fresh", "carry"])
def test_an_interruption_leaves_the_last_complete_iteration(inner_optimizer, monkeypatch, tmp_path):
    agent = tiny(inner_optimizer=inner_optimizer, seed=0).learn(64)
    before = state(agent)
    train, calls = agent.learner.train, []

    def interrupt():
        train()
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(agent.learner, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(128, reset_num_timesteps=False)
    assert same(state(agent), before)
    assert same_moments(state(agent), before)
    assert agent.num_timesteps == 64
    agent.save(tmp_path / "agent")
    assert same(state(Reptile.load(tmp_path / "agent")), before)
    monkeypatch.undo()
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == 128


@pytest.mark.parametrize(
    ("env", "learner_class", "inner_optimizer"),
    [(POINT, PPO, "fresh"), (POINT, PPO, "carry"), (LAKE, DQN, "carry"), (LAKE, A2C, "fresh"), (POINT, SAC, "fresh")],
)
def test_a_run_with_save_and_load_between_ends_bit_identical(env, learner_class, inner_optimizer, tmp_path):
    kwargs = {"learner_class": learner_class, "inner_optimizer": inner_optimizer, "seed": 3}
    schedule = {"learning_rate": LinearSchedule(0.8, 0.2, 1.0)}
    if learner_class is not PPO:
        kwargs["learner_kwargs"] = {"n_steps": 4} if learner_class is A2C else {"batch_size": 4}
    whole = tiny(env, **kwargs, **schedule).learn(4 * 64)
    part = tiny(env, **kwargs, **schedule)
    part.learn(4 * 64, callback=StopAfter(2, tmp_path / "agent"))
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = Reptile.load(tmp_path / "agent", device="cpu")
    resumed.learn(2 * 64, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert same(state(resumed), state(whole))
    if inner_optimizer == "carry":
        assert same_moments(state(resumed), state(whole))


class StopAfter(BaseCallback):
    def __init__(self, iterations, path):
        super().__init__()
        self.iterations, self.path = iterations, path

    def _on_step(self):
        if self.n_calls == self.iterations:
            self.model.save(self.path)
            return False
        return True


def test_saving_again_after_loading_writes_the_same_file(tmp_path):
    tiny(seed=0).learn(64).save(tmp_path / "a")
    Reptile.load(tmp_path / "a").save(tmp_path / "b")
    first, second = read_archive(tmp_path / "a"), read_archive(tmp_path / "b")
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(np.array_equal(first[1][name], second[1][name], equal_nan=True) for name in first[1])


def test_loading_does_not_touch_the_random_states_until_learning_goes_on(tmp_path):
    tiny(seed=0).learn(64).save(tmp_path / "agent")
    before = get_rng_state()
    loaded = Reptile.load(tmp_path / "agent")
    loaded.adapt(gym.make(POINT).unwrapped.sample_task())
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_a_foreign_env_is_said_to_start_anew(tmp_path):
    tiny(line_env()).learn(1).save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        Reptile.load(tmp_path / "agent", env=line_env())
    without = Reptile.load(tmp_path / "agent")
    without.predict(np.zeros(1, np.float32))
    assert without.adapt(line_env(2)).n_envs == 2
    for act in (lambda: without.learn(1), lambda: without.adapt(0.5)):
        with pytest.raises(ConfigError, match="no env"):
            act()
    without.set_env(line_env())
    without.learn(1)
    assert without.num_timesteps > 0


def test_an_env_that_does_not_fit_is_refused(tmp_path):
    tiny(line_env()).save(tmp_path / "agent")
    with pytest.raises(ConfigError, match="were trained on"):
        Reptile.load(tmp_path / "agent", env=line_env(discrete=True))


class OwnActivation(th.nn.Tanh):
    pass


def test_what_a_file_cannot_hold_is_passed_again(tmp_path):
    agent = tiny(
        policy_kwargs={"net_arch": [8], "activation_fn": OwnActivation}, learning_rate=lambda progress: progress
    )
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"'learning_rate'.*'policy_kwargs.activation_fn'"):
        Reptile.load(tmp_path / "agent")
    loaded = Reptile.load(
        tmp_path / "agent", custom_objects={"policy_kwargs.activation_fn": OwnActivation, "learning_rate": 0.5}
    )
    assert same(state(loaded), state(agent))
    assert loaded.lr_schedule(0.3) == 0.5


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "RL2"},
        {"arguments": {}},
        {"arguments": []},
        {"counters": {}},
        {"action_rng": {"bit_generator": "PCG64"}},
        {"n_envs": "many"},
    ],
    ids=str,
)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    tiny().save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    write_archive(tmp_path / "agent", meta={**meta, **damage}, arrays=arrays)
    with pytest.raises((CheckpointError, ConfigError)):
        Reptile.load(tmp_path / "agent")


def test_no_env_is_made_that_the_file_alone_asks_for(tmp_path):
    tiny(LAKE).save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    evil = {**meta, "env_id": "this:Zen-v0"}
    write_archive(tmp_path / "id", meta=evil, arrays=arrays)
    assert Reptile.load(tmp_path / "id").env is None
    evil = {**meta, "arguments": {**meta["arguments"], "env_kwargs": {"family": "this:s"}}}
    write_archive(tmp_path / "kwargs", meta=evil, arrays=arrays)
    assert Reptile.load(tmp_path / "kwargs").env is None
    assert "this" not in sys.modules


def test_metagym_sets_tasks_of_the_training_env():
    agent = tiny()
    task = gym.make(POINT).unwrapped.sample_task()
    metagym.set_tasks(agent.env, [task] * 4)
    agent.env.reset()
    assert agent.env.unwrapped.env.get_tasks() == (task,) * 4


@pytest.mark.slow
def test_adaptation_improves_the_return_on_new_goals():
    agent = Reptile(
        "MlpPolicy", POINT, inner_timesteps=8192, meta_batch_size=2, learning_rate=0.5, n_envs=16, seed=0,
        learner_kwargs={"n_steps": 100, "batch_size": 400, "n_epochs": 10, "learning_rate": 3e-3},
    ).learn(200_000)  # fmt: skip
    tasks = gym.make(POINT, split="test").unwrapped.sample_tasks(6)
    gains = []
    for task in tasks:
        env = gym.make_vec(POINT, num_envs=16, autoreset_mode=AutoresetMode.SAME_STEP)
        env.set_tasks([task] * 16)
        vec_env = metagym.wrappers.VectorEnvAdapter(env)
        expert = agent.adapt(task, total_timesteps=16_000, seed=0)
        returns = [evaluate_policy(policy, vec_env, 16, warn=False)[0] for policy in (agent, expert)]
        gains.append(returns[1] - returns[0])
    assert np.mean(gains) > 5.0
