"""Families made to break one law of rows or tasks each, and as few others as they can."""

import random

import numpy as np
import pytest
from gymnasium import spaces

from metagym import TaskError
from tests.checks.broken import NUM_ROWS, Strip, Walk, WalkParams, WalkState

CASES = []


def breaks(*laws):
    """A family that breaks the first of `laws`, and the others with it because it has to."""

    def note(kind):
        CASES.append(pytest.param(kind, laws, id=f"{laws[0]}: {kind.__name__}"))
        return kind

    return note


# --- what a family declares and returns ------------------------------------------------------------------------------


@breaks("declarations")
class NumberForFlag(Walk):
    has_success = 1


@breaks("declarations", "scalar equals vector")
class ActionsFromOne(Walk):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(3, start=np.int64(1))


@breaks("drawn fields", "task round trips", "task space", "scalar equals vector")
class SingleDetails(Walk):
    def draw_details(self, noise, region):
        return {"wind": super().draw_details(noise, region)["wind"].astype(np.float32)}


@breaks("returned types")
class WiderVisits(Walk):
    def initial(self, params, noise):
        return WalkState(noise[:, 0] - 0.5, np.zeros(len(noise), np.int32))

    def step(self, state, action, params, noise):
        return super().step(state._replace(visits=state.visits.astype(np.int64)), action, params, noise)


@breaks("returned types", "scalar equals vector")
class SingleRewards(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward.astype(np.float32))


@breaks("values", "scalar equals vector")
class FarAway(Walk):
    def observe(self, state, params):
        return super().observe(state, params) * np.where(state.visits > 3, 100, 1)[:, None].astype(np.float32)


@breaks("values", "simulated returns")
class EndlessReward(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=np.where(noise[:, 0] > 0.98, np.inf, step.reward))


@breaks("success flags", "scalar equals vector")
class SilentSuccess(Walk):
    def step(self, state, action, params, noise):
        return super().step(state, action, params, noise)._replace(success=None)


# --- rows ------------------------------------------------------------------------------------------------------------


@breaks("row independence")
class CountsRows(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward + (len(action) == NUM_ROWS))


@breaks("row independence", "scalar equals vector", "simulated returns")
class Relative(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward - step.reward.max())


@breaks("permutation")
class LastRowPays(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward + (np.arange(len(action)) == NUM_ROWS - 1))


@breaks("purity", "row independence", "permutation", "declared draws")
class WritesActions(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        action[action == 0] += 1
        return step


@breaks("purity", "row independence", "permutation", "declared draws", "scalar equals vector", "equal seeds")
class Counts(Walk):
    calls = 0

    def step(self, state, action, params, noise):
        self.calls += 1
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward + 1e-9 * (self.calls % 3))


@breaks("fresh arrays")
class OneArrayTwice(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(success=step.terminated if len(action) == NUM_ROWS else step.terminated.copy())


@breaks("fresh arrays", "permutation", "scalar equals vector")
class OneBuffer(Walk):
    def __init__(self):
        super().__init__()
        self.buffer = np.zeros((4096, 2), np.float32)

    def observe(self, state, params):
        self.buffer[: len(state.visits)] = super().observe(state, params)
        return self.buffer[: len(state.visits)]


@breaks("declared draws")
class LooksBehind(Walk):
    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        if noise.base is None or len(noise) != NUM_ROWS:
            return step
        return step._replace(reward=step.reward + noise.base.reshape(NUM_ROWS, -1)[:, -1])


@breaks("no global generator")
class DrawsByNumPy(Walk):
    def step(self, state, action, params, noise):
        np.random.rand()  # noqa: NPY002
        return super().step(state, action, params, noise)


@breaks("no global generator")
class DrawsByPython(Walk):
    def draw(self, state, params):
        random.random()
        return super().draw(state, params)


@breaks("initial_needs_task")
class StartsByTask(Walk):
    def initial(self, params, noise):
        state = super().initial(params, noise)
        return state._replace(visits=(8 * params.pay[: len(noise)]).astype(np.int64))

    def observe(self, state, params):
        return np.zeros((len(state.visits), 2), np.float32)


@breaks("observe_needs_task", "scalar equals vector")
class ShowsTheTaskLater(Walk):
    def observe(self, state, params):
        shown = super().observe(state, params)
        shown[:, 1] = np.where(state.visits > 0, params.pay[: len(shown)], 0.0)
        return shown


@breaks("hidden task")
class ShowsTheTaskAtOnce(Walk):
    observe_needs_task = True

    def observe(self, state, params):
        return np.stack([state.position, params.pay], axis=1).astype(np.float32)


# --- tasks -----------------------------------------------------------------------------------------------------------


@breaks("independent tasks", "scalar equals vector")
class FullBatchesPayLess(Walk):
    def draw_structure(self, noise, region):
        drawn = super().draw_structure(noise, region)
        return {"pay": drawn["pay"] * (0.5 if len(noise) == NUM_ROWS else 1.0)}


@breaks("task space", "task round trips")
class NegativeZero(Walk):
    def draw_details(self, noise, region):
        return {"wind": np.where(noise[:, 0] < 0.5, -0.0, noise[:, 0])}


@breaks("task space", "task round trips", "disjoint splits", "copies", "scalar equals vector")
class RefusesItsTasks(Walk):
    def check(self, params):
        if params.pay[0] > 0.5:
            raise TaskError(f"pay={params.pay[0]}")


@breaks("task round trips")
class RoundsColumns(Walk):
    def params_of(self, tasks):
        params = super().params_of(tasks)
        return WalkParams(params.pay, params.wind.astype(np.float32).astype(np.float64))


@breaks("refused tasks")
class Clips(Walk):
    def normalize(self, fields):
        if isinstance(fields.get("pay"), float | np.ndarray) and np.ndim(fields["pay"]) == 0:
            return {**fields, "pay": np.minimum(np.abs(fields["pay"]), 2.0)}
        return fields


@breaks("refused tasks")
class FillsIn(Walk):
    def normalize(self, fields):
        return {"pay": 1.0, **fields}


@breaks("disjoint splits", "task space", "task round trips", "enumeration", "scalar equals vector")
class ListedInBytes(Strip):
    def enumerate_structures(self):
        return {"goal": np.arange(1, 5, dtype=np.uint8)}, np.full(4, 0.25)


@breaks("structure decides", "disjoint splits", "refused tasks", "task space", "task round trips")
class DetailsInTheStructure(Walk):
    def normalize(self, fields):
        if "pay" in fields and "wind" in fields and isinstance(fields["wind"], np.ndarray | np.floating):
            return {**fields, "pay": np.asarray(fields["pay"]) * (1 - 1e-6 * (np.asarray(fields["wind"]) > 0.5))}
        return fields


@breaks("ood outside")
class OneRegion(Walk):
    def draw_structure(self, noise, region):
        return {"pay": noise[:, 0].copy()}


@breaks("ood outside")
class KnownGoals(Strip):
    def draw_structure(self, noise, region):
        goal = 1 + (4 * noise[:, 0]).astype(np.int64)
        return {"goal": 5 - goal if region == "ood" else goal}


@breaks("enumeration")
class OtherWeights(Strip):
    def enumerate_structures(self):
        return {"goal": np.arange(1, 5)}, np.array([0.4, 0.3, 0.2, 0.1])


@breaks("enumeration")
class WeightsOfMoreThanOne(Strip):
    def enumerate_structures(self):
        return {"goal": np.arange(1, 5)}, np.full(4, 0.26)


@breaks("enumeration")
class LeavesOneOut(Strip):
    def enumerate_structures(self):
        return {"goal": np.arange(1, 4)}, np.full(3, 1 / 3)
