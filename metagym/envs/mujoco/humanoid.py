"""Humanoids: walk in a hidden direction."""

from typing import ClassVar

import numpy as np
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
from metagym.family import Region
from metagym.types import Array, Bool, Float

__all__ = ["HumanoidDir"]

_FORWARD, _ALIVE = 1.25, 5.0
_CONTACT_COST, _MOST_CONTACT_COST = 5e-7, 10.0
_LOWEST, _HIGHEST = 1.0, 2.0
_NUM_FORCES = 13 * 6


class HumanoidDir(BodyFamily[DirectionParams]):
    """Humanoid, direction: a body of two legs and two arms must walk in the direction that rewards tell.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | angle | () | 0 | 6.283185307179586 | rad | wanted direction, from x towards y |

    With `directions="forward_backward"` 0 and pi alone.

    ## Action Space

    `Box(-0.4, 0.4, (17,), float32)`: torques at the 17 joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (348,), float64, that of Gymnasium's Humanoid-v5: the pose without x and y, the velocities, and what
    MuJoCo computes of the 13 parts. MuJoCo bounds none of them:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-21 | height, orientation as a quaternion, 17 joint angles | -inf | inf | m, -, rad |
    | 22-44 | velocities of the torso and of the joints | -inf | inf | m/s, rad/s |
    | 45-174 | inertias and masses of the parts | -inf | inf | kg m², kg |
    | 175-252 | velocities of the parts | -inf | inf | rad/s, m/s |
    | 253-269 | torques of the joints | -inf | inf | N m |
    | 270-347 | contact torques and forces | -inf | inf | N m, N |

    ## Rewards

    1.25 * speed of the centre of mass in the wanted direction, m/s, + 5 while healthy - control_cost * |a|² -
    min(5e-7 * |f|², 10), with f the contact forces. At angle 0 this is the reward of Humanoid-v5.

    ## Starting State

    That of Humanoid-v5: the pose at rest, with uniform noise of ±0.01 in positions and velocities.

    ## Episode End

    Terminated when the torso is not between 1 m and 2 m high, as in Humanoid-v5. Truncated after `episode_length`
    steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `directions`: "circle", all of them; "half_circle", the left half; "forward_backward", two.
    - `control_cost`: weight of |a|², 0 to 100; 0.1 by default, as in Gymnasium, ProMP and PEARL.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL. ProMP takes 100.

    ## Splits

    train and test: uniform on the circle, or on its half with angles in [0, pi); disjoint by a hash of the angle. ood:
    with "half_circle" the other half; with "circle" there is none, and a ConfigError says so. With
    "forward_backward", both tasks, each as likely, are for training: there is neither test nor ood, and a ConfigError
    says so.

    ## Reference Returns

    Optimal: not known. Random: not given, it has no closed form; simulated 109 with the defaults.

    ## References

    PEARL: Rakelly et al. 2019; katerakelly/oyster, `rlkit/envs/humanoid_dir.py`. ProMP: Rothfuss et al. 2019;
    jonasrothfuss/ProMP, `humanoid_rand_direc_2d.py`. The body: Farama-Foundation/Gymnasium, `humanoid_v5.py`.

    Differs: on Gymnasium's version 5 of the model and observations, which leave out entries that are always zero. The
    sources' reward of speed, 0.25 / 0.003 s for each metre, is the same number. The bonus of 5 is paid while healthy,
    in the sources also in the step that ends the episode. Actions are clipped before they are paid for.

    ## Version History

    - v0: first version.
    """

    name = "HumanoidDir"
    params_type = DirectionParams
    structural = ("angle",)
    xml_file = "humanoid.xml"
    frame_skip = 5
    time_step = 0.003
    num_positions, num_velocities = 24, 23
    num_actions = 17
    action_limit = 0.4
    start_noise = 0.01
    num_readings = 2 + 13 * 10 + 13 * 6 + 17 + _NUM_FORCES
    with_contacts = True
    num_hidden = 2
    num_observed = 348
    num_structure_draws = 1
    view: ClassVar[View] = View(azimuth=60.0, elevation=20.0, scale=130.0, height=0.9)

    def __init__(self, *, directions: str = "circle", control_cost: float = 0.1, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        self.directions = choice_of("directions", directions, DIRECTIONS)
        self.unsplit = UNSPLIT if directions == "forward_backward" else None
        self.task_space = angle_space()

    @override
    def sources(self, simulator: Simulator) -> list[Float]:
        data = simulator.data
        # Of the whole world, which is the body: its centre of mass.
        parts = [data.cinert[1:], data.cvel[1:], data.qfrc_actuator[6:], data.cfrc_ext[1:]]
        return [data.subtree_com[0, :2], *(part.reshape(-1) for part in parts)]

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
        healthy = (height > _LOWEST) & (height < _HIGHEST)
        contact = np.minimum(_CONTACT_COST * squares(after.readings[:, -_NUM_FORCES:]), _MOST_CONTACT_COST)
        costs = self.control_cost * squares(action) + contact
        return _FORWARD * forward + _ALIVE * healthy - costs, ~healthy

    @override
    def observe(self, state: BodyState, params: DirectionParams) -> Array:
        return np.concatenate([super().observe(state, params), state.readings[:, 2:]], axis=1)

    @override
    def decorate(self, image: Array, view: View, params: DirectionParams) -> str:
        return draw_direction(image, view, params)
