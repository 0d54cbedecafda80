"""The running statistics of `VecNormalize` while Reptile trains: part of what an iteration starts from and ends with.

All runs of an iteration start from the same statistics; what they saw is pooled at its end. The result depends neither
on the order of the runs nor on the process that each was in.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from metagym.errors import CheckpointError
from metagym.types import Array

__all__ = [
    "Normalization", "Statistics", "capture_statistics", "flatten_statistics", "forget_statistics",
    "merge_statistics", "normalization_of", "normalized", "restore_statistics", "unflatten_statistics",
]  # fmt: skip

Statistics: TypeAlias = list[dict[str, dict[str, Array]]]
"""For each `VecNormalize`, from the outside in: mean, var and count of "ret", "obs" or "obs:<key>"."""

_SETTINGS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
_MOMENTS = ("mean", "var", "count")


def _normalizers(env: VecEnv | None) -> list[VecNormalize]:
    found = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            found.append(env)
        env = env.venv
    return found


def _running(layer: VecNormalize) -> dict[str, RunningMeanStd]:
    running: dict[str, RunningMeanStd] = {"ret": layer.ret_rms}
    if not layer.norm_obs:
        return running
    if isinstance(layer.obs_rms, dict):
        return running | {f"obs:{key}": rms for key, rms in layer.obs_rms.items()}
    return running | {"obs": layer.obs_rms}


def capture_statistics(env: VecEnv | None) -> Statistics:
    """Copies of the statistics of every `VecNormalize` in a vector env; empty without one."""
    return [
        {key: {moment: np.array(getattr(rms, moment)) for moment in _MOMENTS} for key, rms in _running(layer).items()}
        for layer in _normalizers(env)
    ]


def restore_statistics(env: VecEnv | None, statistics: Statistics) -> None:
    """Put captured statistics back; the env has as many `VecNormalize` as there are.

    Raises:
        CheckpointError: if they are of another env.
    """
    layers = [_running(layer) for layer in _normalizers(env)]
    if [_shapes(layer) for layer in layers] != [_stored_shapes(stored) for stored in statistics]:
        raise CheckpointError(
            f"the env normalises {[_shapes(layer) for layer in layers]}, but statistics of "
            f"{[_stored_shapes(stored) for stored in statistics]} are given"
        )
    for running, stored in zip(layers, statistics, strict=True):
        for key, rms in running.items():
            rms.mean, rms.var = stored[key]["mean"].copy(), stored[key]["var"].copy()
            rms.count = float(stored[key]["count"])


def _shapes(running: Mapping[str, RunningMeanStd]) -> dict[str, tuple[int, ...]]:
    return {key: np.shape(rms.mean) for key, rms in running.items()}


def _stored_shapes(stored: Mapping[str, Mapping[str, Array]]) -> dict[str, tuple[int, ...]]:
    return {key: moments["mean"].shape for key, moments in stored.items()}


def merge_statistics(start: Statistics, ends: Sequence[Statistics]) -> Statistics:
    """Statistics of everything that several runs saw, each of which went on from `start`."""
    if len(ends) == 1:
        return ends[0]
    return [
        {key: _pool(layer[key], [end[place][key] for end in ends]) for key in layer}
        for place, layer in enumerate(start)
    ]


def _pool(start: Mapping[str, Array], ends: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    pooled = RunningMeanStd(shape=start["mean"].shape)
    pooled.mean, pooled.var, pooled.count = start["mean"], start["var"], float(start["count"])
    for end in ends:
        # What a run saw, from its end and its start: the update of RunningMeanStd solved for its argument.
        count = float(end["count"] - start["count"])
        if count > 0:
            mean = start["mean"] + (end["mean"] - start["mean"]) * float(end["count"]) / count
            between = np.square(mean - start["mean"]) * float(start["count"]) * count / float(end["count"])
            squares = end["var"] * end["count"] - start["var"] * start["count"] - between
            pooled.update_from_moments(mean, np.maximum(squares / count, 0.0), count)
    return {"mean": np.asarray(pooled.mean), "var": np.asarray(pooled.var), "count": np.asarray(pooled.count)}


class Normalization(NamedTuple):
    """How an env normalises.

    Attributes:
        settings: keywords of each `VecNormalize`, from the outside in.
        statistics: theirs.
    """

    settings: Sequence[Mapping[str, Any]] = ()
    statistics: Statistics = []  # noqa: RUF012 (never written into)


def normalization_of(env: VecEnv | None) -> Normalization:
    """How a vector env normalises, copied."""
    settings = [{name: getattr(layer, name) for name in _SETTINGS} for layer in _normalizers(env)]
    return Normalization(settings, capture_statistics(env))


def normalized(env: VecEnv, like: Normalization, *, training: bool) -> VecEnv:
    """An env that normalises as another one did; one that normalises already stays as it is.

    Args:
        env: the vector env.
        like: how the other one did.
        training: update the statistics with what is seen.
    """
    if not like.settings or _normalizers(env):
        return env
    for keywords in reversed(like.settings):
        env = VecNormalize(env, training=training, **keywords)
    restore_statistics(env, like.statistics)
    return env


def forget_statistics(env: VecEnv) -> None:
    """Let every `VecNormalize` in a vector env start anew: without statistics, and gathering them."""
    for layer in _normalizers(env):
        for rms in _running(layer).values():
            fresh = RunningMeanStd(shape=np.shape(rms.mean))
            rms.mean, rms.var, rms.count = fresh.mean, fresh.var, fresh.count
        layer.training = True


def flatten_statistics(statistics: Statistics) -> dict[str, Array]:
    """The statistics as named arrays."""
    return {
        f"{place}/{moment}/{key}": np.asarray(value)
        for place, layer in enumerate(statistics)
        for key, moments in layer.items()
        for moment, value in moments.items()
    }


def unflatten_statistics(arrays: Mapping[str, Array]) -> Statistics:
    """What `flatten_statistics` was given.

    Raises:
        CheckpointError: if the arrays are not such.
    """
    layers: dict[int, dict[str, dict[str, Array]]] = {}
    for name, array in arrays.items():
        place, _, rest = name.partition("/")
        moment, _, key = rest.partition("/")
        if not place.isdecimal() or moment not in _MOMENTS:
            raise CheckpointError(f"the stored statistics hold {name!r}")
        layers.setdefault(int(place), {}).setdefault(key, {})[moment] = array
    statistics = [layers[place] for place in sorted(layers)]
    if any(set(moments) != set(_MOMENTS) for layer in statistics for moments in layer.values()):
        raise CheckpointError("the stored statistics are incomplete")
    return statistics
