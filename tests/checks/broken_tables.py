"""Families made to break one law of tables, drivers or returns each, and as few others as they can."""

import numpy as np

from metagym.tabular import Cell, Position
from tests.checks.broken import Strip, Walk
from tests.checks.broken_families import breaks

# --- tables ----------------------------------------------------------------------------------------------------------


@breaks("table entries")
class ThreeKindsOfLeads(Strip):
    def __init__(self):
        super().__init__()
        self.leads = np.tile(np.arange(6), (3, 1))


@breaks("table probabilities", "table of steps", "simulated returns")
class TooLikely(Strip):
    def probabilities(self, params):
        return 1.0 - params.slip, params.slip + 0.25


@breaks("absorbing states")
class PaysAfterTheEnd(Strip):
    def dense(self, params):
        table = super().dense(params)
        over = table.terminated.all(axis=(2, 3))
        table.reward[over] = 3.0
        return table


@breaks("reachable success")
class Walled(Strip):
    def __init__(self):
        super().__init__()
        self.successors = self.successors.copy()
        self.successors[2, 1, 0] = 2
        self._compile()


@breaks("table of starts", "simulated returns")
class StartsElsewhere(Strip):
    num_initial_draws = 1

    def initial(self, params, noise):
        return Position((noise[:, 0] > 0.5).astype(np.int64) * 5)


@breaks("table of steps", "simulated returns")
class Toll(Strip):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward - 0.125 * action)


@breaks("table of steps")
class ForgetsEffects(Strip):
    actions_are_effects = True

    def effects(self, params, states, actions):
        return 1 - actions


# --- driven by the engine --------------------------------------------------------------------------------------------


@breaks("scalar equals vector", "declared draws")
class FeelsTheMemory(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward + 1e-9 * noise.flags.writeable)


@breaks("equal seeds", "purity", "row independence", "scalar equals vector", "declared draws", "permutation")
class Tires(Walk):
    tired = 0.0

    def initial(self, params, noise):
        self.tired += 1e-9
        return super().initial(params, noise)

    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward - self.tired)


@breaks("copies")
class HoldsAFunction(Walk):
    def __init__(self):
        super().__init__()
        self.hook = lambda: 0


@breaks("truncation", "equal seeds")
class LosesTime(Walk):
    reads = 0

    @property
    def episode_length(self):
        self.reads += 1
        return 5 + self.reads % 2


@breaks("pictures")
class PaintsInFloats(Walk):
    def draw(self, state, params):
        return np.zeros((4, 4, 3))


@breaks("pictures")
class GrowingPictures(Walk):
    def draw(self, state, params):
        return np.zeros((4 + int(state.visits[0]), 4, 3), np.uint8)


@breaks("pictures")
class SaysNothing(Walk):
    def describe(self, state, params):
        return ""


# --- returns ---------------------------------------------------------------------------------------------------------


@breaks("reference returns", "simulated returns", "bayes return")
class WorseThanChance(Walk):
    def optimal_return(self, params):
        return 0.2 * super().optimal_return(params)

    def random_return(self, params):
        return super().optimal_return(params) / 3.0


@breaks("reference returns")
class SingleReturns(Walk):
    def optimal_return(self, params):
        return (params.pay * (1.0 - 0.9**self.episode_length) / 0.1).astype(np.float32)

    def random_return(self, params):
        return super().random_return(params).astype(np.float64)


@breaks("simulated returns")
class StatesTooMuch(Walk):
    def random_return(self, params):
        return 1.25 * super().random_return(params)


@breaks("simulated returns", "reference returns")
class RareReward(Strip):
    cells = (Cell(0.0, False, False), Cell(1.0, True, True))

    def random_return(self, params):
        return super().random_return(params) + 0.125


@breaks("bayes return")
class KnowsMore(Walk):
    def bayes_return(self, num_episodes):
        return 1.5 * super().bayes_return(num_episodes)
