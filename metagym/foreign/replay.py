"""Where worlds stand, as arrays: the seed and the actions of the running episodes, which are played once more."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metagym.family import Params
from metagym.foreign.world import World
from metagym.types import Array

__all__ = ["pack", "unpack"]


def pack(worlds: Sequence[World]) -> dict[str, Array]:
    """Seeds (N,), numbers of actions (N,), actions (T, N, ...), and last observations (N, ...) of N worlds."""
    lengths = np.array([len(world.actions) if world.seed >= 0 else -1 for world in worlds], np.int64)
    arrays = {"seeds": np.array([world.seed for world in worlds], np.int64), "lengths": lengths}
    most = int(lengths.max())
    if most > 0:
        first = np.asarray(next(world.actions[0] for world in worlds if world.actions))
        actions = np.zeros((most, len(worlds), *first.shape), first.dtype)
        for row, world in enumerate(worlds):
            if world.actions:
                actions[: len(world.actions), row] = world.actions
        arrays["actions"] = actions
    if most >= 0:
        seen = np.asarray(next(world.observation for world in worlds if world.seed >= 0))
        observations = [seen if world.seed < 0 else world.observation for world in worlds]
        arrays["observations"] = np.array(observations, seen.dtype)
    return arrays


def unpack(worlds: Sequence[World], params: Params, task_ids: Sequence[int], arrays: Mapping[str, Any]) -> None:
    """Lead N fresh worlds to where those of `pack` stood.

    A world that ends up elsewhere is not deterministic under its seed: a warning says so, and it goes on from there.
    """
    astray = []
    columns = params.columns()
    for row, (world, length) in enumerate(zip(worlds, arrays["lengths"].tolist(), strict=True)):
        if length < 0:
            continue
        fields = {name: column[row] for name, column in columns.items()}
        world.begin(fields, int(task_ids[row]), int(arrays["seeds"][row]))
        for step in range(length):
            world.step(arrays["actions"][step, row])
        if not np.array_equal(world.observation, arrays["observations"][row]):
            astray.append(row)
    if astray:
        warnings.warn(
            f"rows {astray} are not where they stood: the envs inside are not deterministic under their seeds, so they "
            "go on, but not bit for bit",
            stacklevel=3,
        )
