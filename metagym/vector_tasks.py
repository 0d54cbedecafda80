"""Setting one task a row on anybody's vector env."""

from collections.abc import Sequence
from typing import Any

from gymnasium.vector import VectorEnv

from metagym.errors import ConfigError
from metagym.tasks import Task

__all__ = ["set_tasks"]

_NO_TASKS = "the envs inside have no tasks: there is no task_space"


def set_tasks(vec_env: Any, tasks: Sequence[Task | None]) -> None:
    """Pin one task for each row of any vector env, through the channel that works there.

    metagym's own vector envs have `set_tasks`; Gymnasium's take the attribute ``task`` of each sub-env; for SB3's,
    `env_method` reaches through every wrapper. (Gymnasium's ``call("set_task", tasks)`` would hand all tasks to each
    row, and SB3's ``set_attr`` would stop at the outermost wrapper.) Takes effect at each row's next reset.

    Args:
        vec_env: a `gymnasium.vector.VectorEnv` or a Stable-Baselines3 `VecEnv`, wrapped or not.
        tasks: one a row; None unpins a row.

    Raises:
        ConfigError: if `vec_env` is no vector env, or there is not one task for each row.
        TaskError: if a task does not belong to the envs.
    """
    num_envs = getattr(vec_env, "num_envs", None)
    if not isinstance(num_envs, int):
        raise ConfigError(f"set_tasks needs a vector env of Gymnasium, SB3 or metagym, got {type(vec_env).__name__}")
    is_list = isinstance(tasks, Sequence) and not isinstance(tasks, str)
    if not is_list or len(tasks) != num_envs:
        given = f"{len(tasks)} tasks" if is_list else "one Task" if isinstance(tasks, Task) else type(tasks).__name__
        raise ConfigError(f"set_tasks needs a list of one task for each of {num_envs} rows, got {given}")
    if isinstance(vec_env, VectorEnv):
        _set_gymnasium(vec_env, tasks)
    elif (native := _with_set_tasks(vec_env)) is not None:
        native.set_tasks(list(tasks))
    elif hasattr(vec_env, "env_method"):
        if not vec_env.unwrapped.has_attr("task_space"):
            raise ConfigError(_NO_TASKS)
        for row, task in enumerate(tasks):
            vec_env.env_method("set_task", task, indices=[row])
    else:
        raise ConfigError(f"{type(vec_env).__name__} is no vector env of Gymnasium, SB3 or metagym")


def _with_set_tasks(vec_env: Any) -> Any:
    """The adapter inside an SB3 vec env, if there is one: it reaches all rows at once."""
    while vec_env is not None and not hasattr(vec_env, "set_tasks"):
        vec_env = getattr(vec_env, "venv", None)
    return vec_env


def _set_gymnasium(vec_env: Any, tasks: Sequence[Task | None]) -> None:
    layer = vec_env
    while not hasattr(layer, "set_tasks") and hasattr(layer, "env"):
        layer = layer.env
    if hasattr(layer, "set_tasks"):
        layer.set_tasks(list(tasks))
    elif hasattr(vec_env.unwrapped, "set_attr"):
        _require_tasks(vec_env.unwrapped)
        vec_env.unwrapped.set_attr("task", list(tasks))
    else:
        raise ConfigError(f"the rows of {type(vec_env.unwrapped).__name__} cannot be given tasks: it has no set_attr")


def _require_tasks(vec_env: Any) -> None:
    # Gymnasium's set_attr creates whatever it does not find, so that a row without tasks would silently "accept" one.
    try:
        vec_env.get_attr("task_space")
    except AttributeError as missing:
        raise ConfigError(_NO_TASKS) from missing
