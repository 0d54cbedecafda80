"""The ceiling: an agent that knows the task and has solved it, for families whose dynamics are tables."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import Self

from metagym.engine import TaskEnv
from metagym.errors import ConfigError
from metagym.family import Params
from metagym.tabular import DenseTable, Position, TabularFamily
from metagym.tasks import Task
from metagym.types import Array, Float, Int
from metagym.wrappers import RevealTask
from metagym.wrappers.flat import Flat

__all__ = ["Optimal", "greedy_actions"]


class _Solution(NamedTuple):
    """One task, solved."""

    actions: Int
    """Best actions with 1, 2, ..., H steps to go, (H, S)."""
    table: DenseTable
    """Of this task, N = 1."""
    starts: Float
    """Probability that an episode starts in each state, (S,)."""
    alike: dict[Any, list[int]]
    """From what states look like to the states that look so."""


class Optimal:
    """The best policy for a known task, by backward induction over the family's tables.

    It sees what `RevealTask` shows, ``[observation | task]``, and nothing else. The task it reads there, in single
    precision. The clock, which the best actions hang on, since episodes have a last step, it keeps in the state that
    `predict` hands on, as recurrent policies keep their memory. There it also keeps which states it may be in, for
    families in which some look alike: it acts as in the likeliest. Where states can be told apart, by what they look
    like or by how they were reached, its expected return is the family's `optimal_return`. Of equally good actions it
    takes the first.

    There is nothing to train. Tasks are solved when they are first met, and kept.

    Args:
        policy: ignored; there because every learner has it.
        env: id, scalar env or vector env of a tabular family.
        env_kwargs: keywords for `gymnasium.make`, with an id.
        seed: ignored; nothing is drawn.

    Attributes:
        observation_space: that of `RevealTask`.
        action_space: `Discrete`.
        num_timesteps: environment steps taken in training: none.

    Raises:
        ConfigError: if `env` is of no family whose dynamics are tables.
    """

    def __init__(
        self,
        policy: str | None = None,
        env: Any = None,
        *,
        env_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        del policy, seed
        if isinstance(env, str):
            env = gym.make(env, **(env_kwargs or {}))
        self.family: Any = getattr(getattr(env, "unwrapped", None), "family", None)
        if not isinstance(self.family, TabularFamily):
            raise ConfigError(
                "Optimal solves families whose dynamics are tables (metagym.tabular.TabularFamily), such as "
                f"'MetaFrozenLake-v0'; got {env!r}"
            )
        shown = self.make_env()
        self.observation_space, self.action_space = shown.observation_space, shown.action_space
        self.num_timesteps = 0
        self._flat = Flat(self.family.observation_space)
        self._solved: dict[bytes, _Solution] = {}

    def make_env(
        self,
        task: Task | Mapping[str, ArrayLike] | None = None,
        *,
        split: str | None = "train",
        render_mode: str | None = None,
    ) -> RevealTask:
        """A scalar env that it can act in: its observations show the task.

        Args:
            task: the task of every trial; None: each reset draws one.
            split: what resets draw from: "train", "test", "ood", or None for all.
            render_mode: of the env.
        """
        env = TaskEnv(self.family, split=split, render_mode=render_mode)
        env.set_task(task)
        return RevealTask(env)

    def set_random_seed(self, seed: int) -> None:
        """Nothing: it draws nothing."""
        del seed

    def learn(self, total_timesteps: int, **options: Any) -> Self:
        """Nothing: it takes no step."""
        del total_timesteps, options
        return self

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """The best actions.

        Args:
            observation: of `RevealTask`, (D + P,) or (N, D + P).
            state: steps since the episode began (N,), where it may be now (N, S), and the actions taken there (N,);
                None at the start.
            episode_start: where an episode starts, (N,).
            deterministic: ignored; it is.

        Returns:
            Actions, (N,) for N observations, and the new state.

        Raises:
            ConfigError: if an observation is none of the family's.
        """
        del deterministic
        shown = np.atleast_2d(np.asarray(observation, np.float32))
        clock, places, taken = self._unpack(state, len(shown))
        if episode_start is not None and state is not None:
            clock = np.where(episode_start, 0, clock)
        actions = np.empty(len(shown), np.int64)
        for row, one in enumerate(shown):
            solution = self._solution(one[self._flat.width :])
            prior = _after(solution.table, places[row], taken[row]) if clock[row] else solution.starts
            places[row] = self._places(one[: self._flat.width], solution, prior)
            left = max(self.family.episode_length - int(clock[row]), 1)
            actions[row] = solution.actions[left - 1, places[row].argmax()]
        return actions.reshape(np.shape(observation)[:-1]), (clock + 1, places, actions)

    def _unpack(self, state: tuple[Array, ...] | None, num_rows: int) -> tuple[Int, Float, Int]:
        if state is None:
            places = np.zeros((num_rows, len(self.family.successors)))
            return np.zeros(num_rows, np.int64), places, np.zeros(num_rows, np.int64)
        return state[0], state[1].copy(), state[2]

    def _places(self, look: Array, solution: _Solution, prior: Float) -> Float:
        """Probabilities of the states that look so, (S,)."""
        alike = solution.alike.get(self._key(look))
        if alike is None:
            raise ConfigError(f"no state of {self.family.name} looks like {look.tolist()}")
        places = np.zeros_like(prior)
        # Nothing is left where another env than the family's own is played: any state that looks so may be it.
        places[alike] = prior[alike] if prior[alike].any() else 1.0
        likely: Float = places / places.sum()
        return likely

    def _key(self, look: Array) -> Any:
        return int(look.argmax()) if isinstance(self._flat.space, spaces.Discrete) else look.tobytes()

    def _solution(self, task: Array) -> _Solution:
        key = task.tobytes()
        if key not in self._solved:
            self._solved[key] = self._solve(_params_of(self.family, task))
        return self._solved[key]

    def _solve(self, params: Params) -> _Solution:
        states = np.arange(len(self.family.successors))
        (starts,) = self.family.starts(params)
        chances = np.bincount(starts, minlength=len(states)) / len(starts)
        looks = np.zeros((len(states), self._flat.width), np.float32)
        self._flat.write(self.family.observe(Position(states), params.take(np.zeros_like(states))), looks)
        alike: dict[Any, list[int]] = {}
        for number, look in enumerate(looks):
            alike.setdefault(self._key(look), []).append(number)
        return _Solution(greedy_actions(self.family, params)[0], self.family.dense(params), chances, alike)


def greedy_actions(family: TabularFamily[Any], params: Params) -> Int:
    """The best action in every state with every number of steps to go, by backward induction.

    Args:
        family: of tables.
        params: columns of N tasks.

    Returns:
        Actions with 1, ..., H steps to go, (N, H, S), H the episode length; the first of equally good ones.
    """
    dense = family.dense(params)
    continues = dense.probability * ~dense.terminated
    gain = np.einsum("nsak,nsak->nsa", dense.probability, dense.reward)
    rows = np.arange(len(params))[:, None, None, None]
    num_states = len(family.successors)
    value = np.zeros((len(params), num_states))
    actions = np.empty((len(params), family.episode_length, num_states), np.int64)
    for left in range(family.episode_length):
        action_value = gain + np.einsum("nsak,nsak->nsa", continues, value[rows, dense.successor])
        actions[:, left] = action_value.argmax(axis=2)
        value = action_value.max(axis=2)
    return actions


def _after(table: DenseTable, places: Float, action: int) -> Float:
    """Probabilities of the states that an action leads to, (S,)."""
    weights = places[:, None] * table.probability[0, :, action]
    reached = np.bincount(table.successor[0, :, action].ravel(), weights.ravel(), minlength=len(places))
    return reached.astype(np.float64)


def _params_of(family: TabularFamily[Any], flat: Array) -> Params:
    """One task from its flattened form, as columns of length 1."""
    fields = spaces.unflatten(family.task_space, flat.astype(np.float64))
    columns = {}
    for name, space in family.task_space.items():
        value = np.asarray(fields[name], dtype=space.dtype)
        # Rounding to single precision may have led out of the bounds.
        columns[name] = (np.clip(value, space.low, space.high) if isinstance(space, spaces.Box) else value)[None]
    params: Params = family.params_type(**columns)
    return params
