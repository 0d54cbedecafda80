"""T-mazes: remember a cue for as long as the corridor lasts, then turn to the arm that it named."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of, integer, number
from metagym.errors import ConfigError
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_text, fill_disc, fill_rect
from metagym.types import Array, Float, Int

__all__ = ["TMaze", "TMazeParams", "Walk"]

_MAX_LENGTH = 10_000
_UNSEEN, _SEEING, _SEEN = 0, 1, 2
_MOVE_X, _MOVE_Y, _HEIGHTS = np.array([1, 0, -1, 0]), np.array([0, 1, 0, -1]), np.array([-1, 1])
_ZERO, _ONE, _MINUS_ONE = np.array(0), np.array(1), np.array(-1)  # 0-d arrays: faster than Python's numbers


@dataclass(frozen=True)
class TMazeParams(Params):
    """Columns of N mazes."""

    corridor_length: Int
    """Cells from the start to the junction, (N,)."""
    arm: Array
    """Which arm pays, 0 the lower and 1 the upper, (N,) uint8."""

    @property
    def goal(self) -> Int:
        """Height of the arm that pays, -1 or 1, (N,)."""
        return _HEIGHTS.take(self.arm)


class Walk(NamedTuple):
    """Where the agent is, and what it has seen."""

    x: Int
    """Cell along the corridor; the cue is at 0, (N,)."""
    y: Int
    """-1 in the lower arm, 1 in the upper one, else 0, (N,)."""
    time: Int
    """Steps taken; in the active maze one less, from -1, so that whoever lags has x below it, (N,)."""
    cue: Int
    """0 not yet seen, 1 seen just now, 2 seen before, (N,)."""


class TMaze(Family[Walk, TMazeParams]):
    """T-mazes: remember a cue for as long as the corridor lasts, then turn to the arm that it named.

    There is no time to lose: an episode lasts as long as the shortest way that takes in the cue. The first sight of
    the cue in each episode tells which arm pays, so the memory that is tested is that of an episode. In the passive
    maze the agent starts on the cue: there the first observation shows a part of the task.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | corridor_length | () | 1 | 200 | cells | from the start to the junction |
    | arm | () | 0 | 1 | index | which arm pays: 0 the lower, 1 the upper |

    The longest corridor accepted is twice the longest of training.

    ## Action Space

    `Discrete(4)`: 0 right (towards the junction), 1 up, 2 left, 3 down. Walls hold the agent back.

    ## Observation Space

    `Box(-1.0, 1.0, (2,), float32)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | 1 at the junction and in the arms, else 0 | -1 | 1 | flag |
    | 1 | at the first sight of the cue the arm that pays, else the arm the agent is in, or 0 | -1 | 1 | 1 is up |

    All of the corridor looks alike, also the place of the cue once it has been seen.

    ## Rewards

    At the last step 1 in the arm that pays, else 0. At every other step `penalty` where the agent lags behind the
    shortest way: where it is nearer to the start than the number of its steps (in the active maze one less) would
    allow. With `penalize="moves"`, for every action but right instead, in the active maze from the second step on.

    ## Starting State

    Passive: at the cue. Active: one cell from it towards the junction.

    ## Episode End

    Terminated after corridor_length + 1 steps (passive) or corridor_length + 3 (active), wherever the agent is. No
    task can be truncated.

    ## Information

    `is_success`: whether the episode ended at this step in the arm that pays.

    ## Arguments

    - `variant`: "passive" or "active".
    - `corridor_length`: an integer of 1 to 10,000, or a pair (shortest, longest).
    - `penalty`: of a step that lags, in [-100, 0]; None for -1 / corridor_length.
    - `penalize`: "lag" or "moves".

    ## Splits

    train and test: lengths uniform on the range given, both arms with equal probability; the lengths are enumerated,
    and train and test share none. With a single length nothing can be held out: train has both arms, and there is no
    test part. ood: lengths above the longest of training, up to twice as long, uniform.

    ## Reference Returns

    Exact. optimal 1: nobody who goes for the cue first and does not tarry is ever penalised, so the task need not be
    known, and the Bayes-optimal return is 1 from the first episode on. random, by following the distribution of the
    agent's place through the episode: with length 10, -0.9667 (passive) and -0.9741 (active); with the default
    arguments, averaged over all tasks, -0.9858.

    ## References

    Ni, Ma, Eysenbach and Bacon 2023, "When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment";
    twni2016/Memory-RL, `envs/tmaze.py` (`TMazeClassicPassive`, `TMazeClassicActive`) and `configs/envs/
    tmaze_passive.py` (penalty of -1 / length). Bakker 2001, "Reinforcement Learning with Long Short-Term Memory".
    `penalize="moves"`: UT-Austin-RPL/amago, `amago/envs/builtin/tmaze.py` (`TMazeAltPassive`, `TMazeAltActive`).

    Differs: the length may vary from task to task; in the sources it is a constant of the environment. In the sources
    the arm is drawn anew for every episode, here for every trial. Not here: `distract_reward`, `expose_goal`,
    positions that can be told apart, and an observed clock. AMAGO's default penalty is 0.

    ## Version History

    - v0: first version.
    """

    name = "TMaze"
    params_type = TMazeParams
    structural = ("corridor_length",)
    has_success = True
    initial_needs_task = False
    num_structure_draws = 1
    num_detail_draws = 1

    def __init__(
        self,
        *,
        variant: str = "passive",
        corridor_length: int | Sequence[int] = (2, 100),
        penalty: float | None = None,
        penalize: str = "lag",
    ) -> None:
        self.variant = choice_of("variant", variant, ["passive", "active"])
        self.lengths = _range(corridor_length)
        self.penalty = None if penalty is None else number("penalty", penalty, -100.0, 0.0)
        self.penalize = choice_of("penalize", penalize, ["lag", "moves"])
        self.start = int(self.variant == "active")
        shortest, longest = self.lengths
        self.episode_length = 2 * longest + 1 + 2 * self.start
        self.task_space = spaces.Dict(
            corridor_length=spaces.Box(1, 2 * longest, (), np.int64), arm=spaces.Box(0, 1, (), np.uint8)
        )
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(4)
        if shortest == longest:
            self.unsplit = "there is a single length; evaluate on split='train', which has both arms"

    # --- tasks -------------------------------------------------------------------------------------------------

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        shortest, longest = self.lengths if region == "train" else (self.lengths[1] + 1, 2 * self.lengths[1])
        return {"corridor_length": shortest + (noise[:, 0] * (longest - shortest + 1)).astype(np.int64)}

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        return {"arm": (noise[:, 0] >= 0.5).astype(np.uint8)}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        lengths = np.arange(self.lengths[0], self.lengths[1] + 1, dtype=np.int64)
        return {"corridor_length": lengths}, np.full(len(lengths), 1.0 / len(lengths))

    # --- dynamics ----------------------------------------------------------------------------------------------

    @override
    def initial(self, params: TMazeParams, noise: Float) -> Walk:
        zeros = np.zeros(len(noise), dtype=np.int64)
        cue = np.full(len(noise), _UNSEEN if self.start else _SEEING)
        return Walk(zeros + self.start, zeros, zeros - self.start, cue)

    @override
    def step(self, state: Walk, action: Array, params: TMazeParams, noise: Float) -> Step[Walk]:
        junction = params.corridor_length + self.start if self.start else params.corridor_length
        x = _MOVE_X.take(action)
        x *= np.equal(state.y, _ZERO)
        x += state.x
        np.minimum(np.maximum(x, _ZERO, out=x), junction, out=x)
        y = _MOVE_Y.take(action)
        y *= np.equal(state.x, junction)
        y += state.y
        np.minimum(np.maximum(y, _MINUS_ONE, out=y), _ONE, out=y)
        time = state.time + _ONE
        done = time > junction
        success = np.equal(y, params.goal)
        success &= done
        if self.penalize == "lag":
            charged = x < time
            charged ^= done  # at the last step everybody lags
        else:
            charged = np.not_equal(action, _ZERO)
            charged &= time > _ZERO
            charged &= ~done
        reward = self._penalties(params)
        reward *= charged
        reward += success
        return Step(Walk(x, y, time, self._sight(state.cue, x)), reward, done, success)

    def _penalties(self, params: TMazeParams) -> Float:
        length = params.corridor_length
        return np.divide(-1.0, length) if self.penalty is None else np.full(len(length), self.penalty)

    def _sight(self, before: Int, x: Int) -> Int:
        cue = np.full(len(x), _SEEN)
        if self.start:  # nobody has seen the cue yet who does not start on it
            np.copyto(cue, np.equal(x, _ZERO), where=np.equal(before, _ZERO))
        return cue

    @override
    def observe(self, state: Walk, params: TMazeParams) -> Array:
        observation = np.empty((len(state.x), 2), dtype=np.float32)
        np.greater_equal(state.x, params.corridor_length + self.start, out=observation[:, 0])
        shown = params.goal
        shown *= np.equal(state.cue, _ONE)
        shown += state.y
        observation[:, 1] = shown
        return observation

    # --- limits ------------------------------------------------------------------------------------------------

    @override
    def optimal_return(self, params: TMazeParams) -> Float:
        return np.ones(len(params))

    @override
    def bayes_return(self, num_episodes: int) -> Float:
        return np.ones(integer("num_episodes", num_episodes, 1, 1_000_000))

    @override
    def random_return(self, params: TMazeParams) -> Float:
        lengths, rows = np.unique(params.corridor_length, return_inverse=True)
        expected = np.array([_random_walk(int(length), self.start) for length in lengths])[rows]
        penalized, arrived = expected[:, 0], expected[:, 1]
        if self.penalize == "moves":
            # All actions but one, at all steps but the last, and in the active maze the first.
            penalized = 0.75 * (params.corridor_length + self.start)
        mean: Float = self._penalties(params) * penalized + 0.5 * arrived
        return mean

    # --- pictures ----------------------------------------------------------------------------------------------

    @override
    def describe(self, state: Walk, params: TMazeParams) -> str:
        x, y, time = (int(column[0]) for column in state[:3])
        junction = int(params.corridor_length[0]) + self.start
        place = "in the upper arm" if y > 0 else "in the lower arm" if y < 0 else f"at {x} of {junction}"
        arm = "upper" if params.arm[0] else "lower"
        return f"{place}, step {time + self.start} of {junction + self.start + 1} (pays: the {arm} arm)\n"

    @override
    def draw(self, state: Walk, params: TMazeParams) -> Array:
        junction = int(params.corridor_length[0]) + self.start
        side = min(40.0, 640.0 / (junction + 1))
        tall, reach, left, middle = max(side, 6.0), max(side, 24.0), 20.0, 90.0
        end = left + side * (junction + 1)
        image = canvas(180, 680, "wall")
        fill_rect(image, left, middle - tall / 2, end - left, tall, "paper")
        fill_rect(image, left, middle - tall / 2, tall, tall, "yellow")
        for height in (1, -1):
            color, top = "goal" if height == params.goal[0] else "paper", -tall / 2 - reach if height > 0 else tall / 2
            fill_rect(image, end - tall, middle + top, tall, reach, color)
        if state.cue[0] == _SEEING:
            draw_text(image, "UP" if params.arm[0] else "DOWN", 8, int(middle + tall / 2) + 8, 2, "yellow")
        share = int(state.x[0]) / junction
        x = left + tall / 2 + share * (end - left - tall)
        y = middle - int(state.y[0]) * (tall + reach) / 2
        fill_disc(image, x, y, max(0.36 * side, 5.0), "agent")
        return image


def _range(value: int | Sequence[int]) -> tuple[int, int]:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        value = (value, value)
    pair = list(value)
    if len(pair) != 2:
        raise ConfigError(f"corridor_length={value!r} is not accepted; accepted is an integer or a pair of them")
    shortest, longest = (integer("corridor_length", bound, 1, _MAX_LENGTH) for bound in pair)
    if shortest > longest:
        raise ConfigError(f"corridor_length={value!r} is not accepted; in a pair, the shortest comes first")
    return shortest, longest


@lru_cache(maxsize=4096)
def _random_walk(length: int, start: int) -> tuple[float, float]:
    """Of uniformly random actions: steps at which they lag, expected, and how probably they end in an arm."""
    junction = start + length
    corridor, arms = np.zeros(junction + 1), 0.0  # probability of each cell, and of both arms together
    corridor[start] = 1.0
    lagging = 0.0
    for time in range(1, junction + start + 1):
        corridor, arms = _walk_on(corridor, arms)
        # The arms are as far from the start as the junction, and nobody is there early enough to lag.
        lagging += corridor[: max(time - start, 0)].sum()
    return lagging, _walk_on(corridor, arms)[1]


def _walk_on(corridor: Float, arms: float) -> tuple[Float, float]:
    stay = 0.5 * corridor  # up and down, but at the junction
    stay[0] += 0.25 * corridor[0]
    stay[-1] = 0.25 * corridor[-1] + 0.25 * arms
    stay[1:] += 0.25 * corridor[:-1]
    stay[:-1] += 0.25 * corridor[1:]
    return stay, 0.5 * corridor[-1] + 0.75 * arms
