"""All laws of a wrapper that keeps tasks, one after another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from metagym.checks.driven import sizes_and_modes
from metagym.checks.laws import Law, hold, require, require_same
from metagym.checks.parity import require_parity
from metagym.checks.scalar import SCALAR_LAWS, EnvProbe
from metagym.checks.vector import VECTOR_LAWS, VectorProbe
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.errors import ConfigError
from metagym.family import Family

__all__ = ["WRAPPER_LAWS", "WrapperProbe", "check_wrapper"]

_NONE: Mapping[str, str] = MappingProxyType({})
_REFUSED = (AssertionError, AttributeError, TypeError, ValueError)


class WrapperProbe:
    """A wrapper under examination, and envs to wrap.

    Args:
        wrapper: from an env to an env.
        env: an id, or a family.
        vector: whether it also wraps metagym's vector env; None to find out.
        seed: of resets and actions.
        num_steps: of every trajectory.
    """

    def __init__(
        self, wrapper: Callable[[Any], Any], env: str | Family[Any, Any], *, vector: bool | None, seed: int,
        num_steps: int,
    ) -> None:  # fmt: skip
        if not callable(wrapper):
            raise ConfigError(f"wrapper={wrapper!r} is not accepted; accepted is a function from an env to an env")
        if not isinstance(env, str | Family):
            raise ConfigError(f"env={env!r} is not accepted; accepted are an id and a family")
        self.wrapper, self.source, self.vector = wrapper, env, vector
        self.seed, self.num_steps = seed, num_steps

    def bare(self) -> Any:
        """A scalar env, not wrapped."""
        return gym.make(self.source) if isinstance(self.source, str) else TaskEnv(self.source)

    def bare_vector(self, num_envs: int, mode: AutoresetMode) -> Any:
        """A vector env, not wrapped."""
        if isinstance(self.source, str):
            return gym.make_vec(self.source, num_envs=num_envs, autoreset_mode=mode)
        return TaskVectorEnv(self.source, num_envs, autoreset_mode=mode)

    def scalar(self) -> Any:
        """A wrapped scalar env."""
        return self.wrapper(self.bare())

    def wrapped_vector(self, num_envs: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> Any:
        """A wrapped vector env, or None if the wrapper wraps none."""
        if self.vector is False:
            return None
        try:
            env = self.wrapper(self.bare_vector(num_envs, mode))
        except _REFUSED as refused:
            require(self.vector is None, "the wrapper over metagym's vector env", refused, "a vector env, as was asked")
            return None
        is_vector = isinstance(env, VectorEnv) and hasattr(env, "set_tasks")
        require(
            self.vector is None or is_vector, "the wrapper over metagym's vector env", env, "a vector env with tasks"
        )
        return env if is_vector else None


_SCALAR_ONLY = "the wrapper wraps scalar envs only"


def _kinds(probe: WrapperProbe) -> None:
    env = probe.scalar()
    require(isinstance(env, gym.Env), "the wrapper over a scalar env", type(env).__name__, "a gymnasium.Env")
    bare = probe.bare()
    require(env.unwrapped is not None and type(env.unwrapped) is type(bare.unwrapped), "unwrapped", env.unwrapped,
            f"the env inside, a {type(bare.unwrapped).__name__}")  # fmt: skip
    space, inner = env.get_wrapper_attr("task_space"), bare.get_wrapper_attr("task_space")
    require(space == inner, "task_space", space, f"that of the env inside, {inner}")


def _tasks_pass(probe: WrapperProbe) -> None:
    env, bare = probe.scalar(), probe.bare()
    action_space = bare.action_space
    action_space.seed(probe.seed)
    for seed in range(probe.seed, probe.seed + 4):
        info, inner = env.reset(seed=seed)[1], bare.reset(seed=seed)[1]
        require(info["task_id"] == inner["task_id"], f"task of seed {seed}", info["task_id"],
                f"that of the env inside, {inner['task_id']}")  # fmt: skip
        tasks = [one.get_wrapper_attr("sample_tasks")(2) for one in (env, bare)]
        require(tasks[0] == tasks[1], f"sample_tasks(2) with seed {seed}", tasks[0], f"as the env inside, {tasks[1]}")
        for _ in range(3):
            info, inner = env.reset()[1], bare.reset()[1]
            require(info["task_id"] == inner["task_id"], "task of a later reset", info["task_id"],
                    f"that of the env inside, {inner['task_id']}")  # fmt: skip


def _constant_task(probe: WrapperProbe) -> None:
    env = probe.scalar()
    _, info = env.reset(seed=probe.seed)
    task = info["task_id"]
    env.action_space.seed(probe.seed)
    for _ in range(10 * probe.num_steps):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        require(info["task_id"] == task, "task_id between two resets", info["task_id"], f"{task}, that of the trial")
        if terminated or truncated:
            task = env.reset()[1]["task_id"]


def _specs(probe: WrapperProbe) -> str | None:
    if not isinstance(probe.source, str):
        return "the env has no id"
    env = probe.scalar()
    again = gym.make(env.spec)
    actions = EnvProbe(env, seed=probe.seed, num_steps=probe.num_steps)
    require_same(actions.rollout(again, seed=1), actions.rollout(env, seed=1), "the env made from env.spec")
    return None


def _parity(probe: WrapperProbe) -> str | None:
    for num_envs, mode in sizes_and_modes(probe.seed):
        env = probe.wrapped_vector(num_envs, mode)
        if env is None:
            return _SCALAR_ONLY
        steps = max(probe.num_steps // (1 if num_envs == 2 else 3), 2)
        require_parity(env, probe.scalar, num_steps=steps, seed=probe.seed)
    return None


def _scalar(law: Law) -> Law:
    def check(probe: WrapperProbe) -> str | None:
        return law.check(EnvProbe(probe.scalar(), seed=probe.seed, num_steps=probe.num_steps))

    return replace(law, check=check)


def _vector(law: Law) -> Law:
    def check(probe: WrapperProbe) -> str | None:
        for mode in AutoresetMode:
            env = probe.wrapped_vector(3, mode)
            if env is None:
                return _SCALAR_ONLY
            reason = law.check(VectorProbe(env, seed=probe.seed, num_steps=probe.num_steps))
        return reason

    return replace(law, name=law.name if law.name.startswith("vector") else f"vector: {law.name}", check=check)


WRAPPER_LAWS = (
    Law("kinds", "a wrapped env is an env with the same tasks", _kinds),
    *(_scalar(law) for law in SCALAR_LAWS),
    Law("tasks pass", "seeds reach the env inside: the wrapped env draws the same tasks", _tasks_pass),
    Law("constant task", "the task changes in resets only", _constant_task),
    Law("specs", "gymnasium.make(env.spec) makes the wrapped env again", _specs),
    *(_vector(law) for law in VECTOR_LAWS),
    Law("scalar equals vector", "row i of the wrapped vector env is the wrapped scalar env, to the last bit", _parity),
)


def check_wrapper(
    wrapper: Callable[[Any], Any],
    *,
    env: str | Family[Any, Any] = "MetaFrozenLake-v0",
    vector: bool | None = None,
    seed: int = 0,
    num_steps: int = 40,
    exempt: Mapping[str, str] = _NONE,
) -> dict[str, str]:
    """Check that a wrapper keeps what makes its env an env with tasks.

    The check is deterministic.

    Args:
        wrapper: a class or function from an env to an env, such as ``Trial`` with its keywords bound by
            `functools.partial`.
        env: what is wrapped: a registered id, or a family.
        vector: whether the wrapper must also wrap metagym's vector env; None: check that as well if it does.
        seed: of all resets and actions.
        num_steps: length of the trajectories.
        exempt: laws that are not checked, each with the reason.

    Returns:
        For every law "holds", or why it was not checked.

    Raises:
        ContractError: at the first law that is broken, naming it, the place, what was found and what is accepted.
        ConfigError: if an argument is not accepted.
    """
    probe = WrapperProbe(wrapper, env, vector=vector, seed=seed, num_steps=num_steps)
    return hold(WRAPPER_LAWS, probe, exempt)
