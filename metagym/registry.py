"""Names for families: `gymnasium.make` and `gymnasium.make_vec` ids."""

from importlib import import_module
from typing import Any

import gymnasium as gym

from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.foreign.ids import foreign_family, is_foreign, register_foreign

__all__ = [
    "BUILTIN",
    "family_ids",
    "family_type",
    "load_family",
    "make_env",
    "make_family",
    "make_vector_env",
    "register",
    "register_builtin",
]

BUILTIN: dict[str, tuple[str, dict[str, Any]]] = {
    "MetaFrozenLake-v0": ("metagym.envs.frozen_lake:FrozenLake", {}),
    "MetaCliffWalking-v0": ("metagym.envs.cliff_walking:CliffWalking", {}),
    "MetaTaxi-v0": ("metagym.envs.taxi:Taxi", {}),
    "MetaGridNavi-v0": ("metagym.envs.grid_navi:GridNavi", {}),
    "MetaDarkRoom-v0": ("metagym.envs.dark_room:DarkRoom", {}),
    "MetaKeyToDoor-v0": ("metagym.envs.key_to_door:KeyToDoor", {}),
    "MetaTMaze-v0": ("metagym.envs.t_maze:TMaze", {}),
    "MetaBandit-v0": ("metagym.envs.bandit:Bandit", {}),
    "MetaTabularMDP-v0": ("metagym.envs.tabular_mdp:TabularMDP", {}),
    "MetaTwoStep-v0": ("metagym.envs.two_step:TwoStep", {}),
    "MetaHarlow-v0": ("metagym.envs.harlow:Harlow", {}),
    "MetaPointGoal-v0": ("metagym.envs.point_goal:PointGoal", {}),
    "MetaPointCorner-v0": ("metagym.envs.point_corner:PointCorner", {}),
    "MetaPointWalls-v0": ("metagym.envs.point_walls:PointWalls", {}),
    "MetaPointWind-v0": ("metagym.envs.point_wind:PointWind", {}),
    "MetaReacher2D-v0": ("metagym.envs.reacher_2d:Reacher2D", {}),
    "MetaLQR-v0": ("metagym.envs.lqr:LQR", {}),
    "MetaCartPole-v0": ("metagym.envs.cart_pole:CartPole", {}),
    "MetaPendulum-v0": ("metagym.envs.pendulum:Pendulum", {}),
    "MetaMountainCar-v0": ("metagym.envs.mountain_car:MountainCar", {}),
    "MetaMountainCarContinuous-v0": ("metagym.envs.mountain_car:MountainCarContinuous", {}),
    "MetaAcrobot-v0": ("metagym.envs.acrobot:Acrobot", {}),
    "MetaHalfCheetahDir-v0": ("metagym.envs.mujoco.half_cheetah:HalfCheetahDir", {}),
    "MetaHalfCheetahVel-v0": ("metagym.envs.mujoco.half_cheetah:HalfCheetahVel", {}),
    "MetaAntDir-v0": ("metagym.envs.mujoco.ant:AntDir", {}),
    "MetaAntGoal-v0": ("metagym.envs.mujoco.ant:AntGoal", {}),
    "MetaHumanoidDir-v0": ("metagym.envs.mujoco.humanoid:HumanoidDir", {}),
    "MetaWalker2DParams-v0": ("metagym.envs.mujoco.random_params:Walker2DParams", {}),
    "MetaHopperParams-v0": ("metagym.envs.mujoco.random_params:HopperParams", {}),
}


def load_family(entry_point: str) -> type[Family[Any, Any]]:
    """The family class that ``"package.module:Class"`` names.

    Raises:
        ConfigError: if there is no such class, or it is no family.
    """
    module, _, name = entry_point.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as missing:
        raise ConfigError(f"no family at {entry_point!r} ('package.module:Class' is expected): {missing}") from missing
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ConfigError(f"{entry_point!r} is no subclass of metagym.Family")
    return found


def make_env(
    *,
    family: str,
    split: str | None = "train",
    render_mode: str | None = None,
    reveal_task: bool = False,
    **family_kwargs: Any,
) -> TaskEnv:
    """The scalar entry point of every id; keywords not named here are the family's."""
    instance = load_family(family)(**family_kwargs)
    return TaskEnv(instance, split=split, render_mode=render_mode, reveal_task=reveal_task)


# Gymnasium reads it off the entry point to offer "human" and "rgb_array_list" with its own wrappers.
make_env.metadata = TaskEnv.metadata  # type: ignore[attr-defined]


def make_vector_env(
    *,
    family: str,
    num_envs: int = 1,
    split: str | None = "train",
    autoreset_mode: gym.vector.AutoresetMode = gym.vector.AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    reveal_task: bool = False,
    **family_kwargs: Any,
) -> TaskVectorEnv:
    """The vector entry point of every id; keywords not named here are the family's."""
    instance = load_family(family)(**family_kwargs)
    return TaskVectorEnv(
        instance,
        num_envs,
        split=split,
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
        reveal_task=reveal_task,
    )


def register(id: str, entry_point: str, **kwargs: Any) -> None:  # noqa: A002 (Gymnasium's name)
    """Give a family a name for `gymnasium.make` and `gymnasium.make_vec`. Registering the same again is no error.

    Args:
        id: such as "MyFamily-v0".
        entry_point: ``"package.module:Class"``, a subclass of `Family`; imported when an env is made.
        **kwargs: default keywords of the family, JSON-able.
    """
    if id in gym.registry and gym.registry[id].kwargs == {"family": entry_point, **kwargs}:
        return
    gym.register(
        id,
        entry_point="metagym.registry:make_env",
        vector_entry_point="metagym.registry:make_vector_env",
        kwargs={"family": entry_point, **kwargs},
    )


def family_ids() -> list[str]:
    """All registered ids whose envs are metagym's, sorted."""
    return sorted(name for name, spec in gym.registry.items() if spec.entry_point == "metagym.registry:make_env")


def family_type(env_id: str) -> tuple[type[Family[Any, Any]], dict[str, Any]]:
    """The family class behind an id, and the keywords that the id stands for. No family is made.

    Args:
        env_id: such as "MetaFrozenLake-v0", or "package:MyFamily-v0", imported as `gymnasium.make` does.

    Raises:
        ConfigError: if the id is unknown, or not metagym's, or its package cannot be imported.
    """
    package, _, name = env_id.rpartition(":")
    if package:
        try:
            import_module(package)
        except ImportError as missing:
            raise ConfigError(f"the package of env id {env_id!r} cannot be imported: {missing}") from missing
    known = family_ids()
    if name not in known:
        raise ConfigError(f"{env_id!r} is no id of a family; accepted are {', '.join(known)}")
    defaults = dict(gym.registry[name].kwargs)
    return load_family(defaults.pop("family")), defaults


def make_family(env_id: str, **kwargs: Any) -> Any:
    """The family behind an id, with the family's own keywords: a `Family`, or a `metagym.foreign.ForeignFamily`.

    Args:
        env_id: as for `family_type`.
        **kwargs: of the family.

    Raises:
        ConfigError: if the id is unknown, or not metagym's, or its package cannot be imported.
        DependencyNotInstalled: if the family needs an extra that is not installed; the message says which.
    """
    if is_foreign(env_id):
        return foreign_family(env_id, **kwargs)
    family, defaults = family_type(env_id)
    return family(**{**defaults, **kwargs})


def register_builtin() -> None:
    """Register the ids that ship with metagym."""
    for name, (entry_point, kwargs) in BUILTIN.items():
        register(name, entry_point, **kwargs)
    register_foreign()
