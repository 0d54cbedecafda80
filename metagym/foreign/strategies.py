"""The three ways to put a task into somebody else's env."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.foreign.maker import EnvMaker, takes

__all__ = ["Attributes", "Construction", "LayoutSeed", "Strategy", "numbers_of"]

Env = gym.Env[Any, Any]
Refresh = Callable[[Any], None]


class Strategy(ABC):
    """How an env is given the values of a task.

    Args:
        make: makes the envs.

    Attributes:
        applies_always: whether it is done before every episode.
    """

    applies_always: bool = False

    def __init__(self, make: EnvMaker) -> None:
        self.make = make

    @abstractmethod
    def enter(self, env: Env | None, values: Mapping[str, Any], render_mode: str | None) -> Env:
        """The env that plays a task: `env` changed, or another."""

    def reference(self, values: Mapping[str, Any]) -> Env:
        """A freshly built env of a task."""
        return self.enter(None, values, None)

    def stale(self, values: Mapping[str, Any]) -> list[str]:
        """What `enter` leaves behind that building anew does not, as sentences."""
        del values
        return []

    def overwritten(self, env: Env, values: Mapping[str, Any]) -> list[str]:
        """What of the task an env has lost since it was given it, by name."""
        del env, values
        return []

    def reset_seed(self, values: Mapping[str, Any], seed: int) -> int:
        """What the env is reset with."""
        del values
        return seed


class Construction(Strategy):
    """A new env for each task, with the values as keywords: slower, and right whatever the env does."""

    @override
    def enter(self, env: Env | None, values: Mapping[str, Any], render_mode: str | None) -> Env:
        if env is not None:
            env.close()
        return self.make(render_mode, **values)


class LayoutSeed(Strategy):
    """The task is the seed that every episode is reset with.

    It fixes all that the env draws from its generator, from the layout to the noise of the steps.

    Args:
        make: makes the envs.
        field: the task's field that holds the seed.
    """

    def __init__(self, make: EnvMaker, field: str) -> None:
        super().__init__(make)
        self.field = field

    @override
    def enter(self, env: Env | None, values: Mapping[str, Any], render_mode: str | None) -> Env:
        return self.make(render_mode) if env is None else env

    @override
    def reset_seed(self, values: Mapping[str, Any], seed: int) -> int:
        return int(values[self.field])


class Attributes(Strategy):
    """The values are set on ``env.unwrapped``, and `refresh` computes again what depends on them.

    Args:
        make: makes the envs.
        paths: the task's fields to attributes, where a dotted path leads to an attribute's attribute.
        refresh: is called with ``env.unwrapped`` after the values were set.
    """

    applies_always = True

    def __init__(self, make: EnvMaker, paths: Mapping[str, str], refresh: Refresh | None) -> None:
        super().__init__(make)
        self.paths, self.refresh = dict(paths), refresh
        self._plain: tuple[type, dict[str, Any]] | None = None

    @override
    def enter(self, env: Env | None, values: Mapping[str, Any], render_mode: str | None) -> Env:
        env = self.make(render_mode) if env is None else env
        bare = env.unwrapped
        for field, path in self.paths.items():
            owner, name = self._place(bare, path)
            _assign(owner, name, values[field])
        if self.refresh is not None:
            self.refresh(bare)
        return env

    def _place(self, bare: Any, path: str) -> tuple[Any, str]:
        *parents, name = path.split(".")
        owner = bare
        for place, parent in enumerate(parents):
            if not hasattr(owner, parent):
                raise ConfigError(_unknown(bare, ".".join(parents[: place + 1]), owner))
            owner = getattr(owner, parent)
        # Nothing is created: a value that nobody reads would look like a task.
        if not hasattr(owner, name):
            raise ConfigError(_unknown(bare, path, owner))
        return owner, name

    @override
    def overwritten(self, env: Env, values: Mapping[str, Any]) -> list[str]:
        found = []
        for field, path in self.paths.items():
            owner, name = self._place(env.unwrapped, path)
            current, value = getattr(owner, name), values[field]
            if isinstance(current, np.ndarray):
                value = np.asarray(value).astype(current.dtype)
            if not np.array_equal(current, value):
                found.append(path)
        return found

    @override
    def reference(self, values: Mapping[str, Any]) -> Env:
        """An env whose constructor saw the values, as keywords or whenever it assigned them.

        What it derives from them there is up to date; what does not follow from them is left to `refresh`.
        """
        env = self._rebuilt(values)
        rebuilt = numbers_of(env)
        derived = _differing(self._unchanged()[1], rebuilt) - set(self.paths.values())
        # What lies on the class, or behind a dotted path, no constructor has assigned.
        self.enter(env, values, None)
        for name in derived:
            setattr(env.unwrapped, name, rebuilt[name])
        return env

    def _unchanged(self) -> tuple[type, dict[str, Any]]:
        """Class and numbers of an env that was given no task."""
        if self._plain is None:
            env = self.make(None)
            self._plain = type(env.unwrapped), numbers_of(env)
            env.close()
        return self._plain

    def _rebuilt(self, values: Mapping[str, Any]) -> Env:
        plain = {path: values[field] for field, path in self.paths.items() if "." not in path}
        kind = self._unchanged()[0]
        keywords = {path: value for path, value in plain.items() if takes(kind, path)}
        with _pinned(kind, plain):
            try:
                return self.make(None, **keywords)
            except ConfigError:  # a callable that does not pass keywords on
                return self.make(None)

    @override
    def stale(self, values: Mapping[str, Any]) -> list[str]:
        entered, rebuilt = numbers_of(self.enter(None, values, None)), numbers_of(self.reference(values))
        differing = _differing(entered, rebuilt) - set(self.paths.values())
        differing -= _differing(rebuilt, numbers_of(self.reference(values)))  # different in every env
        plain = self._unchanged()[1]
        causes: dict[str, list[str]] = {name: [] for name in sorted(differing)}
        for field, path in self.paths.items():
            alone = Attributes(self.make, {field: path}, None)
            for name in _differing(plain, numbers_of(alone.reference(values))) & differing:
                causes[name].append(path)
        return [
            f"{name}, which hangs on {' and '.join(paths) or 'the task'}, "
            f"is {entered[name]} and would be {rebuilt[name]}"
            for name, paths in causes.items()
        ]


def numbers_of(env: Env) -> dict[str, Any]:
    """The attributes of the innermost env that are numbers or arrays of them, its class's included."""
    bare: Any = env.unwrapped
    names = set(getattr(bare, "__dict__", ())) | {name for kind in type(bare).__mro__ for name in vars(kind)}
    found = {}
    for name in names:
        if name.startswith("_") or isinstance(getattr(type(bare), name, None), property):
            continue
        value = getattr(bare, name, None)
        if isinstance(value, bool | int | float | np.number) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        ):
            found[name] = value.copy() if isinstance(value, np.ndarray) else value
    return found


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> set[str]:
    return {name for name in left.keys() & right.keys() if not np.array_equal(left[name], right[name])}


def _assign(owner: Any, name: str, value: Any) -> None:
    current = getattr(owner, name)
    if callable(current) and not callable(value):
        raise ConfigError(f"{name!r} of {type(owner).__name__} is a method, not a number that a task could set")
    if isinstance(current, Real) and not (value is None or isinstance(value, Real)):
        raise ConfigError(f"attribute {name!r} is {current!r}, a number; the task's value is {value!r}")
    if isinstance(current, np.ndarray):
        value = np.array(value, dtype=current.dtype)
        if value.shape != current.shape:
            raise ConfigError(f"attribute {name!r} has shape {current.shape}, the task's value {value.shape}")
    try:
        setattr(owner, name, value)
    except AttributeError as fixed:
        raise ConfigError(f"attribute {name!r} of {type(owner).__name__} cannot be set: {fixed}") from fixed


def _unknown(bare: Any, path: str, owner: Any) -> str:
    if owner is not bare:
        return f"{type(bare).__name__} has no attribute {path!r}"
    accepted = ", ".join(sorted(numbers_of(bare)))
    return f"{type(bare).__name__} has no attribute {path!r}; its attributes that are numbers are {accepted}"


@contextmanager
def _pinned(kind: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Let every assignment to some attributes of a class's instances assign other values: here, in constructors."""
    had_own, original = "__setattr__" in vars(kind), kind.__setattr__
    on_class = [name for name in values if hasattr(kind, name) and not hasattr(getattr(kind, name), "__set__")]
    before = {name: vars(kind)[name] for name in on_class if name in vars(kind)}

    def assign(self: Any, name: str, value: Any) -> None:
        original(self, name, values.get(name, value))

    kind.__setattr__ = assign
    for name in on_class:
        setattr(kind, name, values[name])
    try:
        yield
    finally:
        if had_own:
            kind.__setattr__ = original
        else:
            del kind.__setattr__
        for name in on_class:
            delattr(kind, name)
        for name, value in before.items():
            setattr(kind, name, value)
