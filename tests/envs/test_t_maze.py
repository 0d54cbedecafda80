from itertools import product

import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.t_maze import TMaze, Walk
from metagym.errors import ConfigError, TaskError

RIGHT, UP, LEFT, DOWN = range(4)
ONE = np.nextafter(1.0, 0.0)


def _task(family, length, arm):
    return TaskDistribution(family).coerce({"corridor_length": length, "arm": arm})


def _sample(family, num_tasks, seed=0, part=None):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _play(family, length, arm, actions):
    """First observation, then (observation, reward, terminated, success) of each step until the end."""
    env = TaskEnv(family)
    observation, _ = env.reset(options={"task": _task(family, length, arm)})
    results = [observation.tolist()]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        results.append((observation.tolist(), reward, terminated, info["is_success"]))
        if terminated:
            break
    return results


def _by_the_rules(length, arm, actions, *, active=False, penalty=None, moves=False):
    """The same, from a set of cells and a walk through them."""
    start, junction = int(active), length + int(active)
    cells = {(x, 0) for x in range(junction + 1)} | {(junction, 1), (junction, -1)}
    goal, loss = (-1, 1)[arm], -1.0 / length if penalty is None else penalty
    place, seen = (start, 0), False

    def look():
        nonlocal seen
        shown = goal if place[0] == 0 and not seen else 0
        seen = seen or place[0] == 0
        return [1.0, float(place[1])] if place[0] == junction else [0.0, float(shown)]

    results = [look()]
    for time, action in enumerate(actions, 1):
        x, y = [(1, 0), (0, 1), (-1, 0), (0, -1)][action]
        if (place[0] + x, place[1] + y) in cells:
            place = (place[0] + x, place[1] + y)
        if time == length + 1 + 2 * start:
            won = place[1] == goal
            return [*results, (look(), float(won), True, won)]
        late = action != RIGHT and time > start if moves else place[0] < time - start
        results.append((look(), loss if late else 0.0, False, False))
    return results


# --- walks by hand -------------------------------------------------------------------------------------------------


def test_the_passive_maze_shows_the_cue_first_and_pays_at_the_end():
    assert _play(TMaze(), 2, 1, [RIGHT, RIGHT, UP]) == [
        [0.0, 1.0],
        ([0.0, 0.0], 0.0, False, False),
        ([1.0, 0.0], 0.0, False, False),
        ([1.0, 1.0], 1.0, True, True),
    ]
    assert _play(TMaze(), 2, 1, [RIGHT, RIGHT, DOWN])[-1] == ([1.0, -1.0], 0.0, True, False)
    assert _play(TMaze(), 2, 0, [RIGHT, RIGHT, DOWN])[0::3] == [[0.0, -1.0], ([1.0, -1.0], 1.0, True, True)]


def test_the_active_maze_shows_the_cue_one_step_back():
    family = TMaze(variant="active")
    assert _play(family, 2, 0, [LEFT, RIGHT, RIGHT, RIGHT, DOWN]) == [
        [0.0, 0.0],
        ([0.0, -1.0], 0.0, False, False),
        ([0.0, 0.0], 0.0, False, False),
        ([0.0, 0.0], 0.0, False, False),
        ([1.0, 0.0], 0.0, False, False),
        ([1.0, -1.0], 1.0, True, True),
    ]


def test_a_lag_costs_one_over_the_length_at_every_step_but_the_last():
    rewards = [result[1] for result in _play(TMaze(), 4, 1, [RIGHT, LEFT, RIGHT, RIGHT, RIGHT])[1:]]
    assert rewards == [0.0, -0.25, -0.25, -0.25, 0.0]
    rewards = [result[1] for result in _play(TMaze(penalty=-3.0), 4, 1, [UP] * 5)[1:]]
    assert rewards == [-3.0] * 4 + [0.0]


def test_the_cue_is_shown_once():
    shown = [observation for observation, *_ in _play(TMaze(), 4, 1, [LEFT, RIGHT, LEFT, LEFT])[1:]]
    assert shown == [[0.0, 0.0]] * 4


def test_the_agent_may_leave_an_arm_but_not_through_its_walls():
    family = TMaze(variant="active", penalty=0.0)
    observations = [observation for observation, *_ in _play(family, 1, 1, [RIGHT, UP, LEFT, DOWN])[1:]]
    assert observations == [[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("keywords", [{}, {"variant": "active"}, {"penalty": -0.5}, {"penalize": "moves"},
                                      {"penalize": "moves", "variant": "active"}])  # fmt: skip
def test_all_walks_in_short_mazes_follow_the_rules(keywords):
    family = TMaze(**keywords)
    active, moves = keywords.get("variant") == "active", keywords.get("penalize") == "moves"
    rng = np.random.default_rng(0)
    for length, arm in product((1, 2, 3, 7), (0, 1)):
        steps = length + 1 + 2 * active
        walks = list(product(range(4), repeat=steps)) if steps < 4 else rng.integers(0, 4, (60, steps)).tolist()
        for walk in walks:
            expected = _by_the_rules(length, arm, walk, active=active, penalty=keywords.get("penalty"), moves=moves)
            assert _play(family, length, arm, walk) == expected


@pytest.mark.parametrize(("variant", "extra"), [("passive", 1), ("active", 3)])
def test_an_episode_lasts_as_long_as_its_corridor_demands(variant, extra):
    family = TMaze(variant=variant, corridor_length=(2, 8))
    for length in (1, 2, 8, 16):
        results = _play(family, length, 0, [LEFT] * 100)
        assert len(results) - 1 == length + extra
        assert results[-1][2]
    assert family.episode_length == 16 + extra


@pytest.mark.parametrize("variant", ["passive", "active"])
def test_rows_do_not_depend_on_each_other(variant):
    family = TMaze(variant=variant)
    rng = np.random.default_rng(2)
    keys, actions = rng.integers(0, 2**64, 64, np.uint64), rng.integers(0, 4, 64)
    for part in (None, "train", "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        junction = params.corridor_length + family.start
        state = Walk((rng.random(64) * (junction + 1)).astype(np.int64), np.zeros(64, np.int64), rng.integers(0, 9, 64),
                     rng.integers(0, 3, 64))  # fmt: skip
        whole, seen, random = _after(family, state, actions, params)
        for rows in ([3], [16, 5], list(range(7)), rng.permutation(64)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            few, few_seen, few_random = _after(family, Walk(*(column[rows] for column in state)), actions[rows], fewer)
            assert fewer_ids.tolist() == ids[rows].tolist()
            assert few.reward.tobytes() == whole.reward[rows].tobytes()
            assert few.terminated.tolist() == whole.terminated[rows].tolist()
            assert few_seen.tobytes() == seen[rows].tobytes()
            assert few_random.tobytes() == random[rows].tobytes()


def _after(family, state, actions, params):
    step = family.step(state, actions, params, np.empty((len(actions), 0)))
    return step, family.observe(step.state, params), family.random_return(params)


# --- exact values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keywords", [{}, {"variant": "active"}, {"penalize": "moves"}, {"penalty": -1.0},
                                      {"variant": "active", "penalize": "moves"}])  # fmt: skip
def test_random_and_optimal_returns_are_the_mean_and_the_best_of_all_walks(keywords):
    family = TMaze(**keywords)
    active, moves = keywords.get("variant") == "active", keywords.get("penalize") == "moves"
    for length in (1, 2, 3):
        returns = [
            sum(result[1] for result in _by_the_rules(
                length, 1, walk, active=active, penalty=keywords.get("penalty"), moves=moves)[1:])
            for walk in product(range(4), repeat=length + 1 + 2 * active)
        ]  # fmt: skip
        params = family.params_of([_task(family, length, 1)])
        assert family.random_return(params)[0] == pytest.approx(np.mean(returns), abs=1e-12)
        assert family.optimal_return(params)[0] == max(returns) == 1.0


@pytest.mark.parametrize(("variant", "expected"), [("passive", -0.9667), ("active", -0.9741)])
def test_random_returns_of_the_published_length(variant, expected):
    family = TMaze(variant=variant, corridor_length=10)
    assert family.random_return(_sample(family, 2)) == pytest.approx([expected] * 2, abs=5e-5)


@pytest.mark.parametrize("penalize", ["lag", "moves"])
@pytest.mark.parametrize("variant", ["passive", "active"])
def test_going_for_the_cue_and_back_earns_everything_in_every_maze(variant, penalize):
    family = TMaze(variant=variant, penalize=penalize)
    for length, arm in ((1, 0), (2, 1), (50, 0), (200, 1)):
        seek = [LEFT] if variant == "active" else []
        cue = [*_play(family, length, arm, seek)][-1]
        told = (cue[0] if seek else cue)[1]
        walk = [*seek, *[RIGHT] * (length + len(seek)), UP if told > 0 else DOWN]
        assert sum(result[1] for result in _play(family, length, arm, walk)[1:]) == 1.0
    assert family.bayes_return(3).tolist() == [1.0, 1.0, 1.0]


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_lengths_are_held_out_and_both_arms_are_trained_at_every_length():
    family = TMaze(corridor_length=(2, 11))
    train, test = (_sample(family, 8000, part=part) for part in ("train", "test"))
    lengths = [set(params.corridor_length.tolist()) for params in (train, test)]
    assert [len(some) for some in lengths] == [8, 2]
    assert lengths[0] | lengths[1] == set(range(2, 12))
    for params in (train, test):
        _, counts = np.unique(2 * params.corridor_length + params.arm, return_counts=True)
        assert stats.chisquare(counts).pvalue > 1e-3
        assert len(counts) == 2 * len(set(params.corridor_length.tolist()))


@pytest.mark.parametrize("length", [1, 10, 1500])
def test_with_a_single_length_both_arms_are_trained_and_nothing_is_held_out(length):
    family = TMaze(corridor_length=length)
    for part in ("train", None):
        params = _sample(family, 2000, part=part)
        assert set(params.corridor_length.tolist()) == {length}
        assert stats.binomtest(int(params.arm.sum()), 2000, 0.5).pvalue > 1e-3
    with pytest.raises(ConfigError, match="no test part"):
        _sample(family, 1, part="test")


@pytest.mark.parametrize("lengths", [(2, 5), 5])
def test_ood_corridors_are_longer_and_last_as_long_as_they_should(lengths):
    family = TMaze(corridor_length=lengths)
    params = _sample(family, 4000, part="ood")
    found, counts = np.unique(params.corridor_length, return_counts=True)
    assert found.tolist() == [6, 7, 8, 9, 10]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.binomtest(int(params.arm.sum()), 4000, 0.5).pvalue > 1e-3
    assert len(_play(family, 10, 0, [LEFT] * 100)) - 1 == family.episode_length == 11


@pytest.mark.parametrize("region", ["train", "ood"])
def test_extreme_uniforms_give_tasks_inside_the_space(region):
    for lengths in ((2, 5), 5):
        family = TMaze(corridor_length=lengths)
        for value in (0.0, ONE):
            structure = family.draw_structure(np.full((1, 1), value), region)
            fields = {**structure, **family.draw_details(np.full((1, 1), value), region)}
            TaskDistribution(family).coerce({name: column[0] for name, column in fields.items()})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"corridor_length": 0, "arm": 0}, "corridor_length=0"),
        ({"corridor_length": 201, "arm": 0}, "corridor_length=201"),
        ({"corridor_length": 2.5, "arm": 0}, "corridor_length="),
        ({"corridor_length": 5, "arm": 2}, "arm=2"),
        ({"corridor_length": 5}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(TMaze()).coerce(task)


@pytest.mark.parametrize(
    "keywords",
    [
        {"variant": "classic"},
        {"corridor_length": 0},
        {"corridor_length": (5, 2)},
        {"corridor_length": (2, 3, 4)},
        {"corridor_length": np.array([5, 2])},
        {"corridor_length": "10"},
        {"penalty": 0.5},
        {"penalize": "stays"},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        TMaze(**keywords)


def test_a_range_of_lengths_may_be_an_array():
    assert TMaze(corridor_length=np.array([2, 5])).lengths == (2, 5)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, "2", True])
def test_a_trial_has_a_whole_number_of_episodes(num_episodes):
    with pytest.raises(ConfigError, match=r"num_episodes=.* accepted is an integer in"):
        TMaze().bayes_return(num_episodes)


# --- pictures ------------------------------------------------------------------------------------------------------


def _at(x, y=0, time=0, cue=2):
    return Walk(*(np.array([value]) for value in (x, y, time, cue)))


@pytest.mark.parametrize("length", [1, 10, 2000])
def test_the_picture_shows_the_agent_the_arm_and_the_cue(length):
    family = TMaze(corridor_length=length)
    lower, upper = (family.params_of([_task(family, length, arm)]) for arm in (0, 1))
    shown = [family.draw(*pair) for pair in ((_at(0), lower), (_at(0), upper), (_at(0, cue=1), lower),
                                             (_at(length), lower), (_at(length, 1), lower))]  # fmt: skip
    assert len({picture.tobytes() for picture in shown}) == 5
    assert {picture.shape for picture in shown} == {(180, 680, 3)}
    assert shown[0].dtype == np.uint8


def test_the_text_tells_the_place_and_the_arm():
    family = TMaze(variant="active")
    params = family.params_of([_task(family, 10, 1)])
    assert family.describe(_at(1, 0, 3), params) == "at 1 of 11, step 4 of 13 (pays: the upper arm)\n"
    assert family.describe(_at(11, -1, 11), params) == "in the lower arm, step 12 of 13 (pays: the upper arm)\n"
