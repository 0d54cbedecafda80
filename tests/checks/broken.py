"""Two small families that keep every law, to be broken one law at a time; and what finds out which laws are broken."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from metagym.checks.family import FAMILY_LAWS
from metagym.checks.laws import hold
from metagym.checks.probe import Probe
from metagym.errors import ContractError
from metagym.family import Family, Params, Step
from metagym.tabular import Cell, TabularFamily

NUM_ROWS = 64


@dataclass(frozen=True)
class WalkParams(Params):
    """Columns of N walks."""

    pay: np.ndarray
    wind: np.ndarray


class WalkState(NamedTuple):
    """Where the walkers are, and for how many steps they have been walking."""

    position: np.ndarray
    visits: np.ndarray


class Walk(Family[WalkState, WalkParams]):
    """Walks in the wind: the last of three actions pays; an episode ends by chance."""

    name = "Walk"
    params_type = WalkParams
    structural = ("pay",)
    has_success = True
    initial_needs_task = False
    observe_needs_task = False
    episode_length = 9
    num_structure_draws = 1
    num_detail_draws = 1
    num_initial_draws = 1
    num_step_draws = 2

    def __init__(self):
        self.task_space = spaces.Dict(
            pay=spaces.Box(0.0, 2.0, (), np.float64), wind=spaces.Box(-1.0, 1.0, (), np.float64)
        )
        self.observation_space = spaces.Box(-50.0, 50.0, (2,), np.float32)
        self.action_space = spaces.Discrete(3)

    def draw_structure(self, noise, region):
        return {"pay": noise[:, 0] + (region == "ood")}

    def draw_details(self, noise, region):
        return {"wind": 2.0 * noise[:, 0] - 1.0}

    def initial(self, params, noise):
        return WalkState(noise[:, 0] - 0.5, np.zeros(len(noise), np.int64))

    def step(self, state, action, params, noise):
        position = state.position + (action - 1) + params.wind * (noise[:, 0] - 0.5)
        reward = params.pay * (action == 2)
        return Step(WalkState(position, state.visits + 1), reward, noise[:, 1] < 0.1, position > 1.0)

    def observe(self, state, params):
        return np.stack([state.position, state.visits], axis=1).astype(np.float32)

    def optimal_return(self, params):
        return params.pay * (1.0 - 0.9**self.episode_length) / 0.1

    def random_return(self, params):
        return self.optimal_return(params) / 3.0

    def bayes_return(self, num_episodes):
        return np.full(num_episodes, 0.5 * (1.0 - 0.9**self.episode_length) / 0.1)

    def draw(self, state, params):
        return np.full((4, 4, 3), int(state.visits[0]), np.uint8)

    def describe(self, state, params):
        return f"{state.position[0]}\n"


@dataclass(frozen=True)
class StripParams(Params):
    """Columns of N strips."""

    goal: np.ndarray
    slip: np.ndarray


class Strip(TabularFamily[StripParams]):
    """A strip of six cells with a goal; on slippery ground one may stay where one is."""

    name = "Strip"
    params_type = StripParams
    structural = ("goal",)
    has_success = True
    cells = (Cell(-0.125, False, False), Cell(1.0, True, True))
    episode_length = 9
    num_structure_draws = 1
    num_detail_draws = 1

    def __init__(self):
        cells = np.arange(6)
        left, right = np.maximum(cells - 1, 0), np.minimum(cells + 1, 5)
        self.successors = np.stack([np.stack([left, cells], axis=1), np.stack([right, cells], axis=1)], axis=1)
        self.observation_space, self.action_space = spaces.Discrete(6), spaces.Discrete(2)
        self.task_space = spaces.Dict(goal=spaces.Box(1, 5, (), np.int64), slip=spaces.Box(0.0, 0.5, (), np.float64))
        self._compile()

    def draw_structure(self, noise, region):
        return {"goal": np.where(region == "ood", 5, 1 + (4 * noise[:, 0]).astype(np.int64))}

    def draw_details(self, noise, region):
        return {"slip": 0.5 * noise[:, 0]}

    def enumerate_structures(self):
        return {"goal": np.arange(1, 5)}, np.full(4, 0.25)

    def kinds(self, params, states):
        return states == params.goal[:, None]

    def probabilities(self, params):
        return 1.0 - params.slip, params.slip

    def draw(self, state, params):
        return np.full((4, 4, 3), int(state.cell[0]), np.uint8)

    def describe(self, state, params):
        return f"{state.cell[0]}\n"


def _breaks(law, subject):
    try:
        hold([law], subject, {})
    except ContractError as error:
        return re.match(rf"the law '{law.name}' .*found", str(error), re.DOTALL) is not None
    return False


def broken_laws(laws, subject):
    """Names of the laws that a subject breaks, each checked by itself."""
    return {law.name for law in laws if _breaks(law, subject)}


def broken_by(family, laws=FAMILY_LAWS):
    """Names of those of `laws` that a family breaks."""
    return broken_laws(laws, Probe(family, num_rows=NUM_ROWS, num_steps=8, num_episodes=800))
