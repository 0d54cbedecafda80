"""Ids of foreign families for `gymnasium.make` and `gymnasium.make_vec`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from metagym.errors import ConfigError
from metagym.family import TaskFamily

if TYPE_CHECKING:
    from metagym.foreign.env import ForeignEnv
    from metagym.foreign.family import ForeignFamily
    from metagym.foreign.vector import ForeignVectorEnv

__all__ = [
    "FOREIGN", "SCALAR_ENTRY_POINT", "VECTOR_ENTRY_POINT", "foreign_family", "is_foreign", "make_env",
    "make_vector_env", "register_class", "register_family", "register_foreign",
]  # fmt: skip

SCALAR_ENTRY_POINT = "metagym.foreign.ids:make_env"
VECTOR_ENTRY_POINT = "metagym.foreign.ids:make_vector_env"

FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "metaworld/ML1-v0": ("metagym.foreign.meta_world:ML1", {}),
    "metaworld/ML10-v0": ("metagym.foreign.meta_world:ML10", {}),
    "metaworld/ML45-v0": ("metagym.foreign.meta_world:ML45", {}),
}

# What `parameterize` returned and was given an id, in this process: functions have no place in an id's keywords.
_FAMILIES: dict[str, "ForeignFamily"] = {}


def _register(env_id: str, kwargs: dict[str, Any], *, is_checked: bool = True) -> None:
    known = gym.registry.get(env_id)
    if known is not None and known.entry_point != SCALAR_ENTRY_POINT:
        raise ConfigError(f"the id {env_id!r} belongs to another env already")
    if known is None or known.kwargs != kwargs:
        gym.registry.pop(env_id, None)
        gym.register(
            env_id,
            entry_point=SCALAR_ENTRY_POINT,
            vector_entry_point=VECTOR_ENTRY_POINT,
            disable_env_checker=not is_checked,
            kwargs=kwargs,
        )


def register_family(env_id: str, family: "ForeignFamily") -> None:
    """Give a family, made already, an id in this process; the family that had it before loses it.

    Raises:
        ConfigError: if the id belongs to another kind of env.
    """
    _register(env_id, {"family": env_id})
    _FAMILIES[env_id] = family


def register_class(env_id: str, entry_point: str, **kwargs: Any) -> None:
    """Give the class of a family an id; it is imported, and made with `kwargs`, when an env is.

    Args:
        env_id: such as "metaworld/ML10-v0".
        entry_point: ``"package.module:Class"``, a subclass of `ForeignFamily`.
        **kwargs: default keywords of the family, JSON-able.

    Raises:
        ConfigError: if the id belongs to another kind of env.
    """
    # Gymnasium's checker objects to coordinates that are constant, which a hidden goal is.
    _register(env_id, {"family": entry_point, **kwargs}, is_checked=False)


def register_foreign() -> None:
    """Register the ids of foreign families that ship with metagym."""
    for env_id, (entry_point, kwargs) in FOREIGN.items():
        register_class(env_id, entry_point, **kwargs)


def is_foreign(env_id: str) -> bool:
    """Whether an id, perhaps "package:Id-v0", is one of a foreign family."""
    package, _, name = env_id.rpartition(":")
    if package and name not in gym.registry:
        try:
            import_module(package)
        except ImportError:
            return False
    spec = gym.registry.get(name)
    return spec is not None and spec.entry_point == SCALAR_ENTRY_POINT


def foreign_family(env_id: str, **kwargs: Any) -> "ForeignFamily":
    """The foreign family behind an id, with the family's own keywords.

    Raises:
        ConfigError: if there is none, or it takes no keywords.
    """
    if not is_foreign(env_id):
        raise ConfigError(f"{env_id!r} is no id of a foreign family")
    defaults = dict(gym.registry[env_id.rpartition(":")[2]].kwargs)
    return _load(defaults.pop("family"), {**defaults, **kwargs})


def _load(family: str, kwargs: dict[str, Any]) -> "ForeignFamily":
    if family in _FAMILIES:
        if kwargs:
            raise ConfigError(f"{family!r} takes no keywords {sorted(kwargs)}: what it is was said to parameterize")
        return _FAMILIES[family]
    module, _, name = family.partition(":")
    if not name:
        raise ConfigError(f"{family!r} was registered in another process; call parameterize(..., id={family!r}) here")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, TaskFamily) and hasattr(found, "make_vec")):
        raise ConfigError(f"{family!r} is no subclass of metagym.foreign.ForeignFamily")
    loaded: Any = found(**kwargs)
    return loaded  # type: ignore[no-any-return]


def make_env(
    *,
    family: str,
    split: str | None = "train",
    render_mode: str | None = None,
    reveal_task: bool = False,
    **family_kwargs: Any,
) -> "ForeignEnv":
    """The scalar entry point of every id; keywords not named here are the family's."""
    return _load(family, family_kwargs).make(split=split, render_mode=render_mode, reveal_task=reveal_task)


# What Gymnasium reads off the entry point to offer "rgb_array_list"; which modes there are depends on the env inside.
make_env.metadata = {"render_modes": ["human", "ansi", "rgb_array", "depth_array"]}  # type: ignore[attr-defined]


def make_vector_env(
    *,
    family: str,
    num_envs: int = 1,
    split: str | None = "train",
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    reveal_task: bool = False,
    **family_kwargs: Any,
) -> "ForeignVectorEnv":
    """The vector entry point of every id; keywords not named here are the family's."""
    return _load(family, family_kwargs).make_vec(
        num_envs,
        split=split,
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
        reveal_task=reveal_task,
    )
