"""Half-cheetahs: run in a hidden direction, or at a hidden speed."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import number
from metagym.envs.mujoco.directions import UNSPLIT
from metagym.envs.mujoco.simulator import BodyFamily, BodyState, squares
from metagym.envs.mujoco.sketch import View
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, ParamsT, Region
from metagym.render import draw_arrow
from metagym.types import Array, Bool, Float

__all__ = ["CheetahDirectionParams", "CheetahVelocityParams", "HalfCheetahDir", "HalfCheetahVel"]


@dataclass(frozen=True)
class CheetahDirectionParams(Params):
    """Columns of N directions."""

    direction: Float
    """1 forwards, -1 backwards, (N,)."""


@dataclass(frozen=True)
class CheetahVelocityParams(Params):
    """Columns of N speeds."""

    velocity: Float
    """Metres per second, (N,)."""


class _HalfCheetah(BodyFamily[ParamsT]):
    """The half-cheetah: what its families share."""

    xml_file = "half_cheetah.xml"
    frame_skip = 5
    time_step = 0.01
    num_positions = num_velocities = 9
    num_actions = 6
    start_noise = 0.1
    normal_velocities = True
    num_observed = 17
    view: ClassVar[View] = View(azimuth=90.0, elevation=0.0, scale=130.0, height=0.9)
    num_structure_draws = 1

    def _speed(self, before: BodyState, after: BodyState) -> Float:
        speed: Float = (after.physics[:, 0] - before.physics[:, 0]) / self.seconds
        return speed


class HalfCheetahDir(_HalfCheetah[CheetahDirectionParams]):
    """Half-cheetah, forwards or backwards: a planar body of two legs must run in the direction that rewards tell.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | direction | () | -1 | 1 | - | 1: forwards, -1: backwards; nothing between |

    ## Action Space

    `Box(-1, 1, (6,), float32)`: torques at the six joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (17,), float64, that of Gymnasium's HalfCheetah-v5: the pose without x, and the velocities. MuJoCo
    bounds none of them:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-7 | height, pitch and six joint angles | -inf | inf | m, rad |
    | 8-16 | velocities of x, height, pitch and joints | -inf | inf | m/s, rad/s |

    ## Rewards

    direction * (x' - x) / 0.05 s - control_cost * |a|². Forwards this is the reward of HalfCheetah-v5.

    ## Starting State

    That of HalfCheetah-v5: the pose at rest, with uniform noise of ±0.1 in positions and normal noise of standard
    deviation 0.1 in velocities.

    ## Episode End

    Never terminated; truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `control_cost`: weight of |a|², 0 to 100; 0.1 by default, as in Gymnasium. MAML, ProMP, PEARL and variBAD take
      0.05.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL and variBAD. MAML and ProMP take 100.

    ## Splits

    There are two tasks, each as likely, and both are for training, as in the sources, which also test on the two.
    There is neither test nor ood, and a ConfigError says so.

    ## Reference Returns

    Optimal: not known. Random: not given, it has no closed form; simulated -41 with the defaults.

    ## References

    MAML: Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3;
    cbfinn/maml_rl, `rllab/envs/mujoco/half_cheetah_env_rand_direc.py`, and tristandeleu/pytorch-maml-rl,
    `maml_rl/envs/mujoco/half_cheetah.py`. ProMP: Rothfuss et al. 2019; jonasrothfuss/ProMP,
    `half_cheetah_rand_direc.py`. The body: Farama-Foundation/Gymnasium, `half_cheetah_v5.py`.

    Differs: on Gymnasium's version 5 of the model, observations and start, with its control cost. MAML's code and
    variBAD's observe the position of the torso as well, x included. MAML's draws its two directions from a speed that
    it compares with 1. Actions are clipped before they are paid for.

    ## Version History

    - v0: first version.
    """

    name = "HalfCheetahDir"
    params_type = CheetahDirectionParams
    structural = ("direction",)
    unsplit = UNSPLIT

    def __init__(self, *, control_cost: float = 0.1, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        self.task_space = spaces.Dict(direction=spaces.Box(-1.0, 1.0, (), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "ood":
            raise ConfigError("HalfCheetahDir has no ood region: its two directions are both for training")
        return {"direction": np.where(noise[:, 0] < 0.5, -1.0, 1.0)}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        return {"direction": np.array([-1.0, 1.0])}, np.full(2, 0.5)

    @override
    def check(self, params: CheetahDirectionParams) -> None:
        if abs(params.direction[0]) != 1.0:
            raise TaskError(f"direction={params.direction[0]} is not accepted; accepted are -1 and 1")

    @override
    def judge(
        self, before: BodyState, after: BodyState, action: Float, params: CheetahDirectionParams
    ) -> tuple[Float, Bool]:
        speed = self._speed(before, after)
        return params.direction * speed - self.control_cost * squares(action), np.zeros(len(speed), np.bool_)

    @override
    def decorate(self, image: Array, view: View, params: CheetahDirectionParams) -> str:
        ahead = float(params.direction[0])
        draw_arrow(image, 200.0 - 40.0 * ahead, 40.0, 200.0 + 40.0 * ahead, 40.0, "goal", thickness=6)
        return "direction forwards" if ahead > 0.0 else "direction backwards"


class HalfCheetahVel(_HalfCheetah[CheetahVelocityParams]):
    """Half-cheetah, speed: a planar body of two legs must run at the speed that rewards tell.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | velocity | () | 0 | 4.5 | m/s | wanted speed |

    The upper bound is 1.5 times `max_velocity`.

    ## Action Space

    `Box(-1, 1, (6,), float32)`: torques at the six joints, clipped to these bounds.

    ## Observation Space

    `Box` of shape (17,), float64, that of Gymnasium's HalfCheetah-v5: the pose without x, and the velocities. MuJoCo
    bounds none of them:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0-7 | height, pitch and six joint angles | -inf | inf | m, rad |
    | 8-16 | velocities of x, height, pitch and joints | -inf | inf | m/s, rad/s |

    ## Rewards

    -|(x' - x) / 0.05 s - velocity| - control_cost * |a|².

    ## Starting State

    That of HalfCheetah-v5: the pose at rest, with uniform noise of ±0.1 in positions and normal noise of standard
    deviation 0.1 in velocities.

    ## Episode End

    Never terminated; truncated after `episode_length` steps.

    ## Information

    None but those of all families.

    ## Arguments

    - `max_velocity`: largest speed in training, m/s, 0.1 to 10; 3 by default, as in ProMP, PEARL and variBAD, which
      more results are published for. MAML and garage take 2.
    - `control_cost`: weight of |a|², 0 to 100; 0.1 by default, as in Gymnasium. The sources take 0.05.
    - `episode_length`: steps, 1 to 100,000; 200 by default, as in PEARL and variBAD. MAML and ProMP take 100.

    ## Splits

    train and test: uniform on [0, `max_velocity`], disjoint by a hash of the speed. ood: uniform above it, up to 1.5
    times `max_velocity`.

    ## Reference Returns

    Optimal: not known; at most 0. Random: not given, it has no closed form; simulated -383 with the defaults.

    ## References

    MAML: Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3;
    tristandeleu/pytorch-maml-rl, `maml_rl/envs/mujoco/half_cheetah.py`. ProMP: Rothfuss et al. 2019;
    jonasrothfuss/ProMP, `half_cheetah_rand_vel.py`. PEARL: Rakelly et al. 2019; katerakelly/oyster,
    `rlkit/envs/half_cheetah_vel.py`. The body: Farama-Foundation/Gymnasium, `half_cheetah_v5.py`.

    Differs: on Gymnasium's version 5 of the model, observations and start, with its control cost. MAML's code and
    variBAD's observe the position of the torso as well, x included. PEARL's code says [0, 2], draws from [0, 3], and
    seeds NumPy's global generator to do so; it keeps a finite set of speeds, where they are drawn afresh here. Actions
    are clipped before they are paid for.

    ## Version History

    - v0: first version.
    """

    name = "HalfCheetahVel"
    params_type = CheetahVelocityParams
    structural = ("velocity",)

    def __init__(self, *, max_velocity: float = 3.0, control_cost: float = 0.1, episode_length: int = 200) -> None:
        super().__init__(control_cost=control_cost, episode_length=episode_length)
        self.max_velocity = number("max_velocity", max_velocity, 0.1, 10.0)
        self.task_space = spaces.Dict(velocity=spaces.Box(0.0, 1.5 * self.max_velocity, (), np.float64))

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        fraction = noise[:, 0] if region == "train" else 1.5 - 0.5 * noise[:, 0]
        velocity = self.max_velocity * fraction
        if region == "ood":
            velocity = np.maximum(velocity, np.nextafter(self.max_velocity, np.inf))
        return {"velocity": velocity}

    @override
    def judge(
        self, before: BodyState, after: BodyState, action: Float, params: CheetahVelocityParams
    ) -> tuple[Float, Bool]:
        speed = self._speed(before, after)
        miss = np.abs(speed - params.velocity)
        return -miss - self.control_cost * squares(action), np.zeros(len(speed), np.bool_)

    @override
    def decorate(self, image: Array, view: View, params: CheetahVelocityParams) -> str:
        speed = float(params.velocity[0])
        draw_arrow(image, 160.0, 40.0, 160.0 + 50.0 * speed, 40.0, "goal", thickness=6)
        return f"velocity {speed:.3f} m/s"
