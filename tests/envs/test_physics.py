from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.cart_pole import CartPole
from metagym.envs.physics import PhysicsFamily, Span
from metagym.family import Params

ONE = np.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class _Constants(Params):
    weight: np.ndarray
    size: np.ndarray
    pull: np.ndarray


class _Thing(PhysicsFamily):
    name = "Thing"
    params_type = _Constants
    spans = MappingProxyType(
        {
            "weight": Span(1.0, (0.5, 2.0), (0.1, 2.0)),
            "size": Span(0.3, (0.1, 0.4), (0.1, 0.4)),
            "pull": Span(-1.0, (-2.0, -0.7), (-5.0, 0.3)),
        }
    )

    def initial(self, params, noise): ...
    def step(self, state, action, params, noise): ...
    def observe(self, state, params): ...
    def draw(self, state, params): ...
    def describe(self, state, params): ...


def _sample(part, num_tasks=6000):
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(_Thing()).part(part).draw(keys)[0]


def test_the_task_space_is_the_support():
    assert _Thing().task_space == spaces.Dict(
        weight=spaces.Box(0.1, 2.0, (), np.float64),
        size=spaces.Box(0.1, 0.4, (), np.float64),
        pull=spaces.Box(-5.0, 0.3, (), np.float64),
    )


def test_the_nominal_task_holds_the_published_values():
    assert {name: float(value) for name, value in _Thing.nominal().items()} == {"weight": 1.0, "size": 0.3, "pull": -1}
    assert _Thing.nominal() in TaskDistribution(_Thing())


@pytest.mark.parametrize("part", ["train", "test", None])
def test_constants_are_uniform_on_the_training_box_and_independent(part):
    params = _sample(part)
    for name, column in params.columns().items():
        low, high = _Thing.spans[name].train
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(list(params.columns().values())) - np.eye(3)).max() < 0.05


def test_train_and_test_share_no_task():
    train, test = (
        {row.tobytes() for row in np.stack([*_sample(part).columns().values()], 1)} for part in ("train", "test")
    )
    assert len(train) == len(test) == 6000
    assert not train & test


def test_out_of_distribution_one_constant_leaves_its_interval_and_the_others_span_their_supports():
    params = _sample("ood", 20_000)
    outside = {
        name: (column < _Thing.spans[name].train[0]) | (column > _Thing.spans[name].train[1])
        for name, column in params.columns().items()
    }
    assert np.all(outside["weight"] | outside["pull"])
    assert not outside["size"].any()
    low, high = _Thing.spans["size"].support
    assert stats.kstest(params.size, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    # Weight leaves in half of the tasks, and then lies below; in the others it is uniform on [0.1, 2].
    weight = stats.uniform(0.1, 1.9).cdf
    assert stats.kstest(params.weight, lambda x: (np.clip((x - 0.1) / 0.4, 0, 1) + weight(x)) / 2).pvalue > 1e-3
    # Beyond its interval, pull is as dense on both sides.
    beyond = params.pull[outside["pull"] & ~outside["weight"]]
    assert np.mean(beyond < -2.0) == pytest.approx(3.0 / 4.0, abs=0.03)


def test_extreme_uniforms_stay_in_the_space_and_outside_the_training_box():
    noise = np.array(
        [[a, b, c] for a in (0.0, 0.25, 0.499999, 0.5, 0.7, 0.875, ONE) for b in (0.0, ONE) for c in (0.0, ONE)]
    )
    family = _Thing()
    for region in ("train", "ood"):
        columns = family.draw_structure(noise, region)
        for name, column in columns.items():
            low, high = _Thing.spans[name].support
            assert np.all((column >= low) & (column <= high))
            assert column.flags.c_contiguous
    outside = [
        (columns[name] < low) | (columns[name] > high)
        for name, (low, high) in (("weight", (0.5, 2.0)), ("pull", (-2.0, -0.7)))
    ]
    assert np.all(outside[0] | outside[1])


def test_a_task_does_not_depend_on_the_tasks_drawn_beside_it():
    family, noise = _Thing(), np.random.default_rng(1).random((40, 3))
    for region in ("train", "ood"):
        whole = family.draw_structure(noise, region)
        for rows in ([3], [7, 1, 30]):
            part = family.draw_structure(noise[rows], region)
            assert all(part[name].tolist() == whole[name][rows].tolist() for name in whole)


def test_values_beside_the_training_interval_are_never_rounded_into_it():
    gravity = CartPole.spans["gravity"]
    beside = CartPole()._beyond(np.array([np.nextafter(0.5, 0.0), 0.5]), np.array([0, 0]))

    assert gravity.train == (5.0, 15.0)
    assert gravity.support == (2.0, 18.0)
    assert beside.tolist() == [np.nextafter(5.0, 0.0), 18.0]
