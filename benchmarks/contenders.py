"""What is stepped side by side: metagym's envs, Gymnasium's, EnvPool's and gymnax's, each as a function of steps.

Whatever a peer offers counts in its best setting: EnvPool with one and two threads, synchronous and asynchronous;
gymnax as one jitted, vectorised step with autoreset for each call, observation, reward and end handed back as NumPy
arrays, as all others do. A peer that is not installed, or has no such env, is left out.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metagym  # noqa: F401 (registers the ids)
from metagym.wrappers import Trial

__all__ = ["PROBLEMS", "Problem", "Run", "contenders", "scalar"]

NUM_ACTIONS = 64
Run = Callable[[int], None]


class Problem:
    """One environment under the names that the packages have for it; None where a package has none."""

    def __init__(
        self,
        meta_id: str,
        *,
        gym_id: str | None = None,
        gym_vector: bool = False,
        envpool_id: str | None = None,
        gymnax_id: str | None = None,
        steps_per_trial: int | None = None,
        can_compile: bool = False,
        **meta_kwargs: Any,
    ) -> None:
        self.meta_id, self.meta_kwargs, self.steps_per_trial = meta_id, meta_kwargs, steps_per_trial
        self.gym_id, self.gym_vector, self.envpool_id, self.gymnax_id = gym_id, gym_vector, envpool_id, gymnax_id
        self.can_compile = can_compile


PROBLEMS = {
    "FrozenLake": Problem(
        "MetaFrozenLake-v0",
        gym_id="FrozenLake-v1",
        envpool_id="FrozenLake-v1",
        gymnax_id="FrozenLake-misc",
    ),
    "CartPole": Problem(
        "MetaCartPole-v0",
        gym_id="CartPole-v1",
        gym_vector=True,
        envpool_id="CartPole-v1",
        gymnax_id="CartPole-v1",
        can_compile=True,
    ),
    "Pendulum": Problem(
        "MetaPendulum-v0", gym_id="Pendulum-v1", envpool_id="Pendulum-v1", gymnax_id="Pendulum-v1", can_compile=True
    ),
    "Bandit": Problem("MetaBandit-v0", gymnax_id="BernoulliBandit-misc", steps_per_trial=100, num_arms=2),
}


def actions_of(space: gym.Space[Any], num_envs: int, dtype: Any = None) -> list[Any]:
    """Random actions for N rows, drawn before the clock starts."""
    rng = np.random.default_rng(0)
    if isinstance(space, gym.spaces.Discrete):
        return [rng.integers(0, space.n, num_envs).astype(dtype or np.int64) for _ in range(NUM_ACTIONS)]
    shape = (num_envs, *(space.shape or ()))
    return [rng.uniform(space.low, space.high, shape).astype(dtype or np.float32) for _ in range(NUM_ACTIONS)]


def stepper(env: Any, actions: list[Any]) -> Run:
    """A function that takes so many vector steps."""

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            env.step(actions[step % NUM_ACTIONS])

    return run


def native(problem: Problem, num_envs: int, mode: AutoresetMode, *, pinned: bool, **kwargs: Any) -> Run:
    """Metagym's vector env, with one task a row for good, or a fresh task at every trial."""
    kwargs = {**problem.meta_kwargs, **kwargs}
    env = gym.make_vec(problem.meta_id, num_envs=num_envs, autoreset_mode=mode, **kwargs)
    if problem.steps_per_trial is not None:
        env = Trial(env, steps_per_trial=problem.steps_per_trial)
    if pinned:
        env.set_tasks(env.sample_tasks(num_envs))
    env.reset(seed=0)
    return stepper(env, actions_of(env.single_action_space, num_envs))


def sync(env_id: str, num_envs: int) -> Run:
    """Gymnasium's SyncVectorEnv of Gymnasium's own env."""
    env = SyncVectorEnv([lambda: gym.make(env_id)] * num_envs)
    env.reset(seed=0)
    return stepper(env, actions_of(env.single_action_space, num_envs))


def gymnasium_vector(env_id: str, num_envs: int) -> Run:
    """The vector env that Gymnasium has written by hand for this id."""
    env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return stepper(env, actions_of(env.single_action_space, num_envs))


def envpools(env_id: str, num_envs: int) -> dict[str, Run]:
    """EnvPool in each of its modes; none if it is not installed."""
    if find_spec("envpool") is None:
        return {}
    import envpool

    runs: dict[str, Run] = {}
    for threads in (1, 2):
        env = envpool.make_gymnasium(env_id, num_envs=num_envs, num_threads=threads)
        env.reset()
        space = env.action_space
        dtype = np.int32 if isinstance(space, gym.spaces.Discrete) else np.float32
        runs[f"envpool sync {threads}"] = stepper(env, actions_of(space, num_envs, dtype))
        pool = envpool.make_gymnasium(env_id, num_envs=2 * num_envs, batch_size=num_envs, num_threads=threads)
        pool.async_reset()
        runs[f"envpool async {threads}"] = asynchronous(pool, actions_of(space, num_envs, dtype))
    return runs


def asynchronous(pool: Any, actions: list[Any]) -> Run:
    """EnvPool's send and receive: twice as many envs as a batch holds."""

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            info = pool.recv()[-1]
            pool.send(actions[step % NUM_ACTIONS], info["env_id"])

    return run


def gymnax(env_id: str, num_envs: int) -> dict[str, Run]:
    """gymnax: one jitted step of N envs for each call; none if it is not installed."""
    if find_spec("gymnax") is None:
        return {}
    import gymnax as package
    import jax

    env, params = package.make(env_id)
    keys = jax.random.split(jax.random.key(0), num_envs)
    _, state = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)

    @jax.jit
    def step(key: Any, state: Any, action: Any) -> Any:
        key, now = jax.random.split(key)
        results = jax.vmap(env.step, in_axes=(0, 0, 0, None))(jax.random.split(now, num_envs), state, action, params)
        return key, *results[:5]

    space = env.action_space(params)
    if hasattr(space, "n"):
        actions = actions_of(gym.spaces.Discrete(int(space.n)), num_envs, np.int32)
    else:
        shape = tuple(space.shape)
        bounds = [np.full(shape, bound, np.float32) for bound in (space.low, space.high)]
        box = gym.spaces.Box(*bounds, dtype=np.float32)
        actions = actions_of(box, num_envs)
    held = {"key": jax.random.key(1), "state": state}

    def run(num_steps: int) -> None:
        for index in range(num_steps):
            held["key"], observation, held["state"], *rest = step(
                held["key"], held["state"], actions[index % NUM_ACTIONS]
            )
            for result in (observation, *rest):
                np.asarray(result)

    return {"gymnax, one jitted step": run}


def contenders(problem: Problem, num_envs: int, *, with_compiled: bool) -> dict[str, Run]:
    """All that are compared on one problem at one size."""
    runs = {
        "metagym, pinned tasks, NEXT_STEP": native(problem, num_envs, AutoresetMode.NEXT_STEP, pinned=True),
        "metagym, fresh tasks, NEXT_STEP": native(problem, num_envs, AutoresetMode.NEXT_STEP, pinned=False),
        "metagym, fresh tasks, SAME_STEP": native(problem, num_envs, AutoresetMode.SAME_STEP, pinned=False),
    }
    if problem.can_compile and with_compiled:
        runs["metagym, pinned tasks, NEXT_STEP, compiled"] = native(
            problem, num_envs, AutoresetMode.NEXT_STEP, pinned=True, compiled=True
        )
    if problem.gym_id is not None:
        runs["Gymnasium SyncVectorEnv"] = sync(problem.gym_id, num_envs)
    if problem.gym_id is not None and problem.gym_vector:
        runs["Gymnasium, its own vector env"] = gymnasium_vector(problem.gym_id, num_envs)
    if problem.envpool_id is not None:
        runs |= envpools(problem.envpool_id, num_envs)
    if problem.gymnax_id is not None:
        runs |= gymnax(problem.gymnax_id, num_envs)
    return runs


def scalar(env_id: str, *, pinned: bool = False, **kwargs: Any) -> Run:
    """One env through `gymnasium.make`, reset by hand."""
    env = gym.make(env_id, **kwargs)
    if pinned:
        env.unwrapped.set_task(env.unwrapped.sample_task())
    env.reset(seed=0)
    batch = actions_of(env.action_space, NUM_ACTIONS)
    actions = batch[0].tolist() if isinstance(env.action_space, gym.spaces.Discrete) else list(batch[0])

    def run(num_steps: int) -> None:
        for step in range(num_steps):
            _, _, terminated, truncated, _ = env.step(actions[step % NUM_ACTIONS])
            if terminated or truncated:
                env.reset()

    return run
