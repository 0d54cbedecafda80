"""Reaching: an arm of two links on a plane must bring its tip to a target that it does not see."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import integer, number
from metagym.errors import TaskError
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_line, fill_disc, fill_ring
from metagym.types import Array, Float

__all__ = ["ArmState", "Reacher2D", "Reacher2DParams", "arm_at", "fingertip"]

_UPPER, _LOWER = 0.1, 0.11
"""Lengths of the links, metres."""
_STRENGTH = 200.0
"""Angular acceleration of a joint at action 1, rad/s², and the speed at which damping holds it, rad/s."""
_SECONDS = 0.02
_DECAY = float(np.exp(-_SECONDS))
"""Share of a velocity left after a step: damping is 1/s."""
_NEAREST, _FURTHEST, _OOD_FURTHEST = 0.01, 0.2, 0.25
_ANGLE_NOISE, _VELOCITY_NOISE = 0.1, 0.005
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Reacher2DParams(Params):
    """Columns of N targets."""

    target: Float
    """Position of the target, metres, (N, 2)."""


class ArmState(NamedTuple):
    """How the arm stands and turns."""

    angle: Float
    """Of the first link against x, and of the second against the first, rad, (N, 2)."""
    velocity: Float
    """Of both angles, rad/s, (N, 2)."""
    cosine: Float
    """Of both angles, (N, 2); kept, as rewards and observations need it."""
    sine: Float
    """Of both angles, (N, 2)."""


class Reacher2D(Family[ArmState, Reacher2DParams]):
    """Reaching: an arm of two links must bring its tip to a hidden target, told by the reward alone.

    Gymnasium's Reacher-v5 without MuJoCo, its target hidden.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | target | (2,) | -0.25 | 0.25 | m | where the tip should be |

    Targets lie 0.01 to 0.25 m from the shoulder; others are refused.

    ## Action Space

    `Box(-1, 1, (2,), float32)`: torques at shoulder and elbow, clipped to these bounds; 1 accelerates by 200 rad/s².

    ## Observation Space

    `Box` of shape (6,), float32: what Reacher-v5 observes, without the target and the way to it. No velocity can
    exceed its bounds in an episode:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | cosine of the shoulder's angle | -1 | 1 | - |
    | 1 | cosine of the elbow's angle | -1 | 1 | - |
    | 2 | sine of the shoulder's angle | -1 | 1 | - |
    | 3 | sine of the elbow's angle | -1 | 1 | - |
    | 4 | velocity of the shoulder | -126.42923736572266 | 126.42923736572266 | rad/s |
    | 5 | velocity of the elbow | -126.42923736572266 | 126.42923736572266 | rad/s |

    ## Rewards

    -(distance from tip to target, m) - control_cost * |a|², after the step.

    ## Starting State

    That of Reacher-v5: stretched along x, with uniform noise of ±0.1 rad in angles and ±0.005 rad/s in velocities.

    ## Episode End

    Never terminated; truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `control_cost`: weight of |a|², 0 to 100; 1 by default, as in Gymnasium's code (its documentation says 0.1).
    - `episode_length`: steps of 0.02 s, 1 to 10,000; 50 by default, as in Gymnasium.

    ## Splits

    train and test: uniform on the ring of all targets 0.01 m to 0.2 m from the shoulder, which the arm can reach;
    disjoint by a hash of the target. ood: uniform on the ring from there to 0.25 m; what lies beyond 0.21 m can only be
    approached.

    ## Reference Returns

    Optimal: not known exactly, since distance is not convex in the angles. Plans for known targets, improved by
    gradients from eight ways of reaching each, earn -3.24 on average over training, and plans from sixty random first
    guesses earn no more: the optimum is no lower, and hardly higher. Doing nothing earns -11.8. Random: not given, it
    has no closed form; simulated -43.3.

    ## References

    Reacher: Farama-Foundation/Gymnasium, `reacher_v5.py` and `reacher.xml`.

    Differs: in that model each joint has an armature of 1 kg m², thousands of times the inertia of a link, so that
    joints hardly feel each other: the inertia of the links is left out, and each joint's equation solved exactly. Under
    random torques, angles stay within 0.02 rad of MuJoCo's for an episode. The elbow has no stop at ±3 rad. The target
    is hidden; it is not within 0.01 m of the shoulder, where the tip cannot come. The tip is taken at the end of the
    step, where Gymnasium reads it as of MuJoCo's last stage of integration. Actions are clipped before they are paid
    for.

    ## Version History

    - v0: first version.
    """

    name = "Reacher2D"
    params_type = Reacher2DParams
    structural = ("target",)
    initial_needs_task = False
    observe_needs_task = False
    num_structure_draws = 2
    num_initial_draws = 4

    def __init__(self, *, control_cost: float = 1.0, episode_length: int = 50) -> None:
        self.control_cost = number("control_cost", control_cost, 0.0, 100.0)
        self.episode_length = integer("episode_length", episode_length, 1, 10_000)
        self.task_space = spaces.Dict(target=spaces.Box(-_OOD_FURTHEST, _OOD_FURTHEST, (2,), np.float64))
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        fastest = _VELOCITY_NOISE + _STRENGTH * (1.0 - _DECAY**self.episode_length)
        high = np.array([1.0] * 4 + [fastest * (1.0 + 1e-6)] * 2, np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        inner, outer = (_NEAREST, _FURTHEST) if region == "train" else (_FURTHEST, _OOD_FURTHEST)
        # Areas are uniform, so squared radii are.
        radius = np.sqrt(outer**2 - (outer**2 - inner**2) * noise[:, 1])
        turn = 2.0 * np.pi * np.ascontiguousarray(noise[:, 0])
        return {"target": np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)}

    @override
    def check(self, params: Reacher2DParams) -> None:
        distance = float(np.hypot(*params.target[0]))
        if not _NEAREST - _ROUNDING <= distance <= _OOD_FURTHEST + _ROUNDING:
            raise TaskError(
                f"target={params.target[0].tolist()} is {distance} m from the shoulder; "
                f"accepted is a distance in [{_NEAREST}, {_OOD_FURTHEST}]"
            )

    @override
    def initial(self, params: Reacher2DParams, noise: Float) -> ArmState:
        centred = 2.0 * noise - 1.0
        return arm_at(_ANGLE_NOISE * centred[:, :2], _VELOCITY_NOISE * centred[:, 2:])

    @override
    def step(self, state: ArmState, action: Array, params: Reacher2DParams, noise: Float) -> Step[ArmState]:
        control = np.minimum(np.maximum(action.astype(np.float64), -1.0), 1.0)
        final = _STRENGTH * control
        surplus = state.velocity - final
        angle = state.angle + (1.0 - _DECAY) * surplus + _SECONDS * final
        velocity = final + _DECAY * surplus
        following = arm_at(angle, velocity)
        offset = fingertip(following) - params.target
        offset *= offset
        control *= control
        reward = -(np.sqrt(offset[:, 0] + offset[:, 1]) + self.control_cost * (control[:, 0] + control[:, 1]))
        return Step(following, reward, np.zeros(len(reward), np.bool_))

    @override
    def observe(self, state: ArmState, params: Reacher2DParams) -> Array:
        observation = np.empty((len(state.angle), 6), np.float32)
        observation[:, :2] = state.cosine
        observation[:, 2:4] = state.sine
        observation[:, 4:] = state.velocity
        return observation

    @override
    def describe(self, state: ArmState, params: Reacher2DParams) -> str:
        (x, y), (target_x, target_y) = fingertip(state)[0].tolist(), params.target[0].tolist()
        distance = float(np.hypot(x - target_x, y - target_y))
        return f"tip ({x:+.3f}, {y:+.3f}), target ({target_x:+.3f}, {target_y:+.3f}), distance {distance:.3f} m\n"

    @override
    def draw(self, state: ArmState, params: Reacher2DParams) -> Array:
        side, pixels = 400, 700.0

        def place(point: Float) -> tuple[float, float]:
            return side / 2 + pixels * float(point[0]), side / 2 - pixels * float(point[1])

        image = canvas(side, side)
        shoulder, tip = np.zeros(2), fingertip(state)[0]
        elbow = _UPPER * np.array([state.cosine[0, 0], state.sine[0, 0]])
        fill_ring(image, *place(shoulder), pixels * _FURTHEST, "grid", thickness=3)
        fill_disc(image, *place(params.target[0]), 9, "goal")
        for start, end in ((shoulder, elbow), (elbow, tip)):
            draw_line(image, *place(start), *place(end), "wall", thickness=14)
        for joint in (shoulder, elbow):
            fill_disc(image, *place(joint), 4, "paper")
        fill_disc(image, *place(tip), 7, "agent")
        return image


def arm_at(angle: Float, velocity: Float) -> ArmState:
    """Arms with these angles and velocities, both (N, 2)."""
    return ArmState(angle, velocity, np.cos(angle), np.sin(angle))


def fingertip(state: ArmState) -> Float:
    """Where the tips of N arms are, metres, (N, 2)."""
    c1, c2, s1, s2 = state.cosine[:, 0], state.cosine[:, 1], state.sine[:, 0], state.sine[:, 1]
    tip = np.empty((len(c1), 2))
    # The second link points along the sum of the angles.
    tip[:, 0] = _UPPER * c1 + _LOWER * (c1 * c2 - s1 * s2)
    tip[:, 1] = _UPPER * s1 + _LOWER * (s1 * c2 + c1 * s2)
    return tip
