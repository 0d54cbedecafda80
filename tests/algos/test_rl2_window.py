"""RL² with a window: every learner in every role, and each against SB3's own learner on windows."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import ARS, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from metagym.algos import rl2_window
from metagym.algos.base import MemoryLearner
from metagym.algos.rl2_window import WindowRL2, window_class
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import get_rng_state
from metagym.nets.extractors import EXTRACTORS, GRUExtractor
from metagym.window_replay import WindowReplayBuffer
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from metagym.wrappers.window import Window
from tests.algos.rl2_window_setup import BANDIT, FAMILY, LAKE, MATRIX, POINT, budget, make, parameters, same, slow_but


def rows_env(env_id, n_envs=2, **kwargs):
    return gym.make_vec(env_id, num_envs=n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)


# --- the matrix --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "env_id"), MATRIX)
def test_every_learner_learns_adapts_and_is_evaluated(name, env_id):
    agent = make(name, env_id)
    assert type(agent).learner_class.__name__ == name
    assert isinstance(agent, WindowRL2 | agent.learner_class)
    assert isinstance(agent, MemoryLearner)
    before = parameters(agent)
    agent.learn(40)
    assert agent.num_timesteps >= 40
    after = parameters(agent)
    assert not same(before, after)
    rng = get_rng_state()
    adapted = agent.adapt(agent.make_env().unwrapped.sample_task(), episodes=2, seed=0)
    assert adapted.returns.shape == (2,)
    action, _ = adapted.predict(adapted.observation, deterministic=True)
    assert action in agent.action_space
    curve = evaluate(agent, env_id, n_tasks=2, episodes=2, env_kwargs=FAMILY[env_id]["env_kwargs"])
    assert curve.scores.shape == (1, 2, 2)
    for key, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[key])
    assert same(after, parameters(agent))
    rewards, _ = evaluate_policy(agent, agent.get_env(), 3, return_episode_rewards=True)
    assert len(rewards) == 3
    agent.learn(10, reset_num_timesteps=False)
    assert agent.num_timesteps >= 50


@pytest.mark.parametrize(
    ("name", "extractor"),
    [("DQN", "snail"), ("DQN", "transformer"), ("TRPO", "transformer"), slow_but(False, "TRPO", "snail")],
)
def test_every_extractor_serves_every_kind_of_learner(name, extractor):
    agent = make(name, extractor=extractor).learn(24)
    assert (
        type(agent.policy.features_extractor if name == "TRPO" else agent.q_net.features_extractor)
        is (EXTRACTORS[extractor])
    )
    assert all(th.isfinite(parameter).all() for parameter in agent.policy.parameters())


# --- against SB3 -------------------------------------------------------------------------------------------------


def plain(learner_class, env_id, **kwargs):
    """SB3's own learner on windows that the env makes."""
    trials = {key: value for key, value in FAMILY[env_id].items() if key != "env_kwargs"}
    env = Window(RL2Context(Trial(rows_env(env_id, **FAMILY[env_id]["env_kwargs"]), **trials)), length=4)
    own = {"twice_differentiable": True} if learner_class is TRPO else {}
    extractor = {"features_extractor_class": GRUExtractor, "features_extractor_kwargs": {"features_dim": 4} | own}
    return learner_class(
        "MlpPolicy",
        VecMonitor(VectorEnvAdapter(env)),
        policy_kwargs={"net_arch": [8], **extractor},
        seed=0,
        **budget(learner_class.__name__) | kwargs,
    )


@pytest.mark.parametrize(
    "learner_class",
    [SAC, TD3, CrossQ, A2C, *(slow_but(False, kind) for kind in (DDPG, TQC, PPO, TRPO))],
)
def test_training_is_to_the_bit_that_of_sb3_on_an_env_of_windows(learner_class):
    # SB3's learners store windows; these store rows, and hold the windows themselves.
    learnt = []
    for build in (lambda: make(learner_class.__name__, POINT), lambda: plain(learner_class, POINT)):
        learner = build()
        for num_steps, resets in ((40, True), (24, False), (20, True)):
            learner.learn(num_steps, reset_num_timesteps=resets)
        learnt.append((learner.num_timesteps, parameters(learner)))
    assert learnt[0][0] == learnt[1][0]
    assert same(learnt[0][1], learnt[1][1])


def test_dqn_explores_every_row_by_itself_from_the_seeded_stream():
    agent = make("DQN", exploration_initial_eps=0.5, exploration_final_eps=0.5).learn(30)
    assert agent.exploration_rate == 0.5
    seen = np.tile(agent._last_obs[:1], (400, 1))
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        drawn.append(agent.predict(seen)[0])
    np.testing.assert_array_equal(*drawn)
    best = agent.predict(seen, deterministic=True)[0][0]
    assert 0.6 < (drawn[0] == best).mean() < 0.73  # half of them, and a third of the other half: 2/3
    assert (agent.predict(seen, deterministic=True)[0] == best).all()


# --- windows -----------------------------------------------------------------------------------------------------


def test_predict_holds_the_window_in_its_state():
    agent = make("DQN").learn(20)
    env = Window(agent.make_env(), length=4)
    rows = agent.make_env()
    window, row = env.reset(seed=1)[0], rows.reset(seed=1)[0]
    state = None
    for _ in range(6):
        action, state = agent.predict(row, state, deterministic=True)
        np.testing.assert_array_equal(state[0][0], window)
        assert agent.predict(window, deterministic=True)[0] == action  # whole windows are taken as well
        window, row = env.step(action)[0], rows.step(action)[0]
    starts = np.array([True])
    _, after = agent.predict(row[None], state, starts, deterministic=True)
    assert after[0][0, :, -1].tolist() == [0, 0, 0, 1]
    with pytest.raises(ConfigError, match="an observation has shape"):
        agent.predict(np.zeros(3))


def test_collected_windows_are_those_of_the_trials():
    agent = make("SAC", POINT).learn(52)
    buffer = agent.replay_buffer
    assert isinstance(buffer, WindowReplayBuffer)
    assert buffer.observations.shape[2:] == agent.observation_space.shape
    found = buffer._get_samples(np.arange(buffer.size())).observations
    starts = found[:, -1, -2] * (found[:, -1, -5:-2] == 0).all(-1)  # boundary, and no action or reward yet
    assert starts.any()
    np.testing.assert_array_equal((found[..., -1].sum(1) == 1)[:16], (starts == 1)[:16])
    np.testing.assert_array_equal(agent._windows[:, -1, :-1], agent._last_obs)


def test_a_window_is_as_long_as_a_trial_within_limits():
    agent = WindowRL2("MlpPolicy", BANDIT, learner_class="DQN", episodes_per_trial=7)
    assert agent.window == 7
    assert WindowRL2("MlpPolicy", BANDIT, learner_class="DQN", episodes_per_trial=100).window == 32
    assert WindowRL2("MlpPolicy", BANDIT, learner_class="DQN", steps_per_trial=9).window == 9
    assert agent.n_envs == 8


def test_it_says_what_was_chosen(capsys):
    agent = make("DQN", verbose=1)
    said = "DQN with a window of 4 steps, read by GRUExtractor"
    assert agent.variant == said
    assert repr(agent) == f"RL2WindowDQN({said})"
    assert said in capsys.readouterr().out


# --- SB3's roads -------------------------------------------------------------------------------------------------


def test_callbacks_see_steps_on_record_and_can_stop():
    class Look(StopTrainingOnMaxEpisodes):
        def _on_step(self):
            buffer = self.model.replay_buffer
            assert buffer._count * 2 == self.model.num_timesteps
            np.testing.assert_array_equal(
                buffer._next_rows, np.where(self.locals["dones"][:, None], buffer._next_rows, self.locals["new_obs"])
            )
            return super()._on_step()

    agent = make("DQN").learn(10_000, callback=Look(max_episodes=2))
    assert agent.num_timesteps == 2 * 6 * 2


def test_evaluation_callbacks_and_the_logger_work(tmp_path):
    agent = make("SAC", POINT)
    keys = set()

    class Keys(Logger):
        def dump(self, step=0):
            keys.update(self.name_to_value)
            super().dump(step)

    agent.set_logger(Keys(None, []))
    env = VecMonitor(VectorEnvAdapter(RL2Context(Trial(rows_env(POINT, episode_length=4), steps_per_trial=8))))
    agent.learn(80, callback=EvalCallback(env, n_eval_episodes=2, eval_freq=10, verbose=0))
    assert {"meta/first_episode_return", "meta/last_episode_return", "rollout/ep_rew_mean", "train/actor_loss"} <= keys


def test_vec_normalize_normalises_single_observations():
    env = VecNormalize(VectorEnvAdapter(RL2Context(Trial(rows_env(POINT, episode_length=4), steps_per_trial=8))))
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 4}}
    agent = WindowRL2("MlpPolicy", env, learner_class=SAC, window=3, policy_kwargs=network, **budget("SAC")).learn(48)
    sample = agent.replay_buffer.sample(50, env)
    valid = sample.observations[..., -1:]
    assert ((valid == 0) | (valid == 1)).all()
    assert (sample.observations[..., :-1] * (1 - valid) == 0).all()
    assert set(valid.sum((1, 2)).tolist()) == {1, 2, 3}
    raw = agent.replay_buffer.observations[: agent.replay_buffer.pos]
    assert set(np.unique(raw[..., -1])) == {0.0, 1.0}  # stored as they were
    np.testing.assert_array_equal(agent._windows[:, -1, :-1], agent._last_obs)


def test_scalar_envs_in_a_dummy_vec_env_are_trials_too():
    def build():
        return RL2Context(Trial(gym.make(BANDIT, num_arms=3), episodes_per_trial=5))

    agent = WindowRL2("MlpPolicy", DummyVecEnv([build]), learner_class=DQN, window=3, **budget("DQN")).learn(30)
    assert agent.num_timesteps == 30
    with pytest.raises(ConfigError, match="does not emit whole trials"):
        WindowRL2("MlpPolicy", DummyVecEnv([lambda: gym.make(BANDIT)]), learner_class=DQN)


@pytest.mark.parametrize("kwargs", [{"use_sde": True, "sde_sample_freq": 3}, {"gradient_steps": -1}])
def test_options_of_off_policy_learners_work(kwargs):
    agent = make("SAC", POINT, **kwargs).learn(40)
    assert agent._n_updates > 0
    assert agent.adapt(agent.make_env(), episodes=1, seed=0).returns.shape == (1,)


def test_action_noise_and_episodic_training_work():
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    agent = make("TD3", POINT, n_envs=1, action_noise=noise, train_freq=(1, "episode")).learn(40)
    assert agent._n_updates > 0
    assert make("TD3", POINT, action_noise=noise).learn(20).num_timesteps == 20
    with pytest.raises(ConfigError, match="needs n_envs=1"):
        make("TD3", POINT, train_freq=(1, "episode")).learn(20)


def test_an_interrupted_step_leaves_a_learner_that_starts_its_trials_anew():
    agent = make("DQN")
    agent.learn(20)
    step = agent.env.step

    def broken(actions):
        raise RuntimeError("broken")

    agent.env.step = broken
    with pytest.raises(RuntimeError, match="broken"):
        agent.learn(20, reset_num_timesteps=False)
    agent.env.step = step
    agent.learn(20, reset_num_timesteps=False)
    assert agent.num_timesteps == 40


@pytest.mark.parametrize("name", ["PPO", "ARS"])
def test_a_callback_that_stops_in_mid_rollout_leaves_the_env_and_its_windows_in_step(name):
    agent = make(name)
    agent.learn(10_000, callback=StopTrainingOnMaxEpisodes(1)) if name == "PPO" else agent.learn(12)
    assert agent._last_obs.shape == (2, *agent.observation_space.shape)
    if name == "PPO":
        assert agent.num_timesteps == 12
        np.testing.assert_array_equal(agent._last_episode_starts, [True, True])
        np.testing.assert_array_equal(agent._windows[:, -1, :-1], agent._last_obs)
    agent.learn(12, reset_num_timesteps=False)


def test_an_env_can_be_exchanged():
    agent = make("DQN").learn(20)
    agent.set_env(rows_env(BANDIT, num_arms=3))
    agent.learn(20, reset_num_timesteps=False)
    with pytest.raises(ConfigError, match="rows"):
        agent.set_env(rows_env(BANDIT, 3, num_arms=3))


# --- what is accepted --------------------------------------------------------------------------------------------


def test_the_class_is_found_by_learner():
    for kind in (DQN, SAC, TD3, DDPG, TQC, CrossQ, ARS):
        found = window_class(kind)
        assert found is window_class(kind.__name__)
        assert issubclass(found, WindowRL2)
        assert issubclass(found, kind)
        assert found.learner_class is kind
    for kind in (PPO, A2C, TRPO):
        assert window_class(kind) is None
        assert issubclass(window_class(kind, on_policy=True), kind)
    for nothing in (RecurrentPPO, "Unknown", None, 3, WindowRL2, window_class(DQN)):
        assert window_class(nothing, on_policy=True) is None


def test_the_classes_have_names_to_be_pickled_by():
    assert pickle.loads(pickle.dumps(window_class("SAC"))) is window_class(SAC)
    assert rl2_window.RL2WindowPPO is window_class(PPO, on_policy=True)
    with pytest.raises(AttributeError, match="no attribute 'RL2WindowNothing'"):
        _ = rl2_window.RL2WindowNothing


def test_subclasses_of_learners_and_policies_of_ones_own_are_joined():
    class MySAC(SAC):
        pass

    policy = SAC.policy_aliases["MlpPolicy"]
    agent = WindowRL2(policy, POINT, learner_class=MySAC, n_envs=2, window=3, **FAMILY[POINT], **budget("SAC"))
    assert isinstance(agent, MySAC)
    assert agent.learn(16).num_timesteps == 16


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learner_class": RecurrentPPO}, "learner_class must be one of .*; not RecurrentPPO"),
        ({"learner_class": "Nope"}, "not 'Nope'"),
        ({"window": 0}, "window must be an integer of at least 1, not 0"),
        ({"n_envs": True}, "n_envs must be"),
        ({"episodes_per_trial": None}, "exactly one of episodes_per_trial"),
        ({"banana": 1}, r"unknown keywords \['banana'\]; DQN takes"),
        ({"n_steps": 3}, "n_steps must be 1 with a window"),
        ({"replay_buffer_class": ReplayBuffer}, "must be a WindowReplayBuffer"),
        ({"replay_buffer_class": HerReplayBuffer}, "must be a WindowReplayBuffer"),
        ({"policy_kwargs": {"extractor": "lstm"}}, r"extractor 'lstm' is unknown; accepted are \['gru'"),
        ({"policy_kwargs": {"extractor": "gru", "features_extractor_class": GRUExtractor}}, "not both"),
    ],
)
def test_mistakes_are_refused_by_name(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**kwargs)


def test_more_mistakes_are_refused_by_name():
    with pytest.raises(ConfigError, match="policy 'LinearPolicy' is not accepted"):
        WindowRL2("LinearPolicy", BANDIT, learner_class=DQN, episodes_per_trial=2)
    with pytest.raises(ConfigError, match="needs an env"):
        WindowRL2("MlpPolicy", learner_class="DQN")
    with pytest.raises(ConfigError, match=r"learner_class must be one of .*; not None"):
        WindowRL2("MlpPolicy", BANDIT)
    with pytest.raises(ConfigError, match="has its learner class already"):
        window_class(DQN)("MlpPolicy", BANDIT, learner_class=SAC)
    with pytest.raises(ConfigError, match="episodes must be an integer of at least 1, not None"):
        make("SAC", POINT).adapt({}, episodes=None)


def test_arguments_of_the_caller_are_not_changed():
    policy_kwargs = {"extractor": "gru", "net_arch": [4]}
    make("DDPG", POINT, policy_kwargs=policy_kwargs)
    make("QRDQN", policy_kwargs=policy_kwargs)
    assert policy_kwargs == {"extractor": "gru", "net_arch": [4]}


def test_memory_saving_of_sb3_is_granted_anyway():
    agent = make("DQN", optimize_memory_usage=True).learn(20)
    agent.learn(20)
    assert isinstance(agent.window_space, spaces.Box)


def test_the_lake_is_walked_in_windows():
    assert make("DQN", LAKE).learn(40).num_timesteps == 40


# --- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["gru", "transformer"])
def test_dqn_learns_to_find_the_better_of_two_dependent_arms_within_a_trial(extractor):
    # Arms pay 0.9 and 0.1 (Wang et al. 2016): nothing is known at the first pull, and one pull tells nearly all.
    two_arms = {"variant": "easy"}
    agent = WindowRL2(
        "MlpPolicy",
        BANDIT,
        learner_class=DQN,
        env_kwargs=two_arms,
        episodes_per_trial=10,
        learning_rate=1e-3,
        learning_starts=500,
        batch_size=64,
        train_freq=2,
        target_update_interval=400,
        exploration_fraction=0.4,
        gamma=0.9,
        policy_kwargs={"extractor": extractor, "net_arch": [32], "features_extractor_kwargs": {"features_dim": 32}},
        seed=0,
    ).learn(12_000)
    curve = evaluate(agent, BANDIT, split=None, n_tasks=300, env_kwargs=two_arms, deterministic=True)
    by_pull = curve.scores.mean((0, 1))
    assert abs(by_pull[0] - 0.5) < 0.1
    assert by_pull[3:].mean() > 0.8  # 0.9 is the most; random pays 0.5
