"""Mountain cars with hidden physical constants: Gymnasium's MountainCar and MountainCarContinuous as families."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.compiled import Namespace, RowWise
from metagym.envs.arguments import flag, integer
from metagym.envs.physics import PhysicsFamily, Span
from metagym.family import Params, ParamsT, Step
from metagym.render import canvas, draw_line, fill_disc, fill_polygon
from metagym.types import Array, Float

__all__ = [
    "MountainCar",
    "MountainCarContinuous",
    "MountainCarContinuousParams",
    "MountainCarParams",
    "MountainCarState",
]

_MIN_POSITION, _MAX_POSITION = -1.2, 0.6
_LARGEST_SPEED = 0.125
_THREE = np.array(3.0, np.float32)  # 0-d: ufuncs take it faster than a number


@dataclass(frozen=True)
class MountainCarParams(Params):
    """Columns of N mountain cars with three actions, each (N,)."""

    force: Float
    """Change of velocity by a push, 1 a step."""
    gravity: Float
    """Change of velocity by gravity where the hill is steepest, 1 a step."""
    goal_position: Float
    """Where the flag is."""
    max_speed: Float
    """Largest change of position in a step."""


@dataclass(frozen=True)
class MountainCarContinuousParams(Params):
    """Columns of N mountain cars with a continuous action, each (N,)."""

    power: Float
    """Change of velocity by an action of 1, 1 a step."""
    gravity: Float
    """Change of velocity by gravity where the hill is steepest, 1 a step."""
    goal_position: Float
    """Where the flag is."""
    max_speed: Float
    """Largest change of position in a step."""


class MountainCarState(NamedTuple):
    """Where the car is."""

    position: Array
    """Horizontal position in [-1.2, 0.6], (N,)."""
    velocity: Array
    """Change of position a step, (N,)."""


class _Valley(PhysicsFamily[MountainCarState, ParamsT]):
    """What both families share: where cars start, what is seen of them, and their pictures."""

    has_success = True
    num_initial_draws = 1

    def __init__(self, episode_length: int, compiled: bool) -> None:
        super().__init__()
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.compiled = flag("compiled", compiled)
        self._move = RowWise(_roll, "dd?", compiled=self.compiled)
        low = np.array([_MIN_POSITION, -_LARGEST_SPEED], np.float32)
        high = np.array([_MAX_POSITION, _LARGEST_SPEED], np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    @override
    def initial(self, params: ParamsT, noise: Float) -> MountainCarState:
        return MountainCarState(0.2 * noise[:, 0] - 0.6, np.zeros(len(noise)))

    @override
    def observe(self, state: MountainCarState, params: ParamsT) -> Array:
        return np.array(state, np.float32).T

    @override
    def describe(self, state: MountainCarState, params: ParamsT) -> str:
        constants = ", ".join(f"{name} {column[0]:.4g}" for name, column in params.columns().items())
        return f"at {float(state.position[0]):+.4f}, velocity {float(state.velocity[0]):+.5f}\n{constants}\n"

    @override
    def draw(self, state: MountainCarState, params: ParamsT) -> Array:
        height, width = 400, 600
        scale = width / (_MAX_POSITION - _MIN_POSITION)

        def place(position: float) -> tuple[float, float]:
            rise = 0.45 * float(np.sin(3.0 * position)) + 0.55
            return scale * (position - _MIN_POSITION), height - 20.0 - scale * rise

        image = canvas(height, width)
        ground = [place(float(position)) for position in np.linspace(_MIN_POSITION, _MAX_POSITION, 91)]
        fill_polygon(image, [*ground, (width, height), (0, height)], "grid")
        for start, end in pairwise(ground):
            draw_line(image, *start, *end, "grey", thickness=2)
        x, y = place(float(params.columns()["goal_position"][0]))
        draw_line(image, x, y, x, y - 44, "ink", thickness=2)
        fill_polygon(image, [(x, y - 44), (x + 22, y - 37), (x, y - 30)], "goal")
        x, y = place(float(state.position[0]))
        fill_disc(image, x, y - 10, 11, "white")
        fill_disc(image, x, y - 10, 9, "agent")
        return image


class MountainCar(_Valley[MountainCarParams]):
    """Mountain car: rock a car out of a valley to a hidden flag, with hidden force, gravity and largest speed.

    The equations, rewards and starts are those of Gymnasium's MountainCar-v0. `MountainCar.nominal()` is the task
    whose constants are Gymnasium's.

    ## Task Space

    | Parameter | Shape | Low | High | Nominal | Meaning |
    |---|---|---|---|---|---|
    | force | () | 0.0009 | 0.002 | 0.001 | change of velocity by a push |
    | gravity | () | 0.0018 | 0.0026 | 0.0025 | change of velocity by gravity where the hill is steepest |
    | goal_position | () | 0.3 | 0.58 | 0.5 | position of the flag |
    | max_speed | () | 0.05 | 0.125 | 0.07 | largest velocity |

    ## Action Space

    `Discrete(3)`: 0 pushes to the left, 1 does not push, 2 pushes to the right.

    ## Observation Space

    `Box` of shape (2,), float32. The position's bounds are the single-precision -1.2 and 0.6:

    | Num | Observation | Low | High |
    |---|---|---|---|
    | 0 | position | -1.2000000476837158 | 0.6000000238418579 |
    | 1 | velocity | -0.125 | 0.125 |

    ## Rewards

    -1 for every step, the last one included.

    ## Starting State

    Position uniform on [-0.6, -0.4], at rest.

    ## Episode End

    Terminated at the flag or beyond, unless the car moves to the left. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step ended at the flag.

    ## Arguments

    - `episode_length`: steps, 1 to 100,000; 200 as in MountainCar-v0.
    - `compiled`: whether numba compiles the equations; needs `pip install "metagym-rl[compiled]"`. Results are the
      same to the last bit.

    ## Splits

    train and test: the constants are independent and uniform on these intervals; the two are disjoint by a hash of
    all four.

    | Parameter | Low | High |
    |---|---|---|
    | force | 0.0009 | 0.0014 |
    | gravity | 0.002 | 0.0026 |
    | goal_position | 0.4 | 0.55 |
    | max_speed | 0.06 | 0.09 |

    ood: one constant, each as likely, is uniform on the part of the task space beyond its training interval, and the
    others are uniform on the whole task space.

    ## Reference Returns

    Optimal: not given; it has no closed form. That the flag can be reached in time is verified numerically: pushing
    along the velocity did it within 200 steps from every start in all of 3,000 tasks of the space, and earns -119 on
    average on the nominal task. Random: not given.

    ## References

    Moore 1990, "Efficient memory-based learning for robot control"; Farama-Foundation/Gymnasium 1.4.0,
    `gymnasium/envs/classic_control/mountain_car.py`. automl/CARL,
    `carl/envs/gymnasium/classic_control/carl_mountaincar.py`, varies these four, the ends of the road, the speed asked
    for at the flag and the starts, without bounds, and has the flag at 0.45 by default.

    Differs: from Gymnasium, cosines are NumPy's, which may differ from the C library's in the last bit. From CARL, all
    intervals are finite and their tasks solvable, and the constants are not observed.

    ## Version History

    - v0: first version.
    """

    name = "MountainCar"
    params_type = MountainCarParams
    spans = MappingProxyType(
        {
            "force": Span(0.001, (0.0009, 0.0014), (0.0009, 0.002)),
            "gravity": Span(0.0025, (0.002, 0.0026), (0.0018, 0.0026)),
            "goal_position": Span(0.5, (0.4, 0.55), (0.3, 0.58)),
            "max_speed": Span(0.07, (0.06, 0.09), (0.05, _LARGEST_SPEED)),
        }
    )

    def __init__(self, *, episode_length: int = 200, compiled: bool = False) -> None:
        super().__init__(episode_length, compiled)
        self.action_space = spaces.Discrete(3)

    @override
    def step(
        self, state: MountainCarState, action: Array, params: MountainCarParams, noise: Float
    ) -> Step[MountainCarState]:
        position, velocity, arrived = self._move(
            *state, np.cos(3.0 * state.position), action - 1, params.force, params.gravity, params.goal_position,
            params.max_speed,
        )  # fmt: skip
        reward = np.empty(len(position))
        reward.fill(-1.0)
        return Step(MountainCarState(position, velocity), reward, arrived, arrived.copy())


class MountainCarContinuous(_Valley[MountainCarContinuousParams]):
    """Mountain car with a continuous push: reach a hidden flag with little effort, with hidden power and gravity.

    The equations, rewards and starts are those of Gymnasium's MountainCarContinuous-v0.
    `MountainCarContinuous.nominal()` is the task whose constants are Gymnasium's.

    ## Task Space

    | Parameter | Shape | Low | High | Nominal | Meaning |
    |---|---|---|---|---|---|
    | power | () | 0.0012 | 0.003 | 0.0015 | change of velocity by an action of 1 |
    | gravity | () | 0.0015 | 0.003 | 0.0025 | change of velocity by gravity where the hill is steepest |
    | goal_position | () | 0.3 | 0.58 | 0.45 | position of the flag |
    | max_speed | () | 0.05 | 0.125 | 0.07 | largest velocity |

    ## Action Space

    `Box(-1.0, 1.0, (1,), float32)`: the push, clipped to these bounds where it moves the car, but not in the reward.

    ## Observation Space

    `Box` of shape (2,), float32. The position's bounds are the single-precision -1.2 and 0.6:

    | Num | Observation | Low | High |
    |---|---|---|---|
    | 0 | position | -1.2000000476837158 | 0.6000000238418579 |
    | 1 | velocity | -0.125 | 0.125 |

    ## Rewards

    -0.1 action² for every step, and 100 more for the one that reaches the flag.

    ## Starting State

    Position uniform on [-0.6, -0.4], at rest.

    ## Episode End

    Terminated at the flag or beyond, unless the car moves to the left. Truncated after `episode_length` steps.

    ## Information

    `is_success`: whether this step ended at the flag.

    ## Arguments

    - `episode_length`: steps, 1 to 100,000; 999 as in MountainCarContinuous-v0.
    - `compiled`: whether numba compiles the equations; needs `pip install "metagym-rl[compiled]"`. Results are the
      same to the last bit.

    ## Splits

    train and test: the constants are independent and uniform on these intervals; the two are disjoint by a hash of
    all four.

    | Parameter | Low | High |
    |---|---|---|
    | power | 0.0012 | 0.002 |
    | gravity | 0.002 | 0.003 |
    | goal_position | 0.4 | 0.55 |
    | max_speed | 0.06 | 0.09 |

    ood: one constant, each as likely, is uniform on the part of the task space beyond its training interval, and the
    others are uniform on the whole task space.

    ## Reference Returns

    Optimal: not given; it has no closed form, and is below 100. That the flag can be reached is verified numerically:
    pushing fully along the velocity did it within 250 steps from every start in all of 3,000 tasks of the space, and
    earns 89.3 on average on the nominal task. Random: not given.

    ## References

    Moore 1990, "Efficient memory-based learning for robot control"; Farama-Foundation/Gymnasium 1.4.0,
    `gymnasium/envs/classic_control/continuous_mountain_car.py`. automl/CARL,
    `carl/envs/gymnasium/classic_control/carl_mountaincarcontinuous.py`, varies power, flag, largest speed, the ends of
    the road, the speed asked for at the flag and the starts, without bounds, and has the flag at 0.5 by default.

    Differs: from Gymnasium, gravity is a constant of the task (there it is a number in `step`), and starts are rounded
    to single precision, as all later states are there and here; within a step, all is computed in double precision,
    where Gymnasium under NumPy 2 rounds to single if the action is single or was clipped. From CARL, all intervals are
    finite and their tasks solvable, and the constants are not observed.

    ## Version History

    - v0: first version.
    """

    name = "MountainCarContinuous"
    params_type = MountainCarContinuousParams
    spans = MappingProxyType(
        {
            "power": Span(0.0015, (0.0012, 0.002), (0.0012, 0.003)),
            "gravity": Span(0.0025, (0.002, 0.003), (0.0015, 0.003)),
            "goal_position": Span(0.45, (0.4, 0.55), (0.3, 0.58)),
            "max_speed": Span(0.07, (0.06, 0.09), (0.05, _LARGEST_SPEED)),
        }
    )

    def __init__(self, *, episode_length: int = 999, compiled: bool = False) -> None:
        super().__init__(episode_length, compiled)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    @override
    def initial(self, params: MountainCarContinuousParams, noise: Float) -> MountainCarState:
        return _single(*super().initial(params, noise))

    @override
    def step(
        self, state: MountainCarState, action: Array, params: MountainCarContinuousParams, noise: Float
    ) -> Step[MountainCarState]:
        # Gymnasium multiplies in single precision and takes the cosine in double, as all that comes after.
        cos = np.cos((state.position * _THREE).astype(np.float64))
        push = action[:, 0].astype(np.float64)
        position, velocity, arrived = self._move(
            *state, cos, push, params.power, params.gravity, params.goal_position, params.max_speed
        )
        (reward,) = _reward(arrived, push)
        return Step(_single(position, velocity), reward, arrived, arrived.copy())


def _single(position: Float, velocity: Float) -> MountainCarState:
    return MountainCarState(position.astype(np.float32), velocity.astype(np.float32))


def _prize(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """The reward of a step with a continuous push, which is not clipped for it."""
    del xp  # operators are all it needs

    def reward(arrived: Any, push: Any) -> tuple[Any]:
        return (100.0 * arrived - 0.1 * (push * push),)

    return reward


_reward = RowWise(_prize, "d")


def _roll(xp: Namespace) -> Callable[..., tuple[Any, ...]]:
    """One step, with Gymnasium's operations in Gymnasium's order."""

    def move(
        position: Any, velocity: Any, cos: Any, push: Any, power: Any, gravity: Any, goal_position: Any, max_speed: Any
    ) -> tuple[Any, Any, Any]:
        push = xp.minimum(xp.maximum(push, -1.0), 1.0)
        velocity = velocity + (push * power - gravity * cos)
        velocity = xp.minimum(xp.maximum(velocity, -max_speed), max_speed)
        position = xp.minimum(xp.maximum(position + velocity, _MIN_POSITION), _MAX_POSITION)
        velocity = xp.where((position == _MIN_POSITION) & (velocity < 0.0), 0.0, velocity)
        return position, velocity, (position >= goal_position) & (velocity >= 0.0)

    return move
