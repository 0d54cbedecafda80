"""Which keywords a learner class takes, also where it hands them on to the class that it is derived from."""

from inspect import Parameter, signature
from typing import Any, NamedTuple

from metagym.errors import ConfigError

__all__ = ["Keywords", "keywords_of", "require_keywords"]

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_GIVEN_BY_US = frozenset({"policy", "env", "_init_setup_model"})


class Keywords(NamedTuple):
    """Keywords of a constructor.

    Attributes:
        names: all that it names, in order.
        defaults: values of those that have one.
        open: whether it takes others too.
    """

    names: tuple[str, ...]
    defaults: dict[str, Any]
    open: bool


def keywords_of(kind: type[Any]) -> Keywords:
    """The keywords of a class: its own, and, as long as it takes ``**kwargs``, those of the next class in its order."""
    found: dict[str, Parameter] = {}
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is None or base is object:
            continue
        parameters = list(signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in _NAMED:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters):
            break
    else:
        return Keywords(tuple(found), _defaults(found), open=True)
    return Keywords(tuple(found), _defaults(found), open=False)


def _defaults(parameters: dict[str, Parameter]) -> dict[str, Any]:
    return {name: one.default for name, one in parameters.items() if one.default is not Parameter.empty}


def require_keywords(kind: type[Any], given: Any) -> None:
    """Refuse keywords that a learner class does not take.

    Args:
        kind: the class.
        given: names of keywords.

    Raises:
        ConfigError: if there is one such; it says which are accepted.
    """
    names, _, is_open = keywords_of(kind)
    unknown = sorted(set(given) - set(names))
    if unknown and not is_open:
        raise ConfigError(f"unknown keywords {unknown}; {kind.__name__} takes {sorted(set(names) - _GIVEN_BY_US)}.")
