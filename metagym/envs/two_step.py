"""Two-step tasks: choose between two actions by what their usual consequences paid."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.envs.arguments import flag, integer, number
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.render import canvas, draw_arrow, draw_text, fill_disc, fill_rect, text_size
from metagym.tabular import Cell, Position, TabularFamily
from metagym.types import Array, Float, Int

__all__ = ["TwoStep", "TwoStepParams"]

_MARGIN = 0.1
# Places: 0 the first stage, 1 and 2 the states of the second, then where a round ends: 3 and 4 after state 1 with its
# likely and its unlikely outcome, 5 and 6 after state 2. If the good state may switch, places 7 to 13 repeat them for
# rounds in which it has switched an odd number of times.
_PLACES = 7
_SECOND_STAGE = np.array([0, 1, 2, 1, 1, 2, 2])
_LIKELY = np.array([False, False, False, True, False, True, False])


@dataclass(frozen=True)
class TwoStepParams(Params):
    """Columns of N tasks."""

    good_state: Array
    """State of the second stage that likely pays, 1 or 2, (N,) uint8."""
    common_state: Array
    """State of the second stage to which action 0 commonly leads, 1 or 2, (N,) uint8."""
    common_probability: Float
    """Probability that an action leads where it commonly does, (N,)."""
    reward_probability: Float
    """Probability that the good state pays, (N,)."""


class TwoStep(TabularFamily[TwoStepParams]):
    """Two-step tasks: find out which of two states pays, and choose the action that commonly leads there.

    One round is one episode of two steps: the first action leads to one of the two states, commonly to its own, and
    the second, whichever it is, collects what that state pays. Which state pays well is drawn for every trial.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | good_state | () | 1 | 2 | state | which state of the second stage likely pays |
    | common_state | () | 1 | 2 | state | to which of them action 0 commonly leads; action 1 to the other |
    | common_probability | () | 0.5 | 1 | probability | of going where an action commonly leads |
    | reward_probability | () | 0.5 | 1 | probability | with which the good state pays, and the other does not |

    All but `good_state` may be left out. `common_state` is 1 unless `random_transitions`.

    ## Action Space

    `Discrete(2)`: at the first stage the choice; at the second, both actions do the same.

    ## Observation Space

    `Discrete(3)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | 0 at the first stage, else the state of the second stage that was reached | 0 | 2 | index |

    The last observation of an episode still shows the state that paid or did not.

    ## Rewards

    At the second step: 1 with probability `reward_probability` in the good state and 1 minus it in the other, else 0.

    ## Starting State

    The first stage.

    ## Episode End

    Terminated by the second step. With a `switch_probability`, an episode is a run of `num_rounds` rounds, never
    terminated and truncated at its end: the first stage follows at once upon every second step.

    ## Information

    Nothing of its own.

    ## Arguments

    - `common_probability`: in [0.5, 1].
    - `reward_probability`: in [0.5, 1].
    - `random_transitions`: draw `common_state` uniformly for each task.
    - `switch_probability`: in [0, 1]; with which the good state changes as a round begins, the first one of an episode
      included. Above 0, the task's `good_state` is that before the first round of every episode.
    - `num_rounds`: rounds of an episode, 1 to 50,000; must be left at 100 without a `switch_probability`.

    ## Splits

    train: both values of `good_state` (and of `common_state`) with equal probability. test is refused:
    there are two tasks, or four, and none can be held out without giving the others away. Evaluate on "train",
    as the sources do. ood: the same states, `reward_probability` uniform on the part of [0.5, 1] that is more than 0.1
    away from that of training.

    ## Reference Returns

    One round, exact: random 0.5, optimal 0.7 for a known task. The best that an agent can do which must find the good
    state out, exact by weighing all counts of evidence (which every action brings to the same degree, so that the best
    choice of the moment is the best one): 6.688, 13.688, 34.688 and 69.688 over trials of 10, 20, 50 and 100 rounds;
    with `random_transitions` 6.253, 13.159, 34.137 and 69.136. With a `switch_probability`, the optimal return is that
    of an agent that always knows the good state of the round before, which no observation tells: 69.0 in an episode
    with 0.025; what the others can reach is unknown.

    ## References

    Daw et al. 2011, "Model-Based Influences on Humans' Choices and Striatal Prediction Errors". Wang et al. 2016,
    "Learning to reinforcement learn", section 3.2: common transitions 0.75, rewards 0.9 and 0.1, the good state drawn
    for each of its trials of 100 rounds. BKHMSI/Meta-RL-TwoStep-Task, `tasks/two_step.py` and
    `configs/two_step.yaml`: the switching variant with probability 0.025.

    Differs: the second stage is a step of its own, so that an agent sees the state it was led to; in that repository
    one step makes a whole round, and the next observation is where the last round led, with no first stage between.
    Its `common-prob` is 0.8 at commit 02d796e, its versions differ, and its key for the switches is spelt
    `swtich-prob`. There the good state is not drawn anew for an episode but carried over from the one before. The
    number of the round is not observed. Daw's second choice, and rewards that drift, are not here.

    ## Version History

    - v0: first version.
    """

    name = "TwoStep"
    params_type = TwoStepParams
    structural = ("good_state", "common_state")
    unsplit = "there are two tasks, or four, and none can be held out without telling the others; use split='train'"

    def __init__(
        self,
        *,
        common_probability: float = 0.75,
        reward_probability: float = 0.9,
        random_transitions: bool = False,
        switch_probability: float = 0.0,
        num_rounds: int = 100,
    ) -> None:
        self.common_probability = number("common_probability", common_probability, 0.5, 1.0)
        self.reward_probability = number("reward_probability", reward_probability, 0.5, 1.0)
        self.random_transitions = flag("random_transitions", random_transitions)
        self.switch_probability = number("switch_probability", switch_probability, 0.0, 1.0)
        self.num_rounds = integer("num_rounds", num_rounds, 1, 50_000)
        switches = self.switch_probability > 0.0
        if not switches and self.num_rounds != 100:
            raise ConfigError(f"num_rounds={num_rounds!r} needs a switch_probability; without, an episode is one round")
        state, likely = spaces.Box(1, 2, (), np.uint8), spaces.Box(0.5, 1.0, (), np.float64)
        self.task_space = spaces.Dict(
            good_state=state, common_state=state, common_probability=likely, reward_probability=likely
        )
        self.observation_space, self.action_space = spaces.Discrete(3), spaces.Discrete(2)
        self.num_structure_draws = 2
        self.num_ood_detail_draws = 1
        self.episode_length = 2 * self.num_rounds if switches else 2
        paid = Cell(reward=1.0, terminal=not switches, success=False)
        self.cells = (Cell(0.0, False, False), paid._replace(reward=0.0), paid)
        self.successors = _successors(switches)
        self.observations = _observations(switches)
        self.actions_are_effects = not self.random_transitions
        self._kinds = _kinds(switches)
        self._block = np.array(len(self.successors))  # a 0-d array, which ufuncs take faster than Python's numbers
        self._compile()

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        states = (1 + (noise >= 0.5)).astype(np.uint8)
        common = states[:, 1].copy() if self.random_transitions else np.ones(len(noise), np.uint8)
        return {"good_state": states[:, 0].copy(), "common_state": common}

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float]:
        commons = [1, 2] if self.random_transitions else [1]
        good, common = np.array(list(product([1, 2], commons)), np.uint8).T.copy()
        return {"good_state": good, "common_state": common}, np.full(len(good), 1.0 / len(good))

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        num_tasks = len(noise)
        pays = np.full(num_tasks, self.reward_probability)
        if region == "ood":
            below = max(self.reward_probability - _MARGIN - 0.5, 0.0)
            above = max(1.0 - _MARGIN - self.reward_probability, 0.0)
            place = noise[:, 0] * (below + above)
            pays = np.where(place < below, 0.5 + place, np.minimum(1.0 + below - place, 1.0))
        return {"common_probability": np.full(num_tasks, self.common_probability), "reward_probability": pays}

    @override
    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        defaults = {
            "common_state": 1,
            "common_probability": self.common_probability,
            "reward_probability": self.reward_probability,
        }
        return {**defaults, **fields}

    @override
    def check(self, params: TwoStepParams) -> None:
        if not self.random_transitions and params.common_state[0] != 1:
            raise TaskError("common_state=2: with random_transitions=False only 1 is accepted")

    @override
    def kinds(self, params: TwoStepParams, states: Int) -> Array:
        block: Int = params.good_state[:, None] * self._block
        return self._kinds.take(block + states)

    @override
    def probabilities(self, params: TwoStepParams) -> tuple[Float, ...]:
        common, likely = params.common_probability, params.reward_probability
        rare, unlikely = 1.0 - common, 1.0 - likely
        round_outcomes = (common * likely, common * unlikely, rare * likely, rare * unlikely)
        if not self.switch_probability:
            return round_outcomes
        stay, switch = 1.0 - self.switch_probability, self.switch_probability
        return (*(stay * column for column in round_outcomes), *(switch * column for column in round_outcomes))

    @override
    def effects(self, params: TwoStepParams, states: Int, actions: Int) -> Int:
        swapped: Int = actions ^ (params.common_state == 2)[:, None]
        return swapped

    @override
    def bayes_return(self, num_episodes: int) -> Float | None:
        integer("num_episodes", num_episodes, 1, 1_000_000)
        if self.switch_probability:
            return None
        common, likely = self.common_probability, self.reward_probability
        # How probably the good state and the common one are told right, and how probably the choice leads there.
        told = _certainty(likely, num_episodes)
        known = _certainty(common, num_episodes) if self.random_transitions else np.ones(num_episodes)
        led = common * known + (1.0 - common) * (1.0 - known)
        reached = led * told + (1.0 - led) * (1.0 - told)
        expected: Float = likely * reached + (1.0 - likely) * (1.0 - reached)
        return expected

    @override
    def describe(self, state: Position, params: TwoStepParams) -> str:
        place, good = int(state.cell[0]), self._good_now(state, params)
        if place % _PLACES == 0:
            return f"first stage (good: {good})\n"
        paid = ("", ", paid nothing", ", paid 1")[self.kinds(params, state.cell[:, None])[0, 0]]
        return f"state {_SECOND_STAGE[place % _PLACES]}{paid} (good: {good})\n"

    def _good_now(self, state: Position, params: TwoStepParams) -> int:
        good, switched = int(params.good_state[0]), int(state.cell[0]) >= _PLACES
        return 3 - good if switched else good

    @override
    def draw(self, state: Position, params: TwoStepParams) -> Array:
        image = canvas(260, 320)
        here = int(_SECOND_STAGE[state.cell[0] % _PLACES])
        paid = self.kinds(params, state.cell[:, None])[0, 0] == 2
        boxes = {0: (160, 56), 1: (80, 188), 2: (240, 188)}
        for side, x in ((1, 80), (2, 240)):
            draw_arrow(image, 160, 84, x, 156, "grey", thickness=3)
            action = f"A{int(side != params.common_state[0])}"
            draw_text(image, action, (160 + x) // 2 - 6 + (24 if side == 2 else -24), 110, 2)
        good = self._good_now(state, params)
        for index, (x, y) in boxes.items():
            color = "start" if index == 0 else "goal" if index == good else "grid"
            fill_rect(image, x - 44, y - 28, 88, 56, color, radius=8)
            draw_text(image, str(index), x - 38, y - 22, 2)
        x, y = boxes[here]
        fill_disc(image, x, y, 15, "white")
        fill_disc(image, x, y, 13, "agent")
        if paid:
            draw_text(image, "+1", x - text_size("+1", 2)[0] // 2, y + 36, 2, "goal")
        return image


def _successors(switches: bool) -> Int:
    """After each place (7, or 14 with switches), action and outcome: the bits switched, rare, unlikely."""
    num_copies = 1 + int(switches)
    table = np.empty((num_copies, _PLACES, 2, num_copies, 2, 2), dtype=np.int64)
    for copy, place, action, switched, rare, unlikely in np.ndindex(*table.shape):
        if place in {1, 2}:  # the good state changes as a round begins only
            after = copy * _PLACES + 1 + 2 * place + unlikely
        else:
            after = (copy ^ switched) * _PLACES + 1 + (action ^ rare)
        table[copy, place, action, switched, rare, unlikely] = after
    return table.reshape(num_copies * _PLACES, 2, -1)


def _observations(switches: bool) -> Int:
    if not switches:
        return _SECOND_STAGE.astype(np.int64)
    return np.tile(np.where(np.arange(_PLACES) < 3, _SECOND_STAGE, 0), 2).astype(np.int64)


def _kinds(switches: bool) -> Array:
    """Kind of every place, by the good state at the start (0 unused): 0 within a round, 1 unpaid and 2 paid."""
    table = np.zeros((3, 1 + int(switches), _PLACES), dtype=np.uint8)
    for good, copy in ((good, copy) for good in (1, 2) for copy in range(table.shape[1])):
        is_good = np.equal(_SECOND_STAGE, 3 - good if copy else good)
        table[good, copy, 3:] = np.where(is_good == _LIKELY, 2, 1)[3:]
    return table.reshape(-1)


def _certainty(probability: float, num_episodes: int) -> Float:
    """How probably one of two hypotheses is told right before each episode, (num_episodes,).

    Each episode speaks for the true one with `probability` of at least 0.5, else for the other.
    """
    odds = (1.0 - probability) / probability
    counts = np.ones(1)  # distribution of the number of episodes that spoke for the true one
    certainty = np.empty(num_episodes)
    for episode in range(num_episodes):
        lead = np.abs(2 * np.arange(episode + 1) - episode)
        certainty[episode] = np.sum(counts / (1.0 + odds**lead))
        counts = np.convolve(counts, [1.0 - probability, probability])
    return certainty
