"""What families on MuJoCo share: a state in arrays, and a loop over rows that steps one simulator.

The contract of a family is kept by a loop instead of array operations. A row's state holds all that MuJoCo's step
depends on, and the readings that MuJoCo computes on the way and that observations need. Every row is written into the
simulator before it is stepped and read from it after, so that no row depends on what was simulated before.
"""

from abc import abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import error, spaces
from typing_extensions import override

from metagym.envs.arguments import integer, number
from metagym.envs.mujoco.sketch import View, sketch
from metagym.family import Family, ParamsT, Step
from metagym.types import Array, Bool, Float

__all__ = ["BodyFamily", "BodyState", "Simulator", "load_mujoco", "squares"]

# The normal quantile of 0 is -inf; half of the smallest uniform above it stands in.
_SMALLEST = 2.0**-54
_FREE = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
_DERIVED = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "actuator_acc0")
_STATISTICS = ("meaninertia", "meanmass")
_MOST_KNOWN = 4096


class BodyState(NamedTuple):
    """Bodies in motion."""

    physics: Float
    """Positions, velocities and the warm start of the solver, as MuJoCo packs them, (N, Q + 2 V)."""
    readings: Float
    """What the last simulated substep computed beside, (N, K)."""


class Simulator:
    """One MuJoCo model and its data.

    Args:
        xml_file: of Gymnasium's models.
        frame_skip: MuJoCo's steps for each of the env's.
        with_contacts: whether to compute the contact forces after a step.
    """

    def __init__(self, xml_file: str, frame_skip: int, *, with_contacts: bool) -> None:
        mujoco = load_mujoco()
        path = Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / xml_file
        self._mujoco, self._frame_skip, self._with_contacts = mujoco, frame_skip, with_contacts
        self.model: Any = mujoco.MjModel.from_xml_path(str(path))
        self.data: Any = mujoco.MjData(self.model)
        kinds = mujoco.mjtState
        self._kind = int(kinds.mjSTATE_PHYSICS.value) | int(kinds.mjSTATE_WARMSTART.value)
        self.state_size = int(mujoco.mj_stateSize(self.model, self._kind))
        # Views of MuJoCo's memory: making one anew costs as much as a copy.
        self._control: Float = self.data.ctrl
        self.start: Float = self.data.qpos.copy()
        self._constants: list[Float] = [getattr(self.model, name) for name in (*_FREE, *_DERIVED)]
        self.nominal: dict[str, Float] = {name: getattr(self.model, name).copy() for name in _FREE}
        self._task: bytes | None = None
        self._known: dict[bytes, tuple[list[Float], list[float]]] = {}

    def begin(self, positions: Float, velocities: Float, state: Float) -> None:
        """Go to some positions and velocities, and write the state there into `state`."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = positions
        self.data.qvel[:] = velocities
        self._mujoco.mj_forward(self.model, self.data)
        self._mujoco.mj_getState(self.model, self.data, state, self._kind)

    def advance(self, state: Float, control: Float, following: Float) -> None:
        """Step from `state` under `control`, and write where it leads into `following`."""
        self._mujoco.mj_setState(self.model, self.data, state, self._kind)
        self._control[:] = control
        self._mujoco.mj_step(self.model, self.data, self._frame_skip)
        if self._with_contacts:
            self._mujoco.mj_rnePostConstraint(self.model, self.data)
        self._mujoco.mj_getState(self.model, self.data, following, self._kind)

    def show(self, state: Float) -> None:
        """Go to `state`, and compute where all parts are."""
        self._mujoco.mj_setState(self.model, self.data, state, self._kind)
        self._mujoco.mj_forward(self.model, self.data)

    def equip(self, task: bytes, change: Callable[[], None]) -> None:
        """Give the model the constants of a task, with all that MuJoCo derives from them.

        Args:
            task: tells tasks apart. What was derived for one is kept, as deriving it takes as long as a substep.
            change: writes the task's free constants into the model.
        """
        if task == self._task:
            return
        statistics = self.model.stat
        if task in self._known:
            arrays, numbers = self._known[task]
            for constant, value in zip(self._constants, arrays, strict=True):
                constant[...] = value
            for name, entry in zip(_STATISTICS, numbers, strict=True):
                setattr(statistics, name, entry)
        else:
            change()
            self._mujoco.mj_setConst(self.model, self.data)
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            numbers = [float(getattr(statistics, name)) for name in _STATISTICS]
            self._known[task] = [constant.copy() for constant in self._constants], numbers
        self._task = task


class BodyFamily(Family[BodyState, ParamsT]):
    """A family on one of Gymnasium's MuJoCo models, with the constants of its version 5 envs.

    Attributes:
        xml_file: the model.
        frame_skip: MuJoCo's steps for each step.
        time_step: seconds of one of MuJoCo's steps.
        num_positions: Q, coordinates of the pose.
        num_velocities: V, their velocities.
        num_actions: A.
        action_limit: the largest action.
        start_noise: size of the noise of starts.
        normal_velocities: whether velocities start normal; if not, uniform.
        num_readings: K.
        with_contacts: whether contact forces are computed.
        num_hidden: leading coordinates that observations leave out: where on the ground the body is.
        num_observed: entries of an observation.
        num_bounded: trailing entries of it that are clipped.
        bound: to which they are.
        view: from where it is drawn.
    """

    xml_file: ClassVar[str]
    frame_skip: ClassVar[int]
    time_step: ClassVar[float]
    num_positions: ClassVar[int]
    num_velocities: ClassVar[int]
    num_actions: ClassVar[int]
    action_limit: ClassVar[float] = 1.0
    start_noise: ClassVar[float]
    normal_velocities: ClassVar[bool] = False
    num_readings: ClassVar[int] = 0
    with_contacts: ClassVar[bool] = False
    num_hidden: ClassVar[int] = 1
    num_observed: ClassVar[int]
    num_bounded: ClassVar[int] = 0
    bound: ClassVar[float] = np.inf
    view: ClassVar[View]
    initial_needs_task = False
    observe_needs_task = False

    def __init__(self, *, control_cost: float, episode_length: int) -> None:
        load_mujoco()  # now rather than at the first step
        self.control_cost = number("control_cost", control_cost, 0.0, 100.0)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        self.num_initial_draws = self.num_positions + self.num_velocities
        limit = np.float32(self.action_limit)
        self.action_space = spaces.Box(-limit, limit, (self.num_actions,), np.float32)
        high = np.full(self.num_observed, np.inf)
        high[self.num_observed - self.num_bounded :] = self.bound
        self.observation_space = spaces.Box(-high, high, dtype=np.float64)
        self._simulator: Simulator | None = None

    @property
    def simulator(self) -> Simulator:
        """The simulator, made at the first use; pickles and copies of the family make their own."""
        if self._simulator is None:
            self._simulator = Simulator(self.xml_file, self.frame_skip, with_contacts=self.with_contacts)
            self._sources = self.sources(self._simulator)
        return self._simulator

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**{key: value for key, value in self.__dict__.items() if key != "_sources"}, "_simulator": None}

    @property
    def seconds(self) -> float:
        """Length of a step."""
        return self.time_step * self.frame_skip

    # --- what a family says -------------------------------------------------------------------------------------

    def sources(self, simulator: Simulator) -> list[Float]:
        """Flat views of the data that the readings of a row are copied from, K entries together; none by default."""
        del simulator
        return []

    def equip(self, simulator: Simulator, params: ParamsT, row: int) -> None:
        """Write the task of a row into the model; by default, tasks are no matter of the model."""

    @abstractmethod
    def judge(self, before: BodyState, after: BodyState, action: Float, params: ParamsT) -> tuple[Float, Bool]:
        """Rewards and terminations of N steps, both (N,); actions are clipped."""

    @abstractmethod
    def decorate(self, image: Array, view: View, params: ParamsT) -> str:
        """Draw the task of one row (N = 1) on the ground of a picture, and say it in words."""

    # --- the contract -------------------------------------------------------------------------------------------

    @override
    def initial(self, params: ParamsT, noise: Float) -> BodyState:
        simulator, size = self.simulator, self.num_positions
        spread = 2.0 * self.start_noise
        positions = simulator.start + (spread * noise[:, :size] - self.start_noise)
        if self.normal_velocities:
            velocities = self.start_noise * _normal_quantile(noise[:, size:])
        else:
            velocities = spread * noise[:, size:] - self.start_noise
        state = self._empty(len(noise))
        for row in range(len(noise)):
            self.equip(simulator, params, row)
            simulator.begin(positions[row], velocities[row], state.physics[row])
            if self.num_readings:
                np.concatenate(self._sources, out=state.readings[row])
        return state

    @override
    def step(self, state: BodyState, action: Array, params: ParamsT, noise: Float) -> Step[BodyState]:
        simulator, physics = self.simulator, np.ascontiguousarray(state.physics)
        control = np.minimum(np.maximum(action.astype(np.float64), -self.action_limit), self.action_limit)
        following = self._empty(len(control))
        advance = simulator.advance
        for row in range(len(control)):
            self.equip(simulator, params, row)
            advance(physics[row], control[row], following.physics[row])
            if self.num_readings:
                np.concatenate(self._sources, out=following.readings[row])
        reward, terminated = self.judge(state, following, control, params)
        return Step(following, reward, terminated)

    def _empty(self, num_rows: int) -> BodyState:
        return BodyState(np.empty((num_rows, self.simulator.state_size)), np.empty((num_rows, self.num_readings)))

    @override
    def observe(self, state: BodyState, params: ParamsT) -> Array:
        return state.physics[:, self.num_hidden : self.num_positions + self.num_velocities].copy()

    @override
    def draw(self, state: BodyState, params: ParamsT) -> Array:
        simulator = self.simulator
        self.equip(simulator, params, 0)
        simulator.show(state.physics[0])
        view = self.view.following(simulator.data.xpos[1])
        return sketch(simulator.model, simulator.data, view, lambda image: self.decorate(image, view, params))

    @override
    def describe(self, state: BodyState, params: ParamsT) -> str:
        where = ", ".join(f"{value:+.3f}" for value in state.physics[0, : self.num_positions].tolist())
        blank = np.zeros((1, 1, 3), np.uint8)
        return f"{self.decorate(blank, self.view, params)}, at ({where})\n"


def load_mujoco() -> Any:
    """The module `mujoco`.

    Raises:
        DependencyNotInstalled: if it is missing, saying how to install it.
    """
    try:
        mujoco = import_module("mujoco")
        mujoco.MjModel  # noqa: B018  # a folder of that name would be imported as well
    except (ImportError, AttributeError) as missing:
        raise error.DependencyNotInstalled(
            'MuJoCo is not installed; run `pip install "metagym-rl[mujoco]"`'
        ) from missing
    return mujoco


def squares(values: Float) -> Float:
    """Sums of squares over the last axis, (N,)."""
    total: Float = np.square(values).sum(axis=1)
    return total


def _normal_quantile(uniform: Float) -> Float:
    from scipy.special import ndtri

    quantile: Float = ndtri(np.maximum(uniform, _SMALLEST))
    return quantile
