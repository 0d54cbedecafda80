"""Learning with windows of Dicts and images: what is no longer seen is recalled."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from metagym.algos.rl2_window import WindowRL2
from metagym.nets.extractors import EXTRACTORS
from tests.algos.rl2_window_looks import SIDE
from tests.algos.rl2_window_setup import slow_but

QUICK = [("dict", "gru"), ("image", "transformer")]


class Recall(gym.Env):
    """A cue is shown at first and asked for two steps later, as a number or as a picture."""

    episodes_per_trial = None  # every episode is a trial

    def __init__(self, look):
        self.shows_picture, self.action_space = look == "image", spaces.Discrete(2)
        vectors = spaces.Dict(cue=spaces.Discrete(3), time=spaces.Box(0, 1, (1,)))
        self.observation_space = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8) if self.shows_picture else vectors

    def look(self, shown):
        if not self.shows_picture:
            return {"cue": 1 + self.cue if shown else 0, "time": np.array([self.time / 3], np.float32)}
        picture = np.zeros((1, SIDE, SIDE), np.uint8)
        picture[:, :, 18 * self.cue : 18 * self.cue + 18] = 255 if shown else 0
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(2)), 0
        return self.look(True), {}

    def step(self, action):
        self.time += 1
        done = self.time == 3
        return self.look(False), float(done and action == self.cue), done, False, {}


@pytest.mark.parametrize(
    ("look", "extractor", "window"),
    [
        *((*case, 3) for case in QUICK),
        *(slow_but(False, *case, 3) for case in product(("dict", "image"), EXTRACTORS) if case not in QUICK),
        slow_but(False, "dict", "gru", 2),
    ],
)
def test_a_cue_that_is_no_longer_seen_is_recalled_from_the_window_alone(look, extractor, window):
    env = DummyVecEnv([lambda: Recall(look)] * 4)
    own = {"features_dim": 16} | ({"encoder_kwargs": {"features_dim": 16}} if look == "image" else {})
    agent = WindowRL2(
        "CnnPolicy",
        env,
        learner_class="DQN",
        window=window,
        learning_starts=64,
        batch_size=32,
        buffer_size=1000,
        train_freq=2,
        target_update_interval=40,
        exploration_fraction=0.5,
        gamma=0.9,
        learning_rate=5e-3,
        policy_kwargs={"extractor": extractor, "net_arch": [16], "features_extractor_kwargs": own},
        seed=0,
    ).learn(1000)
    returns, _ = evaluate_policy(agent, VecMonitor(env), 40, return_episode_rewards=True)
    if window == 3:
        assert returns == [1.0] * 40
    else:
        assert 0.2 < np.mean(returns) < 0.8  # nothing is left of the cue but guessing
