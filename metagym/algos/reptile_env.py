"""What Reptile trains in: SB3 vector envs whose rows can be given a task."""

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
from gymnasium import error
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from metagym.algos.reptile_inner import check_counts
from metagym.engine import TaskEnv
from metagym.engine.drivers import vector_env_of
from metagym.errors import ConfigError
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = [
    "DEFAULT_N_ENVS", "METAGYM_ENTRY_POINT", "check_env_kwargs", "copy_vec_env", "draw_tasks", "give_task",
    "is_builtin", "native_env", "packed_env", "require_env", "task_vec_env", "unpacked_env", "vec_env",
    "vec_env_of_copies",
]  # fmt: skip

DEFAULT_N_ENVS = 8
METAGYM_ENTRY_POINT = "metagym.registry:make_vector_env"
_ENTRY_POINTS = (METAGYM_ENTRY_POINT, "metagym.foreign.ids:make_vector_env")
# This keyword of the entry points is a path to import.
_FAMILY = "family"
_ACCEPTED = "an id, an env or a vector env (Gymnasium's or SB3's) whose envs have sample_task() and set_task(task)"


def is_builtin(env_id: Any, env_kwargs: Any) -> bool:
    """Whether an id and keywords, from a file perhaps, make an env of a registered family, importing nothing else."""
    spec = gym.registry.get(env_id) if isinstance(env_id, str) else None
    if spec is None or spec.vector_entry_point not in _ENTRY_POINTS:
        return False
    return env_kwargs is None or (type(env_kwargs) is dict and _FAMILY not in env_kwargs)


def check_env_kwargs(env_kwargs: Any) -> None:
    """Refuse keywords with an id that would import another family.

    Raises:
        ConfigError: if they are such, or no dict.
    """
    if type(env_kwargs) is not dict or _FAMILY in env_kwargs:
        raise ConfigError("env_kwargs must be a dict, and may not name another family: register it under its own id")


def task_vec_env(
    env: Any, *, n_envs: int | None, split: str | None, env_kwargs: dict[str, Any] | None, learner: str = "Reptile"
) -> VecEnv:
    """The SB3 vector env of tasks that an argument ``env`` stands for.

    Args:
        env: id, scalar env, Gymnasium vector env or SB3 vector env; the latter two are used as they are.
        n_envs: rows; None: 8, or as many as the vector env has.
        split: of the tasks, for ids of metagym's.
        env_kwargs: keywords with an id.
        learner: what needs it, for messages.

    Raises:
        ConfigError: if it is none of these, has no tasks, or does not fit `n_envs`.
    """
    if env_kwargs is not None and not isinstance(env, str):
        raise ConfigError(f"env_kwargs={env_kwargs} goes with an id; the env given is already made")
    made = vec_env(env, n_envs=n_envs, split=split, env_kwargs=env_kwargs, learner=learner)
    if n_envs not in {None, made.num_envs}:
        raise ConfigError(f"n_envs={n_envs}, but the vector env given has {made.num_envs} rows")
    if native_env(made) is None and not _has_tasks(made):
        raise ConfigError(f"{learner} needs {_ACCEPTED}; {_describe(env)} has no tasks")
    return made


def vec_env(
    env: Any, *, n_envs: int | None = None, split: str | None = None, env_kwargs: dict[str, Any] | None = None,
    learner: str = "Reptile",
) -> VecEnv:  # fmt: skip
    """The SB3 vector env that an argument ``env`` stands for, with tasks or without; arguments as in `task_vec_env`.

    Raises:
        ConfigError: if it is no env.
    """
    check_counts(n_envs=1 if n_envs is None else n_envs)
    if isinstance(env, VecEnv):
        return env
    if isinstance(env, VectorEnv):
        return VecMonitor(VectorEnvAdapter(env))
    rows = DEFAULT_N_ENVS if n_envs is None else n_envs
    if isinstance(env, str):
        return _from_id(env, rows, split, env_kwargs or {})
    if isinstance(env, gym.Env):
        return _from_scalar(env, rows)
    raise ConfigError(f"{learner} needs {_ACCEPTED}, got {_describe(env)}")


def _from_id(env_id: str, n_envs: int, split: str | None, env_kwargs: dict[str, Any]) -> VecEnv:
    check_env_kwargs(env_kwargs)
    try:
        if gym.spec(env_id).vector_entry_point not in _ENTRY_POINTS:
            return make_vec_env(env_id, n_envs, env_kwargs=env_kwargs)
        made = gym.make_vec(
            env_id,
            num_envs=n_envs,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            **{"split": split, **env_kwargs},
        )
    except (error.Error, TypeError) as wrong:
        raise ConfigError(f"no env {env_id!r} can be made with {env_kwargs}: {wrong}") from wrong
    return VecMonitor(VectorEnvAdapter(made))


def _from_scalar(env: gym.Env[Any, Any], n_envs: int) -> VecEnv:
    bare = env.unwrapped
    kinds = (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker, TaskEnv)
    if isinstance(bare, TaskEnv) and all(isinstance(layer, kinds) for layer in _layers(env)):
        native = vector_env_of(
            bare.family,
            n_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            reveal_task=bare.reveal_task,
            distribution=bare.task_distribution,
        )
        return VecMonitor(VectorEnvAdapter(native))
    return vec_env_of_copies(env, n_envs)


def vec_env_of_copies(env: gym.Env[Any, Any], n_envs: int) -> VecEnv:
    """A vector env whose rows are copies of a scalar env and its task, with random streams of their own.

    Raises:
        ConfigError: if the env cannot be copied.
    """
    copies = [_copy(env, {}) for _ in range(n_envs)]
    made = DummyVecEnv([lambda row=row: Monitor(row) for row in copies])  # type: ignore[misc]
    made.seed()
    return made


def _layers(env: Any) -> Iterator[Any]:
    """An env and what it wraps, from the outside in: SB3's wrappers, the adapter, Gymnasium's wrappers."""
    while env is not None:
        yield env
        env = env.venv if isinstance(env, VecEnvWrapper) else vars(env).get("env")


def native_env(env: Any) -> Any:
    """The outermost Gymnasium vector env inside that can sample and set tasks for all its rows, or None."""
    for layer in _layers(env):
        if isinstance(layer, VectorEnv) and hasattr(layer, "sample_tasks") and hasattr(layer, "set_tasks"):
            return layer
    return None


def _has_tasks(env: VecEnv) -> bool:
    if env.has_attr("task_space"):
        return True
    try:
        return env.has_attr("sample_task") and env.has_attr("set_task")
    except TypeError:
        # Gymnasium's vector envs call what they are asked for, and set_task lacks its argument then.
        return True


def draw_tasks(env: VecEnv, n: int) -> list[Any]:
    """The next n training tasks."""
    native = native_env(env)
    if native is not None:
        return list(native.sample_tasks(n))
    rows = None if isinstance(env.unwrapped, VectorEnvAdapter) else [0]
    return [env.env_method("sample_task", indices=rows)[0] for _ in range(n)]


def give_task(env: VecEnv, task: Any) -> None:
    """Pin the same task in every row, from its next reset on; None unpins, where the envs are metagym's."""
    # Not `metagym.set_tasks`, which asks for a task_space: sample_task and set_task suffice here.
    if task is not None or native_env(env) is not None or env.has_attr("task_space"):
        env.env_method("set_task", task)


def require_env(env: VecEnv | None) -> VecEnv:
    """The env.

    Raises:
        ConfigError: if there is none.
    """
    if env is None:
        raise ConfigError("this learner has no env to learn in: pass one to load or to set_env, or an env to adapt")
    return env


def copy_vec_env(env: VecEnv) -> VecEnv:
    """An independent copy; a copied `VecNormalize` keeps its statistics and does not update them.

    Raises:
        ConfigError: if the env cannot be copied (its rows are processes, or hold something unique).
    """
    workers = env.env.unwrapped if isinstance(env, VectorEnvAdapter) else env
    if isinstance(workers, SubprocVecEnv | AsyncVectorEnv):
        # A copy would share the pipes to the processes, and close them when it is collected.
        raise ConfigError(
            f"the processes of {_describe(workers)} cannot be copied: give adapt an env that holds the task"
        )
    copied: VecEnv = _copy(env, {})
    if isinstance(copied, VecNormalize):
        copied.training = False
    return copied


def _copy(env: Any, memo: dict[int, Any]) -> Any:
    source = native_env(env) or getattr(env, "unwrapped", None)
    for shared in ("family", "task_distribution"):
        # Without state of their own, and the family's tables may be large.
        part = getattr(source, shared, None)
        memo[id(part)] = part
    try:
        return _copy_wrapper(env, memo) if isinstance(env, VecEnvWrapper) else copy.deepcopy(env, memo)
    except ConfigError:
        raise
    except Exception as cause:  # whatever a foreign env raises, the way out is the same
        raise ConfigError(f"{_describe(env)} cannot be copied: give an SB3 vector env instead") from cause


def _copy_wrapper(env: VecEnvWrapper, memo: dict[int, Any]) -> VecEnv:
    # Not deepcopy of the whole: a wrapper without its attributes sends every question round in circles, and what it
    # keeps of its class cannot be copied.
    memo |= {id(env.venv): copy_vec_env(env.venv), id(env.class_attributes): env.class_attributes}
    copied = type(env).__new__(type(env))
    vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(env).items()})
    return copied


def packed_env(env: VecEnv) -> bytes:
    """A vector env and its state as bytes, for another process.

    Raises:
        ConfigError: if it cannot be sent: its rows are processes, or hold what belongs to this process.
    """
    layers: list[tuple[type[VecEnvWrapper], dict[str, Any]]] = []
    inner = env
    while isinstance(inner, VecEnvWrapper):
        # Not the wrapper whole, for the reasons of `_copy_wrapper`.
        own = {name: value for name, value in vars(inner).items() if name not in {"venv", "class_attributes"}}
        layers.append((type(inner), own))
        inner = inner.venv
    try:
        packed: bytes = cloudpickle.dumps((inner, layers))
    except Exception as cause:  # whatever a foreign env raises, the way out is the same
        workers = inner.env.unwrapped if isinstance(inner, VectorEnvAdapter) else inner
        raise ConfigError(
            f"{_describe(workers)} cannot be sent to worker processes ({cause}): use n_workers=1, or an id or an env "
            "that can be pickled"
        ) from cause
    return packed


def unpacked_env(packed: bytes) -> VecEnv:
    """A vector env like the one that `packed_env` was given."""
    env: VecEnv
    env, layers = pickle.loads(packed)
    for kind, own in reversed(layers):
        wrapper = kind.__new__(kind)
        vars(wrapper).update(own, venv=env, class_attributes=dict(inspect.getmembers(kind)))
        env = wrapper
    return env


def _describe(env: Any) -> str:
    return repr(env) if env is None or isinstance(env, str | int | float) else type(env).__name__
