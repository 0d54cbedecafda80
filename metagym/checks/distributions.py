"""Laws of a family's tasks: how they are drawn, split, accepted and stored."""

import pickle
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from metagym.checks.laws import Law, require, require_refusal, require_same
from metagym.checks.probe import Probe
from metagym.checks.rows import padded
from metagym.distributions import restore_tasks
from metagym.errors import TaskError
from metagym.tasks import Task, TaskSet
from metagym.types import Array, Float

__all__ = ["TASK_LAWS", "chi_square_excess", "wrong_values"]

_MANY = 512
_SOME = 24
_MAX_EXCESS = 5.0


# --- drawing ---------------------------------------------------------------------------------------------------------


def _noise(probe: Probe, region: str, num_tasks: int) -> tuple[Float, Float]:
    family, rng = probe.family, probe.rng(f"noise {region}")
    ood = family.num_ood_detail_draws
    num_details = family.num_detail_draws if region == "train" or ood is None else ood
    return rng.random((num_tasks, family.num_structure_draws)), rng.random((num_tasks, num_details))


def _drawn(probe: Probe, region: Any, structure: Float, details: Float) -> dict[str, Array]:
    columns = probe.family.draw_structure(structure, region)
    accepted = probe.family.accept(columns)
    named = {f"draw_structure()[{name!r}]": column for name, column in columns.items()}
    drawn = probe.family.draw_details(details, region)
    named |= {f"draw_details()[{name!r}]": column for name, column in drawn.items()}
    return named | ({} if accepted is None else {"accept()": accepted})


def _drawn_fields(probe: Probe) -> None:
    family = probe.family
    for region in probe.regions:
        noise, details = _noise(probe, region, 7)
        structure = family.draw_structure(noise, region)  # type: ignore[arg-type]
        require(set(structure) == set(family.structural), f"fields of draw_structure in {region!r}", sorted(structure),
                f"the structural ones, {family.structural}")  # fmt: skip
        rest = family.draw_details(details, region)  # type: ignore[arg-type]
        expected = set(family.params_type.names()) - set(family.structural)
        require(set(rest) == expected, f"fields of draw_details in {region!r}", sorted(rest), str(sorted(expected)))
        for name, column in {**structure, **rest}.items():
            space = family.task_space[name]
            kind = f"{space.dtype} of shape {(7, *(space.shape or ()))}"
            require(f"{column.dtype} of shape {column.shape}" == kind, f"column {name!r} in {region!r}",
                    f"{column.dtype} of shape {column.shape}", kind)  # fmt: skip


def _task_rows(probe: Probe) -> None:
    for region in probe.regions:
        structure, details = _noise(probe, region, probe.num_rows)
        together = _drawn(probe, region, structure, details)
        order = probe.rng("order").permutation(probe.num_rows)
        for rows in (np.arange(1), np.arange(min(7, probe.num_rows)), order):
            given = padded(structure[rows]), padded(details[rows])
            for name, column in _drawn(probe, region, *given).items():
                expected = np.ascontiguousarray(together[name][rows])
                require_same(column, expected, f"{name} in {region!r}, {len(rows)} rows of {probe.num_rows}")


def _membership(probe: Probe) -> None:
    for region in probe.regions:
        for task in _tasks(probe, region, _SOME):
            require(probe.distribution.coerce(task) == task, f"a task drawn in {region!r}", dict(task),
                    "a task that coerce accepts and leaves as it is")  # fmt: skip
            for name, value in task.items():
                space = probe.family.task_space[name]
                item = value[()] if isinstance(space, spaces.Discrete) else value
                require(item in space, f"{name} of a task drawn in {region!r}", value, f"an element of {space}")


def _tasks(probe: Probe, region: str, num_tasks: int) -> list[Task]:
    return restore_tasks(probe.family, probe.tasks(num_tasks, region))


# --- storing ---------------------------------------------------------------------------------------------------------


def _round_trips(probe: Probe) -> None:
    tasks = [task for region in probe.regions for task in _tasks(probe, region, _SOME)]
    for task in tasks:
        for way, again in {
            "JSON": Task.from_json(task.to_json()),
            "pickle": pickle.loads(pickle.dumps(task)),
            "a plain mapping": probe.distribution.coerce(dict(task)),
        }.items():
            require(again == task and again.id == task.id, f"a task through {way}", again, repr(task))
    with tempfile.TemporaryDirectory() as folder:
        saved = TaskSet.load(TaskSet(tasks).save(Path(folder) / "tasks"))
    require(list(saved) == tasks, "tasks through a file", list(saved)[:2], f"the tasks saved, {tasks[:2]!r}")
    params = probe.tasks(_SOME)
    for name, column in probe.family.params_of(restore_tasks(probe.family, params)).columns().items():
        require_same(column, params.columns()[name], f"column {name!r} after params_of")


# --- refusing --------------------------------------------------------------------------------------------------------


def wrong_values(space: spaces.Space[Any], value: Array) -> dict[str, Any]:
    """Values that no field of a space may have, by what is wrong with them; `value` is one that it has."""
    wrong: dict[str, Any] = {"text": "nonsense", "None": None, "complex": np.asarray(value) + 1j}
    wrong["another shape"] = np.asarray(value)[None]
    wrong["NaN"] = np.full(space.shape or (), np.nan)
    return wrong | dict(_beyond(space))


def _beyond(space: spaces.Space[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(space, spaces.Discrete):
        yield from (("too high", int(space.start + space.n)), ("too low", int(space.start) - 1))
    elif isinstance(space, spaces.MultiBinary):
        yield "too high", np.full(space.shape, 2)
    elif isinstance(space, spaces.Box):
        for name, bound, sign in (("too high", space.high, 1.0), ("too low", space.low, -1.0)):
            limit = bound.astype(np.float64)
            if np.isfinite(limit).all():
                yield name, limit + sign * np.maximum(1.0, np.abs(limit))
                yield f"{name} without end", np.full(space.shape, sign * np.inf)


def _refusals(probe: Probe) -> None:
    family, coerce = probe.family, probe.distribution.coerce
    task = dict(_tasks(probe, "train", 1)[0])
    first = family.structural[0]
    cases: list[tuple[str, Any, str]] = [
        (f"{name} is {what}", {**task, name: value}, name)
        for name in task
        for what, value in wrong_values(family.task_space[name], task[name]).items()
    ]
    cases.append((f"{first} is missing", {name: value for name, value in task.items() if name != first}, first))
    cases.append(("an unknown field", {**task, "no such field": 3}, "no such field"))
    cases.append(("another family", Task("Another family", task), "Another family"))
    for what, fields, named in cases:
        require_refusal(partial(coerce, fields), TaskError, f"coerce, {what}", named)


# --- parts -----------------------------------------------------------------------------------------------------------


def _splits(probe: Probe) -> str | None:
    family = probe.family
    if family.unsplit is not None:
        return f"there is no test part: {family.unsplit}"
    parts = {name: probe.distribution.split(name) for name in ("train", "test")}
    structures: dict[str, set[bytes]] = {}
    for name, part in parts.items():
        params, ids = part.draw(probe.keys(f"split {name}", _MANY))
        columns = [np.ascontiguousarray(params.columns()[field]) for field in family.structural]
        structures[name] = {b"".join(column[row].tobytes() for column in columns) for row in range(len(ids))}
        for task in restore_tasks(family, params.take(np.arange(_SOME))):
            for other, whole in parts.items():
                require((task in whole) == (other == name), f"a task drawn from {name!r}", f"{task in whole} for "
                        f"task in {other!r}", "membership of its own part only")  # fmt: skip
    shared = structures["train"] & structures["test"]
    require(not shared, "structures of train and test", f"{len(shared)} in both", "no structure in both")
    return None


def _structure_decides(probe: Probe) -> str | None:
    family = probe.family
    if not family.num_detail_draws:
        return "tasks differ in structural fields only"
    if family.unsplit is not None:
        return f"there is no test part: {family.unsplit}"
    train = probe.distribution.split("train")
    params, others = probe.tasks(_SOME), probe.tasks(2 * _SOME).take(np.arange(_SOME, 2 * _SOME))
    structure = {name: params.columns()[name] for name in family.structural}
    mixed = family.params_type(**{**others.columns(), **structure})
    accepted = "one part for equal structural fields"
    pairs = zip(restore_tasks(family, params), restore_tasks(family, mixed), strict=True)
    for task, alike in pairs:
        if alike in probe.distribution:  # these details may not fit that structure
            found = f"{task in train} and {alike in train}"
            require((task in train) == (alike in train), "task in 'train' for two tasks that differ in details", found,
                    accepted)  # fmt: skip
    return None


def _outside(probe: Probe) -> str | None:
    if "ood" not in probe.regions:
        return "there is no ood region"
    family = probe.family
    structure, details = _noise(probe, "ood", _MANY)
    _, train_details = _noise(probe, "train", _MANY)
    ood = _drawn(probe, "ood", structure, details)
    train = _drawn(probe, "train", structure, details if details.shape == train_details.shape else train_details)
    ignored = set(ood) == set(train) and all(np.array_equal(column, train[name]) for name, column in ood.items())
    require(not ignored, "tasks of 'ood' and 'train' from the same noise", "equal tasks",
            "other tasks: draw_structure or draw_details must look at the region")  # fmt: skip
    listed = family.enumerate_structures()
    if listed is None:
        return None
    known = _bytes_of(listed[0])
    in_range = np.array([row in known for row in _bytes_of_rows(_structure_of(ood, family.structural))])
    for name, column in ood.items():
        if name.startswith("draw_details"):
            rows = column.reshape(len(column), -1)
            seen = train[name].reshape(len(train[name]), -1)
            in_range &= ((rows >= seen.min(axis=0)) & (rows <= seen.max(axis=0))).all(axis=1)
    accepted = "no structure of the list, or details beyond those of training"
    require(not in_range.any(), "tasks of 'ood'", f"{in_range.sum()} of {_MANY} that training has as well", accepted)
    return None


def _structure_of(named: dict[str, Array], structural: tuple[str, ...]) -> dict[str, Array]:
    return {name: named[f"draw_structure()[{name!r}]"] for name in structural}


def _bytes_of_rows(columns: dict[str, Array]) -> list[bytes]:
    ordered = [np.ascontiguousarray(columns[name]) for name in sorted(columns)]
    return [b"".join(column[row].tobytes() for column in ordered) for row in range(len(ordered[0]))]


def _bytes_of(columns: dict[str, Array]) -> dict[bytes, int]:
    return {row: place for place, row in enumerate(_bytes_of_rows(columns))}


# --- lists -----------------------------------------------------------------------------------------------------------


def _enumeration(probe: Probe) -> str | None:
    listed = probe.family.enumerate_structures()
    if listed is None:
        return "structures are not listed"
    columns, weights = listed
    places = _bytes_of(columns)
    require(len(places) == len(weights), "listed structures", f"{len(weights) - len(places)} twice", "each once")
    require(weights.dtype == np.float64 and (weights >= 0).all(), "their probabilities", weights, "floats >= 0")
    require(abs(weights.sum() - 1.0) < 1e-9, "the sum of their probabilities", float(weights.sum()), "1")
    if not probe.family.num_structure_draws:
        return None
    noise = probe.rng("enumeration").random((4 * _MANY, probe.family.num_structure_draws))
    drawn = probe.family.draw_structure(noise, "train")
    accepted = probe.family.accept(drawn)
    keep = np.ones(len(noise), np.bool_) if accepted is None else accepted
    rows = _bytes_of_rows({name: column[keep] for name, column in drawn.items()})
    unknown = [row for row in rows if row not in places]
    require(not unknown, "structures that draw_structure proposes and accept takes", f"{len(unknown)} of {len(rows)} "
            "that are not listed", "listed ones")  # fmt: skip
    excess = chi_square_excess(np.bincount([places[row] for row in rows], minlength=len(weights)), weights)
    require(excess < _MAX_EXCESS, "how often listed structures are drawn", f"{excess:.1f} standard deviations away",
            f"at most {_MAX_EXCESS:.0f}")  # fmt: skip
    return None


def chi_square_excess(counts: Array, probabilities: Float) -> float:
    """How far counts are from their probabilities: chi-square as a normal deviate (Wilson and Hilferty).

    Neighbouring outcomes are joined until at least five counts are expected of each.

    Args:
        counts: (K,) integers.
        probabilities: (K,), of sum 1.

    Returns:
        Standard deviations; -inf where there is one outcome only.
    """
    expected = probabilities * counts.sum()
    group = np.floor(np.cumsum(expected) / 5.0 - 1e-9).astype(np.int64)
    group = np.unique(group, return_inverse=True)[1]
    observed, mean = np.bincount(group, counts), np.bincount(group, expected)
    if mean[-1] < 5.0 and len(mean) > 1:
        observed[-2] += observed[-1]
        mean[-2] += mean[-1]
        observed, mean = observed[:-1], mean[:-1]
    free = len(mean) - 1
    if not free:
        return -np.inf
    chi_square = float(((observed - mean) ** 2 / mean).sum())
    scale = 2.0 / (9.0 * free)
    return float((np.cbrt(chi_square / free) - (1.0 - scale)) / np.sqrt(scale))


TASK_LAWS = (
    Law("drawn fields", "draw_structure and draw_details give all fields, as the task space has them", _drawn_fields),
    Law("independent tasks", "a drawn task depends on its own noise only", _task_rows),
    Law("task space", "every drawn task is an element of the task space, and valid", _membership),
    Law("task round trips", "tasks survive JSON, pickle, files and columns to the last bit", _round_trips),
    Law("refused tasks", "what is no task is refused by name", _refusals),
    Law("disjoint splits", "train and test share no structure", _splits),
    Law("structure decides", "tasks of equal structure are on the same side of the split", _structure_decides),
    Law("ood outside", "tasks of the ood region are not those of training", _outside),
    Law("enumeration", "listed structures are those that are drawn, with their probabilities", _enumeration),
)
