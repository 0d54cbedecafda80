"""RL² with a window on Dicts and images: every learner, to the bit, and what the windows are."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import TQC, TRPO
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, VecTransposeImage

import metagym
from metagym.algos import RL2
from metagym.algos.rl2_window import WindowRL2
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.nets.extractors import EXTRACTORS, GRUExtractor
from metagym.window_replay import WindowReplayBuffer
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from metagym.wrappers.window import THERE, Window, WindowSpace, newest
from tests.algos.rl2_window_looks import (
    LAKE,
    LENGTH,
    POINT,
    SIDE,
    Scalar,
    assert_same_windows,
    env_id_of,
    make,
    trials,
    vec_env,
)
from tests.algos.rl2_window_setup import LEARNERS, OFF_POLICY, SaveAt, budget, parameters, same, slow_but

# --- every learner -----------------------------------------------------------------------------------------------

MATRIX = [
    slow_but(name in {"DQN", "SAC", "CrossQ", "ARS"} or look == "dict", name, look)
    for name in LEARNERS
    for look in ("dict", "image")
]


@pytest.mark.parametrize(("name", "look"), MATRIX)
def test_every_learner_learns_predicts_and_goes_on_from_a_file_to_the_bit(tmp_path, name, look):
    agent = make(name, look, "CnnPolicy" if look == "image" else "MultiInputPolicy")
    before = parameters(agent)
    agent.learn(32)
    assert not same(before, parameters(agent))
    agent.save(tmp_path / "agent")
    loaded = WindowRL2.load(tmp_path / "agent", env=vec_env(look, env_id_of(name)))
    assert repr(loaded) == repr(agent)
    for one in (agent, loaded):
        one.learn(16, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(loaded))
    assert_same_windows(agent._windows, loaded._windows)
    assert len(evaluate_policy(agent, vec_env(look, env_id_of(name)), 2, return_episode_rewards=True)[0]) == 2


@pytest.mark.parametrize(
    ("name", "look", "at"),
    [
        slow_but((name, look, at) == ("DQN", "both", 7), name, look, at)
        for name, _ in OFF_POLICY
        for look in ("both",)
        for at in (5, 7, 8)
    ],
)
def test_what_a_callback_saved_ends_where_the_whole_run_does(tmp_path, name, look, at):
    agent = make(name, look)
    agent.learn(40, callback=SaveAt(tmp_path / "agent", at))
    loaded = WindowRL2.load(tmp_path / "agent", env=vec_env(look, env_id_of(name)))
    loaded.learn(40 - 2 * at, reset_num_timesteps=False)
    assert loaded.num_timesteps == agent.num_timesteps
    assert same(parameters(agent), parameters(loaded))
    assert_same_windows(agent._windows, loaded._windows)
    mine, yours = agent.replay_buffer.get_state(), loaded.replay_buffer.get_state()
    assert {"observations/picture", "observations/context", "last_rows/cell"} < set(mine)
    for column in (name for name in mine if not name.startswith(("last_rows", "endings"))):
        np.testing.assert_array_equal(mine[column], yours[column])


def test_a_learner_loaded_without_an_env_predicts_alike(tmp_path):
    agent = make("DQN", "both").learn(20)
    agent.save(tmp_path / "agent")
    loaded = WindowRL2.load(tmp_path / "agent")
    assert loaded.observation_space == agent.observation_space
    row = trials("both").reset(seed=3)[0]
    states = [None, None]
    for _ in range(3):
        actions = []
        for place, one in enumerate((agent, loaded)):
            action, states[place] = one.predict(row, states[place], deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(*actions)
        assert_same_windows(states[0][0], states[1][0])


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_every_extractor_reads_images_beside_dicts(extractor):
    agent = make("DQN", "both", extractor=extractor).learn(24)
    reader = agent.q_net.features_extractor
    assert type(reader) is EXTRACTORS[extractor]
    assert isinstance(reader.encoder.reader, CombinedExtractor)
    assert isinstance(reader.encoder.reader.extractors["picture"], NatureCNN)
    assert all(th.isfinite(parameter).all() for parameter in agent.policy.parameters())


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_names_of_policies_are_the_same_policy(policy):
    learnt = [parameters(make("SAC", "dict", name).learn(20)) for name in (policy, "MlpPolicy")]
    assert same(*learnt)


def test_rl2_itself_makes_them():
    agent = RL2("CnnPolicy", vec_env("image"), learner_class="DQN", window=2, **budget("DQN")).learn(16)
    assert isinstance(agent, WindowRL2)
    assert isinstance(agent.window_space, WindowSpace)


# --- against SB3 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner_class", "look"),
    [(SAC, "both"), slow_but(False, DDPG, "image"), slow_but(False, TQC, "both"), slow_but(False, PPO, "both")],
)
def test_training_is_to_the_bit_that_of_sb3_on_an_env_of_windows(learner_class, look):
    # SB3's learners store windows; these store rows, and hold the windows themselves.
    name = learner_class.__name__
    one = make(name, look).learn(40).learn(24, reset_num_timesteps=False)
    extractor = {"features_dim": 4, "encoder_kwargs": {"cnn_output_dim": 4}}
    other = learner_class(
        "MultiInputPolicy",
        VecMonitor(VectorEnvAdapter(Window(trials(look, POINT), length=LENGTH))),
        policy_kwargs={
            "net_arch": [8],
            "features_extractor_class": GRUExtractor,
            "features_extractor_kwargs": extractor,
        },
        seed=0,
        **budget(name),
    )
    other.learn(40).learn(24, reset_num_timesteps=False)
    assert name == "PPO" or isinstance(other.replay_buffer, DictReplayBuffer)
    assert same(parameters(one), parameters(other))


def test_a_plain_learner_of_sb3_is_saved_and_loaded_with_its_space_of_windows(tmp_path):
    env = VecMonitor(VectorEnvAdapter(Window(trials("both", POINT), length=LENGTH)))
    extractor = {"features_extractor_class": GRUExtractor, "net_arch": [4]}
    model = TD3(
        "MultiInputPolicy", env, replay_buffer_class=WindowReplayBuffer, policy_kwargs=extractor, **budget("TD3")
    ).learn(20)
    model.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model", env=env)
    assert isinstance(loaded.observation_space, WindowSpace)
    assert loaded.observation_space.row_space == trials("both", POINT).single_observation_space
    windows = env.reset()
    np.testing.assert_array_equal(*(one.predict(windows, deterministic=True)[0] for one in (model, loaded)))
    loaded.learn(20)


# --- what is seen ------------------------------------------------------------------------------------------------


def test_predict_holds_windows_of_dicts_in_its_state():
    agent = make("DQN", "both").learn(20)
    env, rows = Window(trials("both"), length=LENGTH), trials("both")
    window, row = env.reset(seed=1)[0], rows.reset(seed=1)[0]
    state = None
    for step in range(5):
        action, state = agent.predict(row, state, deterministic=True)
        assert_same_windows(state[0], window)
        assert state[0][THERE].tolist() == [[int(step + place >= 2) for place in range(LENGTH)]] * 2
        np.testing.assert_array_equal(agent.predict(window, deterministic=True)[0], action)
        alone, kept = agent.predict({name: part[1] for name, part in row.items()}, None, deterministic=True)
        assert np.ndim(alone) == 0
        assert len(kept[0][THERE]) == 1
        window, row = env.step(action)[0], rows.step(action)[0]
    _, after = agent.predict(row, state, np.array([True, False]), deterministic=True)
    assert after[0][THERE].sum(1).tolist() == [1, 3]


def test_wrong_observations_are_refused_by_entry():
    agent = make("DQN", "dict")
    row = trials("dict").reset(seed=0)[0]
    with pytest.raises(ConfigError, match=r"has the entries .*'place'\], not \['cell'\]"):
        agent.predict({"cell": 3})
    with pytest.raises(ConfigError, match=r"entry 'place' of an observation has shape \(2,\), not \(2, 3\)"):
        agent.predict(row | {"place": np.zeros((2, 3))})
    with pytest.raises(ConfigError, match="has the entries"):
        agent.predict(np.zeros(7))


@pytest.mark.parametrize("name", ["SAC", "PPO"])
def test_channels_last_are_brought_to_the_front_and_learn_the_same(name):
    agents = [make(name, look).learn(24) for look in ("image", "last")]
    assert isinstance(agents[1].env, VecTransposeImage)
    assert agents[1].observation_space["observation"].shape == (3, SIDE, SIDE)
    assert same(*map(parameters, agents))
    first, last = (trials(look, POINT).reset(seed=2)[0] for look in ("image", "last"))
    actions = [agent.predict(row, deterministic=True)[0] for agent in agents for row in (first, last)]
    for action in actions[1:]:
        np.testing.assert_array_equal(actions[0], action)
    windows = Window(trials("last", POINT), length=LENGTH).reset(seed=2)[0]
    np.testing.assert_array_equal(agents[1].predict(windows, deterministic=True)[0], actions[0])


def test_images_are_bytes_in_the_buffer_and_parts_of_255_in_the_network():
    agent = make("DQN", "image", "CnnPolicy").learn(30)
    buffer = agent.replay_buffer
    assert buffer.observations["observation"].dtype == buffer.last_rows["observation"].dtype == np.uint8
    seen = []
    encoder = agent.q_net.features_extractor.encoder
    encoder.reader.extractors["observation"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    sample = buffer.sample(6)
    assert sample.observations["observation"].dtype == th.uint8
    agent.q_net(sample.observations)
    there = sample.observations[THERE] > 0
    by_hand = th.tensor([[255.0], [128.0], [3.0]]) / 255
    (images,) = seen
    assert images.shape == (int(there.sum()), 3, SIDE, SIDE)
    assert th.equal(images, sample.observations["observation"][there] / 255)
    th.testing.assert_close(images.flatten(2).amax(2), by_hand.T.expand(len(images), 3))


def test_collected_windows_are_those_that_were_acted_on():
    env = vec_env("both")
    agent = make("DQN", "both", env=env, buffer_size=24)
    acted = []
    sample_action = agent._sample_action

    def watched(*args, **kwargs):
        acted.append({name: part.copy() for name, part in agent._last_obs.items()})
        return sample_action(*args, **kwargs)

    agent._sample_action = watched
    agent.learn(70)  # 35 steps of 2 rows: the ring of 12 + 2 places went round
    buffer = agent.replay_buffer
    numbers = np.arange(buffer._count - buffer.buffer_size, buffer._count)
    for row in range(2):
        before, _ = buffer._observations(numbers, np.full(len(numbers), row), None)
        for place, number in enumerate(numbers):
            assert_same_windows(
                {name: part[place] for name, part in before.items()},
                {name: part[row] for name, part in acted[number].items()},
            )
    row_space = agent.observation_space
    for name, part in newest(agent._windows, row_space).items():
        np.testing.assert_array_equal(part, agent._last_obs[name])


# --- envs --------------------------------------------------------------------------------------------------------


def test_scalar_envs_in_a_dummy_vec_env_learn_the_same_as_rows():
    def scalar():
        lake = gym.make(LAKE, size=4, episode_length=4)
        return RL2Context(Trial(Scalar(lake, "both"), episodes_per_trial=2))

    one = make("DQN", "both", env=vec_env("both", n_envs=1)).learn(30)
    other = make("DQN", "both", env=DummyVecEnv([scalar])).learn(30)
    assert same(parameters(one), parameters(other))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("look", ["both", "image"])
def test_windows_of_rows_equal_those_of_scalar_envs(mode, look):
    lake = gym.make(LAKE, size=4, episode_length=4)
    scalar = Window(RL2Context(Trial(Scalar(lake, look), episodes_per_trial=2)), length=LENGTH)
    rows = VectorEnvAdapter(Window(trials(look, mode=mode, n_envs=1), length=LENGTH))
    rows.seed(5)
    expected, found = scalar.reset(seed=5)[0], rows.reset()
    assert scalar.observation_space == rows.observation_space
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(40):
        assert expected in scalar.observation_space
        assert_same_windows({name: part[0] for name, part in found.items()}, expected)
        action = int(rng.integers(4))
        expected, _, terminated, truncated, _ = scalar.step(action)
        found, _, dones, infos = rows.step(np.array([action]))
        assert dones[0] == (terminated or truncated)
        if dones[0]:
            assert_same_windows(infos[0]["terminal_observation"], expected)
            expected, ended = scalar.reset()[0], ended + 1
    assert ended > 2


def test_an_env_of_windows_goes_on_from_the_state_of_another():
    one, other = (Window(trials("both"), length=LENGTH) for _ in range(2))
    one.reset(seed=0)
    other.reset(seed=9)
    for _ in range(3):
        one.step(np.array([1, 2]))
    other.set_state(one.get_state())
    for _ in range(12):
        assert_same_windows(one.step(np.array([1, 2]))[0], other.step(np.array([1, 2]))[0])


def test_vec_normalize_normalises_the_entries_it_is_told_to():
    env = VecNormalize(vec_env("both"), norm_obs_keys=["place"])
    agent = make("DQN", "both", env=env).learn(40)
    raw, seen = (agent.replay_buffer.sample(30, normaliser) for normaliser in (None, env))
    assert seen.observations["picture"].dtype == th.uint8
    assert set(raw.observations["place"].unique().tolist()) <= {0.0, 0.25, 0.5, 0.75}
    assert not set(seen.observations["place"].unique().tolist()) <= {0.0, 0.25, 0.5, 0.75}
    missing = seen.observations[THERE] == 0
    assert missing.any()
    assert (seen.observations["place"][missing] == 0).all()


def test_the_task_is_played_by_a_copy_where_the_env_can_be_made_again():
    agent = make("DQN", "dict").learn(16)
    with pytest.raises(ConfigError, match="cannot repeat"):
        agent.make_env()
    with pytest.raises(ConfigError, match="cannot repeat"):
        agent.adapt(gym.make(LAKE, size=4))


class Doors(gym.Env):
    """One of two doors pays; seen is a picture of a hall, and which door was tried."""

    def __init__(self, door=0):
        self.door = door
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self.action_space = spaces.Discrete(2)

    def look(self, tried):
        picture = np.zeros((SIDE, SIDE, 1), np.uint8)
        picture[:, 18 * tried : 18 * tried + 18] = 255
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((SIDE, SIDE, 1), np.uint8), {}

    def step(self, action):
        return self.look(int(action)), float(action == self.door), False, False, {}


def test_families_of_images_are_adapted_to_evaluated_and_resumed(tmp_path):
    family = metagym.parameterize(Doors, construct={"door": [0, 1]}, episode_length=2, id="MetaDoorsOfTest-v0")
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 4, "encoder_kwargs": {}}}
    agent = RL2(
        "CnnPolicy",
        "MetaDoorsOfTest-v0",
        learner_class="DQN",
        episodes_per_trial=2,
        split=None,
        n_envs=2,
        seed=0,
        policy_kwargs=network,
        **budget("DQN"),
    ).learn(24)
    assert agent.observation_space["observation"].shape == (1, SIDE, SIDE)
    env = agent.make_env({"door": 1})
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (SIDE, SIDE, 1)
    assert agent.predict(observation)[0] in env.action_space
    before = parameters(agent)
    adapted = agent.adapt({"door": 1}, episodes=2, seed=0)
    assert adapted.returns.shape == (2,)
    assert adapted.state[0][THERE].sum() == 4
    assert evaluate(agent, family, split=None, n_tasks=2, episodes=2).scores.shape == (1, 2, 2)
    assert same(before, parameters(agent))
    agent.save(tmp_path / "agent")
    rows = family.make_vec(2, split=None, autoreset_mode=AutoresetMode.SAME_STEP)
    for one in (agent, loaded := RL2.load(tmp_path / "agent", env=rows)):
        one.learn(12, reset_num_timesteps=False)
    assert same(parameters(agent), parameters(loaded))


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_what_has_no_windows_is_refused_by_name():
    row = {"there": spaces.Discrete(3)}
    with pytest.raises(ConfigError, match="have an entry 'there' already"):
        WindowSpace(spaces.Dict(row), 3)
    with pytest.raises(ConfigError, match="entry 'said' of an observation is Text"):
        WindowSpace(spaces.Dict(said=spaces.Text(4)), 3)
    with pytest.raises(ConfigError, match="entry 'deep' of an observation is Dict"):
        WindowSpace(spaces.Dict(deep=spaces.Dict(row)), 3)
    with pytest.raises(ConfigError, match="of one axis"):
        WindowSpace(spaces.Dict(grid=spaces.MultiDiscrete([[2, 2], [2, 2]])), 3)
    with pytest.raises(ConfigError, match="policy 'LinearPolicy' is not accepted; accepted are"):
        make("ARS", policy="LinearPolicy")


def test_trpo_reads_images_with_a_gru_that_can_be_differentiated_twice():
    assert make("TRPO", "image").policy.features_extractor.twice_differentiable
    assert isinstance(make("TRPO", "image"), TRPO)
