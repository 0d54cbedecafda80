import numpy as np
import pytest

from metagym.errors import ConfigError
from metagym.foreign.maker import EnvMaker
from metagym.foreign.strategies import Attributes, Construction, LayoutSeed, numbers_of
from tests.foreign.worlds import Walk, refresh_walk


def maker(source=Walk):
    return EnvMaker(source, {}, (), None)


def without_keywords():
    return Walk()


class Table(Walk):
    """Keeps a number on the class, another behind a property, and an array."""

    step_cost = 0.5
    _width = 1.0

    def __init__(self):
        super().__init__()
        self.total = self.step_cost * 2
        self.width = 2.0
        self.area = self.width * 3
        self.weights = np.array([1.0, 2.0], np.float32)

    @property
    def width(self):
        return self._width

    @width.setter
    def width(self, value):
        self._width = value


def test_construction_builds_an_env_for_every_task_and_closes_the_last():
    closed = []

    class Closing(Walk):
        def close(self):
            closed.append(self.slip)

    strategy = Construction(maker(Closing))
    first = strategy.enter(None, {"slip": 0.2}, None)
    second = strategy.enter(first, {"slip": 0.3}, None)

    assert (first.slip, second.slip, closed) == (0.2, 0.3, [0.2])


def test_a_layout_is_the_seed_of_every_reset():
    strategy = LayoutSeed(maker(), "layout")
    env = strategy.enter(None, {"layout": 5}, None)

    assert strategy.enter(env, {"layout": 6}, None) is env
    assert strategy.reset_seed({"layout": np.array(6)}, 99) == 6


def test_attributes_change_the_env_that_is_there_and_refresh_it():
    strategy = Attributes(maker(), {"slip": "slip"}, refresh_walk)
    env = strategy.enter(None, {"slip": 0.2}, None)

    assert strategy.enter(env, {"slip": 0.3}, None) is env
    assert (env.slip, env.stay) == (0.3, 0.7)


def test_arrays_keep_their_dtype_and_shape():
    strategy = Attributes(maker(Table), {"weights": "weights"}, None)

    assert strategy.enter(None, {"weights": np.array([3.0, 4.0])}, None).weights.dtype == np.float32
    with pytest.raises(ConfigError, match=r"'weights' has shape \(2,\), the task's value \(3,\)"):
        strategy.enter(None, {"weights": np.zeros(3)}, None)


@pytest.mark.parametrize(("attribute", "derived", "factor"), [("step_cost", "total", 2), ("width", "area", 3)])
def test_a_reference_derives_from_attributes_of_the_class_and_behind_properties(attribute, derived, factor):
    strategy = Attributes(maker(Table), {attribute: attribute}, None)
    env = strategy.reference({attribute: 7.0})

    assert getattr(env, derived) == 7.0 * factor
    assert strategy.stale({attribute: 7.0}) == [
        f"{derived}, which hangs on {attribute}, is {getattr(Table(), derived)} and would be {7.0 * factor}"
    ]


def test_a_reference_has_values_that_only_the_class_holds():
    strategy = Attributes(maker(Table), {"step_cost": "step_cost"}, None)

    assert strategy.reference({"step_cost": 7.0}).step_cost == 7.0


def test_a_reference_leaves_the_class_as_it_was():
    before = dict(vars(Table))
    Attributes(maker(Table), {"step_cost": "step_cost", "width": "width", "slip": "slip"}, None).reference(
        {"step_cost": 7.0, "width": 3.0, "slip": 0.3}
    )

    assert dict(vars(Table)) == before
    assert (Table().step_cost, Table().width, Table().slip) == (0.5, 2.0, 0.1)


def test_a_callable_that_passes_no_keywords_on_is_no_reason_to_doubt_refresh():
    strategy = Attributes(maker(without_keywords), {"slip": "slip"}, refresh_walk)

    assert strategy.reference({"slip": 0.3}).stay == 0.7
    assert strategy.stale({"slip": 0.3}) == []


def test_what_a_reset_overwrites_is_found():
    strategy = Attributes(maker(), {"slip": "slip"}, None)
    env = strategy.enter(None, {"slip": 0.3}, None)

    assert strategy.overwritten(env, {"slip": 0.3}) == []
    env.slip = 0.1
    assert strategy.overwritten(env, {"slip": 0.3}) == ["slip"]


def test_arrays_of_another_dtype_are_not_taken_for_overwritten():
    strategy = Attributes(maker(Table), {"weights": "weights"}, None)
    env = strategy.enter(None, {"weights": np.array([0.1, 0.2])}, None)

    assert strategy.overwritten(env, {"weights": np.array([0.1, 0.2])}) == []
    env.weights[0] = 1.0
    assert strategy.overwritten(env, {"weights": np.array([0.1, 0.2])}) == ["weights"]


def test_numbers_found_do_not_follow_the_env():
    table = Table()
    numbers = numbers_of(table)
    table.weights[0] = 9.0

    assert numbers["weights"][0] == 1.0


def test_numbers_are_found_on_the_env_and_on_its_class():
    numbers = numbers_of(Table())

    assert {"step_cost", "total", "weights", "slip"} <= numbers.keys()
    assert not {"width", "render_mode", "_width", "metadata"} & numbers.keys()
