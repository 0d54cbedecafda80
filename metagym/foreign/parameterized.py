"""Any Gymnasium env as a family of tasks, in one call."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from keyword import iskeyword
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.foreign.columns import params_type
from metagym.foreign.domains import Choices, Domain, coded, domain_of, is_code
from metagym.foreign.family import ForeignFamily, accept_spaces
from metagym.foreign.maker import EnvMaker, episode_length_of, info_schema_of
from metagym.foreign.strategies import Attributes, Construction, LayoutSeed, Strategy
from metagym.types import Array, Float

__all__ = ["Field", "ParameterizedFamily", "parameterize"]

Env: TypeAlias = gym.Env[Any, Any]
Domains: TypeAlias = Mapping[str, Any]

_MOST_STRUCTURES = 2**16
_LAYOUT = "layout"


class Field:
    """One parameter: where it is drawn from in the two regions, and what an env is handed.

    Args:
        name: of the parameter, for messages.
        given: its domain in training and test, as the user spelt it.
        ood: the same outside; None: as in training.

    Attributes:
        space: all its values.

    Raises:
        ConfigError: if a domain is none, or the two share values.
    """

    def __init__(self, name: str, given: Any, ood: Any = None) -> None:
        self._choices: list[Any] | None = None
        if is_code(given):
            outside = [] if ood is None else ood if isinstance(ood, list) else [ood]
            self._choices = [*given, *outside]
            self.train: Domain = coded(name, given)
            self.ood: Domain | None = coded(name, outside, len(given)) if outside else None
            if any(choice in given for choice in outside):
                raise ConfigError(f"ood: {name}={outside!r} shares choices with {given!r}")
        else:
            self.train = domain_of(name, given)
            self.ood = None if ood is None else domain_of(name, ood).as_dtype(self.train.dtype)
            self._check_ood(name, given, ood)
        self.space = self._hull()

    def _check_ood(self, name: str, given: Any, ood: Any) -> None:
        if self.ood is None:
            return
        if self.ood.low.shape != self.train.low.shape or self.ood.dtype != self.train.dtype:
            raise ConfigError(f"ood: {name}={ood!r} is of another shape or dtype than {given!r}")
        if self.ood.overlaps(self.train):
            raise ConfigError(f"ood: {name}={ood!r} overlaps {given!r}, which training draws from")

    def _hull(self) -> spaces.Space[Any]:
        domains = [self.train] if self.ood is None else [self.train, self.ood]
        low = np.min([domain.low for domain in domains], axis=0)
        high = np.max([domain.high for domain in domains], axis=0)
        return spaces.Box(low, high, shape=np.shape(low), dtype=self.train.dtype.type)

    def of(self, region: Region) -> Domain:
        """The domain in a region."""
        return self.train if region == "train" or self.ood is None else self.ood

    def accepts(self, value: Array) -> bool:
        """Whether a value within the space is one: ranges may be left, within it, but not lists of choices."""
        domains = [self.train] if self.ood is None else [self.train, self.ood]
        lists = [domain for domain in domains if isinstance(domain, Choices)]
        return len(lists) < len(domains) or any(domain.contains(value) for domain in domains)

    def value(self, field: Array) -> Any:
        """What the env is handed: a number, a copy of an array, or the choice that a code stands for."""
        if self._choices is not None:
            return self._choices[int(field)]
        return np.array(field) if self.space.shape else field.item()


class ParameterizedFamily(ForeignFamily):
    """What `parameterize` returns: its tasks, and `make`, `make_vec`, `register` and `check_application`.

    Args:
        name: of the family; its tasks carry it.
        fields: the parameters.
        strategy: how envs are given them.
        episode_length: where episodes are truncated; None: as the env says.
        success: the key of the env's infos that tells of success.
        infos: keys of the env's infos that show up seldom, with values of their kind.
        rebuild: whether every episode gets a new env.
        recipe: the keywords of `parameterize` that make the same again.

    Raises:
        ConfigError: if the env does not fit.
    """

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Field],
        strategy: Strategy,
        *,
        episode_length: int | None,
        success: str | None,
        infos: Mapping[str, Any],
        rebuild: bool,
        recipe: Mapping[str, Any],
    ) -> None:
        self.name, self._fields, self._strategy, self._recipe = name, dict(fields), strategy, dict(recipe)
        self.structural = tuple(fields)
        self.params_type = params_type(self.structural)
        self.task_space = spaces.Dict([(field, part.space) for field, part in fields.items()])
        self._rebuild, self._given_length = rebuild, episode_length
        self.applies_always = strategy.applies_always or rebuild
        self._draws = {field: max(part.train.num_draws, part.of("ood").num_draws) for field, part in fields.items()}
        self.num_structure_draws = sum(self._draws.values())
        self._probe(episode_length, success, infos)

    def _probe(self, episode_length: int | None, success: str | None, infos: Mapping[str, Any]) -> None:
        drawn = self.draw_structure(np.full((1, self.num_structure_draws), 0.5), "train")
        # The spaces come after the first env is there, which `enter` must not compare with them yet.
        env = self._strategy.enter(None, self._values({field: column[0] for field, column in drawn.items()}), None)
        try:
            if env.has_wrapper_attr("task_distribution"):
                raise ConfigError(f"{self.name} has tasks already; see metagym.TaskDistribution.where for some of them")
            accept_spaces(self.name, env.observation_space, env.action_space)
            # Copied: spaces have random states, and a class of envs may share them.
            self.observation_space, self.action_space = deepcopy((env.observation_space, env.action_space))
            self.episode_length = episode_length_of(env, episode_length)
            self.info_schema, self.success_key = info_schema_of(env, success, infos)
            self.has_success = self.success_key is not None
            modes = list(env.metadata.get("render_modes", []))
            self.metadata = {"render_modes": modes, "render_fps": env.metadata.get("render_fps", 30)}
        finally:
            env.close()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._recipe,)

    # --- tasks -------------------------------------------------------------------------------------------------

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "ood" and all(part.ood is None for part in self._fields.values()):
            raise ConfigError(f"{self.name} has no ood region: parameterize(..., ood={{name: range}}) gives it one")
        columns, start = {}, 0
        for field, part in self._fields.items():
            domain = part.of(region)
            columns[field] = domain.draw(noise[:, start : start + domain.num_draws])
            start += self._draws[field]
        return columns

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        listed = {field: part.train.listed() for field, part in self._fields.items()}
        values = [column for column in listed.values() if column is not None]
        count = int(np.prod([len(column) for column in values]))
        if len(values) < len(listed) or count > _MOST_STRUCTURES:
            return None
        places = np.unravel_index(np.arange(count), [len(column) for column in values])
        columns = {field: column[place] for field, column, place in zip(listed, values, places, strict=True)}
        return columns, np.full(count, 1.0 / count)

    @override
    def check(self, params: Params) -> None:
        for field, column in params.columns().items():
            if not self._fields[field].accepts(column[0]):
                raise TaskError(f"{field}={column[0]} is none of the choices of {self.name}")

    def _values(self, fields: Mapping[str, Array]) -> dict[str, Any]:
        return {field: part.value(fields[field]) for field, part in self._fields.items()}

    # --- envs --------------------------------------------------------------------------------------------------

    @override
    def enter(self, env: Env | None, fields: Mapping[str, Array], render_mode: str | None) -> Env:
        if self._rebuild and env is not None:
            env.close()
            env = None
        entered = self._strategy.enter(env, self._values(fields), render_mode)
        if entered is not env:
            self._check_spaces(entered, fields)
        return entered

    def _check_spaces(self, env: Env, fields: Mapping[str, Array]) -> None:
        if env.observation_space != self.observation_space or env.action_space != self.action_space:
            raise ConfigError(
                f"with {self._values(fields)}, {self.name} observes {env.observation_space} and acts in "
                f"{env.action_space}; the tasks of a family share {self.observation_space} and {self.action_space}"
            )
        longest = episode_length_of(env, self._given_length)
        if longest > self.episode_length:
            raise ConfigError(
                f"with {self._values(fields)}, episodes of {self.name} have up to {longest} steps, where those of the "
                f"family are truncated after {self.episode_length}: pass episode_length="
            )

    @override
    def reset_seed(self, fields: Mapping[str, Array], seed: int) -> int:
        return self._strategy.reset_seed(fields, seed)

    @override
    def reference(self, fields: Mapping[str, Array]) -> Env:
        return self._strategy.reference(self._values(fields))

    @override
    def stale(self, fields: Mapping[str, Array]) -> list[str]:
        return self._strategy.stale(self._values(fields))

    @override
    def overwritten(self, env: Env, fields: Mapping[str, Array]) -> list[str]:
        return self._strategy.overwritten(env, self._values(fields))


def parameterize(
    env: str | Callable[..., Env],
    *,
    attributes: Domains | None = None,
    construct: Domains | None = None,
    layouts: int | Sequence[int] | None = None,
    ood: Domains | None = None,
    refresh: Callable[[Any], None] | None = None,
    wrappers: Sequence[Callable[[Env], Env]] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    episode_length: int | None = None,
    success: str | None = None,
    infos: Mapping[str, Any] | None = None,
    rebuild: bool = False,
    name: str | None = None,
    id: str | None = None,  # noqa: A002 (Gymnasium's name)
    check: bool = True,
) -> ParameterizedFamily:
    """Make a family of tasks of any Gymnasium env. Exactly one of three strategies says how a task gets into it.

    *attributes*: the values are set on ``env.unwrapped``. Fast; right only if everything that the env derives from
    them is computed again, by `refresh` or by the env's own reset. *construct*: the values are keywords of the
    constructor, and every task gets a new env: slower, and always right. *layouts*: the task is the seed that every
    episode is reset with; this fixes everything else that the env draws as well.

    A domain is ``(low, high)`` for every number between; a list of such ranges; a list of choices; or a bounded
    Gymnasium space. Tasks hold choices that are no numbers as positions in the list.

    Args:
        env: id, or a callable that makes an env; its keywords are those of `construct` and `env_kwargs`.
        attributes: attribute to domain; a dotted path leads to an attribute's attribute (``"model.opt.timestep"``),
            and its field is written with underscores.
        construct: keyword to domain.
        layouts: n for the seeds 0 .. n - 1, or a list of seeds.
        ood: some of the same names (``"layout"`` for layouts) to domains outside; the others stay as they are there.
        refresh: with `attributes`: is called with ``env.unwrapped`` after they were set.
        wrappers: put around every env, the innermost first: ``[gymnasium.wrappers.FlattenObservation]``.
        env_kwargs: keywords of every env.
        episode_length: steps at which episodes are truncated; default: as registered.
        success: the key of the env's infos that tells of success; it becomes ``is_success``.
        infos: keys of the env's infos that a few random steps do not show, with values of their kind.
        rebuild: build a new env for every episode, whatever the strategy: for envs whose resets leave something behind.
        name: of the family, carried by its tasks; default: the id or the callable's name.
        id: register the family under this id.
        check: with `attributes`: compare with freshly built envs at once, as `ForeignFamily.check_application` does.

    Returns:
        The family: `make`, `make_vec`, `register`, `check_application`.

    Raises:
        ConfigError: naming the argument and what is accepted.
    """
    recipe = {key: value for key, value in locals().items() if key not in {"id", "check"}}
    _check_mappings(attributes=attributes, construct=construct, ood=ood, env_kwargs=env_kwargs, infos=infos)
    if twice := sorted(set(construct or {}) & set(env_kwargs or {})):
        raise ConfigError(f"construct= and env_kwargs= both give {twice}; what varies belongs into construct= alone")
    if not (name is None or isinstance(name, str)):
        raise ConfigError(f"name={name!r} is no text")
    given = {"attributes": attributes, "construct": construct, "layouts": layouts}
    chosen = [key for key, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ConfigError(
            f"parameterize needs exactly one of attributes=, construct= and layouts=, got {chosen or 'none'}"
        )
    if refresh is not None and attributes is None:
        raise ConfigError(f"refresh goes with attributes=; {chosen[0]}= leaves nothing to compute again")
    domains = {_LAYOUT: _layouts(layouts)} if layouts is not None else dict(attributes or construct or {})
    if not domains:
        raise ConfigError(f"{chosen[0]}= names nothing that varies")
    fields, paths = _fields(domains, dict(ood or {}))
    make = EnvMaker(env, env_kwargs or {}, wrappers, episode_length)
    strategy: Strategy
    if attributes is not None:
        strategy = Attributes(make, paths, refresh)
    else:
        strategy = LayoutSeed(make, _LAYOUT) if layouts is not None else Construction(make)
    family = ParameterizedFamily(
        name or make.name,
        fields,
        strategy,
        episode_length=episode_length,
        success=success,
        infos=infos or {},
        rebuild=rebuild,
        recipe=recipe,
    )
    if check and attributes is not None:
        family.check_application()
    return family if id is None else family.register(id)


def _again(recipe: dict[str, Any]) -> ParameterizedFamily:
    return parameterize(**recipe, check=False)


def _check_mappings(**given: Any) -> None:
    for argument, value in given.items():
        if not (value is None or isinstance(value, Mapping)):
            raise ConfigError(f"{argument}={value!r} is no mapping, such as {{'gravity': (5.0, 15.0)}}")


def _layouts(layouts: Any) -> Any:
    if isinstance(layouts, int | np.integer) and not isinstance(layouts, bool):
        if layouts < 2:
            raise ConfigError(f"layouts={layouts!r} must be at least 2, for a training task and another to test")
        return spaces.Discrete(int(layouts))
    listed = list(layouts) if isinstance(layouts, list | range) else []
    if not listed or not all(isinstance(one, int | np.integer) and one >= 0 for one in listed):
        raise ConfigError(f"layouts must be a number of seeds, or a list of seeds from 0 up, got {layouts!r}")
    return listed


def _fields(domains: Domains, ood: Domains) -> tuple[dict[str, Field], dict[str, str]]:
    if unknown := set(ood) - set(domains):
        raise ConfigError(f"ood names {sorted(unknown)}; what varies is {sorted(domains)}")
    fields, paths = {}, {}
    for name, given in domains.items():
        field = name.replace(".", "_")
        if not field.isidentifier() or iskeyword(field) or hasattr(Params, field) or field in fields:
            raise ConfigError(
                f"a task can have no field {field!r}: that is no name, taken, or there twice; give the parameter "
                "another name in a function that makes the env"
            )
        fields[field], paths[field] = Field(name, given, ood.get(name)), name
    return fields, paths
