"""Which learner of Stable-Baselines3 takes which spaces, and what each method adds to that: data, with reasons.

Actions are those that the constructor of each algorithm passes on as ``supported_action_spaces``; observations follow
from the policies in its ``policy_aliases``. `test_support` holds the table against SB3 itself.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

OBSERVATIONS = {
    "box": spaces.Box(-5.0, 5.0, (2,), np.float32),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([5, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "image_last": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "image_first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "dict": spaces.Dict({"place": spaces.Box(-5.0, 5.0, (2,), np.float32), "step": spaces.Discrete(5)}),
}
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(2),
}
IMAGES = frozenset({"image_last", "image_first"})
LEARNERS = (PPO, A2C, TRPO, RecurrentPPO, MaskablePPO, ARS, DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ)
ON_POLICY, OFF_POLICY = (PPO, A2C, TRPO, RecurrentPPO, MaskablePPO), (DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ)

_ALL = frozenset(ACTIONS)
_BOX, _DISCRETE = frozenset({"box"}), frozenset({"discrete"})
SB3_ACTIONS = {
    PPO: _ALL, A2C: _ALL, TRPO: _ALL, RecurrentPPO: _ALL, MaskablePPO: _ALL - _BOX, ARS: _BOX | _DISCRETE,
    DQN: _DISCRETE, QRDQN: _DISCRETE, SAC: _BOX, TD3: _BOX, DDPG: _BOX, TQC: _BOX, CrossQ: _BOX,
}  # fmt: skip
# Without CnnPolicy and MultiInputPolicy.
VECTORS_ONLY = frozenset({ARS, CrossQ})
# What SB3 says that it takes, and fails on.
BROKEN_ACTIONS = {(RecurrentPPO, "multi_binary"): "its buffer hands out integers, a Bernoulli asks for floats"}
BROKEN_OBSERVATIONS = {(RecurrentPPO, "multi_discrete"): "its LSTM has another width than the flattened observation"}

METHODS = ("Reptile", "JointTraining", "FromScratch", "RevealedTask", "RL2")
NOT_FLAT = frozenset({"dict"}) | IMAGES
# Limits of methods, not of SB3: what has a recurrence of its own, or asks its env for masks, RL2 does not take; and
# the wrapper that reveals tasks tells no masks.
OWN_MEMORY, NEED_MASKS = frozenset({RecurrentPPO, MaskablePPO}), frozenset({MaskablePPO})


class Cell(NamedTuple):
    """One learner, with one kind of observation and of action, in one method."""

    method: str
    learner: Any
    observation: str
    action: str

    def __str__(self) -> str:
        return f"{self.method}-{self.learner.__name__}-{self.observation}-{self.action}"


def policy_of(learner: Any, observation: str) -> str:
    """The policy that SB3's documentation names for such observations."""
    name = "Cnn" if observation in IMAGES else "MultiInput" if observation == "dict" else "Mlp"
    return f"{name}LstmPolicy" if learner is RecurrentPPO else f"{name}Policy"


def sb3_takes(learner: Any, observation: str, action: str) -> bool:
    """Whether the bare learner trains in such an env."""
    broken = (learner, action) in BROKEN_ACTIONS or (learner, observation) in BROKEN_OBSERVATIONS
    has_policy = observation not in NOT_FLAT or learner not in VECTORS_ONLY
    return has_policy and action in SB3_ACTIONS[learner] and not broken


def is_supported(cell: Cell) -> bool:
    """Whether a cell is to work.

    RL2 and RevealedTask make observations of their own, so that only actions are up to SB3: RL2 gives PPO, A2C and
    TRPO a memory, and all others that have no recurrent policy a window. A revealed task stands in one flat vector
    with the observation.
    """
    takes_action = cell.action in SB3_ACTIONS[cell.learner] and (cell.learner, cell.action) not in BROKEN_ACTIONS
    if cell.method == "RL2":
        return cell.learner not in OWN_MEMORY and takes_action
    if cell.method == "RevealedTask":
        return cell.learner not in NEED_MASKS and cell.observation != "dict" and takes_action
    return sb3_takes(cell.learner, cell.observation, cell.action)


CELLS = [Cell(*cell) for cell in product(METHODS, LEARNERS, OBSERVATIONS, ACTIONS)]
SUPPORTED = [cell for cell in CELLS if is_supported(cell)]
REFUSED = [cell for cell in CELLS if not is_supported(cell)]
