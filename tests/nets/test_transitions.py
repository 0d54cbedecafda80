"""What was seen of decision processes: counted by hand, and the same a step at a time and along whole trials."""

import numpy as np
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.nets.transitions import Seen, advanced, blank, context_of, seen_along
from tests.nets.packing import pack

STATES, ACTIONS = 3, 2


def observation(state, action, reward, start):
    here, taken = np.eye(STATES)[state], np.zeros(ACTIONS) if action is None else np.eye(ACTIONS)[action]
    return np.concatenate([here, taken, [reward, start]])


def played(length, rng):
    """A trial of random episodes, (length, STATES + ACTIONS + 2)."""
    starts = rng.random(length) < 0.3
    starts[0] = True
    rows = [observation(0, None, 0.0, 1.0)]
    for start in starts[1:]:
        state = 0 if start else rng.integers(STATES)
        rows.append(observation(state, rng.integers(ACTIONS), rng.normal(), float(start)))
    return np.array(rows, np.float32)


def stepped(trials):
    """What `advanced` has seen at each step of each trial."""
    rows = []
    for trial in trials:
        memory = blank(1, STATES, ACTIONS, th.device("cpu"))
        for obs in trial:
            seen, memory = advanced(memory, context_of(th.tensor(obs[None]), ACTIONS))
            rows.append(seen)
    return rows


def test_two_short_episodes_are_counted_as_by_hand():
    trial = np.array(
        [
            observation(0, None, 0.0, 1.0),  # start in 0
            observation(2, 1, 0.5, 0.0),  # action 1 led from 0 to 2 and paid 0.5
            observation(2, 0, 2.0, 0.0),  # action 0 led from 2 to 2
            observation(0, 0, -1.0, 1.0),  # action 0 in 2 ended the episode: where it led is not seen
            observation(1, 1, 0.25, 0.0),  # action 1 led from 0 to 1
        ],
        np.float32,
    )
    last = stepped([trial])[-1]
    visits, rewards, nexts = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2, 3))
    visits[0, 1], visits[2, 0] = 2, 2
    rewards[0, 1], rewards[2, 0] = 0.75, 1.0
    nexts[0, 1, 2] = nexts[0, 1, 1] = nexts[2, 0, 2] = 1
    np.testing.assert_array_equal(last.visits[0], visits)
    np.testing.assert_array_equal(last.rewards[0], rewards)
    np.testing.assert_array_equal(last.nexts[0], nexts)
    np.testing.assert_array_equal(last.here[0], [0, 1, 0])
    assert (last.passed.item(), last.inside.item()) == (4.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_whole_trials_of_any_lengths_are_counted_as_step_by_step(lengths, seed):
    rng = np.random.default_rng(seed)
    trials = [played(length, rng) for length in sorted(lengths, reverse=True)]
    along = seen_along(pack([th.tensor(trial) for trial in trials]), ACTIONS)
    place = iter(range(sum(lengths)))
    order = {}
    for time in range(len(trials[0])):
        for row, trial in enumerate(trials):
            if len(trial) > time:
                order[row, time] = next(place)
    one_by_one = stepped(trials)
    keys = [(row, time) for row, trial in enumerate(trials) for time in range(len(trial))]
    for key, seen in zip(keys, one_by_one, strict=True):
        for name in Seen._fields:
            np.testing.assert_allclose(getattr(along, name)[order[key]], getattr(seen, name)[0], atol=1e-5)


def test_the_memory_given_is_not_changed():
    memory = blank(2, STATES, ACTIONS, th.device("cpu"))
    first = th.tensor(np.stack([observation(0, None, 0.0, 1.0)] * 2), dtype=th.float32)
    _, memory = advanced(memory, context_of(first, ACTIONS))
    kept = memory.clone()
    second = th.tensor(np.stack([observation(1, 0, 3.0, 0.0)] * 2), dtype=th.float32)
    advanced(memory, context_of(second, ACTIONS))
    assert th.equal(memory, kept)


def test_a_blank_memory_has_seen_nothing():
    seen, _ = advanced(
        blank(1, STATES, ACTIONS, th.device("cpu")),
        context_of(th.tensor(observation(2, None, 0.0, 1.0)[None], dtype=th.float32), ACTIONS),
    )
    assert not seen.visits.any()
    assert not seen.nexts.any()
    assert not seen.rewards.any()
