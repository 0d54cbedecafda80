"""Distributions of tasks: what is drawn, by which law, from which part."""

import itertools
import pickle

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metagym import ConfigError, Task, TaskDistribution
from metagym.distributions import restore_tasks
from metagym.envs import Bandit, FrozenLake, PointGoal
from tests.parity import assert_same
from tests.strategies import FAMILIES, SETTINGS, Drift, Hall, anything, family_of, seeds

every_family = pytest.mark.parametrize("setting", [*SETTINGS, *FAMILIES], ids=str)


def keys(num_keys, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, num_keys, np.uint64)


def structures(distribution, num_tasks, seed=0):
    """The structural fields of sampled tasks, as bytes."""
    params, _ = distribution.draw(keys(num_tasks, seed))
    columns = [params.columns()[name] for name in distribution.family.structural]
    return [b"|".join(column[row].tobytes() for column in columns) for row in range(num_tasks)]


class RejectedLake(FrozenLake):
    """A lake that is sampled by proposal and rejection though it could be enumerated."""

    def enumerate_structures(self):
        return None


class Coins(Bandit):
    """A family with as many structures as `num_structures`, uneven in probability."""

    num_structures = 5

    def enumerate_structures(self):
        means = np.linspace(0.0, 1.0, self.num_structures)[:, None].repeat(self.num_arms, axis=1)
        return {"means": means}, np.arange(1.0, self.num_structures + 1)


# --- drawing ---------------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("part", ["train", "test", "ood", None])
def test_a_key_gives_its_task_whatever_is_drawn_beside_it(setting, part):
    if part == "ood" and isinstance(setting, tuple) and not setting[1].get("is_slippery", True):
        pytest.skip("a lake that is not slippery has no ood region")
    distribution = TaskDistribution(family_of(setting)).part(part)
    some = keys(40)
    params, ids = distribution.draw(some)
    assert [task.id for task in restore_tasks(distribution.family, params)] == ids.tolist()
    order = np.random.default_rng(1).permutation(40)
    permuted, permuted_ids = distribution.draw(some[order])
    assert_same(permuted.columns(), params.take(order).columns())
    assert_same(permuted_ids, ids[order])
    single, single_id = distribution.draw(some[7:8])
    assert_same(single.columns(), params.take(np.array([7])).columns())
    assert single_id[0] == ids[7]
    filtered = distribution.where(lambda tasks: np.ones(len(tasks), np.bool_))
    assert_same(filtered.draw(some)[1], ids)


@settings(max_examples=20)
@given(anything, seeds, st.integers(1, 9))
def test_n_tasks_at_once_are_n_tasks_one_by_one(setting, seed, n):
    distribution = TaskDistribution(family_of(setting))
    first, second = (np.random.default_rng(seed) for _ in range(2))
    at_once = distribution.sample(first, n)
    assert at_once == [distribution.sample(second) for _ in range(n)]
    assert isinstance(at_once, list)
    assert first.bit_generator.state == second.bit_generator.state


@every_family
def test_drawn_columns_have_the_shapes_dtypes_and_bounds_of_the_space(setting):
    family = family_of(setting)
    params, _ = TaskDistribution(family).draw(keys(200))
    assert list(params.columns()) == list(params.names())
    assert set(params.names()) == set(family.task_space)
    for name, column in params.columns().items():
        space = family.task_space[name]
        assert (column.dtype, column.shape) == (space.dtype, (200, *space.shape))
        values = (row[()] if isinstance(space, spaces.Discrete) else np.asarray(row) for row in column)
        assert all(value in space for value in values)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3"])
def test_a_bad_number_of_tasks_is_refused_before_the_generator_is_used(n):
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=f"at least 1.*{n}"):
        TaskDistribution(Hall()).sample(rng, n)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


# --- laws ------------------------------------------------------------------------------------------------------------


def _counts(distribution, listed, num_tasks=20_000):
    index = {row.tobytes(): place for place, row in enumerate(listed)}
    params, _ = distribution.draw(keys(num_tasks, 5))
    column = getattr(params, distribution.family.structural[0])
    return np.bincount([index[row.tobytes()] for row in column], minlength=len(listed))


@pytest.mark.parametrize(
    "family", [FrozenLake(size=2), FrozenLake(size=3), RejectedLake(size=3)], ids=lambda f: type(f).__name__
)
def test_structures_come_with_their_probabilities(family):
    columns, weights = FrozenLake(size=family.size).enumerate_structures()
    counts = _counts(TaskDistribution(family), columns["map"])
    frequent = weights * 20_000 >= 5
    observed = np.append(counts[frequent], counts[~frequent].sum())
    expected = np.append(weights[frequent], weights[~frequent].sum()) * 20_000
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("part", ["train", "test"])
def test_within_a_part_structures_keep_their_relative_probabilities(part):
    family = Coins(num_arms=2)
    columns, weights = family.enumerate_structures()
    counts = _counts(TaskDistribution(family).split(part), columns["means"])
    inside = counts > 0
    assert inside.sum() == {"train": 4, "test": 1}[part]
    if part == "train":
        expected = weights[inside] / weights[inside].sum() * 20_000
        assert stats.chisquare(counts[inside], expected).pvalue > 1e-3


def test_details_follow_their_law_in_every_part():
    family = FrozenLake(size=3, success_rate=(0.2, 0.6), remap_actions=True)
    for part in ("train", "test", None):
        params, _ = TaskDistribution(family).part(part).draw(keys(4000))
        assert stats.kstest(params.success_rate, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
        _, counts = np.unique(params.action_map, axis=0, return_counts=True)
        assert len(counts) == 24
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", [FrozenLake, RejectedLake])
def test_structure_and_details_are_independent(kind):
    family = kind(size=3, frozen_probability=0.5, success_rate=(0.0, 1.0))
    params, _ = TaskDistribution(family).draw(keys(4000))
    for cell in range(1, 8):
        table = np.histogram2d(params.map.reshape(-1, 9)[:, cell], params.success_rate, bins=(2, 5))[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_largest_uniform_gives_the_last_structure_though_weights_do_not_add_up(monkeypatch):
    family = Coins(num_arms=2)
    means = np.linspace(0.0, 1.0, 10)[:, None].repeat(2, axis=1)
    monkeypatch.setattr(family, "enumerate_structures", lambda: ({"means": means}, np.full(10, 0.1)))
    assert np.cumsum(np.full(10, 0.1))[-1] < 1.0
    distribution = TaskDistribution(family)
    monkeypatch.setattr("metagym.distributions.uniforms", lambda some, num: np.full((len(some), num), 1.0 - 2.0**-53))
    assert distribution.draw(keys(3))[0].means.tolist() == [[1.0, 1.0]] * 3


def test_the_task_of_a_key_behind_a_filter_does_not_depend_on_the_other_keys():
    distribution = TaskDistribution(PointGoal()).where(lambda tasks: tasks.goal[:, 0] > 0.3)
    some = keys(60)
    params, ids = distribution.draw(some)
    for row in range(60):
        single, single_id = distribution.draw(some[row : row + 1])
        assert_same(single.goal[0], params.goal[row])
        assert single_id[0] == ids[row]


def test_a_filter_keeps_the_law_of_what_it_lets_through():
    family = PointGoal()
    right = TaskDistribution(family).where(lambda tasks: tasks.goal[:, 0] > 0.25)
    params, ids = right.draw(keys(4000))
    assert stats.kstest(params.goal[:, 0], stats.uniform(0.25, 0.25).cdf).pvalue > 1e-3
    assert stats.kstest(params.goal[:, 1], stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3
    assert len(np.unique(ids)) == 4000


def test_the_tasks_of_different_keys_are_independent():
    goals = TaskDistribution(PointGoal()).draw(np.arange(4000, dtype=np.uint64))[0].goal
    for left, right in itertools.product(range(2), range(2)):
        assert abs(np.corrcoef(goals[:-1, left], goals[1:, right])[0, 1]) < 0.05


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [FrozenLake(), FrozenLake(size=5), FrozenLake(size=8), PointGoal(), Bandit(), Drift()],
    ids=lambda f: type(f).__name__,
)
def test_ten_thousand_structures_of_train_and_test_are_disjoint(family):
    whole = TaskDistribution(family)
    train, test = (set(structures(whole.split(name), 10_000, seed)) for seed, name in enumerate(("train", "test")))
    assert len(train) > 1000
    assert len(test) > 100
    assert not train & test


@pytest.mark.parametrize(
    "family",
    [FrozenLake(size=5), PointGoal(), PointGoal(variant="semicircle"), Bandit(), Drift()],
    ids=lambda f: type(f).__name__,
)
def test_a_fifth_of_the_tasks_are_test_tasks_and_every_task_is_in_one_part(family):
    whole = TaskDistribution(family)
    train, test = whole.split("train"), whole.split("test")
    tasks = whole.sample(np.random.default_rng(0), 1000)
    in_test = np.array([task in test for task in tasks])
    assert (in_test != np.array([task in train for task in tasks])).all()
    assert stats.binomtest(int(in_test.sum()), 1000, 0.2).pvalue > 1e-3


@pytest.mark.parametrize(
    "family",
    [
        FrozenLake(size=2),
        FrozenLake(size=3, frozen_probability=0.5),
        FrozenLake(),
        FrozenLake(size=3, random_goal=True),
    ],
)
def test_parts_of_an_enumerated_family_are_exhaustive_disjoint_and_80_to_20(family):
    columns, _ = family.enumerate_structures()
    whole, num_maps = TaskDistribution(family), len(columns["map"])
    parts = {name: whole.split(name)._table.columns["map"] for name in ("train", "test")}
    contents = {name: {row.tobytes() for row in maps} for name, maps in parts.items()}
    assert contents["train"] | contents["test"] == {row.tobytes() for row in columns["map"]}
    assert not contents["train"] & contents["test"]
    assert len(contents["test"]) == max(1, round(0.2 * num_maps))
    if num_maps < 100:
        drawn = {name: set(structures(whole.split(name), 3000)) for name in parts}
        assert drawn == contents
    for name, maps in parts.items():
        task = Task("FrozenLake", {"map": maps[0], "success_rate": 0.5, "action_map": np.arange(4, dtype=np.uint8)})
        assert task in whole.split(name)
        assert task not in whole.split({"train": "test", "test": "train"}[name])


@pytest.mark.parametrize("num_structures", [2, 3, 4, 5, 11])
def test_the_smallest_families_have_both_parts(num_structures):
    family = Coins(num_arms=2)
    family.num_structures = num_structures
    whole = TaskDistribution(family)
    sizes = [len(set(structures(whole.split(name), 2000))) for name in ("train", "test")]
    assert sizes == [num_structures - max(1, round(num_structures / 5)), max(1, round(num_structures / 5))]


def test_a_family_of_one_structure_cannot_be_split():
    family = Coins(num_arms=2)
    family.num_structures = 1
    with pytest.raises(ConfigError, match="single structure"):
        TaskDistribution(family).split("train")
    assert len(set(structures(TaskDistribution(family), 10))) == 1


def test_the_part_does_not_depend_on_details():
    family = FrozenLake(success_rate=(0.0, 1.0), remap_actions=True)
    whole = TaskDistribution(family)
    for task in whole.sample(np.random.default_rng(0), 30):
        other = whole.coerce({**task, "success_rate": 1.0 - float(task["success_rate"]), "action_map": [3, 1, 0, 2]})
        assert (task in whole.split("test")) == (other in whole.split("test"))


def test_the_part_is_the_same_in_a_copy():
    whole = TaskDistribution(PointGoal())
    tasks = whole.sample(np.random.default_rng(0), 50)
    for name in ("train", "test"):
        copied = pickle.loads(pickle.dumps(whole.split(name)))
        assert [task in copied for task in tasks] == [task in whole.split(name) for task in tasks]
        assert_same(copied.draw(keys(20))[1], whole.split(name).draw(keys(20))[1])
    filtered = cloudpickle.loads(cloudpickle.dumps(whole.where(lambda tasks: tasks.goal[:, 0] > 0)))
    assert (filtered.draw(keys(20))[0].goal[:, 0] > 0).all()


def test_deriving_changes_nothing_in_what_it_is_derived_from():
    for family in (PointGoal(), FrozenLake()):
        whole = TaskDistribution(family)
        expected, text = whole.draw(keys(50))[1], repr(whole)
        whole.split("test").draw(keys(50))
        whole.ood().draw(keys(50))
        whole.where(lambda tasks: np.arange(len(tasks)) >= 0).draw(keys(50))
        assert_same(whole.draw(keys(50))[1], expected)
        assert repr(whole) == text


@pytest.mark.parametrize(
    "family", [PointGoal(), PointGoal(variant="semicircle"), FrozenLake(), Bandit(), Bandit(reward="gaussian"), Drift()]
)
def test_ood_tasks_are_none_that_training_draws(family):
    whole = TaskDistribution(family)
    ood = whole.ood().sample(np.random.default_rng(0), 200)
    assert not {task.id for task in ood} & {task.id for task in whole.sample(np.random.default_rng(1), 2000)}
    assert all(whole.coerce(task) == task for task in ood)
    if isinstance(family, PointGoal) and family.variant == "maml":
        assert all(np.abs(task["goal"]).max() > 0.5 for task in ood)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda whole: whole.split("validation"), "'validation'.*'train' or 'test'|'validation'.*'train' and 'test'"),
        (lambda whole: whole.split(None), "None"),
        (lambda whole: whole.part("validation"), "'validation'.*'train', 'test', 'ood' and None"),
        (lambda whole: whole.part(3), "3.*'ood'"),
        (lambda whole: whole.split("train").split("train"), "'train' part already"),
        (lambda whole: whole.split("test").ood(), "'test' part"),
        (lambda whole: whole.ood().split("test"), "'ood' part already"),
    ],
)
def test_parts_that_make_no_sense_are_refused(make, message):
    for family in (PointGoal(), FrozenLake()):
        with pytest.raises(ConfigError, match=message):
            make(TaskDistribution(family))


def test_filters_add_up_and_go_with_parts():
    whole = TaskDistribution(FrozenLake(success_rate=(0.0, 1.0)))
    narrow = whole.where(lambda t: t.success_rate > 0.5).split("test").where(lambda t: t.success_rate < 0.6)
    params, _ = narrow.draw(keys(100))
    assert ((params.success_rate > 0.5) & (params.success_rate < 0.6)).all()
    tasks = restore_tasks(whole.family, params)
    assert all(task in narrow and task in whole.split("test") for task in tasks)
    other = whole.split("test").where(lambda t: t.success_rate > 0.7)
    assert not any(task in other for task in tasks)
    assert "test" in repr(narrow)
    assert "filters=2" in repr(narrow)


def test_a_filter_that_lets_nothing_through_says_so(monkeypatch):
    monkeypatch.setattr("metagym.distributions._MAX_ROUNDS", 20)
    with pytest.raises(ConfigError, match="no task of PointGoal passed the filter in 20 draws"):
        TaskDistribution(PointGoal()).where(lambda tasks: np.zeros(len(tasks), np.bool_)).draw(keys(3))


class NoDrift(Drift):
    """Accepts no structure."""

    def accept(self, structure):
        return np.zeros(len(structure["kind"]), np.bool_)


def test_a_family_that_accepts_nothing_says_so(monkeypatch):
    monkeypatch.setattr("metagym.distributions._MAX_ROUNDS", 20)
    with pytest.raises(ConfigError, match=r"Drift.*'train'.*20 proposals"):
        TaskDistribution(NoDrift()).draw(keys(3))
    with pytest.raises(ConfigError, match=r"Drift.*'test'.*20 proposals"):
        TaskDistribution(NoDrift()).split("test").draw(keys(3))


@pytest.mark.parametrize(
    "predicate",
    [lambda t: True, lambda t: t.goal, lambda t: t.goal[:, 0], lambda t: np.ones(1, np.bool_), lambda t: None],
)
def test_a_predicate_must_return_one_boolean_a_task(predicate):
    with pytest.raises(ConfigError, match=r"boolean array of shape \(3,\)"):
        TaskDistribution(PointGoal()).where(predicate).draw(keys(3))


def test_a_family_that_cannot_hold_tasks_out_trains_on_all_and_says_why_there_is_no_test_part():
    family = FrozenLake(size=2)
    family.unsplit = "two lakes are too few"
    distribution = TaskDistribution(family)
    train = distribution.split("train")
    keys = np.arange(20, dtype=np.uint64)
    assert train.draw(keys)[1].tolist() == distribution.draw(keys)[1].tolist()
    with pytest.raises(ConfigError, match="FrozenLake has no test part here: two lakes are too few"):
        distribution.split("test")
    with pytest.raises(ConfigError, match="no test part"):
        distribution.part("test")
