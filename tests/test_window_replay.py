"""The buffer that stores rows once, against SB3's buffer of windows: the same samples, to the last bit."""

import pickle
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC, TD3
from stable_baselines3.common import buffers
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from metagym.errors import CheckpointError, ConfigError
from metagym.nets.extractors import GRUExtractor
from metagym.window_replay import WindowReplayBuffer
from metagym.wrappers import RL2Context, Trial
from metagym.wrappers.sb3 import VectorEnvAdapter
from metagym.wrappers.window import THERE, Window, newest, no_windows, on_parts, pushed, window_space

WIDTH = 2
ROW = spaces.Box(-10, 10, (WIDTH,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict(
    bits=spaces.MultiBinary(3),
    field=spaces.MultiDiscrete([3, 2]),
    kind=spaces.Discrete(4, start=1),
    picture=spaces.Box(0, 255, (2, 3, 1), np.uint8),
    place=spaces.Box(-10, 10, (2, 2), np.float64),
)
ACTIONS = spaces.Box(-1, 1, (1,))


class Stream:
    """Transitions of trials of random lengths, some of them cut off, some left without an end."""

    def __init__(self, n_envs, length, seed=0, *, abandon=0.0, row=ROW):
        self.rng, self.n_envs, self.row = np.random.default_rng(seed), n_envs, row
        self.space, self.abandon = window_space(row, length), abandon
        self.windows = self.fresh()

    def rows(self):
        if self.row is ROW:
            return self.rng.normal(size=(self.n_envs, WIDTH)).astype(np.float32)
        self.row.seed(int(self.rng.integers(2**31)))
        rows = [self.row.sample() for _ in range(self.n_envs)]
        return (
            {name: np.stack([row[name] for row in rows]) for name in self.row} if self.row is DICT else np.stack(rows)
        )

    def fresh(self):
        return pushed(no_windows(self.n_envs, self.space), self.rows())

    def step(self):
        """The arguments of `add`, with windows."""
        done = self.rng.random(self.n_envs) < 0.3
        infos = [{"TimeLimit.truncated": bool(end and self.rng.random() < 0.5)} for end in done]
        before, after = self.windows, pushed(self.windows, self.rows())
        restart = done | (self.rng.random(self.n_envs) < self.abandon)
        self.windows = on_parts(
            lambda new, old: np.where(restart.reshape(-1, *(1,) * (old.ndim - 1)), new, old), self.fresh(), after
        )
        action = self.rng.uniform(-1, 1, (self.n_envs, 1)).astype(np.float32)
        return before, after, action, self.rng.normal(size=self.n_envs), done, infos


def both(size, n_envs, length, num_steps, *, flat=False, seed=0, abandon=0.0, row=ROW):
    """SB3's buffer and this one after the same transitions; the latter may be given rows in place of windows."""
    stream = Stream(n_envs, length, seed, abandon=abandon, row=row)
    naive = ReplayBuffer if row is ROW else DictReplayBuffer
    buffers = [kind(size, stream.space, ACTIONS, "cpu", n_envs) for kind in (naive, WindowReplayBuffer)]
    for _ in range(num_steps):
        obs, next_obs, *rest = stream.step()
        buffers[0].add(obs, next_obs, *rest)
        if flat:
            obs, next_obs = newest(obs, row), newest(next_obs, row)
        buffers[1].add(obs, next_obs, *rest)
    return buffers


def assert_same_samples(naive, buffer, *, env=None, batch_size=200):
    assert (naive.size(), naive.pos, naive.full) == (buffer.size(), buffer.pos, buffer.full)
    samples = []
    for one in (naive, buffer):
        np.random.seed(1)  # noqa: NPY002
        samples.append(one.sample(batch_size, env))
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        expected, found = (getattr(sample, name) for sample in samples)
        assert not isinstance(expected, dict) or expected.keys() == found.keys()
        for one, other in zip(*(parts(value) for value in (expected, found)), strict=True):
            assert one.dtype == other.dtype, name
            assert th.equal(one, other), name


def parts(value):
    return [value[name] for name in sorted(value)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 9, 10, 11, 19, 20, 21, 57, 200])
def test_samples_equal_those_of_a_buffer_of_windows(num_steps, flat):
    assert_same_samples(*both(20, 2, 4, num_steps, flat=flat))


@settings(max_examples=40)
@given(
    size=st.integers(1, 40),
    n_envs=st.integers(1, 4),
    length=st.integers(1, 9),
    num_steps=st.integers(1, 60),
    seed=st.integers(0, 99),
    abandon=st.sampled_from([0.0, 0.2]),
    flat=st.booleans(),
    row=st.sampled_from([ROW, DICT, IMAGE]),
)
def test_any_size_any_window_and_any_stream_of_anything_agree(
    size, n_envs, length, num_steps, seed, abandon, flat, row
):
    buffers = both(size, n_envs, length, num_steps, seed=seed, abandon=abandon, flat=flat, row=row)
    assert_same_samples(*buffers, batch_size=50)


def test_envs_that_are_reset_between_two_steps_begin_new_trials():
    # Even where the first observation looks like what would have followed.
    space = window_space(ROW, 3)
    buffer = WindowReplayBuffer(10, space, ACTIONS, "cpu")
    same = np.ones((1, WIDTH), np.float32)
    for _ in range(2):
        buffer.add(same, same, np.zeros(1), np.zeros(1), np.zeros(1, np.bool_), [{}])
    buffer.cut()
    buffer.add(same, same, np.zeros(1), np.zeros(1), np.zeros(1, np.bool_), [{}])
    found = buffer._get_samples(np.arange(3))
    assert found.observations[..., -1].tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 1]]
    assert found.next_observations[..., -1].tolist() == [[0, 1, 1], [1, 1, 1], [0, 1, 1]]


def test_a_trial_ends_even_where_the_next_begins_with_what_looks_like_its_last_observation():
    buffer = WindowReplayBuffer(10, window_space(ROW, 3), ACTIONS, "cpu")
    same = np.ones((1, WIDTH), np.float32)
    for done in (False, True, False):
        buffer.add(same, same, np.zeros(1), np.zeros(1), np.array([done]), [{}])
    found = buffer._get_samples(np.arange(3))
    assert found.observations[..., -1].tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 1]]
    assert found.dones[:, 0].tolist() == [0, 1, 0]


def test_memory_is_that_of_the_rows():
    space = window_space(spaces.Box(-1, 1, (20,)), 16)
    buffer, naive = (kind(1000, space, ACTIONS, "cpu") for kind in (WindowReplayBuffer, ReplayBuffer))

    def num_bytes(one):
        return sum(value.nbytes for value in vars(one).values() if isinstance(value, np.ndarray))

    assert num_bytes(naive) / num_bytes(buffer) > 25
    assert num_bytes(buffer) < 1.4 * 1015 * (20 + 1 + 3) * 4


@pytest.mark.parametrize(("picture", "length"), [((3, 84, 84), 4), ((1, 36, 36), 8)])
def test_a_transition_of_images_takes_the_bytes_of_one_image(picture, length):
    row = spaces.Dict(image=spaces.Box(0, 255, picture, np.uint8), context=spaces.Box(-1, 1, (5,)))
    buffer = WindowReplayBuffer(100, window_space(row, length), ACTIONS, "cpu")
    rng = np.random.default_rng(0)
    seen = [{"image": rng.integers(0, 256, (1, *picture)), "context": rng.random((1, 5))} for _ in range(101 + length)]
    for step in range(100 + length):
        buffer.add(seen[step], seen[step + 1], np.zeros(1), np.zeros(1), np.array([step % 20 == 19]), [{}])
    stored = vars(buffer).values()
    arrays = [part for value in stored for part in (value.values() if isinstance(value, dict) else [value])]
    found = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    of_row = int(np.prod(picture)) + 4 * 5
    ring = (100 + length - 1) * (of_row + 4 + 17)
    aside = (64 + 2) * of_row  # ends of trials, the newest row, and the zeros that give the shape
    assert found == ring + aside
    naive = 100 * (2 * length * (of_row + 1) + 4 + 12)
    assert naive / (100 * (of_row + 21)) > 1.9 * length


def test_a_buffer_that_will_not_fit_says_so_as_sb3s_does(monkeypatch):
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=100_000_000))
    monkeypatch.setattr(buffers, "psutil", psutil)
    space = window_space(IMAGE, 4)
    with pytest.warns(UserWarning, match=r"will take 1\.3 GB, of which 0\.1 GB are there.*below 1000000"):
        WindowReplayBuffer(1_000_000, space, ACTIONS, "cpu", 4)
    WindowReplayBuffer(50_000, space, ACTIONS, "cpu", 4)


def test_two_batches_of_dicts_are_joined_entry_by_entry_as_crossq_joins_them():
    _, buffer = both(20, 2, 3, 15, row=DICT)
    sample = buffer.sample(4)
    joined = th.cat([sample.observations, sample.next_observations], dim=0)
    for name, part in joined.items():
        assert th.equal(part, th.cat([sample.observations[name], sample.next_observations[name]]))
    with pytest.raises(TypeError, match=r"torch\.stack"):
        th.stack([sample.observations, sample.next_observations])


def test_slots_for_ends_of_trials_are_used_again():
    _, buffer = both(8, 2, 3, 2000)
    assert len(buffer.last_rows) <= 64


@pytest.mark.parametrize("of_windows", [False, True])
def test_vec_normalize_normalises_rows_and_leaves_padding_and_marks_alone(of_windows):
    naive, buffer = both(30, 2, 4, 25)
    env = VecNormalize.__new__(VecNormalize)
    shape = naive.obs_shape if of_windows else (WIDTH,)
    env.observation_space = spaces.Box(-10, 10, shape)
    env.norm_obs, env.norm_reward, env.clip_obs, env.clip_reward, env.epsilon = True, True, 5.0, 5.0, 1e-8
    env.obs_rms, env.ret_rms = RunningMeanStd(shape=shape), RunningMeanStd(shape=())
    rng = np.random.default_rng(0)
    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = rng.normal(size=shape), rng.random(shape) + 0.5, np.array(4.0)
    if of_windows:
        assert_same_samples(naive, buffer, env=env)
        return
    np.random.seed(3)  # noqa: NPY002
    raw = buffer.sample(40)
    np.random.seed(3)  # noqa: NPY002
    found = buffer.sample(40, env)
    th.testing.assert_close(found.rewards, raw.rewards / 2)
    for before, after in ((raw.observations, found.observations), (raw.next_observations, found.next_observations)):
        there = before[..., -1:]
        assert th.equal(after[..., -1:], there)
        expected = (before[..., :-1] - th.tensor(env.obs_rms.mean)) / th.tensor(env.obs_rms.var).sqrt()
        th.testing.assert_close(after[..., :-1], (expected.clip(-5, 5) * there).float())


def test_a_reset_buffer_is_as_new():
    stream = Stream(2, 3)
    _, buffer = both(10, 2, 3, 33)
    buffer.reset()
    fresh = WindowReplayBuffer(10, stream.space, ACTIONS, "cpu", 2)
    for _ in range(8):
        step = stream.step()
        buffer.add(*step)
        fresh.add(*step)
    assert_same_samples(fresh, buffer)


@pytest.mark.parametrize("row", [ROW, DICT, IMAGE])
@pytest.mark.parametrize("num_steps", [0, 3, 47])
@pytest.mark.parametrize("clone", ["state", "pickle"])
def test_a_restored_buffer_goes_on_alike(clone, num_steps, row):
    stream = Stream(2, 4, abandon=0.1, row=row)
    buffer = WindowReplayBuffer(20, stream.space, ACTIONS, "cpu", 2)
    for _ in range(num_steps):
        buffer.add(*stream.step())
    if clone == "pickle":
        twin = pickle.loads(pickle.dumps(buffer))
    else:
        twin = WindowReplayBuffer(20, stream.space, ACTIONS, "cpu", 2)
        for _ in range(5):
            twin.add(*Stream(2, 4, 9, row=row).step())
        twin.set_state(buffer.get_state())
    for _ in range(30):
        step = stream.step()
        buffer.add(*step)
        twin.add(*step)
    assert_same_samples(buffer, twin)


def test_damaged_states_are_refused():
    _, buffer = both(20, 2, 4, 30)
    state = buffer.get_state()
    twin = WindowReplayBuffer(20, buffer.observation_space, ACTIONS, "cpu", 2)
    with pytest.raises(CheckpointError, match="observations of the stored replay buffer has shape"):
        twin.set_state(state | {"observations": state["observations"][:-1]})
    with pytest.raises(CheckpointError, match="lacks ends of trials"):
        twin.set_state(state | {"last_rows": np.zeros((0, WIDTH), np.float32)})
    with pytest.raises(CheckpointError, match="is damaged"):
        twin.set_state({name: array for name, array in state.items() if name != "ages"})


def test_damaged_states_of_dicts_are_refused_by_entry():
    _, buffer = both(20, 2, 4, 30, row=DICT)
    state = buffer.get_state()
    twin = WindowReplayBuffer(20, buffer.observation_space, ACTIONS, "cpu", 2)
    assert {"observations/place", "last_rows/kind", "next_rows/bits"} < set(state)
    with pytest.raises(CheckpointError, match=r"last_rows/place of the stored replay buffer has shape \(64, 2\)"):
        twin.set_state(state | {"last_rows/place": np.zeros((64, 2))})
    with pytest.raises(CheckpointError, match="lacks ends of trials"):
        twin.set_state(state | {"last_rows/kind": np.zeros(0)})
    with pytest.raises(CheckpointError, match="observations/kind"):
        twin.set_state({name: array for name, array in state.items() if name != "observations/kind"})


def test_what_is_not_there_is_zero_in_every_entry():
    _, buffer = both(30, 2, 5, 25, row=DICT)
    observations = buffer.sample(60).observations
    missing = observations[THERE] == 0
    assert 0 < missing.sum() < missing.numel()
    assert all((part[missing] == 0).all() for part in observations.values())
    assert (observations["kind"][~missing] >= 1).all()


def test_misuse_is_refused():
    for space in (ROW, DICT, IMAGE):
        with pytest.raises(ConfigError, match="holds windows"):
            WindowReplayBuffer(10, space, ACTIONS)
    with pytest.raises(ConfigError, match="leave optimize_memory_usage=False"):
        WindowReplayBuffer(10, window_space(ROW, 3), ACTIONS, optimize_memory_usage=True)


@pytest.mark.parametrize("learner_class", [SAC, TD3])
def test_a_plain_learner_of_sb3_learns_the_same_from_either_buffer(learner_class):
    learnt = []
    for kind in (ReplayBuffer, WindowReplayBuffer):
        rows = gym.make_vec("MetaPointGoal-v0", num_envs=2, episode_length=4, autoreset_mode=AutoresetMode.SAME_STEP)
        env = VectorEnvAdapter(Window(RL2Context(Trial(rows, episodes_per_trial=2)), length=3))
        extractor = {"features_extractor_class": GRUExtractor, "features_extractor_kwargs": {"features_dim": 4}}
        learner = learner_class(
            "MlpPolicy",
            env,
            replay_buffer_class=kind,
            buffer_size=40,
            learning_starts=10,
            batch_size=8,
            policy_kwargs={"net_arch": [8], **extractor},
            seed=0,
        )
        learner.learn(60)
        learner.learn(30)  # the env is reset in mid-trial
        learnt.append(list(learner.policy.parameters()))
    assert all(th.equal(one, other) for one, other in zip(*learnt, strict=True))
