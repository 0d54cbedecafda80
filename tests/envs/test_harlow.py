from itertools import product

import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.harlow import Harlow
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

ONE = np.nextafter(1.0, 0.0)
LEFT, RIGHT = 0, 1


def _params(family, *tasks):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce({"objects": pair, "paying": paying}) for pair, paying in tasks])


def _sample(family, num_tasks, seed=0, part=None):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _play(family, params, start, actions, noise):
    """(observation, reward, terminated, success) of each step, from a start and one uniform a step."""
    state = family.initial(params, np.array([[start]]))
    results = [family.observe(state, params)[0]]
    for action, draw in zip(actions, noise, strict=True):
        step = family.step(state, np.array([action]), params, np.array([[draw]]))
        state = step.state
        observation = family.observe(state, params)[0]
        results.append((observation, step.reward[0], bool(step.terminated[0]), bool(step.success[0])))
    return results


class _Ring:
    """The source's way of doing it: an array that is rolled under a pointer, here with one choice an episode."""

    def __init__(self, shift, looks, paying):
        self.state, self.pointer = np.zeros(17), 8 - shift
        self.state[8] = 1.0
        self.state = np.roll(self.state, shift)
        self.looks, self.paying = looks, paying

    def look(self):
        return self.state[4:-4].astype(np.float32).tolist()

    def step(self, action, is_swapped):
        turn = 1 if action == LEFT else -1
        self.state, self.pointer = np.roll(self.state, turn), (self.pointer - turn) % 17
        reward, over, here = 0.0, False, self.state[8]
        if here == 1.0:
            reward = 0.2
            self.state[[5, 11]] = self.looks[::-1] if is_swapped else self.looks
            self.state[8] = 0.0
        elif here != 0.0:
            over = True
            reward = 1.0 if here == self.looks[self.paying] else -1.0
        return self.look(), reward, over


# --- dynamics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "start"), [(-3, 0.0), (-2, 0.2), (-1, 0.4), (1, 0.6), (1, 0.7), (2, 0.9)])
def test_all_walks_are_those_of_the_source(shift, start):
    family = Harlow(num_objects=9)
    rng = np.random.default_rng(0)
    for paying, walk in product((0, 1), [*product((LEFT, RIGHT), repeat=6), *rng.integers(0, 2, (20, 40)).tolist()]):
        params = _params(family, ([2, 6], paying))
        ring = _Ring(shift, np.array([3, 7], np.float32) / np.float32(10), paying)
        draws = rng.random(len(walk)).tolist()
        first, *results = _play(family, params, start, walk, draws)
        assert first.tolist() == ring.look()
        for action, draw, (observation, reward, terminated, success) in zip(walk, draws, results, strict=True):
            look, expected, over = ring.step(action, draw >= 0.5)
            assert observation == pytest.approx(look)
            assert (reward, terminated, success) == (expected, over, expected == 1.0)
            if over:
                break


def test_the_way_round_the_ring_also_leads_there():
    family = Harlow()
    params = _params(family, ([0, 1], 0))
    # From 9 the long way, over 16 and 0, to the mark at 8; then left, over 0 and 16, to 11.
    results = _play(family, params, 0.4, [RIGHT] * 16, [0.2] * 16)
    assert [result[1] for result in results[1:]] == [0.0] * 15 + [0.2]
    # Right to the mark at 8; away from it and back over its empty cell, which pays no more.
    results = _play(family, params, 0.6, [RIGHT, RIGHT, LEFT, LEFT, LEFT, LEFT], [0.2] * 6)
    assert [result[1:] for result in results[1:]] == [
        (0.2, False, False), (0.0, False, False), (0.0, False, False), (0.0, False, False), (0.0, False, False),
        (1.0, True, True),
    ]  # fmt: skip


def test_episodes_start_where_the_source_s_do():
    family = Harlow()
    params = _sample(family, 1).take(np.zeros(12_000, np.int64))
    state = family.initial(params, np.random.default_rng(0).random((12_000, 1)))
    counts = np.bincount(state.cell, minlength=17)
    assert counts[[6, 7, 9, 10, 11]].sum() == 12_000
    assert stats.chisquare(counts[[6, 7, 9, 10, 11]], [2000, 4000, 2000, 2000, 2000]).pvalue > 1e-3


def test_sides_are_drawn_anew_for_every_choice_and_alike():
    family = Harlow()
    params = _sample(family, 1).take(np.zeros(20_000, np.int64))
    noise = np.random.default_rng(0).random((20_000, 1))
    step = family.step(Position(np.full(20_000, 7)), np.ones(20_000, np.int64), params, noise)
    _, counts = np.unique(step.state.cell, return_counts=True)
    assert len(counts) == 2
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_first_observation_shows_the_mark_alone():
    family = Harlow()
    params = _sample(family, 500)
    observation = family.observe(family.initial(params, np.random.default_rng(1).random((500, 1))), params)
    assert observation.dtype == np.float32
    assert (np.sort(observation, axis=1) == [0.0] * 8 + [1.0]).all()


def test_objects_differ_from_the_mark_from_nothing_and_from_each_other():
    family = Harlow()
    params = _params(family, ([0, 999], 0), ([1000, 1999], 0), ([500, 501], 0))
    at_the_mark = Position(np.full(3, 17))
    shown = family.observe(at_the_mark, params)[:, [1, 7]]
    assert shown == pytest.approx(np.array([[1, 1000], [-1, -1000], [501, 502]]) / 1001)
    assert len(np.unique(shown)) == 6


@pytest.mark.parametrize("num_objects", [5, 1000])
def test_rows_do_not_depend_on_each_other(num_objects):
    family = Harlow(num_objects=num_objects)
    rng = np.random.default_rng(2)
    keys, actions = rng.integers(0, 2**64, 64, np.uint64), rng.integers(0, 2, 64)
    cells, noise = rng.integers(0, 53, 64), rng.random((64, 1))
    for part in (None, "train", "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        whole = family.step(Position(cells), actions, params, noise)
        seen = family.observe(whole.state, params)
        for rows in ([3], [16, 5], list(range(7)), rng.permutation(64)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            step = family.step(Position(cells[rows]), actions[rows], fewer, noise[rows])
            assert fewer_ids.tolist() == ids[rows].tolist()
            assert step.state.cell.tolist() == whole.state.cell[rows].tolist()
            assert step.reward.tolist() == whole.reward[rows].tolist()
            assert family.observe(step.state, fewer).tobytes() == seen[rows].tobytes()
            assert family.random_return(fewer).tobytes() == family.random_return(params)[rows].tobytes()


# --- exact values --------------------------------------------------------------------------------------------------


def test_the_known_task_pays_the_mark_and_the_object():
    family = Harlow()
    params = _sample(family, 4)
    assert family.optimal_return(params) == pytest.approx([1.2] * 4)
    assert Harlow(fixation_reward=0.0).optimal_return(params) == pytest.approx([1.0] * 4)
    # Of the six starts, four are at most 2 cells from the mark, so that 5 steps suffice for an object as well.
    assert Harlow(episode_length=5).optimal_return(params) == pytest.approx([0.2 + 5 / 6] * 4)


def test_random_actions_earn_the_random_return():
    family = Harlow()
    assert family.random_return(_sample(family, 2)) == pytest.approx([0.1623] * 2, abs=5e-5)
    params = _sample(family, 1).take(np.zeros(20_000, np.int64))
    rng = np.random.default_rng(3)
    state, total, running = family.initial(params, rng.random((20_000, 1))), np.zeros(20_000), np.ones(20_000, np.bool_)
    for _ in range(41):
        step = family.step(state, rng.integers(0, 2, 20_000), params, rng.random((20_000, 1)))
        state, total = step.state, total + running * step.reward
        running &= ~step.terminated
    assert total.mean() == pytest.approx(
        family.random_return(params.take(np.arange(1)))[0], abs=4 * total.std() / 20_000**0.5
    )


def test_the_bayes_return_is_a_guess_and_then_the_optimum():
    assert Harlow().bayes_return(6).tolist() == pytest.approx([0.2, 1.2, 1.2, 1.2, 1.2, 1.2])
    assert Harlow(episode_length=1).bayes_return(2).tolist() == pytest.approx([0.1, 0.1])
    assert Harlow(episode_length=5).bayes_return(2).tolist() == pytest.approx([0.2, 0.2 + 25 / 36])


@pytest.mark.parametrize("episode_length", [2, 4, 5, 6])
def test_no_agent_does_better_than_the_bayes_return_in_a_trial_of_two(episode_length):
    """Beliefs about the paying object stay at one half until a choice is made, and are certain from then on."""
    family = Harlow(episode_length=episode_length)
    dense = family.dense(_params(family, ([0, 1], 0), ([0, 1], 1)))
    starts = family.starts(_sample(family, 1))[0]
    known = family.optimal_return(_params(family, ([0, 1], 0)))[0]
    # Until the choice both tasks look the same, so rewards average; a choice is worth what it teaches besides.
    gain = (dense.probability * dense.reward).mean(axis=0).sum(axis=2)
    guessed = dense.terminated[0]
    kept = family.bayes_return(1)[0]

    def value(worth_of_knowing):
        values = np.zeros(len(gain))
        for _ in range(episode_length):
            after = np.where(guessed, worth_of_knowing, values[dense.successor[0]])
            values = (gain + (dense.probability[0] * after).sum(axis=2)).max(axis=1)
        return values[starts].mean()

    assert value(0.0) == pytest.approx(kept)
    assert value(known - kept) + kept == pytest.approx(family.bayes_return(2).sum())


def test_choosing_once_and_remembering_earns_the_bayes_return_when_stepped():
    env = TaskEnv(Harlow())
    totals = np.zeros((200, 6))
    for trial, episode in np.ndindex(200, 6):
        options = {"repeat_task": True} if episode else None
        observation, _ = env.reset(seed=0 if trial == episode == 0 else None, options=options)
        if episode == 0:
            paying = None
        target = 1.0
        over = False
        while not over:
            action = RIGHT if np.flatnonzero(observation == np.float32(target))[0] > 4 else LEFT
            observation, reward, over, _, _ = env.step(action)
            totals[trial, episode] += reward
            if target == 1.0 and reward > 0.0:
                sides = observation[[1, 7]]
                target = paying if paying is not None else sides[0]
        other = sides[sides != np.float32(target)][0]
        paying = target if reward == 1.0 else other
    assert totals[:, 1:] == pytest.approx(1.2)
    assert stats.binomtest(int(np.sum(totals[:, 0] > 1.0)), 200, 0.5).pvalue > 1e-3


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_pairs_and_payments_are_uniform():
    params = _sample(Harlow(num_objects=6), 12_000)
    codes = 12 * params.objects[:, 0] + 2 * params.objects[:, 1] + params.paying
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 30
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("num_objects", [10, 1000])
def test_train_and_test_share_no_pair(num_objects):
    train, test = (
        {tuple(pair) for pair in _sample(Harlow(num_objects=num_objects), 3000, part=part).objects.tolist()}
        for part in ("train", "test")
    )
    assert not train & test
    if num_objects == 10:
        assert (len(train), len(test)) == (36, 9)


def test_many_objects_are_drawn_by_proposal_and_as_uniformly():
    family = Harlow(num_objects=400)
    assert family.enumerate_structures() is None
    objects = _sample(family, 20_000, part="train").objects
    assert (objects[:, 0] < objects[:, 1]).all()
    assert stats.chisquare(np.bincount(objects.ravel(), minlength=400)).pvalue > 1e-3


def test_ood_objects_are_others():
    params = _sample(Harlow(num_objects=10), 4000, part="ood")
    assert (params.objects[:, 0] < params.objects[:, 1]).all()
    counts = np.bincount(params.objects.ravel())
    assert counts[:10].sum() == 0
    assert stats.chisquare(counts[10:]).pvalue > 1e-3


@pytest.mark.parametrize("region", ["train", "ood"])
def test_extreme_uniforms_give_tasks_inside_the_space(region):
    family = Harlow(num_objects=7)
    for noise in product((0.0, 0.5, ONE), repeat=2):
        structure = family.draw_structure(np.array([noise]), region)
        fields = {**structure, **family.draw_details(np.array([noise[:1]]), region)}
        TaskDistribution(family).coerce({name: column[0] for name, column in fields.items()})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"objects": [3, 3], "paying": 0}, r"objects=\[3, 3\]"),
        ({"objects": [4, 3], "paying": 0}, r"objects=\[4, 3\]"),
        ({"objects": [0, 2000], "paying": 0}, "objects="),
        ({"objects": [0, 1, 2], "paying": 0}, "shape"),
        ({"objects": [0, 1], "paying": 2}, "paying=2"),
        ({"objects": [0, 1]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(Harlow()).coerce(task)


@pytest.mark.parametrize("keywords", [{"num_objects": 2}, {"fixation_reward": -0.1}, {"episode_length": 0}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        Harlow(**keywords)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, "2", True])
def test_a_trial_has_a_whole_number_of_episodes(num_episodes):
    with pytest.raises(ConfigError, match=r"num_episodes=.* accepted is an integer in"):
        Harlow().bayes_return(num_episodes)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_differ_by_cell_side_and_payment():
    family = Harlow()
    first, second = _params(family, ([0, 1], 0)), _params(family, ([0, 1], 1))
    shown = [family.draw(Position(np.array([cell])), params)
             for cell, params in ((7, first), (9, first), (17, first), (18, first), (17, second))]  # fmt: skip
    assert {picture.shape for picture in shown} == {(112, 576, 3)}
    assert len({picture.tobytes() for picture in shown}) == 5


def test_the_text_shows_the_ring():
    family = Harlow()
    params = _params(family, ([0, 1], 1))
    assert family.describe(Position(np.array([7])), params) == ".......[.]+........ (pays: A)\n"
    assert family.describe(Position(np.array([17])), params) == ".....B..[.]..A..... (pays: A)\n"
    assert family.describe(Position(np.array([19 + 17 + 5])), params) == ".....[A].....B..... (pays: A)\n"
