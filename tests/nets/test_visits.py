"""Visits to arms along packed trials, counted again one by one."""

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metagym.nets.visits import DenseArms, VisitedArms, visits_of

ARMS = 3


def packed(trials):
    """One-hot rows of the arms (or None) that trials, longest first, took before each step; and batch sizes."""
    steps = [[trial[t] for trial in trials if t < len(trial)] for t in range(len(trials[0]))]
    rows = [np.zeros(ARMS) if arm is None else np.eye(ARMS)[arm] for step in steps for arm in step]
    return th.tensor(np.array(rows), dtype=th.float32), tuple(len(step) for step in steps)


HISTORIES = st.lists(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=7), min_size=1, max_size=5).map(
    lambda trials: sorted(trials, key=len, reverse=True)
)


@settings(max_examples=60, deadline=None)
@given(trials=HISTORIES)
def test_every_visit_is_found_with_the_one_before_and_every_step_knows_the_last(trials):
    taken, sizes = packed(trials)
    visits = visits_of(taken, sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    found = {}
    for place in range(len(visits.steps)):
        time, trial, arm = (int(column[place]) for column in (visits.times, visits.trials, visits.arms))
        assert trials[trial][time] == arm
        assert int(visits.steps[place]) == offsets[time] + trial
        found[trial, arm, time] = place + 1
    assert len(found) == sum(arm is not None for trial in trials for arm in trial)
    for trial, history in enumerate(trials):
        last = [0] * ARMS
        for time, arm in enumerate(history):
            if arm is not None:
                place = found[trial, arm, time]
                assert int(visits.previous[place - 1]) == last[arm]
                last[arm] = place
            assert visits.latest[offsets[time] + trial].tolist() == last
    # Places are those of packed sequences: a visit lies as many blocks further as it has predecessors.
    assert sum(visits.batch_sizes) == len(visits.steps)
    block = np.repeat(np.arange(len(visits.batch_sizes)), visits.batch_sizes)
    for place, previous in enumerate(visits.previous.tolist()):
        assert block[place] == (0 if previous == 0 else block[previous - 1] + 1)
        if previous:
            starts = np.cumsum([0, *visits.batch_sizes])
            assert place - starts[block[place]] == previous - 1 - starts[block[previous - 1]]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("trials", [[[None, 0, 0, 1]] * 2, [[None, 2, 1, 2], [None, 0], [None]], [[None]]])
def test_running_sums_are_means_over_all_arms(trials, told):
    th.manual_seed(0)
    taken, sizes = packed(trials)
    visits, width = visits_of(taken, sizes), 4
    memories = th.cat([th.zeros(1, width), th.randn(len(visits.steps), width)])
    shared = th.zeros(len(taken), 1)
    of_task = th.randn(len(trials), ARMS, 2)
    tasks = th.cat([of_task[:size] for size in sizes]) if told else None
    read = nn.Sequential(nn.Linear(width + 2 * told, 5), nn.Tanh())
    seen = VisitedArms(shared, memories, visits, sizes)
    dense = DenseArms(shared, memories[visits.latest])
    th.testing.assert_close(seen.pooled(read, tasks), dense.pooled(read, tasks))
    keys = nn.Linear(width, 3)
    th.testing.assert_close(seen.keys(keys), dense.keys(keys))
