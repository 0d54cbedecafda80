from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.envs import grids
from metagym.envs.dark_room import DarkRoom
from metagym.envs.grid_navi import GridNavi
from metagym.envs.hidden_goal import Search, distances, episode_returns
from metagym.tabular import Position

LINE = np.array([[0, 0, 1], [1, 0, 2], [2, 1, 3], [3, 2, 3]])  # four places in a row: stay, left, right


def _outcomes(family, params):
    """What each action does in each state under each task, by stepping: (state, task, action) to lists."""
    num_states, num_actions = len(family.successors), int(family.action_space.n)
    found = {}
    for state in range(num_states):
        for action in range(num_actions):
            step = family.step(
                Position(np.full(len(params), state)), np.full(len(params), action), params, np.empty((len(params), 0))
            )
            columns = (step.state.cell, step.reward, step.terminated)
            found[state, action] = list(zip(*(column.tolist() for column in columns), strict=True))
    return found


def belief_value(family, num_episodes):
    """The best expected return of a trial, by recursion over everything an agent may believe."""
    columns, weights = family.enumerate_structures()
    assert np.ptp(weights) < 1e-15
    params = family.params_type(**columns)
    outcomes, num_actions = _outcomes(family, params), int(family.action_space.n)

    @cache
    def value(episode, step, state, possible):
        if step == family.episode_length:
            episode, step, state = episode + 1, 0, family.start
        if episode == num_episodes:
            return 0.0
        best = -np.inf
        for action in range(num_actions):
            groups, total = {}, 0.0
            for task in possible:
                after, reward, over = outcomes[state, action][task]
                groups.setdefault((after, reward, over), []).append(task)
                total += reward
            for (after, _, over), tasks in groups.items():
                elapsed = family.episode_length if over else step + 1
                total += len(tasks) * value(episode, elapsed, after, tuple(tasks))
            best = max(best, total / len(possible))
        return best

    return value(0, 0, family.start, tuple(range(len(params))))


@pytest.mark.parametrize(
    ("family", "num_episodes"),
    [
        (GridNavi(size=3, episode_length=4), 1),
        (GridNavi(size=3, episode_length=4), 3),
        (GridNavi(size=3, episode_length=6), 2),
        (GridNavi(size=4, episode_length=5), 2),
        (DarkRoom(size=3, episode_length=3), 2),
        (DarkRoom(size=3, episode_length=5), 2),
        (DarkRoom(variant="dpt", size=2, episode_length=3), 3),
        (DarkRoom(variant="ad_hard", size=3, episode_length=3), 3),
        (DarkRoom(variant="ad_hard", size=2, episode_length=1), 4),
    ],
)
def test_the_best_walk_is_worth_what_recursion_over_beliefs_finds(family, num_episodes):
    returns = family.bayes_return(num_episodes)
    assert returns.shape == (num_episodes,)
    assert returns.sum() == pytest.approx(belief_value(family, num_episodes), abs=1e-12)


@st.composite
def searches(draw):
    """Searches on small graphs in which one can stay, with edges of any kind and any goals; and numbers of episodes."""
    num_places, num_edges = draw(st.integers(2, 8)), draw(st.integers(1, 2))
    length, num_episodes = draw(st.sampled_from([(1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (5, 1), (6, 1)]))
    place = st.integers(0, num_places - 1)
    neighbours = np.array([[here, *(draw(place) for _ in range(num_edges))] for here in range(num_places)])
    goals = np.array(sorted(draw(st.sets(place, min_size=1))))
    cost = draw(st.sampled_from([0.0, -0.25, -1.0]))
    return Search(neighbours, draw(place), goals, length, 1.0, cost, draw(st.booleans())), num_episodes


def best_of_all_walks(search, num_episodes):
    """The most that any walk brings, summed over goals, by trying them all."""
    length, best = search.episode_length, -np.inf
    known = search.known_returns()
    for plan in product(range(search.neighbours.shape[1]), repeat=num_episodes * length):
        total = 0.0
        for goal, value in zip(search.goals, known, strict=True):
            place = search.start
            for elapsed, action in enumerate(plan):
                place = search.neighbours[search.start if elapsed % length == 0 else place, action]
                if place == goal:
                    episode, step = divmod(elapsed, length)
                    total += episode * search.if_not_found + search.if_found(step + 1)
                    total += (num_episodes - 1 - episode) * value
                    break
            else:
                total += num_episodes * search.if_not_found
        best = max(best, total)
    return best / len(search.goals)


@settings(max_examples=100, deadline=None)
@given(searches())
def test_no_walk_is_better_than_the_best_one_on_any_small_graph(drawn):
    search, num_episodes = drawn
    found = episode_returns(search, num_episodes)
    assert found.sum() == pytest.approx(best_of_all_walks(search, num_episodes), abs=1e-12)


def test_a_search_on_a_line_by_hand():
    search = Search(LINE, start=1, goals=np.array([0, 3]), episode_length=3, cost=-1.0)
    # Left first: place 0 at step 1 (three rewards), but then place 3 is out of reach: (3 - 3) / 2. Right first: place 3
    # at step 2 (-1 + 2), and place 0 not: (1 - 3) / 2.
    assert episode_returns(search, 1).tolist() == [0.0]
    # What was not found in the first episode is known in the second: 0 is worth 3, and 3 is worth 1.
    assert episode_returns(search, 2).tolist() == [0.0, 2.0]


def test_walks_that_found_the_same_later_do_not_stand_for_those_that_found_it_earlier():
    graph = np.array([[0, 1, 0], [1, 0, 1], [2, 2, 3], [3, 0, 2]])
    search = Search(graph, start=2, goals=np.array([1, 2]), episode_length=3, cost=-0.5, ends_at_goal=True)
    # Stay at once, which finds the goal in place 2 (1 against three steps, -1.5); then 2 to 3 to 0 to 1 (-1 + 1).
    assert episode_returns(search, 3).tolist() == [-0.25, 0.5, 0.5]


def test_whoever_starts_on_the_goal_finds_it_by_staying():
    search = Search(LINE, start=1, goals=np.array([1]), episode_length=2)
    assert episode_returns(search, 2).tolist() == [2.0, 2.0]


def test_a_goal_out_of_reach_is_never_found():
    search = Search(LINE, start=0, goals=np.array([3]), episode_length=2, cost=-0.5)
    assert episode_returns(search, 3).tolist() == [-1.0, -1.0, -1.0]
    assert search.known_returns().tolist() == [-1.0]


def test_what_cannot_be_proven_in_time_is_not_claimed():
    assert episode_returns(Search(LINE, 1, np.array([0, 3]), 3), 2, max_nodes=2) is None


def test_distances_count_at_least_one_step():
    size = 4
    place = grids.coordinates(size)
    manhattan = np.abs(place[:, None] - place).sum(axis=2)
    assert distances(grids.neighbours(size, grids.MOVES)).tolist() == np.maximum(manhattan, 1).tolist()


def test_distances_of_a_graph_without_staying_and_with_a_dead_end():
    ring = np.array([[1], [2], [0], [3]])  # 0 to 1 to 2 and back to 0; 3 is alone
    assert distances(ring).tolist() == [[3, 1, 2, 5], [2, 3, 1, 5], [1, 2, 3, 5], [5, 5, 5, 1]]
