"""Walkers and hoppers whose masses, inertias, dampings and frictions are not known."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.mujoco.simulator import BodyFamily, BodyState, Simulator, squares
from metagym.envs.mujoco.sketch import View
from metagym.family import Params, Region
from metagym.types import Array, Bool, Float

__all__ = ["BodyParams", "HopperParams", "Walker2DParams"]

_BASE, _DAMPING_BASE = 1.5, 1.3
_REACH, _OOD_REACH = 3.0, 4.0
_ROOTS = 3
"""Leading degrees of freedom: of the whole body, without damping."""
_ALIVE = 1.0
_FASTEST = 10.0
"""To which observed velocities are clipped."""


@dataclass(frozen=True)
class BodyParams(Params):
    """Columns of N bodies. Zero is Gymnasium's body."""

    log_mass: Float
    """Logarithm, to base 1.5, of the factor of the mass of each part, (N, parts)."""
    log_inertia: Float
    """The same of its moments of inertia, (N, parts)."""
    log_damping: Float
    """To base 1.3, of the factor of the damping of each joint, (N, joints)."""
    log_friction: Float
    """To base 1.5, of the factor of the sliding friction of the ground and of each part, (N, 1 + parts)."""


class _RandomBody(BodyFamily[BodyParams]):
    """A planar body of unknown constants: what its families share."""

    params_type = BodyParams
    structural = ("log_mass", "log_inertia", "log_damping", "log_friction")
    initial_needs_task = True
    frame_skip = 4
    time_step = 0.002
    start_noise = 5e-3
    bound = _FASTEST
    num_parts: ClassVar[int]
    num_joints: ClassVar[int]

    def __init__(self, *, control_cost: float, episode_length: int) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        widths = dict.fromkeys(self.structural, self.num_parts)
        widths |= {"log_damping": self.num_joints, "log_friction": self.num_parts + 1}
        self.num_structure_draws = sum(widths.values())
        reach = {name: _OOD_REACH if name == "log_mass" else _REACH for name in widths}
        self.task_space = spaces.Dict(
            {name: spaces.Box(-reach[name], reach[name], (width,), np.float64) for name, width in widths.items()}
        )

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        exponents = _REACH * (2.0 * noise - 1.0)
        if region == "ood":
            away = _OOD_REACH - (_OOD_REACH - _REACH) * np.abs(2.0 * noise[:, 0] - 1.0)
            away = np.maximum(away, np.nextafter(_REACH, np.inf))
            exponents[:, 0] = np.where(noise[:, 0] < 0.5, -away, away)
        ends = np.cumsum([self.task_space[name].shape[0] for name in self.structural])  # type: ignore[index]
        parts = np.split(exponents, ends[:-1], axis=1)
        return {name: np.ascontiguousarray(part) for name, part in zip(self.structural, parts, strict=True)}

    @override
    def equip(self, simulator: Simulator, params: BodyParams, row: int) -> None:
        logs = [getattr(params, name)[row] for name in self.structural]
        simulator.equip(b"".join([log.tobytes() for log in logs]), lambda: _change(simulator, *logs))

    @override
    def judge(self, before: BodyState, after: BodyState, action: Float, params: BodyParams) -> tuple[Float, Bool]:
        forward = (after.physics[:, 0] - before.physics[:, 0]) / self.seconds
        healthy = self._healthy(after)
        return forward + _ALIVE * healthy - self.control_cost * squares(action), ~healthy

    @abstractmethod
    def _healthy(self, state: BodyState) -> Bool: ...

    @override
    def observe(self, state: BodyState, params: BodyParams) -> Array:
        observation = super().observe(state, params)
        velocities = observation[:, -self.num_velocities :]
        np.minimum(np.maximum(velocities, -_FASTEST, out=velocities), _FASTEST, out=velocities)
        return observation

    @override
    def decorate(self, image: Array, view: View, params: BodyParams) -> str:
        masses = " ".join(f"{factor:.2f}" for factor in np.power(_BASE, params.log_mass[0]).tolist())
        return f"masses times {masses}"


def _change(simulator: Simulator, mass: Float, inertia: Float, damping: Float, friction: Float) -> None:
    """Write the constants of one task into the model, from the exponents of its factors."""
    model, nominal = simulator.model, simulator.nominal
    model.body_mass[1:] = nominal["body_mass"][1:] * np.power(_BASE, mass)
    model.body_inertia[1:] = nominal["body_inertia"][1:] * np.power(_BASE, inertia)[:, None]
    model.dof_damping[_ROOTS:] = nominal["dof_damping"][_ROOTS:] * np.power(_DAMPING_BASE, damping)
    model.geom_friction[:, 0] = nominal["geom_friction"][:, 0] * np.power(_BASE, friction)


class HopperParams(_RandomBody):
    """Hopper of unknown constants: a planar body of one leg must hop forwards, whatever its parts weigh.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | log_mass | (4,) | -4 | 4 | - | masses of torso, thigh, leg, foot are 1.5^this times Gymnasium's |
    | log_inertia | (4,) | -3 | 3 | - | their moments of inertia, the same |
    | log_damping | (3,) | -3 | 3 | - | dampings of the joints are 1.3^this times Gymnasium's |
    | log_friction | (5,) | -3 | 3 | - | sliding frictions of ground, torso, thigh, leg, foot are 1.5^this times it |

    Zero everywhere is Hopper-v5.

    ## Action Space

    `Box(-1, 1, (3,), float32)`: torques at the three joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (11,), float64, that of Gymnasium's Hopper-v5: the pose without x, and the velocities clipped to
    [-10, 10]. MuJoCo bounds no others:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-4 | height, pitch and three joint angles | -inf | inf | m, rad |
    | 5-10 | velocities of x, height, pitch and joints | -10 | 10 | m/s, rad/s |

    ## Rewards

    (x' - x) / 0.008 s + 1 while healthy - control_cost * |a|², as in Hopper-v5.

    ## Starting State

    That of Hopper-v5: the pose at rest, with uniform noise of ±0.005 in positions and velocities.

    ## Episode End

    Terminated, as in Hopper-v5, when the torso is not above 0.7 m, its pitch is not within ±0.2, or any other
    coordinate or velocity is not within ±100. Truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `control_cost`: weight of |a|², 0 to 100; 0.001 by default, as in Gymnasium and the source.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL.

    ## Splits

    train and test: every entry uniform on [-3, 3]; disjoint by a hash of all. ood: the first entry of `log_mass` is
    uniform on [-4, -3) and (3, 4], so that the torso weighs 0.2 to 0.3 or 3.4 to 5.1 times what it does in Gymnasium;
    the others as in training.

    ## Reference Returns

    Optimal: not known. Random: not given, it has no closed form; simulated 18 with the defaults.

    ## References

    dennisl88/rand_param_envs, `base.py` and `hopper_rand_params.py`, as used by PEARL: Rakelly et al. 2019, "Efficient
    Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables". The body:
    Farama-Foundation/Gymnasium, `hopper_v5.py`.

    Differs: on Gymnasium's version 5 of the model. The source draws a factor for each number in MuJoCo's arrays; those
    that cannot matter are left out: the world's mass, the damping of the root, which is zero, frictions against
    spinning and rolling, which these contacts have none of, and the moments of inertia about axes in the plane: one
    factor for the three keeps them possible. What MuJoCo derives from masses and inertias is computed anew, where the
    source keeps that of the nominal body. The bonus of 1 is paid while healthy, in the source also in the step that
    ends the episode. The source keeps 40 tasks to train and 10 to test, where tasks are drawn afresh here.

    ## Version History

    - v0: first version.
    """

    name = "HopperParams"
    xml_file = "hopper.xml"
    num_positions = num_velocities = 6
    num_actions = num_joints = 3
    num_parts = 4
    num_observed = 11
    num_bounded = 6
    view: ClassVar[View] = View(azimuth=90.0, elevation=0.0, scale=130.0, height=1.1)

    def __init__(self, *, control_cost: float = 1e-3, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)

    @override
    def _healthy(self, state: BodyState) -> Bool:
        pose = state.physics[:, : self.num_positions + self.num_velocities]
        inside = (np.abs(pose[:, 2:]) < 100.0).all(axis=1)
        healthy: Bool = inside & (pose[:, 1] > 0.7) & (np.abs(pose[:, 2]) < 0.2)
        return healthy


class Walker2DParams(_RandomBody):
    """Walker of unknown constants: a planar body of two legs must walk forwards, whatever its parts weigh.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | log_mass | (7,) | -4 | 4 | - | masses of torso and legs are 1.5^this times Gymnasium's |
    | log_inertia | (7,) | -3 | 3 | - | their moments of inertia, the same |
    | log_damping | (6,) | -3 | 3 | - | dampings of the joints are 1.3^this times Gymnasium's |
    | log_friction | (8,) | -3 | 3 | - | sliding frictions of ground, torso and legs are 1.5^this times Gymnasium's |

    Legs: thigh, leg and foot of the right, then of the left. Zero everywhere is Walker2d-v5.

    ## Action Space

    `Box(-1, 1, (6,), float32)`: torques at the six joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (17,), float64, that of Gymnasium's Walker2d-v5: the pose without x, and the velocities clipped to
    [-10, 10]. MuJoCo bounds no others:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-7 | height, pitch and six joint angles | -inf | inf | m, rad |
    | 8-16 | velocities of x, height, pitch and joints | -10 | 10 | m/s, rad/s |

    ## Rewards

    (x' - x) / 0.008 s + 1 while healthy - control_cost * |a|², as in Walker2d-v5.

    ## Starting State

    That of Walker2d-v5: the pose at rest, with uniform noise of ±0.005 in positions and velocities.

    ## Episode End

    Terminated, as in Walker2d-v5, when the torso is not between 0.8 m and 2 m high or its pitch is not within ±1.
    Truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `control_cost`: weight of |a|², 0 to 100; 0.001 by default, as in Gymnasium and the source.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL.

    ## Splits

    train and test: every entry uniform on [-3, 3]; disjoint by a hash of all. ood: the first entry of `log_mass` is
    uniform on [-4, -3) and (3, 4], so that the torso weighs 0.2 to 0.3 or 3.4 to 5.1 times what it does in Gymnasium;
    the others as in training.

    ## Reference Returns

    Optimal: not known. Random: not given, it has no closed form; simulated 2.7 with the defaults.

    ## References

    dennisl88/rand_param_envs, `base.py` and `walker_rand_params.py`, as used by PEARL: Rakelly et al. 2019, "Efficient
    Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables". The body:
    Farama-Foundation/Gymnasium, `walker2d_v5.py`.

    Differs: as `HopperParams`; and the source simulates five of MuJoCo's steps for each action, Walker2d-v5 four.

    ## Version History

    - v0: first version.
    """

    name = "Walker2DParams"
    xml_file = "walker2d_v5.xml"
    num_positions = num_velocities = 9
    num_actions = num_joints = 6
    num_parts = 7
    num_observed = 17
    num_bounded = 9
    view: ClassVar[View] = View(azimuth=90.0, elevation=0.0, scale=130.0, height=1.1)

    def __init__(self, *, control_cost: float = 1e-3, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)

    @override
    def _healthy(self, state: BodyState) -> Bool:
        height, pitch = state.physics[:, 1], state.physics[:, 2]
        healthy: Bool = (height > 0.8) & (height < 2.0) & (np.abs(pitch) < 1.0)
        return healthy
