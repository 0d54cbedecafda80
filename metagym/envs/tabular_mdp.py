"""Random tabular Markov decision processes: learn where actions lead and what they pay."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import integer, number
from metagym.errors import TaskError
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_text, fill_rect, fill_ring, text_size
from metagym.tabular import over_actions
from metagym.types import Array, Float, Int

__all__ = ["TabularMDP", "TabularMDPParams", "Visit"]

# Half of the smallest uniform above it stands in for a uniform of 0, whose logarithm and normal quantile are infinite.
_SMALLEST = 2.0**-54
_TOLERANCE = 1e-9
# Drawn numbers are rounded to multiples of 2 ** -30: the last bits of logarithms and quantiles depend on the processor,
# and with them the tasks' ids and the split.
_GRID = 2.0**30
_WHITE, _BLUE, _RED = np.array([255.0] * 3), np.array([0.0, 114.0, 178.0]), np.array([213.0, 94.0, 0.0])


@dataclass(frozen=True)
class TabularMDPParams(Params):
    """Columns of N decision processes."""

    transitions: Float
    """Probability of each next state, after each action in each state, (N, S, A, S)."""
    rewards: Float
    """Mean reward of each action in each state, (N, S, A)."""


class Visit(NamedTuple):
    """Where the agent is."""

    state: Int
    """Number of the state, (N,)."""


class TabularMDP(Family[Visit, TabularMDPParams]):
    """Random tabular decision processes: learn where actions lead and what they pay, over short episodes.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | transitions | (10, 5, 10) | 0 | 1 | probability | of each next state, by state and action |
    | rewards | (10, 5) | -8 | 10 | reward | mean reward, by state and action |

    Every row of `transitions` must sum to 1, to 1e-9. The means of training are normal, hence without bounds; those of
    the space are 9 standard deviations away, and the random numbers drawn from do not reach beyond 8.3.

    ## Action Space

    `Discrete(num_actions)`: actions have no meaning of their own.

    ## Observation Space

    `Discrete(num_states)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | state | 0 | 9 | index |

    ## Rewards

    Normal around the mean of the state left and the action taken, with standard deviation `reward_std`.

    ## Starting State

    State 0.

    ## Episode End

    Never terminated. Truncated after `episode_length` steps.

    ## Information

    Nothing of its own.

    ## Arguments

    - `num_states`: S, 2 to 100.
    - `num_actions`: A, 2 to 100.
    - `reward_std`: standard deviation of rewards, in [0, 100].
    - `episode_length`: steps, 1 to 100,000.

    ## Splits

    train and test: every row of `transitions` from the flat Dirichlet distribution, every mean reward normal with mean
    1 and standard deviation 1, all independent; disjoint by a hash of the rewards. There, all next states are possible.
    Numbers are rounded to multiples of 2 ** -30, so that they are the same on all processors.
    ood: the same rewards, and exactly two next states possible after each action in each state (one with two states),
    drawn uniformly, with a probability uniform on [0, 1] for the first: Garnet processes of branching factor 2.

    ## Reference Returns

    One episode, exact, by backward induction for the known task. Averaged over 200,000 training tasks (standard errors
    below 0.01): random 10.00, the action of the highest mean reward at every step 21.63, optimal 21.83. Over as many
    ood tasks: random 10.00, optimal 23.39. What the best agent that does not know the task can reach is unknown.

    ## References

    Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.2 and Table 2
    (trials of 10, 25, 50, 75 and 100 episodes). tristandeleu/pytorch-maml-rl, `maml_rl/envs/mdp.py`; lucaslingle/
    pytorch_rl2, `rl2/envs/mdp_env.py`. Garnet: Archibald, McKinnon and Thomas 1995, "On the Generation of Markov
    Decision Processes".

    Differs: the state is observed as a number, as in pytorch_rl2 (`RL2Context` makes the paper's one-hot vector of it;
    pytorch-maml-rl observes a float). pytorch-maml-rl returns the task as info.

    ## Version History

    - v0: first version.
    """

    name = "TabularMDP"
    params_type = TabularMDPParams
    structural = ("rewards",)
    initial_needs_task = False
    observe_needs_task = False
    num_step_draws = 2

    def __init__(
        self, *, num_states: int = 10, num_actions: int = 5, reward_std: float = 1.0, episode_length: int = 10
    ) -> None:
        self.num_states = integer("num_states", num_states, 2, 100)
        self.num_actions = integer("num_actions", num_actions, 2, 100)
        self.reward_std = number("reward_std", reward_std, 0.0, 100.0)
        self.episode_length = integer("episode_length", episode_length, 1, 100_000)
        pairs = (self.num_states, self.num_actions)
        self.task_space = spaces.Dict(
            transitions=spaces.Box(0.0, 1.0, (*pairs, self.num_states), np.float64),
            rewards=spaces.Box(-8.0, 10.0, pairs, np.float64),
        )
        self.observation_space = spaces.Discrete(self.num_states)
        self.action_space = spaces.Discrete(self.num_actions)
        self.num_structure_draws = self.num_states * self.num_actions
        self.num_detail_draws = self.num_structure_draws * self.num_states
        self.num_ood_detail_draws = self.num_structure_draws * 3

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        means = _normal_quantile(noise)
        means += 1.0
        means = np.rint(means * _GRID) / _GRID
        return {"rewards": means.reshape(-1, self.num_states, self.num_actions)}

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        pairs = (len(noise), self.num_states, self.num_actions)
        if region == "ood":
            return {"transitions": _garnet(noise.reshape(*pairs, 3), self.num_states)}
        # Exponentials divided by their sum have the flat Dirichlet distribution; the sign cancels.
        weights = np.maximum(noise, _SMALLEST).reshape(*pairs, self.num_states)
        np.log(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        return {"transitions": _on_grid(weights)}

    @override
    def check(self, params: TabularMDPParams) -> None:
        sums = params.transitions[0].sum(axis=-1)
        state, action = np.unravel_index(np.abs(sums - 1.0).argmax(), sums.shape)
        total = float(sums[state, action])
        if abs(total - 1.0) > _TOLERANCE:
            raise TaskError(
                f"transitions[{state}, {action}] sums to {total!r}; the probabilities of the next states must sum to 1"
            )

    @override
    def initial(self, params: TabularMDPParams, noise: Float) -> Visit:
        return Visit(np.zeros(len(noise), dtype=np.int64))

    @override
    def step(self, state: Visit, action: Array, params: TabularMDPParams, noise: Float) -> Step[Visit]:
        num_rows = len(action)
        pair = (_row_offsets(num_rows, self.num_states) + state.state) * self.num_actions
        pair += action
        reward = _normal_quantile(noise[:, 1])
        reward *= self.reward_std
        reward += params.rewards.reshape(-1).take(pair)
        pair *= self.num_states
        # Cumulative probabilities of the row needed only, one contiguous vector for each next state but the last.
        reached = params.transitions.reshape(-1).take(_column(self.num_states - 1) + pair)
        for before, here in pairwise(reached):
            np.add(here, before, out=here)
        passed = (noise[:, 0].copy() >= reached).view(np.int8)
        next_state = np.add.reduce(passed, axis=0, dtype=np.int8).astype(np.int64)
        return Step(Visit(next_state), reward, np.zeros(num_rows, dtype=np.bool_))

    @override
    def expected_reward(self, state: Visit, action: Array, params: TabularMDPParams) -> Float:
        return params.rewards[np.arange(len(params)), state.state, np.asarray(action, np.int64)]

    @override
    def observe(self, state: Visit, params: TabularMDPParams) -> Array:
        return state.state.copy()

    @override
    def optimal_return(self, params: TabularMDPParams) -> Float:
        return self.state_values(params)[:, 0]

    @override
    def random_return(self, params: TabularMDPParams) -> Float:
        return self.state_values(params, greedy=False)[:, 0]

    def state_values(self, params: TabularMDPParams, *, greedy: bool = True, horizon: int | None = None) -> Float:
        """Exact undiscounted values with `horizon` steps to go, by backward induction.

        Args:
            params: columns of N tasks.
            greedy: values of the best policy; otherwise of uniformly random actions.
            horizon: steps to go; the episode length by default.

        Returns:
            Values, (N, S).
        """
        value = np.zeros(params.rewards.shape[:2])
        for action_value in self._action_values(params, self.episode_length if horizon is None else horizon, greedy):
            value = over_actions(action_value, greedy)
        return value

    def _action_values(self, params: TabularMDPParams, horizon: int, greedy: bool) -> Iterator[Float]:
        """Exact values of actions, (N, S, A), with 1 to `horizon` steps to go, by backward induction."""
        value = np.zeros(params.rewards.shape[:2])
        for _ in range(horizon):
            action_value = params.rewards + np.einsum("nsat,nt->nsa", params.transitions, value)
            value = over_actions(action_value, greedy)
            yield action_value

    @override
    def solve(self, params: TabularMDPParams) -> Float:
        tables = self._action_values(params, self.episode_length, greedy=True)
        return np.stack([table.max(axis=2, keepdims=True) - table for table in tables], axis=1)

    @override
    def describe(self, state: Visit, params: TabularMDPParams) -> str:
        lines = []
        for index, row in enumerate(params.rewards[0].tolist()):
            mark = ">" if index == state.state[0] else " "
            lines.append(f"{mark}{index:3d}  " + " ".join(f"{mean:6.2f}" for mean in row))
        return "\n".join(lines) + "\n"

    @override
    def draw(self, state: Visit, params: TabularMDPParams) -> Array:
        here, num_states, num_actions = int(state.state[0]), self.num_states, self.num_actions
        side = max(4, min(28, 560 // (num_states + num_actions), 320 // num_states))
        top, left, gap = 36, 16, 32
        right = left + max(num_actions * side, text_size("REWARD")[0]) + gap
        width = max(num_states * side, text_size(f"NEXT AFTER {num_states}")[0])
        image = canvas(top + max(num_states, num_actions) * side + 16, right + width + 16)
        draw_text(image, "REWARD", left, 14)
        draw_text(image, f"NEXT AFTER {here}", right, 14)
        for (index, action), mean in np.ndenumerate(params.rewards[0]):
            shade = _shade((mean - 1.0) / 3.0)
            fill_rect(image, left + action * side, top + index * side, side - 1, side - 1, shade)
        for (action, after), probability in np.ndenumerate(params.transitions[0, here]):
            shade = _shade(float(np.sqrt(probability)))
            fill_rect(image, right + after * side, top + action * side, side - 1, side - 1, shade)
        fill_ring(image, left - 7, top + (here + 0.5) * side, 3, "agent", thickness=3)
        return image


def _shade(level: float) -> tuple[int, int, int]:
    """From vermillion at -1 through white at 0 to blue at 1."""
    share = min(abs(level), 1.0)
    red, green, blue = (1.0 - share) * _WHITE + share * (_BLUE if level > 0 else _RED)
    return int(red), int(green), int(blue)


@lru_cache(maxsize=64)
def _row_offsets(num_rows: int, width: int) -> Int:
    offsets = np.arange(num_rows, dtype=np.int64) * width
    offsets.setflags(write=False)
    return offsets


@lru_cache(maxsize=64)
def _column(height: int) -> Int:
    column = np.arange(height, dtype=np.int64)[:, None]
    column.setflags(write=False)
    return column


def _on_grid(probability: Float) -> Float:
    """Probabilities (..., S) as positive multiples of the grid's spacing that sum to 1 exactly."""
    units = np.maximum(np.rint(probability * _GRID), 1.0)
    largest = units.argmax(axis=-1)[..., None]
    rest = _GRID - (units.sum(axis=-1, keepdims=True) - np.take_along_axis(units, largest, axis=-1))
    np.put_along_axis(units, largest, rest, axis=-1)
    return units / _GRID


def _garnet(noise: Float, num_states: int) -> Float:
    """Transitions to two states, or to one where there are only two; from three uniforms a row, (..., S)."""
    first = (noise[..., :1] * num_states).astype(np.int64)
    states = np.arange(num_states)
    if num_states == 2:
        return np.where(states == first, 1.0, 0.0)
    second = (first + 1 + (noise[..., 1:2] * (num_states - 1)).astype(np.int64)) % num_states
    probability = np.maximum(noise[..., 2:], _SMALLEST)
    return np.where(states == first, probability, np.where(states == second, 1.0 - probability, 0.0))


def _normal_quantile(uniform: Float) -> Float:
    # Imported where it is used: scipy.special would treble the time that `gymnasium.make` takes for other families.
    from scipy.special import ndtri

    quantile: Float = ndtri(np.maximum(uniform, _SMALLEST))
    return quantile
