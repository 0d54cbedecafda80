"""Learners and envs that no other test names, used as the documentation tells a stranger to."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import (
    FlattenObservation,
)
from stable_baselines3 import PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import metagym
from metagym.algos import RL2, Reptile
from metagym.errors import CheckpointError, ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState
from metagym.wrappers import Trial
from tests.algos.reptile_spaces import Reach
from tests.matrix.worlds import env_id, family
from tests.strangers_setup import BANDIT, NETS, POINT, PPO_ARGUMENTS, TRIAL, joint, moved, point, reptile, rl2, score

# --- learners of one's own --------------------------------------------------------------------------------------------


class Boosted(PPO):
    """Written as most subclasses are: what it does not know goes on to the base."""

    def __init__(self, policy, env, *, boost=1.0, **kwargs):
        super().__init__(policy, env, **kwargs)
        self.boost, self.updates = boost, 0

    def train(self):
        self.updates += 1
        super().train()


class Patient(SAC):
    """The same of SAC."""

    def __init__(self, *args, patience=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.patience = patience

    def train(self, gradient_steps, batch_size=64):
        super().train(gradient_steps * self.patience, batch_size)


@pytest.mark.parametrize("make", [reptile, joint])
def test_a_subclass_with_a_hyperparameter_and_a_train_of_its_own(make, tmp_path):
    agent = make(POINT, learner_class=Boosted, learner_kwargs={**PPO_ARGUMENTS, "boost": 2.0})
    before = LearnerState.capture(agent.learner)
    agent.learn(32)
    assert moved(agent, before)
    assert (agent.learner.boost, agent.learner.updates) == (2.0, 2)
    expert = agent.adapt(agent.env.env_method("sample_task")[0], total_timesteps=16)
    assert (type(expert), expert.boost, expert.updates) == (Boosted, 2.0, 1)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"custom_objects with 'learner_class' .*Boosted"):
        type(agent).load(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", custom_objects={"learner_class": Boosted})
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.learner.boost == 2.0
    assert np.isfinite(evaluate(loaded, POINT, n_tasks=1, budgets=(0,), eval_episodes=1).scores).all()


def test_a_subclass_of_an_off_policy_learner():
    agent = reptile(POINT, learner_class=Patient, learner_kwargs={"patience": 2, "learning_starts": 0, "batch_size": 4})
    before = LearnerState.capture(agent.learner)
    agent.learn(16)
    assert moved(agent, before)
    assert agent.learner.patience == 2
    window = RL2("MlpPolicy", POINT, learner_class=Patient, patience=2, steps_per_trial=8, n_envs=2, window=4)
    window.learn(32)
    assert isinstance(window, Patient)
    assert window.patience == 2


@pytest.mark.parametrize("learner_class", [Boosted, Patient])
def test_a_subclass_gets_the_defaults_for_short_runs_that_its_base_gets(learner_class):
    base = learner_class.__mro__[1]
    agents = [reptile(POINT, learner_class=kind, learner_kwargs={}) for kind in (learner_class, base)]
    names = {"n_steps", "batch_size", "learning_starts", "buffer_size"} & vars(agents[1].learner).keys()
    assert {name: getattr(agents[0].learner, name) for name in names} == {
        name: getattr(agents[1].learner, name) for name in names
    }


def test_a_subclass_takes_the_keywords_of_its_base_in_rl2():
    assert rl2(BANDIT, learner_class=Boosted, boost=2.0).boost == 2.0


def test_from_learner_keeps_the_keywords_of_a_subclass():
    model = Boosted("MlpPolicy", make_vec_env(point, 2), boost=2.0, gamma=0.5, **PPO_ARGUMENTS)
    agent = Reptile.from_learner(model, inner_timesteps=16)
    assert (agent.learner.boost, agent.learner.gamma, agent.learner.n_steps) == (2.0, 0.5, 8)


class Squash(BaseFeaturesExtractor):
    """A features extractor with a keyword."""

    def __init__(self, observation_space, features_dim=8, scale=1.0):
        super().__init__(observation_space, features_dim)
        self.net, self.scale = th.nn.Linear(observation_space.shape[0], features_dim), scale

    def forward(self, observations):
        return th.tanh(self.net(observations) * self.scale)


class SquashPolicy(ActorCriticPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "features_extractor_class": Squash})


EXTRACTOR = {"features_extractor_class": Squash, "features_extractor_kwargs": {"scale": 2.0}}


@pytest.mark.parametrize("make", [reptile, joint])
@pytest.mark.parametrize("own", ["policy", "extractor"])
def test_a_policy_and_an_extractor_of_ones_own(make, own, tmp_path):
    policy, kwargs = (SquashPolicy, NETS) if own == "policy" else ("MlpPolicy", NETS | EXTRACTOR)
    agent = make(POINT, policy, policy_kwargs=kwargs)
    before = LearnerState.capture(agent.learner)
    agent.learn(16)
    assert moved(agent, before)
    assert any("net.weight" in name for name in before.tensors)
    hole = {"policy": SquashPolicy} if own == "policy" else {"policy_kwargs.features_extractor_class": Squash}
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=next(iter(hole))):
        type(agent).load(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", custom_objects=hole)
    assert not moved(loaded, LearnerState.capture(agent.learner))
    expert = loaded.adapt(loaded.env.env_method("sample_task")[0], total_timesteps=16)
    assert isinstance(expert.policy.features_extractor, Squash)


def test_rl2_takes_an_extractor_of_ones_own_and_says_which_policies_it_takes():
    agent = rl2(BANDIT, policy_kwargs={"rnn_hidden_size": 4} | EXTRACTOR).learn(16)
    assert isinstance(agent.policy.features_extractor, Squash)
    with pytest.raises(ConfigError, match="must be a TrialActorCriticPolicy"):
        RL2(SquashPolicy, BANDIT, n_envs=2, **TRIAL)


@pytest.mark.parametrize("make", [reptile, joint])
def test_learners_in_jax_are_refused(make):
    jax_like = type("TQC", (PPO,), {"__module__": "sbx.tqc.tqc"})
    with pytest.raises(ConfigError, match="TQC of SBX keeps its parameters in JAX"):
        make(POINT, learner_class=jax_like)


# --- Gymnasium's envs by parameterize ---------------------------------------------------------------------------------


def grid():
    from minigrid.wrappers import ImgObsWrapper

    return metagym.parameterize(
        "MiniGrid-Empty-5x5-v0", layouts=20, wrappers=[ImgObsWrapper, FlattenObservation], episode_length=8
    )


def tilted():
    gravity = spaces.Box(np.array([-2.0, 0.0, -12.0]), np.array([2.0, 0.0, -5.0]), dtype=np.float64)
    return metagym.parameterize("InvertedPendulum-v5", attributes={"model.opt.gravity": gravity}, episode_length=8)


def of(env_id, package=None, **kwargs):
    def make():
        if package:
            pytest.importorskip(package)
        return metagym.parameterize(env_id, **({"episode_length": 8} | kwargs))

    return make


TAXI = next(name for name in ("Taxi-v4", "Taxi-v3") if name in gym.registry)
FAMILIES = {
    "Blackjack": of("Blackjack-v1", construct={"natural": [False, True]}, wrappers=[FlattenObservation]),
    "LunarLander": of(
        "LunarLander-v3", "Box2D", construct={"gravity": (-11.9, -2.0), "wind_power": (0.0, 20.0)},
        env_kwargs={"enable_wind": True},
    ),
    "BipedalWalker": of("BipedalWalker-v3", "Box2D", construct={"hardcore": [False, True]}, rebuild=True),
    "Taxi": of(TAXI, construct={"is_rainy": [False, True]}),
    "FrozenLake": of("FrozenLake-v1", construct={"is_slippery": [False, True]}),
    "Acrobot": of("Acrobot-v1", attributes={"LINK_LENGTH_1": (0.5, 1.5)}),
    "MountainCarContinuous": of("MountainCarContinuous-v0", construct={"goal_velocity": (0.0, 0.05)}),
    "MiniGrid": lambda: pytest.importorskip("minigrid") and grid(),
    "InvertedPendulum": lambda: pytest.importorskip("mujoco") and tilted(),
}  # fmt: skip


def slow_but(quick, name):
    return pytest.param(name, marks=[] if quick else [pytest.mark.slow])


QUICK = {"Blackjack", "Taxi", "InvertedPendulum", "MountainCarContinuous"}


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of SWIG, in Box2D
@pytest.mark.parametrize("name", [slow_but(name in QUICK, name) for name in FAMILIES])
def test_an_env_of_gymnasiums_does_everything(name):
    family = FAMILIES[name]()
    task = family.make(split=None).sample_task()
    agent = reptile(family.make()).learn(16)
    assert isinstance(agent.adapt(task, total_timesteps=16), PPO)
    trials = rl2(family.make()).learn(16)
    assert np.isfinite(trials.adapt(task, episodes=1, seed=0).returns).all()
    for learner in (agent, trials, joint(family.make()).learn(16)):
        assert np.isfinite(score(learner, family, split=None).scores).all()


def test_binary_actions_which_sb3_samples_as_floats_reach_a_parameterized_env():
    for make in (reptile, joint, rl2):
        agent = make(env_id("discrete", "multi_binary")).learn(16)
        assert agent.num_timesteps >= 16
    env = family("discrete", "multi_binary").make()
    env.reset(seed=0)
    env.step(np.array([1.0, 0.0], np.float32))
    with pytest.raises(ConfigError, match=r"action must be in MultiBinary\(2\)"):
        env.step(np.array([0.5, 0.0], np.float32))


# --- envs of one's own ------------------------------------------------------------------------------------------------


class Corridor(gym.Env):
    """A plain env in the manner of MAML's: it has tasks, and knows nothing of metagym."""

    observation_space: ClassVar = spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space: ClassVar = spaces.Discrete(2)

    def __init__(self, goal=0.5):
        self.goal = goal

    def sample_task(self):
        return float(self.np_random.uniform(-1, 1))

    def set_task(self, task):
        self.goal = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = 0.0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 0.1 * (2 * int(action) - 1)
        self.steps += 1
        return np.array([self.place], np.float32), -abs(self.place - self.goal), False, self.steps == 6, {}


def test_a_plain_env_with_tasks_trains_and_adapts():
    for make in (reptile, joint):
        agent = make(Corridor()).learn(32)
        expert = agent.adapt(0.25, total_timesteps=16)
        assert expert.get_env().get_attr("goal") == [0.25, 0.25]
        returns, _ = evaluate_policy(expert, Monitor(Corridor(0.25)), 2)
        assert np.isfinite(returns)
    rows = SyncVectorEnv([Corridor] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert reptile(rows).learn(16).num_timesteps == 16


def test_what_a_plain_env_does_not_do_is_said_and_parameterize_does_it():
    with pytest.raises(ConfigError, match=r"RL2 needs an environment of tasks: .*not Corridor"):
        rl2(Corridor())
    with pytest.raises(ConfigError, match=r"Trial needs an env with tasks: .*Corridor"):
        Trial(Corridor(), episodes_per_trial=2)
    with pytest.raises(ConfigError, match="env must be the id of a family or a family, got Corridor"):
        score(reptile(Corridor()), Corridor())
    family = metagym.parameterize(Corridor, construct={"goal": (-1.0, 1.0)}, episode_length=6)
    assert np.isfinite(score(rl2(family.make()).learn(32), family).scores).all()


def test_hindsight_on_a_goal_env():
    hindsight = {
        "replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}, "learning_starts": 12,
        "batch_size": 4,
    }  # fmt: skip
    for make in (reptile, joint):
        env = make_vec_env(Reach, 2, seed=0)
        agent = make(env, "MultiInputPolicy", learner_class=TD3, learner_kwargs=hindsight, inner_timesteps=24).learn(24)
        expert = agent.adapt(1.0, total_timesteps=24)
        assert expert.replay_buffer.env.get_attr("goal") == [1.0, 1.0]
        assert np.isfinite(evaluate_policy(expert, Monitor(Reach()), 2)[0])
