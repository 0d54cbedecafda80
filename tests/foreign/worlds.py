"""Envs of somebody else's for the tests: small, noisy, and some with the faults that real ones have."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import metagym


class Walk(gym.Env):
    """A walk on a line of cells to its last one; an action fails with probability `slip`."""

    metadata: ClassVar = {"render_modes": ["ansi"], "render_fps": 5}

    def __init__(self, cells=6, slip=0.1, render_mode=None):
        self.cells, self.slip, self.render_mode = cells, slip, render_mode
        self.stay = 1.0 - slip  # derived, and stale as soon as slip is set alone
        self.observation_space, self.action_space = spaces.Discrete(8), spaces.Discrete(2)
        self.place = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(2))
        return self.place, {"place": self.place}

    def step(self, action):
        moved = self.np_random.random() < self.stay
        self.place = min(max(self.place + (1 if action else -1) * moved, 0), self.cells - 1)
        solved = self.place == self.cells - 1
        info = {"place": self.place, "label": "text", "solved": solved, "moved": np.float32(moved)}
        return self.place, float(solved), solved, False, info

    def render(self):
        return "." * self.place + "x"


class Forgetful(Walk):
    """Sets its parameter back in every reset."""

    def reset(self, *, seed=None, options=None):
        self.slip = 0.1
        return super().reset(seed=seed)


class Leaky(Walk):
    """Later episodes start where the ones before them ended."""

    def reset(self, *, seed=None, options=None):
        before = self.place
        _, info = super().reset(seed=seed)
        self.place = before
        return self.place, info


class Dice(gym.Env):
    """Two switches and a lamp: spaces of several numbers, and an info that shows up late."""

    def __init__(self, sides=(2, 3), reward=1.0):
        self.sides, self.reward = sides, reward
        self.action_space = spaces.MultiDiscrete(sides)
        self.observation_space = spaces.MultiBinary(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.integers(2, size=3).astype(np.int8), {}

    def step(self, action):
        self.steps += 1
        info = {"total": np.array(action, np.float64)}
        if self.steps == 70:
            info["late"] = 2.5
        return self.np_random.integers(2, size=3).astype(np.int8), self.reward, False, False, info


class Dictful(gym.Env):
    """Observes a dict."""

    def __init__(self, scale=1.0):
        self.scale, self.action_space = scale, spaces.Discrete(2)
        self.observation_space = spaces.Dict({"x": spaces.Box(0.0, 1.0, (2,), np.float64)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"x": self.np_random.random(2)}, {}

    def step(self, action):
        return {"x": self.np_random.random(2)}, self.scale, False, False, {}


def refresh_cart(cart):
    cart.total_mass = cart.masspole + cart.masscart
    cart.polemass_length = cart.masspole * cart.length


def refresh_walk(walk):
    walk.stay = 1.0 - walk.slip


def carts(**kwargs):
    domains = {"gravity": (5.0, 15.0), "length": (0.25, 1.0)}
    given = {"attributes": domains, "refresh": refresh_cart, "ood": {"gravity": (15.0, 20.0)}, "check": False}
    return metagym.parameterize("CartPole-v1", **(given | kwargs))


def walks(**kwargs):
    given = {"construct": {"slip": (0.0, 0.4)}, "episode_length": 9, "success": "solved"}
    return metagym.parameterize(Walk, **(given | kwargs))


def switches(**kwargs):
    return metagym.parameterize(Dice, **({"construct": {"reward": [1, 2, 3, 4, 5]}, "episode_length": 4} | kwargs))
