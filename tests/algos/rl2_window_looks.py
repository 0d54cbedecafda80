"""What the tests of windows on Dicts and images share: lakes and points that are seen in other ways."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecMonitor

from metagym.algos.rl2_window import WindowRL2
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from metagym.wrappers.base import RowsWrapper
from tests.algos.rl2_window_setup import budget

LAKE, POINT = "MetaFrozenLake-v0", "MetaPointGoal-v0"
DISCRETE = {"DQN", "QRDQN", "A2C"}
SIDE = 36
LENGTH = 3
PICTURE = spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)


def cells_of(observed):
    """What rows see as cells of a 4 x 4 board: lakes by number, points by their place."""
    if observed.ndim == 1:
        return observed
    column, row = np.clip(((observed[:, :2] + 1.5) / 3 * 4).astype(int), 0, 3).T
    return 4 * row + column


def pictures_of(observed):
    """Pictures (M, 3, 36, 36): a lit square of 9 x 9, with a shade of its own for each channel."""
    images = np.zeros((len(observed), 3, SIDE, SIDE), np.uint8)
    for image, cell in zip(images, cells_of(observed), strict=True):
        row, column = divmod(int(cell), 4)
        image[:, 9 * row : 9 * row + 9, 9 * column : 9 * column + 9] = np.array([255, 128, 3])[:, None, None]
    return images


def dicts_of(observed):
    """Entries of every kind."""
    cells = cells_of(observed)
    return {
        "bits": (cells[:, None] >> np.arange(4) & 1).astype(np.int8),
        "cell": cells.astype(np.int64),
        "field": np.stack([cells // 4, cells % 4], -1).astype(np.int64),
        "place": np.stack([cells // 4, cells % 4], -1) / 4,
    }


DICT = spaces.Dict(
    bits=spaces.MultiBinary(4),
    cell=spaces.Discrete(16),
    field=spaces.MultiDiscrete([4, 4]),
    place=spaces.Box(0, 1, (2,), np.float64),
)
BOTH = spaces.Dict(DICT.spaces | {"picture": PICTURE})
LOOKS = {
    "dict": (DICT, dicts_of),
    "image": (PICTURE, pictures_of),
    "both": (BOTH, lambda observed: dicts_of(observed) | {"picture": pictures_of(observed)}),
    "last": (
        spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
        lambda observed: np.moveaxis(pictures_of(observed), 1, -1),
    ),
}


class Looking(RowsWrapper):
    """Rows that see something else of their tasks."""

    def __init__(self, env, space, look):
        super().__init__(env, space)
        self.look = look

    def observe_rows(self, rows):
        return self.look(self.env.observe_rows(rows))


def trials(look, env_id=LAKE, n_envs=2, mode=AutoresetMode.SAME_STEP):
    own = {"size": 4, "episode_length": 4} if env_id == LAKE else {"episode_length": 4}
    rows = gym.make_vec(env_id, num_envs=n_envs, autoreset_mode=mode, **own)
    return RL2Context(Trial(Looking(rows, *LOOKS[look]), episodes_per_trial=2))


def vec_env(look, env_id=LAKE, **kwargs):
    return VecMonitor(VectorEnvAdapter(trials(look, env_id, **kwargs)))


def env_id_of(name):
    return LAKE if name in DISCRETE else POINT


def make(name="DQN", look="dict", policy="MultiInputPolicy", env=None, *, extractor="gru", encoder=True, **kwargs):
    network = {"net_arch": [8], "extractor": extractor, "features_extractor_kwargs": {"features_dim": 4}}
    if look != "dict" and encoder:
        network["features_extractor_kwargs"]["encoder_kwargs"] = {"cnn_output_dim": 4}
    settings = {"learner_class": name, "window": LENGTH, "seed": 0, "policy_kwargs": network} | budget(name)
    if name == "ARS":
        settings["n_eval_episodes"] = 2
    return WindowRL2(policy, vec_env(look, env_id_of(name)) if env is None else env, **settings | kwargs)


def assert_same_windows(one, other):
    assert one.keys() == other.keys()
    for name, part in one.items():
        np.testing.assert_array_equal(part, other[name], err_msg=name)


class Scalar(gym.ObservationWrapper):
    """One row of `Looking`."""

    def __init__(self, env, look):
        super().__init__(env)
        self.observation_space, self.look = LOOKS[look]

    def observation(self, observation):
        columns = self.look(np.asarray(observation)[None])
        return {name: part[0] for name, part in columns.items()} if isinstance(columns, dict) else columns[0]
