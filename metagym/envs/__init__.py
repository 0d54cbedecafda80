"""The families that ship with metagym, each imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metagym.envs.acrobot import Acrobot
    from metagym.envs.bandit import Bandit
    from metagym.envs.cart_pole import CartPole
    from metagym.envs.cliff_walking import CliffWalking
    from metagym.envs.dark_room import DarkRoom
    from metagym.envs.frozen_lake import FrozenLake
    from metagym.envs.grid_navi import GridNavi
    from metagym.envs.harlow import Harlow
    from metagym.envs.key_to_door import KeyToDoor
    from metagym.envs.lqr import LQR
    from metagym.envs.mountain_car import MountainCar, MountainCarContinuous
    from metagym.envs.mujoco.ant import AntDir, AntGoal
    from metagym.envs.mujoco.half_cheetah import HalfCheetahDir, HalfCheetahVel
    from metagym.envs.mujoco.humanoid import HumanoidDir
    from metagym.envs.mujoco.random_params import HopperParams, Walker2DParams
    from metagym.envs.pendulum import Pendulum
    from metagym.envs.point_corner import PointCorner
    from metagym.envs.point_goal import PointGoal
    from metagym.envs.point_walls import PointWalls
    from metagym.envs.point_wind import PointWind
    from metagym.envs.reacher_2d import Reacher2D
    from metagym.envs.t_maze import TMaze
    from metagym.envs.tabular_mdp import TabularMDP
    from metagym.envs.taxi import Taxi
    from metagym.envs.two_step import TwoStep

_MODULES = {
    "Acrobot": "acrobot",
    "AntDir": "mujoco.ant",
    "AntGoal": "mujoco.ant",
    "Bandit": "bandit",
    "CartPole": "cart_pole",
    "CliffWalking": "cliff_walking",
    "DarkRoom": "dark_room",
    "FrozenLake": "frozen_lake",
    "GridNavi": "grid_navi",
    "HalfCheetahDir": "mujoco.half_cheetah",
    "HalfCheetahVel": "mujoco.half_cheetah",
    "Harlow": "harlow",
    "HopperParams": "mujoco.random_params",
    "HumanoidDir": "mujoco.humanoid",
    "KeyToDoor": "key_to_door",
    "LQR": "lqr",
    "MountainCar": "mountain_car",
    "MountainCarContinuous": "mountain_car",
    "Pendulum": "pendulum",
    "PointCorner": "point_corner",
    "PointGoal": "point_goal",
    "PointWalls": "point_walls",
    "PointWind": "point_wind",
    "Reacher2D": "reacher_2d",
    "TMaze": "t_maze",
    "TabularMDP": "tabular_mdp",
    "Taxi": "taxi",
    "TwoStep": "two_step",
    "Walker2DParams": "mujoco.random_params",
}

__all__ = [
    "LQR",
    "Acrobot",
    "AntDir",
    "AntGoal",
    "Bandit",
    "CartPole",
    "CliffWalking",
    "DarkRoom",
    "FrozenLake",
    "GridNavi",
    "HalfCheetahDir",
    "HalfCheetahVel",
    "Harlow",
    "HopperParams",
    "HumanoidDir",
    "KeyToDoor",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "PointCorner",
    "PointGoal",
    "PointWalls",
    "PointWind",
    "Reacher2D",
    "TMaze",
    "TabularMDP",
    "Taxi",
    "TwoStep",
    "Walker2DParams",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
