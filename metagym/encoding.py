"""Objects as JSON and back, without executing anything that the JSON names.

`encode` knows plain data, NumPy arrays, Gymnasium spaces, Stable-Baselines3 schedules and the names of a few kinds of
classes. Everything else (a lambda, a class of the user's) becomes a *hole* with a name, and `decode` asks for it again.
"""

import base64
import importlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from metagym.errors import CheckpointError, ConfigError
from metagym.types import Json

__all__ = ["decode", "encode"]

MAX_DEPTH = 64

# A class is only ever *named* by a file: these modules may be imported to find it, and it must be one of these kinds.
_MODULES = re.compile(r"numpy|(torch\.nn|torch\.optim|stable_baselines3|sb3_contrib|metagym)(\.(?!__)\w+)*")
_KINDS: tuple[type, ...] = (th.nn.Module, th.optim.Optimizer, BaseBuffer, np.generic)
# Algorithms only where they are the algorithm: as part of a policy, one would be made with keywords of the file's
# choice, and an env id among them imports what it names.
_ALGORITHM = "learner_class"
_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_TAG = "$"


def encode(obj: Any) -> Json:
    """The object as JSON that `decode` turns back into an equal one.

    Exact: None, bool, int, float (NaN and infinities too), str, list, tuple, dict, NumPy arrays and scalars, Box,
    Discrete, MultiDiscrete, MultiBinary, Dict and Tuple spaces (without their random state), constant and linear
    schedules, ``torch.device``. By name: classes of ``torch.nn``, ``torch.optim``, Stable-Baselines3, its contrib
    package and metagym that are modules, optimisers or buffers, and algorithms under the key ``"learner_class"``.
    Anything else is a hole, named by the path to it: ``"policy_kwargs.activation_fn"``.

    Raises:
        ConfigError: if the object is nested deeper than 64 levels (or contains itself).
    """
    return _encode(obj, ())


def decode(data: Json, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The object that `encode` was given. Calls nothing that the data names.

    Args:
        data: what `encode` returned.
        custom_objects: objects by path (``"policy_kwargs.activation_fn"``): they fill holes and replace what is stored.

    Raises:
        CheckpointError: if a hole is not filled (the message lists the missing), or the data is malformed.
        ConfigError: if ``custom_objects`` names a path that is not in the data.
    """
    decoder = _Decoder(dict(custom_objects or {}))
    obj = decoder.decode(data, ())
    unknown = sorted(set(decoder.custom) - decoder.used)
    if unknown:
        raise ConfigError(f"custom_objects names {unknown}, which this checkpoint does not contain")
    if decoder.missing:
        wanted = ", ".join(f"{key!r} (it was {what})" for key, what in decoder.missing.items())
        raise CheckpointError(f"this checkpoint needs what a file cannot hold: pass custom_objects with {wanted}")
    return obj


_Path: TypeAlias = tuple[str, ...]


def _encode(obj: Any, path: _Path) -> Json:
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{'.'.join(path[:4])}... is nested deeper than {MAX_DEPTH} levels or contains itself")
    if obj is None or type(obj) in (bool, int, str):
        return obj
    if type(obj) is float:
        return obj if math.isfinite(obj) else {_TAG: "float", "value": repr(obj)}
    if type(obj) in (list, tuple):
        items = [_encode(item, (*path, str(index))) for index, item in enumerate(obj)]
        return items if type(obj) is list else {_TAG: "tuple", "items": items}
    if type(obj) is dict:
        return _encode_dict(obj, path)
    for kind, encoder in _ENCODERS:
        if isinstance(obj, kind):
            return encoder(obj, path)
    return _hole(obj)


def _encode_dict(obj: dict[Any, Any], path: _Path) -> Json:
    values = {key: _encode(value, (*path, str(key))) for key, value in obj.items()}
    if all(type(key) is str for key in obj) and _TAG not in obj:
        return values
    return {_TAG: "dict", "items": [[_encode(key, path), value] for key, value in values.items()]}


def _hole(obj: Any) -> Json:
    named = obj if isinstance(obj, type) or hasattr(obj, "__qualname__") else type(obj)
    name = f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"
    return {_TAG: "hole", "what": name if named is obj else f"a {name}"}


def _encode_array(obj: Any, _: _Path) -> Json:
    array = np.asarray(obj)
    if array.dtype.kind not in "biufc":
        return _hole(obj)
    little = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    data = base64.b64encode(little.tobytes()).decode("ascii")
    kind = "array" if isinstance(obj, np.ndarray) else "scalar"
    return {_TAG: kind, "dtype": little.dtype.str, "shape": list(little.shape), "data": data}


def _encode_space(obj: spaces.Space[Any], path: _Path) -> Json:
    parts: Any
    if type(obj) is spaces.Box:
        parts = {"low": obj.low, "high": obj.high}
    elif type(obj) is spaces.Discrete:
        parts = {"n": int(obj.n), "start": int(obj.start)}
    elif type(obj) is spaces.MultiDiscrete:
        parts = {"nvec": obj.nvec, "start": obj.start}
    elif type(obj) is spaces.MultiBinary:
        parts = {"n": int(obj.n) if isinstance(obj.n, int | np.integer) else [int(n) for n in obj.n]}
    elif type(obj) is spaces.Dict:
        parts = {"spaces": [(key, space) for key, space in obj.spaces.items()]}
    elif type(obj) is spaces.Tuple:
        parts = {"spaces": list(obj.spaces)}
    else:
        return _hole(obj)
    return {_TAG: "space", "kind": type(obj).__name__, "parts": _encode(parts, path)}


def _encode_schedule(obj: Any, path: _Path) -> Json:
    names = {
        ConstantSchedule: ("val",),
        LinearSchedule: ("start", "end", "end_fraction"),
        FloatSchedule: ("value_schedule",),
    }
    if type(obj) not in names:
        return _hole(obj)
    arguments = [_encode(getattr(obj, name), (*path, name)) for name in names[type(obj)]]
    return {_TAG: "schedule", "kind": type(obj).__name__, "arguments": arguments}


def _encode_class(obj: type, path: _Path) -> Json:
    name = f"{obj.__module__}:{obj.__qualname__}"
    try:
        return {_TAG: "class", "name": name} if _find_class(name, path) is obj else _hole(obj)
    except CheckpointError:
        return _hole(obj)


_ENCODERS: tuple[tuple[type | tuple[type, ...], Callable[[Any, _Path], Json]], ...] = (
    ((np.ndarray, np.generic), _encode_array),
    (spaces.Space, _encode_space),
    ((ConstantSchedule, LinearSchedule, FloatSchedule), _encode_schedule),
    (type, _encode_class),
    (th.device, lambda obj, _: {_TAG: "device", "name": str(obj)}),
)


class _Decoder:
    def __init__(self, custom: dict[str, Any]) -> None:
        self.custom = custom
        self.used: set[str] = set()
        self.missing: dict[str, str] = {}

    def decode(self, data: Json, path: _Path) -> Any:
        key = ".".join(path)
        if path and key in self.custom:
            self.used.add(key)
            return self.custom[key]
        if len(path) > MAX_DEPTH:
            raise CheckpointError(f"{key[:80]}... is nested deeper than {MAX_DEPTH} levels")
        if isinstance(data, list):
            return [self.decode(item, (*path, str(index))) for index, item in enumerate(data)]
        if not isinstance(data, dict):
            return data
        if _TAG not in data:
            return {name: self.decode(value, (*path, name)) for name, value in data.items()}
        return self.tagged(data, path)

    def tagged(self, data: dict[str, Json], path: _Path) -> Any:
        tag = data[_TAG]
        if tag == "hole":
            self.missing[".".join(path)] = str(data.get("what"))
            return None
        try:
            if tag == "tuple":
                return tuple(self.decode(data["items"], path))
            if tag == "dict":
                return {self.decode(key, path): self.decode(value, (*path, str(key))) for key, value in data["items"]}
            if tag == "schedule":
                return _decode_schedule(data["kind"], self.decode(data["arguments"], path))
            if tag == "space":
                return _decode_space(data["kind"], self.decode(data["parts"], (*path, "space")))
            return _find_class(data["name"], path) if tag == "class" else _LEAVES[tag](data)
        except CheckpointError:
            raise
        except Exception as error:  # whatever malformed data provokes, it is the file's fault
            raise CheckpointError(f"malformed {tag!r} at {'.'.join(path) or 'the root'}: {error!r}") from error


def _decode_schedule(kind: str, arguments: list[Any]) -> Any:
    kinds: dict[str, Any] = {"ConstantSchedule": ConstantSchedule, "LinearSchedule": LinearSchedule}
    if kind != "FloatSchedule" and not all(isinstance(number, int | float) for number in arguments):
        raise ValueError(f"a {kind} of {arguments!r}")
    return FloatSchedule(*arguments) if kind == "FloatSchedule" else kinds[kind](*arguments)


def _decode_space(kind: str, parts: Any) -> spaces.Space[Any]:
    if kind == "Box":
        low, high = parts["low"], parts["high"]
        return spaces.Box(low=low, high=high, shape=low.shape, dtype=low.dtype.type)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(parts["nvec"], dtype=parts["nvec"].dtype.type, start=parts["start"])
    if kind == "Dict":
        return spaces.Dict([(str(key), space) for key, space in parts["spaces"]])
    plain: dict[str, Any] = {"Discrete": spaces.Discrete, "MultiBinary": spaces.MultiBinary, "Tuple": spaces.Tuple}
    space: spaces.Space[Any] = plain[kind](**parts)
    return space


def _decode_array(data: dict[str, Json]) -> Any:
    if not _DTYPE.fullmatch(data["dtype"]):
        raise ValueError(f"dtype {data['dtype']!r}")
    flat = np.frombuffer(base64.b64decode(data["data"], validate=True), dtype=data["dtype"])
    array = flat.reshape(data["shape"]).astype(flat.dtype.newbyteorder("="))
    return array if data[_TAG] == "array" else array[()]


def _find_class(name: str, path: _Path) -> type:
    """The class called ``module:Qualified.Name``, if it is one that a file may name at this place."""
    module_name, _, qualified = name.partition(":")
    if not _MODULES.fullmatch(module_name) or not qualified:
        raise CheckpointError(f"a checkpoint may not name {name!r}")
    try:
        found: Any = importlib.import_module(module_name)
        for part in qualified.split("."):
            # Not getattr: a module's or a metaclass's __getattr__ is code.
            found = vars(found)[part]
    except (ImportError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name!r}, which this checkpoint names, is not installed") from error
    named = isinstance(found, type) and (found.__module__, found.__qualname__) == (module_name, qualified)
    kinds = BaseAlgorithm if path[-1:] == (_ALGORITHM,) else _KINDS
    if not named or not issubclass(found, kinds):
        raise CheckpointError(f"a checkpoint may not name {name!r}")
    return found  # type: ignore[no-any-return]


_LEAVES: dict[str, Callable[[dict[str, Json]], Any]] = {
    "float": lambda data: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[data["value"]],
    "array": _decode_array,
    "scalar": _decode_array,
    "device": lambda data: th.device(data["name"]),
}
