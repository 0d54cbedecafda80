"""The vector envs that recipes ask RL Zoo for, as ``vec_env_wrapper``: metagym's own in place of one env a row."""

from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metagym.engine.drivers import vector_env_of
from metagym.errors import ConfigError
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter

__all__ = ["native_tasks", "native_trials"]


def native_tasks(env: VecEnv) -> VecEnv:
    """Tasks, for learners that adapt by gradient: metagym's vector env with the family and tasks of `env`'s rows.

    Where `env` writes a monitor file, so does the new one. `env` is closed.

    Args:
        env: an SB3 vector env whose rows are scalar envs of one of metagym's families.

    Raises:
        ConfigError: if they are not.
    """
    rows, file = _replaced(env)
    return _monitored(rows, env, file)


def native_trials(env: VecEnv, *, episodes_per_trial: int | None = None, steps_per_trial: int | None = None) -> VecEnv:
    """Trials with what RL² sees, over `native_tasks`; the monitor is outside and counts trials.

    Args:
        env: an SB3 vector env whose rows are scalar envs of one of metagym's families.
        episodes_per_trial: E; this or the next.
        steps_per_trial: T.

    Raises:
        ConfigError: if they are not, or not exactly one length is given.
    """
    rows, file = _replaced(env)
    trials = RL2Context(Trial(rows, episodes_per_trial=episodes_per_trial, steps_per_trial=steps_per_trial))
    return _monitored(trials, env, file)


def _replaced(env: VecEnv) -> tuple[Any, str | None]:
    """A native env like another, and the file that the first row's monitor writes to."""
    try:
        family, distribution = env.get_attr("family")[0], env.get_attr("task_distribution")[0]
    except (AttributeError, ConfigError) as missing:
        raise ConfigError(f"the rows of this {type(env).__name__} are no envs of metagym's families") from missing
    writer = env.get_attr("results_writer")[0] if env.has_attr("results_writer") else None
    mode = AutoresetMode.SAME_STEP
    rows = vector_env_of(family, env.num_envs, distribution=distribution, autoreset_mode=mode)
    return rows, None if writer is None else str(Path(writer.file_handler.name))


def _monitored(vector_env: Any, env: VecEnv, file: str | None) -> VecEnv:
    seed = env._seeds[0]
    env.close()
    made = VecMonitor(VectorEnvAdapter(vector_env), filename=file)
    if seed is not None:
        made.seed(seed)
    return made
