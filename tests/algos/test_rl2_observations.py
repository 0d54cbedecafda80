"""RL² on images and on Dict observations: they stay what they are, and the context is one more entry."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv

from metagym.algos.rl2 import RL2
from metagym.algos.rl2_env import require_same_observations
from metagym.errors import ConfigError
from metagym.nets import PackedTrials, TrialActorCriticPolicy
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from metagym.wrappers.base import RowsWrapper
from tests.algos.rl2_setup import LAKE, assert_same_parameters, parameters

SIDE = 36
LIT = np.uint8(255)


def picture(cells):
    """Cells of a 4 x 4 lake as pictures (M, 3, 36, 36): a lit square of 9 x 9."""
    images = np.zeros((len(cells), 3, SIDE, SIDE), np.uint8)
    for image, cell in zip(images, cells, strict=True):
        row, column = divmod(int(cell), 4)
        image[:, 9 * row : 9 * row + 9, 9 * column : 9 * column + 9] = LIT
    return images


class Pictures(RowsWrapper):
    """Rows that see pictures of their lakes."""

    def __init__(self, env):
        super().__init__(env, spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8))

    def observe_rows(self, rows):
        return picture(self.env.observe_rows(rows))


class AsDict(gym.ObservationWrapper):
    """The cell of a lake by two fields."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(column=spaces.Discrete(4), place=spaces.Box(0.0, 4.0, (2,), np.float32))

    def observation(self, observation):
        row, column = divmod(int(observation), 4)
        return {"column": column, "place": np.array([row, column], np.float32)}


def pictures(mode=AutoresetMode.SAME_STEP):
    rows = gym.make_vec(LAKE, num_envs=3, autoreset_mode=mode, size=4)
    return RL2Context(Trial(Pictures(rows), episodes_per_trial=2))


def dict_env():
    return RL2Context(Trial(AsDict(gym.make(LAKE, size=4)), episodes_per_trial=2))


def dict_rows():
    return DummyVecEnv([dict_env] * 3)


def agent_of(env, policy="MultiInputPolicy", learner_class=PPO, **kwargs):
    settings = {"n_steps": 8, "seed": 0, "policy_kwargs": {"rnn_hidden_size": 4}}
    if learner_class is PPO:
        settings |= {"batch_size": 12, "n_epochs": 2}
    if learner_class is TRPO:
        settings |= {"batch_size": 12, "target_kl": 1.0}
    return RL2(policy, env, learner_class=learner_class, **settings | kwargs)


def test_an_image_and_its_context_by_hand():
    env = pictures()
    assert set(env.single_observation_space.spaces) == {"observation", "context"}
    observation, _ = env.reset(seed=0)
    flat = RL2Context(Trial(gym.make_vec(LAKE, num_envs=3, autoreset_mode="SameStep", size=4), episodes_per_trial=2))
    expected, _ = flat.reset(seed=0)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        np.testing.assert_array_equal(observation["context"], expected[:, 16:])
        np.testing.assert_array_equal(observation["observation"], picture(expected[:, :16].argmax(axis=1)))
        assert observation in env.observation_space
        actions = rng.integers(0, 4, 3)
        observation, *_, infos = env.step(actions)
        expected, *_, flat_infos = flat.step(actions)
        for row in np.flatnonzero(infos.get("_final_obs", [])):
            last = infos["final_obs"][row]
            np.testing.assert_array_equal(last["context"], flat_infos["final_obs"][row][16:])
            assert last in env.single_observation_space
            ended += 1
    assert ended > 2


def test_a_dict_and_its_context_by_hand():
    env = dict_env()
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"column", "place", "context"}
    assert observation["context"].tolist() == [0, 0, 0, 0, 0, 1]
    assert observation in env.observation_space
    env.unwrapped.set_task({"map": ["SFFF", "FFFF", "FFFF", "FFFG"]})
    env.reset(seed=0)
    observation, reward, *_ = env.step(2)
    assert observation["context"].tolist() == [0, 0, 1, 0, reward, 0]


def test_an_entry_called_context_is_refused():
    env = AsDict(gym.make(LAKE, size=4))
    env.observation_space = spaces.Dict(context=spaces.Discrete(4))
    with pytest.raises(ValueError, match="have an entry 'context' already"):
        RL2Context(Trial(env, episodes_per_trial=2))
    env.observation_space = spaces.Dict(said=spaces.Text(5))
    with pytest.raises(ValueError, match="entry 'said' is Text"):
        RL2Context(Trial(env, episodes_per_trial=2))


@pytest.mark.parametrize("share", [True, False])
def test_fused_trials_of_a_dict_are_what_single_steps_are(share):
    space = spaces.Dict(place=spaces.Box(-1.0, 1.0, (2,), np.float32), image=spaces.Box(0, 255, (3, 36, 36), np.uint8))
    th.manual_seed(0)
    policy = TrialActorCriticPolicy(
        space, spaces.Discrete(3), lambda _: 1e-3, rnn_hidden_size=4, share_features_extractor=share
    )
    assert isinstance(policy.features_extractor, CombinedExtractor)
    data = {"place": th.randn(6, 2), "image": th.randint(0, 256, (6, 3, 36, 36), dtype=th.uint8)}
    actions = th.tensor([0, 1, 2, 0, 1, 2])
    values, log_probs, _ = policy.evaluate_actions(PackedTrials(data, (3, 2, 1)), actions)
    state = policy.zero_state(3)
    start = 0
    for size in (3, 2, 1):
        now = slice(start, start + size)
        outputs, state = policy._remember(
            {key: part[now] for key, part in data.items()}, tuple(part[:, :size] for part in state), None
        )
        th.testing.assert_close(policy._values(outputs, None), values[now])
        th.testing.assert_close(policy._act(outputs).log_prob(actions[now]), log_probs[now])
        start += size


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO])
def test_it_learns_from_dicts(learner_class):
    agent = agent_of(dict_rows(), learner_class=learner_class)
    before = parameters(agent)
    agent.learn(96)
    assert any(not th.equal(before[name], parameter) for name, parameter in agent.policy.named_parameters())
    assert 0.0 <= agent.rollout_buffer.pos <= 96


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_it_learns_from_images_and_resumes_to_the_bit(tmp_path, mode):
    class SaveAt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 33:
                self.model.save(tmp_path / "agent")
            return True

    def env():
        return VectorEnvAdapter(pictures(mode))

    through = agent_of(env(), "CnnPolicy").learn(72, callback=SaveAt())
    assert isinstance(through.policy.features_extractor, CombinedExtractor)
    assert isinstance(through.policy.features_extractor.extractors["observation"], NatureCNN)
    expected = parameters(through)
    resumed = RL2.load(tmp_path / "agent", env=env())
    resumed.learn(39, reset_num_timesteps=False)
    assert_same_parameters(resumed, expected)


def test_a_loaded_learner_predicts_alike_and_knows_episodes(tmp_path):
    agent = agent_of(dict_rows()).learn(48)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent")
    env = dict_env()
    observation, _ = env.reset(seed=3)
    state = other = None
    for _ in range(5):
        action, state = agent.predict(observation, state, deterministic=True)
        again, other = loaded.predict(observation, other, deterministic=True)
        assert action == again
        np.testing.assert_array_equal(state[0], other[0])
        observation, *_ = env.step(int(action))


def test_channels_last_are_seen_first():
    class Last(Pictures):
        def __init__(self, env):
            super().__init__(env)
            self.single_observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

        def observe_rows(self, rows):
            return np.moveaxis(super().observe_rows(rows), 1, -1)

    rows = gym.make_vec(LAKE, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP, size=4)
    env = RL2Context(Trial(Last(rows), episodes_per_trial=2))
    agent = agent_of(VectorEnvAdapter(env)).learn(24)
    assert agent.observation_space["observation"].shape == (3, SIDE, SIDE)
    observation, _ = env.reset(seed=0)
    actions, _ = agent.predict(observation)
    assert actions.shape == (3,)
    require_same_observations(SimpleNamespace(observation_space=env.single_observation_space), agent)
    with pytest.raises(ConfigError, match="make_env and adapt cannot repeat"):
        agent.make_env()
    with pytest.raises(ConfigError, match="make_env and adapt cannot repeat"):
        agent.adapt(gym.make(LAKE, size=4))
