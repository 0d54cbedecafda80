"""Making envs of somebody else's, and finding out what they are like."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from inspect import Parameter, signature
from typing import Any

import gymnasium as gym
import numpy as np

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["EnvMaker", "episode_length_of", "info_schema_of", "takes"]

_RESERVED = {
    "task_id", "trial_start", "task", "is_success", "episode_start", "episode_end", "trial_episode",
    "last_episode_return", "last_episode_length", "episode", "final_obs", "final_info", "final_observation",
    "terminal_observation", "TimeLimit.truncated", "env_id", "reset_info",
}  # fmt: skip
_PROBE_STEPS = 64
_SCALARS: dict[str, type] = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}


class EnvMaker:
    """Makes envs from an id or a callable, with the user's wrappers around them.

    Args:
        source: id, or a callable that returns an env.
        env_kwargs: keywords of every env.
        wrappers: from env to env, the innermost first.
        episode_length: where an id's envs are cut instead of where they were registered to be.

    Attributes:
        name: the id, or the name of the callable.

    Raises:
        ConfigError: if the source is neither, or an argument is not accepted.
    """

    def __init__(
        self,
        source: str | Callable[..., gym.Env[Any, Any]],
        env_kwargs: Mapping[str, Any],
        wrappers: Sequence[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]],
        episode_length: int | None,
    ) -> None:
        if not isinstance(source, str) and not callable(source):
            raise ConfigError(f"parameterize needs an env id or a callable that makes an env, got {source!r}")
        if not isinstance(wrappers, Sequence) or not all(callable(wrapper) for wrapper in wrappers):
            raise ConfigError(f"wrappers must be a list of functions or classes from env to env, got {wrappers!r}")
        self.source, self.env_kwargs, self.wrappers = source, dict(env_kwargs), tuple(wrappers)
        self.name = source.rpartition(":")[2] if isinstance(source, str) else getattr(source, "__name__", "Env")
        whole = isinstance(episode_length, int | np.integer) and not isinstance(episode_length, bool)
        if episode_length is not None and not (whole and episode_length >= 1):
            raise ConfigError(f"episode_length must be an integer of at least 1, got {episode_length!r}")
        self._limit: dict[str, Any] = {}
        self._takes_mode = True
        if isinstance(source, str):
            self._limit = {"disable_env_checker": True}
            if episode_length is not None:
                self._limit["max_episode_steps"] = episode_length
        else:
            self._takes_mode = takes(source, "render_mode")

    def __call__(self, render_mode: str | None, **kwargs: Any) -> gym.Env[Any, Any]:
        """A new env.

        Raises:
            ConfigError: if the keywords do not make one.
        """
        given = {**self.env_kwargs, **kwargs}
        if render_mode is not None:
            if not self._takes_mode:
                raise ConfigError(f"{self.name} has no keyword render_mode: it cannot be made with {render_mode!r}")
            given["render_mode"] = render_mode
        try:
            env = self._make(given)
        except (TypeError, gym.error.UnregisteredEnv) as wrong:
            raise ConfigError(f"{self.name} cannot be made with {given}: {wrong}") from wrong
        if not isinstance(env, gym.Env):
            raise ConfigError(f"{self.name} made {type(env).__name__}, which is no gymnasium.Env")
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env

    def _make(self, given: dict[str, Any]) -> gym.Env[Any, Any]:
        if isinstance(self.source, str):
            return gym.make(self.source, **{**self._limit, **given})
        return self.source(**given)


def takes(source: Callable[..., Any], keyword: str) -> bool:
    """Whether a callable may be given a keyword; of one that shows no signature nothing is known, so it may."""
    try:
        parameters = signature(source).parameters
    except (TypeError, ValueError):
        return True
    return keyword in parameters or any(part.kind is Parameter.VAR_KEYWORD for part in parameters.values())


def episode_length_of(env: gym.Env[Any, Any], given: int | None) -> int:
    """Steps after which episodes are truncated: as given, as registered, or as the env itself says.

    Raises:
        ConfigError: if nobody says.
    """
    if given is not None:
        return given
    registered = env.spec.max_episode_steps if env.spec is not None else None
    found = registered or getattr(env.unwrapped, "max_steps", None)
    layer: Any = env
    while found is None and layer is not None:
        found = getattr(layer, "_max_episode_steps", None)
        layer = getattr(layer, "env", None)
    if not isinstance(found, int | np.integer) or found < 1:
        raise ConfigError(f"nobody says when episodes of {env} are truncated: pass episode_length=")
    return int(found)


def info_schema_of(
    env: gym.Env[Any, Any], success: str | None, declared: Mapping[str, Any], seed: int = 0
) -> tuple[dict[str, Array], str | None]:
    """Which infos an env gives, found by a few random steps, and the key that tells of success.

    Args:
        env: an env, which is reset and stepped.
        success: the key that tells of success; None: "is_success", if there is such a key.
        declared: more keys with values of their kind, for those that show up seldom; the key of success may be one.
        seed: of the episode and its actions.

    Returns:
        Key to a zero of its dtype and shape, numbers alone; and the key of success, or None.

    Raises:
        ConfigError: if a declared key is taken by metagym, or its value is no number; or if no info has the key of
            success.
    """
    seen = _declared(success, declared)
    infos = _random_infos(env, seed)
    if success is None and any("is_success" in info for info in infos):
        success = "is_success"
    if not (success is None or success in declared or any(success in info for info in infos)):
        keys = sorted({str(key) for info in infos for key in info})
        raise ConfigError(
            f"success={success!r} is a key of no info in {len(infos) - 1} random steps, which have {keys}; if it shows "
            f"up seldom, pass infos={{{success!r}: False}}"
        )
    for key, value in ((key, value) for info in infos for key, value in info.items() if not _is_taken(key)):
        zero = _zero(value)
        if zero is not None:
            first = seen.setdefault(key, zero)
            # A number that is whole at first may have a fraction later.
            seen[key] = first.astype(np.result_type(first, zero)) if first.shape == zero.shape else first
    return dict(sorted(seen.items())), success


def _declared(success: str | None, declared: Mapping[str, Any]) -> dict[str, Array]:
    zeros = {}
    for key, value in declared.items():
        zero = _zero(value)
        if zero is None or (_is_taken(key) and key != success):
            raise ConfigError(f"infos={{{key!r}: {value!r}}} is no number, or a key of metagym's or Gymnasium's own")
        if not _is_taken(key):
            zeros[key] = zero
    return zeros


def _random_infos(env: gym.Env[Any, Any], seed: int) -> list[dict[str, Any]]:
    infos = [env.reset(seed=seed)[1]]
    actions = deepcopy(env.action_space)  # a class of envs may share it
    actions.seed(seed)
    for _ in range(_PROBE_STEPS):
        _, _, terminated, truncated, info = env.step(actions.sample())
        infos.append(info)
        if terminated or truncated:
            break
    return infos


def _is_taken(key: Any) -> bool:
    return not isinstance(key, str) or key in _RESERVED or key.startswith("_")


def _zero(value: Any) -> Array | None:
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return None
    # Scalars come out of scalar envs as Python's, which have one dtype each.
    return np.zeros(array.shape, array.dtype if array.shape else _SCALARS[array.dtype.kind])
