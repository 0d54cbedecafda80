"""One row: walking tables as lists gives what stepping arrays gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym import TaskDistribution
from metagym.engine import row as row_module
from metagym.engine.row import BatchRow, TableRow, walks_tables
from metagym.envs import Bandit, FrozenLake, Harlow, PointGoal
from metagym.noise import seed_keys, uniforms
from metagym.tabular import TabularFamily
from tests.parity import assert_same
from tests.strategies import Drift, FoggyHall, Hall, TollHall

TABULAR = [
    FrozenLake(size=3),
    FrozenLake(size=3, is_slippery=False),
    FrozenLake(size=2, remap_actions=True, random_goal=True, success_rate=(0.0, 1.0)),
    Hall(),
    FoggyHall(),
    Harlow(num_objects=5),
]


def _row(kind, family, seed=0):
    row = kind(family, TaskDistribution(family))
    row.seed(seed_keys([seed], 3)[0])
    return row


@settings(max_examples=40)
@given(
    st.sampled_from(TABULAR), st.integers(0, 10**6), st.lists(st.sampled_from("nbsssswt"), max_size=80), st.randoms()
)
def test_tables_as_lists_and_as_arrays_give_the_same(family, seed, calls, random):
    walker, batch = _row(TableRow, family, seed), _row(BatchRow, family, seed)
    for call in ["n", "b", *calls]:
        if call == "n":
            walker.next_task(), batch.next_task()
        elif call == "b":
            assert_same(walker.begin(), batch.begin())
        elif call == "s":
            action = random.randrange(int(family.action_space.n))
            (seen, *outcome), (expected, *others) = walker.step(action), batch.step(action)
            assert_same(seen, expected)
            assert outcome == others
        elif call == "w":
            assert_same(walker.sample(2).columns(), batch.sample(2).columns())
        else:
            task = TaskDistribution(family).sample(np.random.default_rng(random.randrange(3)))
            walker.set_task(task), batch.set_task(task)
        assert walker.task_id == batch.task_id
        assert_same(walker.params.columns(), batch.params.columns())
        assert_same(walker.state.cell, batch.state.cell) if call in "bs" else None


def test_only_families_whose_steps_are_all_table_are_walked():
    assert [walks_tables(family) for family in TABULAR] == [True] * 6
    others = [TollHall(), Drift(), PointGoal(), Bandit()]
    assert [walks_tables(family) for family in others] == [False] * 4


def test_what_a_family_shows_in_its_own_way_changes_with_the_task_and_is_handed_out_as_a_copy():
    family = Harlow(num_objects=5)
    walker = _row(TableRow, family)
    shown = []
    for objects in ([0, 1], [2, 4]):
        walker.set_task(TaskDistribution(family).coerce({"objects": objects, "paying": 0}))
        walker.begin()
        walker._index = 7  # the mark lies to the right
        observation = walker.step(1)[0]
        shown.append(sorted(observation[observation != 0.0].tolist()))
        observation[:] = 9.0
        assert walker.step(1)[0].max() <= 1.0
    np.testing.assert_allclose(shown, [[1 / 6, 2 / 6], [3 / 6, 5 / 6]], rtol=1e-6)


class Elsewhere(Hall):
    """Starts at state 3, without noise, and not by the attribute."""

    num_initial_draws = 0

    def initial(self, params, noise):
        state = TabularFamily.initial(self, params, noise)
        return state._replace(cell=np.full(len(noise), 3))


def test_a_start_of_ones_own_is_not_walked_past():
    assert not walks_tables(Elsewhere())


@pytest.mark.parametrize("kind", [TableRow, BatchRow])
def test_the_same_observation_is_never_an_array_that_could_be_written_to(kind):
    row = _row(kind, FrozenLake())
    row.next_task()
    observations = [row.begin(), *(row.step(1)[0] for _ in range(3))]
    assert all(type(observation) is np.int64 for observation in observations)


def test_a_draw_larger_than_the_block_is_served(monkeypatch):
    monkeypatch.setattr(row_module, "_NOISE_BLOCK", 1)
    row = _row(BatchRow, Drift())
    draws = [row._draw(size) for size in (1, 3, 2, 3)]
    stream = uniforms(seed_keys([0], 3)[0, :1], 12).reshape(4, 3)  # a call moves on by a stride, however much it uses
    for drawn, stride in zip(draws, stream, strict=True):
        assert_same(drawn, stride[None, : drawn.shape[1]])


def test_a_distribution_that_fails_leaves_the_row_usable():
    fails = [True]

    def predicate(tasks):
        if fails[0]:
            raise RuntimeError("not now")
        return np.ones(len(tasks), np.bool_)

    family = PointGoal()
    row = BatchRow(family, TaskDistribution(family).where(predicate))
    row.seed(seed_keys([3], 3)[0])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not now"):
            row.next_task()
    fails[0] = False
    row.next_task()
    expected = _row(BatchRow, family, 3)
    expected.next_task()
    assert row.task_id == expected.task_id
    fails[0] = True
    with pytest.raises(RuntimeError, match="not now"):
        row.sample(2)
    fails[0] = False
    assert_same(row.sample(2).columns(), expected.sample(2).columns())
