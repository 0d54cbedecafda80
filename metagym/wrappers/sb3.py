"""Gymnasium's vector envs as Stable-Baselines3's."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from typing_extensions import override

from metagym.engine import RowsVectorEnv
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int
from metagym.vector_tasks import set_tasks
from metagym.wrappers.base import rows_layers

__all__ = ["VectorEnvAdapter"]

_RESET_OPTIONS_OF_ROWS = frozenset({"task"})


class VectorEnvAdapter(VecEnv):
    """A Gymnasium `VectorEnv` as a Stable-Baselines3 `VecEnv`, for any of its algorithms and wrappers.

    Steps cost no Python loop over rows: what `step` returns as infos are empty dicts, except for rows that finished.
    Those have what the env reported for their last step, ``terminal_observation`` and ``TimeLimit.truncated``. The
    infos of all rows are in `last_infos`, as arrays.

    Args:
        vector_env: metagym's, or Gymnasium's `SyncVectorEnv` or `AsyncVectorEnv`, perhaps in Gymnasium's vector
            wrappers, in autoreset mode SAME_STEP or DISABLED (the adapter resets finished rows itself then).

    Attributes:
        env: the vector env.
        last_infos: infos of the step just taken, arrays (N, ...) with their ``_key`` masks. Those of rows that
            finished are of their last step too, not of the reset after it; infos of the reset after `reset`.

    Raises:
        ConfigError: if `vector_env` is no Gymnasium vector env, or resets in the next step.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(vector_env, VectorEnv):
            raise ConfigError(f"VectorEnvAdapter needs a gymnasium.vector.VectorEnv, got {type(vector_env).__name__}")
        self.env: Any = vector_env
        self._mode = _accepted_mode(vector_env)
        self._access = _layer_with_access(vector_env)
        self._actions: Any = None
        self.last_infos: dict[str, Any] = {}
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    # --- episodes ----------------------------------------------------------------------------------------------

    @override
    def reset(self) -> VecEnvObs:
        seed = self._seeds if any(value is not None for value in self._seeds) else None
        observation, infos = self.env.reset(seed=seed, options=self._reset_options_of_env())
        self._reset_seeds()
        self._reset_options()
        self.last_infos = infos
        self.reset_infos = _row_infos(infos, np.arange(self.num_envs))
        return observation  # type: ignore[no-any-return]

    @override
    def step_async(self, actions: Array) -> None:
        self._actions = actions

    @override
    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, infos = self.env.step(self._actions)
        done: Bool = terminated | truncated
        rows = np.flatnonzero(done)
        # Fresh dicts, as cheap as copying a list: what a wrapper writes into one is gone at the next step.
        row_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self.last_infos = infos
        if rows.size:
            if self._mode is AutoresetMode.SAME_STEP:
                infos, finals = _without_finals(infos), infos
                self.last_infos = _overwrite(infos, finals.get("final_info", {}), rows)
                terminal = finals["final_obs"]
            else:
                terminal = observation
                observation, infos = self.env.reset(options={"reset_mask": done.copy()})
            last, first = _row_infos(self.last_infos, rows), _row_infos(infos, rows)
            for row, info, reset_info in zip(rows.tolist(), last, first, strict=True):
                info["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
                info["terminal_observation"] = _row(terminal, row)
                row_infos[row], self.reset_infos[row] = info, reset_info
        return observation, reward.astype(np.float32), done, row_infos

    def _reset_options_of_env(self) -> dict[str, Any] | None:
        first = self._options[0]
        if all(options is first for options in self._options):
            return dict(first) or None
        if not any(self._options):
            return None
        for options in self._options:
            if unknown := set(options) - _RESET_OPTIONS_OF_ROWS:
                raise ConfigError(f"option {sorted(unknown)} must be the same in all rows: set_options({{...}})")
        if not isinstance(self._access, RowsVectorEnv):
            raise ConfigError(f"rows of {self._access} take the same options; use set_tasks(tasks) instead")
        return {"tasks": [options.get("task") for options in self._options]}

    # --- tasks -------------------------------------------------------------------------------------------------

    def set_tasks(self, tasks: Sequence[Task | None]) -> None:
        """Pin one task for each row, from its next reset on; None unpins a row. See `metagym.set_tasks`."""
        set_tasks(self.env, tasks)

    # --- access to rows ----------------------------------------------------------------------------------------

    @override
    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        rows = list(self._get_indices(indices))
        if attr_name == "render_mode" and not isinstance(self._access, RowsVectorEnv):
            return [self.env.render_mode] * len(rows)
        if isinstance(self._access, SyncVectorEnv):
            return [self._access.envs[row].get_wrapper_attr(attr_name) for row in rows]
        try:
            values = self._access.get_attr(attr_name)
        except ConfigError as missing:
            raise AttributeError(str(missing)) from missing
        return [values[row] for row in rows]

    @override
    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        rows = list(self._get_indices(indices))
        if attr_name == "task" and isinstance(self._access, RowsVectorEnv):
            self._access.set_tasks([value] * len(rows), rows)  # type: ignore[attr-defined]
        elif isinstance(self._access, SyncVectorEnv):
            for row in rows:
                self._access.envs[row].set_wrapper_attr(attr_name, value)
        else:
            self._require_all(rows, f"set_attr({attr_name!r})")
            self._access.set_attr(attr_name, [value] * self.num_envs)

    @override
    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        rows = list(self._get_indices(indices))
        if isinstance(self._access, RowsVectorEnv):
            return self._method_of_rows(method_name, rows, *method_args, **method_kwargs)
        if isinstance(self._access, SyncVectorEnv):
            methods = [self._access.envs[row].get_wrapper_attr(method_name) for row in rows]
            return [method(*method_args, **method_kwargs) for method in methods]
        self._require_all(rows, f"env_method({method_name!r})")
        return list(self._access.call(method_name, *method_args, **method_kwargs))

    def _method_of_rows(self, name: str, rows: list[int], *args: Any, **kwargs: Any) -> list[Any]:
        if name == "set_task":
            task = args[0] if args else kwargs["task"]
            self._access.set_tasks([task] * len(rows), rows)
            return [None] * len(rows)
        if name == "sample_task":
            return list(self._access.sample_tasks(len(rows)))
        values = self.get_attr(name, rows) if not args and not kwargs else self._access.call(name, *args, **kwargs)
        return list(values)

    def _require_all(self, rows: list[int], what: str) -> None:
        if rows != list(range(self.num_envs)):
            raise ConfigError(f"{what} reaches only all rows of {self._access} at once, not {rows}")

    @override
    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        rows = list(self._get_indices(indices))
        if isinstance(self._access, SyncVectorEnv):
            return [is_wrapped(self._access.envs[row], wrapper_class) for row in rows]
        if isinstance(self._access, AsyncVectorEnv):
            return [False] * len(rows)
        accepted = (wrapper_class, getattr(wrapper_class, "rows_type", wrapper_class))
        found = any(isinstance(layer, accepted) for layer in rows_layers(self._access))
        return [found] * len(rows)

    @override
    def get_images(self) -> Sequence[Array | None]:
        images: Sequence[Array | None] = self.env.render()
        return images

    @override
    def close(self) -> None:
        self.env.close()


def _accepted_mode(vector_env: Any) -> AutoresetMode:
    mode = vector_env.metadata.get("autoreset_mode")
    if mode in {AutoresetMode.SAME_STEP, AutoresetMode.DISABLED}:
        return AutoresetMode(mode)
    raise ConfigError(
        f"{vector_env} has autoreset mode {mode}, which Stable-Baselines3 cannot represent; make it with "
        "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP (gym.make_vec(id, num_envs=n, autoreset_mode=...) "
        "or SyncVectorEnv(envs, autoreset_mode=...))"
    )


def _layer_with_access(vector_env: Any) -> Any:
    # Gymnasium's vector wrappers forward no get_attr, and its own envs have it on the innermost.
    layer = vector_env
    while not hasattr(layer, "get_attr") and hasattr(layer, "env"):
        layer = layer.env
    return layer


def _without_finals(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in infos.items() if key.removeprefix("_") not in {"final_obs", "final_info"}}


def _overwrite(infos: dict[str, Any], finals: dict[str, Any], rows: Int) -> dict[str, Any]:
    merged = dict(infos)
    for key, final in finals.items():
        if key not in infos:
            merged[key] = final
        elif isinstance(final, dict):
            merged[key] = _overwrite(infos[key], final, rows)
        else:
            merged[key] = infos[key].copy()
            merged[key][rows] = final[rows]
    return merged


def _row(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return {key: _row(value, row) for key, value in values.items()}
    return copy(values[row])


def _row_infos(infos: dict[str, Any], rows: Int) -> list[dict[str, Any]]:
    """Infos of some rows, one dict each, from arrays (N, ...) and their masks."""
    row_infos: list[dict[str, Any]] = [{} for _ in rows]
    for key, values in infos.items():
        if key.startswith("_") or not isinstance(values, np.ndarray | dict):
            continue
        mask = infos.get(f"_{key}")
        present = [True] * len(rows) if mask is None else mask[rows].tolist()
        for info, entry, is_present in zip(row_infos, _entries(values, rows), present, strict=True):
            if is_present:
                info[key] = entry
    return row_infos


def _entries(values: Any, rows: Int) -> list[Any]:
    if isinstance(values, dict):
        return _row_infos(values, rows)
    chosen = values[rows]
    return chosen.tolist() if chosen.ndim == 1 else list(chosen)
