"""Ants: walk in a hidden direction, or to a hidden goal."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of
from metagym.envs.mujoco.directions import (
    DIRECTIONS,
    UNSPLIT,
    DirectionParams,
    angle_space,
    check_angle,
    draw_angles,
    draw_direction,
    list_angles,
    progress,
)
from metagym.envs.mujoco.simulator import BodyFamily, BodyState, Simulator, squares
from metagym.envs.mujoco.sketch import View
from metagym.family import Params, ParamsT, Region
from metagym.render import fill_disc
from metagym.types import Array, Bool, Float

__all__ = ["AntDir", "AntGoal", "AntGoalParams"]

_CONTACT_COST = 5e-4
_LOWEST, _HIGHEST = 0.2, 1.0
_RADIUS = 3.0
"""Of the disc of goals, and half the side of the square, metres."""
_FURTHEST = 4.5


@dataclass(frozen=True)
class AntGoalParams(Params):
    """Columns of N goals."""

    goal: Float
    """Position on the ground, metres, (N, 2)."""


class _Ant(BodyFamily[ParamsT]):
    """The ant: what its families share. Readings: x and y of the torso, and the contact forces on the 13 parts."""

    xml_file = "ant.xml"
    frame_skip = 5
    time_step = 0.01
    num_positions, num_velocities = 15, 14
    num_actions = 8
    start_noise = 0.1
    normal_velocities = True
    num_readings = 2 + 13 * 6
    with_contacts = True
    num_hidden = 2
    num_bounded = 13 * 6
    bound = 1.0
    view: ClassVar[View] = View(azimuth=60.0, elevation=40.0, scale=75.0, height=0.4)

    @override
    def sources(self, simulator: Simulator) -> list[Float]:
        return [simulator.data.xpos[1, :2], simulator.data.cfrc_ext[1:].reshape(-1)]

    @override
    def observe(self, state: BodyState, params: ParamsT) -> Array:
        pose = state.physics[:, self.num_hidden : self.num_positions + self.num_velocities]
        return np.concatenate([pose, _clipped_forces(state)], axis=1)

    def _costs(self, after: BodyState, action: Float) -> Float:
        return self.control_cost * squares(action) + _CONTACT_COST * squares(_clipped_forces(after))


class AntDir(_Ant[DirectionParams]):
    """Ant, direction: a body of four legs must walk in the direction that rewards tell.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | angle | () | 0 | 6.283185307179586 | rad | wanted direction, from x towards y |

    With `directions="forward_backward"` 0 and pi alone.

    ## Action Space

    `Box(-1, 1, (8,), float32)`: torques at the eight joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (105,), float64, that of Gymnasium's Ant-v5: the pose without x and y, the velocities, and the
    contact forces on the 13 parts, clipped to [-1, 1]. MuJoCo bounds no others:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-12 | height, orientation as a quaternion, eight joint angles | -inf | inf | m, -, rad |
    | 13-26 | velocities of the torso and of the joints | -inf | inf | m/s, rad/s |
    | 27-104 | contact torques and forces | -1 | 1 | N m, N |

    ## Rewards

    Speed of the torso in the wanted direction, m/s, + 1 while healthy - control_cost * |a|² - 0.0005 * |f|², with f
    the clipped contact forces. At angle 0 this is the reward of Ant-v5.

    ## Starting State

    That of Ant-v5: the pose at rest, with uniform noise of ±0.1 in positions and normal noise of standard deviation
    0.1 in velocities.

    ## Episode End

    Terminated when the torso is lower than 0.2 m or higher than 1 m, as in Ant-v5. Truncated after `episode_length`
    steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `directions`: "circle", all of them; "half_circle", the left half; "forward_backward", two.
    - `control_cost`: weight of |a|², 0 to 100; 0.5 by default, as in Gymnasium, ProMP, PEARL and variBAD. MAML takes
      0.005.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL and variBAD. MAML and ProMP take 100.

    ## Splits

    train and test: uniform on the circle, or on its half with angles in [0, pi); disjoint by a hash of the angle. ood:
    with "half_circle" the other half; with "circle" there is none, and a ConfigError says so. With
    "forward_backward", both tasks, each as likely, are for training, as in the sources, which also test on the two:
    there is neither test nor ood, and a ConfigError says so.

    ## Reference Returns

    Optimal: not known. Random: not given, it has no closed form; simulated -30 with the defaults.

    ## References

    ProMP: Rothfuss et al. 2019; jonasrothfuss/ProMP, `ant_rand_direc_2d.py`, `ant_rand_direc.py`. PEARL: Rakelly et
    al. 2019; katerakelly/oyster, `rlkit/envs/ant_dir.py`. variBAD: Zintgraf et al. 2020; lmzintgraf/varibad,
    `environments/mujoco/ant_dir.py`. MAML: Finn et al. 2017; tristandeleu/pytorch-maml-rl,
    `maml_rl/envs/mujoco/ant.py`. The body: Farama-Foundation/Gymnasium, `ant_v5.py`.

    Differs: on Gymnasium's version 5 of the model, its observations and its start. variBAD's forward_backward takes
    directions -1 and 1 for radians, 115 degrees apart; here they are opposite. PEARL's and variBAD's ants observe no
    contact forces. ProMP's ends its episode above 1 m and below 0 m. The bonus of 1 is paid while healthy, in the
    sources also in the step that ends the episode; MAML's is 0.05. Actions are clipped before they are paid for.

    ## Version History

    - v0: first version.
    """

    name = "AntDir"
    params_type = DirectionParams
    structural = ("angle",)
    num_observed = 105
    num_structure_draws = 1

    def __init__(self, *, directions: str = "circle", control_cost: float = 0.5, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        self.directions = choice_of("directions", directions, DIRECTIONS)
        self.unsplit = UNSPLIT if directions == "forward_backward" else None
        self.task_space = angle_space()

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        return draw_angles(self.directions, noise, region, self.name)

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        return list_angles(self.directions)

    @override
    def check(self, params: DirectionParams) -> None:
        check_angle(self.directions, params)

    @override
    def judge(self, before: BodyState, after: BodyState, action: Float, params: DirectionParams) -> tuple[Float, Bool]:
        forward = progress((after.readings[:, :2] - before.readings[:, :2]) / self.seconds, params)
        height = after.physics[:, 2]
        healthy = (height >= _LOWEST) & (height <= _HIGHEST)
        return forward + healthy - self._costs(after, action), ~healthy

    @override
    def decorate(self, image: Array, view: View, params: DirectionParams) -> str:
        return draw_direction(image, view, params)


class AntGoal(_Ant[AntGoalParams]):
    """Ant, goal: a body of four legs must walk to a place on the ground that it does not see.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | goal | (2,) | -4.5 | 4.5 | m | where to go |

    ## Action Space

    `Box(-1, 1, (8,), float32)`: torques at the eight joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (107,), float64, that of Gymnasium's Ant-v5 with the position on the ground: pose, velocities, and
    the contact forces on the 13 parts, clipped to [-1, 1]. MuJoCo bounds no others:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-14 | position, orientation as a quaternion, eight joint angles | -inf | inf | m, -, rad |
    | 15-28 | velocities of the torso and of the joints | -inf | inf | m/s, rad/s |
    | 29-106 | contact torques and forces | -1 | 1 | N m, N |

    ## Rewards

    -(|x - x_goal| + |y - y_goal|) - control_cost * |a|² - 0.0005 * |f|², with x and y those of the torso, and f the
    clipped contact forces.

    ## Starting State

    That of Ant-v5: the pose at rest, with uniform noise of ±0.1 in positions and normal noise of standard deviation
    0.1 in velocities.

    ## Episode End

    Never terminated, as in the sources; truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `goals`: "disc" or "square", where training goals lie.
    - `control_cost`: weight of |a|², 0 to 100; 0.1 by default, as in ProMP, PEARL and variBAD. MAML takes 0.005.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL and variBAD. MAML and ProMP take 100.

    ## Splits

    train and test: "disc": 3 m * sqrt(u) from the origin, u uniform, in a uniform direction, which is uniform on the
    disc (ProMP, PEARL, variBAD); "square": uniform on [-3, 3]² (MAML); disjoint by a hash of the goal. ood: uniform on
    the ring around the disc, or on the frame around the square, that reaches out to 4.5 m.

    ## Reference Returns

    Optimal: not known; at most 0. Random: not given, it has no closed form; simulated -720 with the defaults.

    ## References

    ProMP: Rothfuss et al. 2019; jonasrothfuss/ProMP, `ant_rand_goal.py`. PEARL: Rakelly et al. 2019;
    katerakelly/oyster, `rlkit/envs/ant_goal.py`. MAML: Finn et al. 2017; cbfinn/maml_rl,
    `rllab/envs/mujoco/ant_env_rand_goal.py`. The body: Farama-Foundation/Gymnasium, `ant_v5.py`.

    Differs: on Gymnasium's version 5 of the model, its observations and its start. MAML's code adds 4.05 to every
    reward and ends the episode of an ant that fell; "square" takes its goals alone. Actions are clipped before they are
    paid for.

    ## Version History

    - v0: first version.
    """

    name = "AntGoal"
    params_type = AntGoalParams
    structural = ("goal",)
    num_hidden = 0
    num_observed = 107
    num_structure_draws = 2
    view: ClassVar[View] = View(azimuth=60.0, elevation=60.0, scale=38.0, height=0.0, follows=False)

    def __init__(self, *, goals: str = "disc", control_cost: float = 0.1, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        self.goals = choice_of("goals", goals, ("disc", "square"))
        self.task_space = spaces.Dict(goal=spaces.Box(-_FURTHEST, _FURTHEST, (2,), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        first, second = np.ascontiguousarray(noise[:, 0]), np.ascontiguousarray(noise[:, 1])
        if self.goals == "disc":
            # Areas are uniform, so squared radii are.
            inner, outer = (0.0, _RADIUS) if region == "train" else (_RADIUS, _FURTHEST)
            radius = np.sqrt(outer**2 - (outer**2 - inner**2) * second)
            angle = 2.0 * np.pi * first
            return {"goal": np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)}
        return {"goal": _RADIUS * (2.0 * noise - 1.0) if region == "train" else _frame(first, second)}

    @override
    def judge(self, before: BodyState, after: BodyState, action: Float, params: AntGoalParams) -> tuple[Float, Bool]:
        miss = np.abs(after.readings[:, :2] - params.goal)
        reward: Float = -(miss[:, 0] + miss[:, 1]) - self._costs(after, action)
        return reward, np.zeros(len(reward), np.bool_)

    @override
    def decorate(self, image: Array, view: View, params: AntGoalParams) -> str:
        x, y = params.goal[0].tolist()
        fill_disc(image, *view.spot(x, y), 8, "goal")
        return f"goal ({x:+.3f}, {y:+.3f})"


def _clipped_forces(state: BodyState) -> Float:
    return np.minimum(np.maximum(state.readings[:, 2:], -1.0), 1.0)


def _frame(first: Float, second: Float) -> Float:
    """Points uniform on the square of half-width 4.5 without that of 3, from two uniforms (n,), (n, 2)."""
    # Four strips of 7.5 x 1.5 around the hole, each turned by a quarter against the one before.
    quarter = np.floor(4.0 * first)
    along = (_FURTHEST + _RADIUS) * (4.0 * first - quarter) - _RADIUS
    across = np.maximum(_FURTHEST - (_FURTHEST - _RADIUS) * second, np.nextafter(_RADIUS, np.inf))
    x = np.choose(quarter.astype(np.int64), [along, across, -along, -across])
    y = np.choose(quarter.astype(np.int64), [-across, along, across, -along])
    return np.stack([x, y], axis=1)
