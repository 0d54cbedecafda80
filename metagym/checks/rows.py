"""Laws of a family's dynamics: pure functions of N rows, each row by itself."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from metagym.checks.laws import Law, require, require_apart, require_same, unchanged_generators
from metagym.checks.probe import Moment, Probe, outcomes_of
from metagym.errors import ContractError
from metagym.family import Family, Params
from metagym.types import Array, Float

__all__ = ["ROW_LAWS", "padded"]

_FEW = (1, 2, 7)
_FRESH = "arrays that are freshly allocated in every call"


# --- what a family declares ------------------------------------------------------------------------------------------


def _declarations(probe: Probe) -> None:
    family = probe.family
    require(isinstance(family.name, str) and family.name, "name", family.name, "a text")
    kind = family.params_type
    is_params = isinstance(kind, type) and issubclass(kind, Params)
    require(is_params, "params_type", kind, "a dataclass that is a subclass of metagym.Params")
    names = kind.names()
    structural = family.structural
    holds = isinstance(structural, tuple) and bool(structural) and set(structural) <= set(names)
    require(holds, "structural", structural, f"a tuple of at least one of {names}")
    space = family.task_space
    is_dict = isinstance(space, spaces.Dict) and set(space) == set(names)
    require(is_dict, "task_space", space, f"a spaces.Dict with the fields {names} of {kind.__name__}")
    for attribute in ("has_success", "initial_needs_task", "observe_needs_task"):
        value = getattr(family, attribute)
        require(isinstance(value, bool), attribute, value, "True or False")
    for attribute, least in _COUNTS.items():
        value = getattr(family, attribute)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
        require(is_count, attribute, value, f"an integer of at least {least}")
    require(family.unsplit is None or isinstance(family.unsplit, str), "unsplit", family.unsplit, "None, or a text")
    require(family.num_structure_draws or _listed(family), "num_structure_draws", 0, "at least 1, or a list of tasks")
    _declared_spaces(family)


_COUNTS = {
    "episode_length": 1, "num_structure_draws": 0, "num_detail_draws": 0, "num_initial_draws": 0, "num_step_draws": 0,
}  # fmt: skip


def _listed(family: Family[Any, Any]) -> bool:
    return family.enumerate_structures() is not None


def _declared_spaces(family: Family[Any, Any]) -> None:
    action, observation = family.action_space, family.observation_space
    if isinstance(action, spaces.Discrete):
        require(action.start == 0, "action_space", action, "a Discrete that starts at 0")
    else:
        is_float = isinstance(action, spaces.Box) and action.dtype is not None and action.dtype.kind == "f"
        require(is_float, "action_space", action, "a Discrete, or a Box of floats")
    kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    require(isinstance(observation, kinds), "observation_space", observation, "a Box, Discrete or Multi... space")


def _returned_types(probe: Probe) -> None:
    family = probe.family
    for moment in probe.moments:
        num_rows = len(moment.action)
        _state_types(moment.state, family.initial(moment.params, moment.initial_noise), "initial()", num_rows)
        step = family.step(moment.state, moment.action, moment.params, moment.step_noise)
        _state_types(moment.state, step.state, "step().state", num_rows)
        _is_array(step.reward, "step().reward", np.dtype(np.float64), (num_rows,))
        _is_array(step.terminated, "step().terminated", np.dtype(np.bool_), (num_rows,))
        if step.success is not None:
            _is_array(step.success, "step().success", np.dtype(np.bool_), (num_rows,))
        space = family.observation_space
        observation = family.observe(step.state, moment.params)
        assert space.dtype is not None
        _is_array(observation, "observe()", np.dtype(space.dtype), (num_rows, *(space.shape or ())))


def _state_types(expected: Any, state: Any, where: str, num_rows: int) -> None:
    named = type(state) is type(expected) and hasattr(state, "_fields")
    require(
        named, where, type(state).__name__, f"a NamedTuple of arrays, always of one type ({type(expected).__name__})"
    )
    for name in expected._fields:
        column = getattr(expected, name)
        _is_array(getattr(state, name), f"{where}.{name}", column.dtype, (num_rows, *column.shape[1:]))


def _is_array(value: Any, where: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    require(found == f"{dtype} of shape {shape}", where, found, f"an array, {dtype} of shape {shape}")


def _values(probe: Probe) -> None:
    family = probe.family
    space = family.observation_space
    accepted = f"an element of {space}"
    for moment in probe.moments:
        step = family.step(moment.state, moment.action, moment.params, moment.step_noise)
        wrong = step.reward[~np.isfinite(step.reward)]
        require(not wrong.size, "step().reward", wrong[:3].tolist(), "finite rewards")
        for state in (moment.state, step.state):
            for row in _items(family.observe(state, moment.params), space):
                require(row in space, "observe()", row, accepted)


def _items(observation: Array, space: spaces.Space[Any]) -> Iterator[Any]:
    return iter(observation[row] for row in range(len(observation))) if space.shape else iter(observation)


def _success(probe: Probe) -> None:
    for moment in probe.moments:
        success = probe.family.step(moment.state, moment.action, moment.params, moment.step_noise).success
        accepted = "an array if has_success, else None"
        found = f"{'None' if success is None else 'an array'} with has_success={probe.family.has_success}"
        require((success is not None) == probe.family.has_success, "step().success", found, accepted)


# --- each row by itself ----------------------------------------------------------------------------------------------


def _row_independence(probe: Probe) -> None:
    for moment in probe.moments:
        together = outcomes_of(probe.family, moment)
        for few in _FEW:
            rows = np.arange(min(few, probe.num_rows))
            alone = outcomes_of(probe.family, moment.take(rows))
            where = f"the first {len(rows)} of {probe.num_rows} rows, alone and among the others"
            _require_rows(alone, together, rows, where)


def _permutation(probe: Probe) -> None:
    order = probe.rng("permutation").permutation(probe.num_rows)
    for moment in probe.moments:
        together, shuffled = outcomes_of(probe.family, moment), outcomes_of(probe.family, moment.take(order))
        _require_rows(shuffled, together, order, "rows in another order")


def _require_rows(found: dict[str, Array], together: dict[str, Array], rows: Array, where: str) -> None:
    for name, value in found.items():
        require_same(value, np.ascontiguousarray(together[name][rows]), f"{name} of {where}")


# --- pure functions --------------------------------------------------------------------------------------------------


def _purity(probe: Probe) -> None:
    for moment in probe.moments:
        given = moment.take(np.arange(probe.num_rows))
        first = outcomes_of(probe.family, given)
        for name, column in given.columns().items():
            require_same(column, moment.columns()[name], f"{name} after the calls")
        for name, value in outcomes_of(probe.family, given).items():
            require_same(first[name], value, f"{name} of the same arguments twice")


def _fresh_arrays(probe: Probe) -> None:
    for moment in probe.moments:
        first, second = outcomes_of(probe.family, moment), outcomes_of(probe.family, moment)
        for name, array in first.items():
            require(array.flags.writeable, name, "a read-only array", _FRESH)
        require_apart(first, first, _FRESH)
        require_apart(first, {f"the argument {name}": array for name, array in moment.columns().items()}, _FRESH)
        require_apart(first, {f"{name} of another call": array for name, array in second.items()}, _FRESH)


def _declared_draws(probe: Probe) -> None:
    for moment in probe.moments:
        expected = outcomes_of(probe.family, moment)
        noise = {"initial_noise": padded(moment.initial_noise), "step_noise": padded(moment.step_noise)}
        for name, value in outcomes_of(probe.family, moment._replace(**noise)).items():
            require_same(value, expected[name], f"{name} of noise that is part of a larger array")


def padded(noise: Float) -> Float:
    """The same noise as a read-only part of a larger array, with NaN after what was declared."""
    larger = np.full((len(noise), noise.shape[1] + 3), np.nan)
    larger[:, : noise.shape[1]] = noise
    larger.setflags(write=False)
    return larger[:, : noise.shape[1]]


def _global_generators(probe: Probe) -> None:
    with unchanged_generators():
        moment = probe.moments[0]
        outcomes_of(probe.family, moment)
        probe.tasks(probe.num_rows)
        probe.family.optimal_return(moment.params.take(np.arange(2)))
        probe.family.random_return(moment.params.take(np.arange(2)))
        one = moment.take(np.arange(1))
        probe.family.draw(one.state, one.params)
        probe.family.describe(one.state, one.params)


# --- who looks at the task -------------------------------------------------------------------------------------------


def _needs(attribute: str, call: Callable[[Family[Any, Any], Moment, Any, Array], dict[str, Array]]) -> Any:
    def check(probe: Probe) -> str | None:
        if getattr(probe.family, attribute):
            return f"{attribute} is True"
        few = np.arange(min(3, probe.num_rows))
        others = probe.rng(attribute).permutation(probe.num_rows)
        for moment in probe.moments:
            expected = call(probe.family, moment, moment.params, few)
            for params in (moment.params.take(few), moment.params.take(others)):
                for name, value in call(probe.family, moment, params, few).items():
                    where = f"{name} under the columns of {len(params)} other rows"
                    try:
                        require_same(value, expected[name], where)
                    except ContractError as differs:
                        raise ContractError(f"{differs} with {attribute}=False") from differs
        return None

    return check


def _initial_of(family: Family[Any, Any], moment: Moment, params: Any, rows: Array) -> dict[str, Array]:
    state = family.initial(params, moment.initial_noise[rows])
    return {f"initial().{name}": getattr(state, name) for name in state._fields}


def _observation_of(family: Family[Any, Any], moment: Moment, params: Any, rows: Array) -> dict[str, Array]:
    return {"observe()": family.observe(moment.take(rows).state, params)}


def _first_observation(probe: Probe) -> None:
    family = probe.family
    for region in probe.regions:
        params = probe.tasks(probe.num_rows, region)
        for noise in probe.rng("first observation").random((3, 1, family.num_initial_draws)):
            alike = np.repeat(noise, probe.num_rows, axis=0)
            seen = family.observe(family.initial(params, alike), params)
            other = np.flatnonzero((seen != seen[:1]).reshape(len(seen), -1).any(axis=1))
            where = "the first observations of two tasks with equal noise"
            found = f"{seen[0].tolist()} and {seen[other[0]].tolist()}" if other.size else ""
            require(not other.size, where, found, "one observation: the task is to be found out")


ROW_LAWS = (
    Law("declarations", "the attributes of a family are of their kinds and fit each other", _declarations),
    Law("returned types", "states, rewards, flags and observations have fixed dtypes and shapes", _returned_types),
    Law("values", "observations lie in their space, and rewards are finite", _values),
    Law("success flags", "Step.success is filled if, and only if, has_success", _success),
    Law("row independence", "a row's results do not depend on the other rows, nor on how many there are",
        _row_independence),
    Law("permutation", "rows in another order give the same results in that order", _permutation),
    Law("purity", "arguments are not changed, and the same arguments give the same results", _purity),
    Law("fresh arrays", "what is returned shares no memory with anything else", _fresh_arrays),
    Law("declared draws", "noise is used as far as it was declared, wherever it lies in memory", _declared_draws),
    Law("no global generator", "all randomness comes from the noise that is passed", _global_generators),
    Law("initial_needs_task", "a family that says so starts episodes without looking at the task",
        _needs("initial_needs_task", _initial_of)),
    Law("observe_needs_task", "a family that says so observes states without looking at the task",
        _needs("observe_needs_task", _observation_of)),
    Law("hidden task", "the first observation does not depend on the task", _first_observation),
)  # fmt: skip
