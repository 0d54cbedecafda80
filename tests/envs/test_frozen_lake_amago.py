"""The keywords that make a lake one of AMAGO's: recovery from holes, a staying action, coordinates."""

from functools import cache

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.envs import lake_maps
from metagym.envs.frozen_lake import FrozenLake
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

STANDARD = ["SFFF", "FHFH", "FFFH", "HFFG"]
LEFT, DOWN, RIGHT, UP, STAY = range(5)
AMAGO = {"is_slippery": False, "can_stay": True, "observe_coordinates": True}


def _draw(family, num_tasks, seed=0):
    return TaskDistribution(family).draw(np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64))[0]


def _step(family, params, cell, action, noise=0.5):
    num_rows = len(params)
    state = Position(np.broadcast_to(np.asarray(cell), num_rows).astype(np.int64))
    actions = np.broadcast_to(np.asarray(action), num_rows).astype(np.int64)
    return family.step(state, actions, params, np.broadcast_to(noise, num_rows)[:, None])


def amago(rows, x, y, action, recover):
    """One step of AMAGO's MetaFrozenLake in easy mode, written out: place, reward, whether the attempt ends."""
    move_x, move_y = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)][action]
    next_x = max(min(x + move_x, len(rows) - 1), 0)
    next_y = max(min(y + move_y, len(rows) - 1), 0)
    found = rows[next_x][next_y]
    if found == "G":
        return next_x, next_y, 1.0, True
    if found == "H":
        return (x, y, -0.1, False) if recover else (next_x, next_y, 0.0, True)
    return next_x, next_y, 0.0, False


@pytest.mark.parametrize("recover", [False, True])
def test_every_step_is_that_of_the_source(recover):
    family = FrozenLake(size=5, recover_from_holes=recover, **AMAGO)
    theirs = {STAY: 0, DOWN: 1, UP: 2, RIGHT: 3, LEFT: 4}
    params = _draw(family, 20)
    for row, codes in enumerate(params.map):
        lake, rows = params.take(np.array([row])), ["".join(lake_maps.LETTERS[code] for code in line) for line in codes]
        for cell in np.flatnonzero((codes.ravel() != lake_maps.HOLE) & (codes.ravel() != lake_maps.GOAL)).tolist():
            for action, their_action in theirs.items():
                step = _step(family, lake, cell, action)
                x, y, reward, ends = amago(rows, *divmod(cell, 5), their_action, recover)
                assert divmod(int(step.state.cell[0]), 5) == (x, y)
                assert (step.reward[0], step.terminated[0], step.success[0]) == (reward, ends, reward == 1.0)
                seen = family.observe(step.state, lake)
                assert seen.dtype == np.float32
                assert seen[0].tolist() == np.array([x / 5, y / 5], np.float32).tolist()


@pytest.mark.parametrize("rate", [0.0, 1 / 3, 0.7])
def test_slippery_lakes_with_recovery_are_gymnasiums_but_for_the_holes(rate):
    family = FrozenLake(success_rate=rate, recover_from_holes=True)
    task = TaskDistribution(family).coerce({"map": STANDARD})
    holes, original = {5, 7, 11, 12}, FrozenLake(success_rate=rate).transitions(task)
    expected = {
        cell: {
            action: [(p, cell, -0.1, False) if after in holes else (p, after, r, over) for p, after, r, over in ways]
            for action, ways in original[cell].items()
        }
        for cell in set(range(16)) - holes
    }
    ours = family.transitions(task)
    assert {cell: ours[cell] for cell in expected} == expected


def test_recovering_costs_and_staying_is_sure_on_slippery_ice():
    family = FrozenLake(recover_from_holes=True, can_stay=True)
    params = family.params_of([TaskDistribution(family).coerce({"map": STANDARD})]).take(np.zeros(3, np.int64))
    fall = _step(family, params, 4, RIGHT, [0.5, 0.1, 0.9])  # into the hole; down; up
    assert fall.state.cell.tolist() == [4, 8, 0]
    assert fall.reward.tolist() == [-0.1, 0.0, 0.0]
    assert not fall.terminated.any()
    assert not fall.success.any()
    assert _step(family, params, 4, STAY, [0.5, 0.1, 0.9]).state.cell.tolist() == [4, 4, 4]


def test_the_goal_still_ends_the_episode():
    family = FrozenLake(recover_from_holes=True, **AMAGO)
    params = family.params_of([TaskDistribution(family).coerce({"map": STANDARD})])
    step = _step(family, params, 14, RIGHT)
    assert (step.state.cell[0], step.reward[0], step.terminated[0], step.success[0]) == (15, 1.0, True, True)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("keywords", [{}, {"is_slippery": False, "can_stay": True}, {"success_rate": 0.8}])
def test_values_with_recovery_are_those_of_recursion_over_transitions(keywords, greedy):
    family = FrozenLake(size=3, recover_from_holes=True, episode_length=6, **keywords)
    for task in TaskDistribution(family).sample(np.random.default_rng(1), 4):
        ways = family.transitions(task)

        @cache
        def value(cell, steps, ways=ways):
            if steps == 0:
                return 0.0
            values = [
                sum(p * (reward + (0.0 if over else value(after, steps - 1))) for p, after, reward, over in outcomes)
                for outcomes in ways[cell].values()
            ]
            return max(values) if greedy else sum(values) / len(values)

        params = family.params_of([task])
        found = family.optimal_return(params) if greedy else family.random_return(params)
        assert found[0] == pytest.approx(value(0, 6), abs=1e-12)


def test_who_knows_an_amago_lake_always_reaches_the_goal():
    for recover in (False, True):
        family = FrozenLake(size=5, recover_from_holes=recover, **AMAGO)
        assert family.optimal_return(_draw(family, 200)) == pytest.approx(np.ones(200))


def test_five_actions_are_permuted_in_all_120_ways():
    params = _draw(FrozenLake(can_stay=True, remap_actions=True), 12_000)
    _, counts = np.unique(params.action_map, axis=0, return_counts=True)
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-3
    family = FrozenLake(remap_actions=True, **AMAGO)
    task = {"map": STANDARD, "action_map": [4, 3, 2, 1, 0]}
    params = family.params_of([TaskDistribution(family).coerce(task)]).take(np.zeros(5, np.int64))
    assert _step(family, params, 9, np.arange(5)).state.cell.tolist() == [9, 5, 10, 13, 8]


def test_the_action_map_of_five_actions_must_be_a_permutation_of_five():
    distribution = TaskDistribution(FrozenLake(can_stay=True))
    assert distribution.coerce({"map": STANDARD})["action_map"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(TaskError, match="shape"):
        distribution.coerce({"map": STANDARD, "action_map": [0, 1, 2, 3]})
    with pytest.raises(TaskError, match="remap_actions=False"):
        distribution.coerce({"map": STANDARD, "action_map": [4, 1, 2, 3, 0]})


def test_maps_and_rates_do_not_depend_on_the_new_keywords():
    plain, amagos = (
        FrozenLake(success_rate=(0.2, 0.8)),
        FrozenLake(success_rate=(0.2, 0.8), recover_from_holes=True, can_stay=True, observe_coordinates=True),
    )
    ours, theirs = _draw(plain, 50), _draw(amagos, 50)
    assert ours.map.tolist() == theirs.map.tolist()
    assert ours.success_rate.tolist() == theirs.success_rate.tolist()


def test_coordinates_lie_in_their_space():
    family = FrozenLake(observe_coordinates=True)
    assert family.observation_space == gym.spaces.Box(0.0, 0.75, (2,), np.float32)
    assert TaskEnv(family).reset(seed=0)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "keywords", [{"recover_from_holes": True}, {"recover_from_holes": True, **AMAGO, "remap_actions": True}]
)
def test_the_scalar_env_is_a_row_of_the_vector_env(keywords):
    family, rng = FrozenLake(episode_length=9, **keywords), np.random.default_rng(0)
    envs, vector = [TaskEnv(family) for _ in range(3)], TaskVectorEnv(family, 3)
    seeds = [4, 5, 6]
    first = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    assert np.array_equal(vector.reset(seed=seeds)[0], first)
    for _ in range(8):
        actions = rng.integers(0, int(family.action_space.n), 3)
        results = [env.step(action) for env, action in zip(envs, actions.tolist(), strict=True)]
        observations, rewards, terminated, _, _ = vector.step(actions)
        if terminated.any():
            break
        assert np.array_equal(observations, [result[0] for result in results])
        assert rewards.tolist() == [result[1] for result in results]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(num_rows):
    family = FrozenLake(size=5, recover_from_holes=True, can_stay=True, remap_actions=True, observe_coordinates=True)
    rng = np.random.default_rng(2)
    params, rows = _draw(family, 64, seed=3), rng.permutation(64)[:num_rows]
    cells, actions, noise = rng.integers(0, 25, 64), rng.integers(0, 5, 64), rng.random(64)
    whole = _step(family, params, cells, actions, noise)
    part = _step(family, params.take(rows), cells[rows], actions[rows], noise[rows])
    assert part.state.cell.tolist() == whole.state.cell[rows].tolist()
    assert part.reward.tobytes() == whole.reward[rows].tobytes()
    assert family.observe(part.state, params).tobytes() == family.observe(whole.state, params)[rows].tobytes()


@pytest.mark.parametrize("keyword", ["recover_from_holes", "can_stay", "observe_coordinates"])
def test_keywords_that_are_no_flags_are_refused_by_name(keyword):
    with pytest.raises(ConfigError, match=f"{keyword}="):
        FrozenLake(**{keyword: 1})


def test_pictures_and_texts_show_the_agent_where_it_recovered():
    env = TaskEnv(FrozenLake(recover_from_holes=True, **AMAGO), render_mode="ansi")
    env.set_task({"map": STANDARD})
    env.reset(seed=0)
    env.step(DOWN)
    assert env.step(RIGHT)[1] == -0.1
    assert env.render().splitlines()[1].startswith("[F] H")
