"""All laws of a family, one after another."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metagym.checks.distributions import TASK_LAWS
from metagym.checks.driven import DRIVEN_LAWS
from metagym.checks.laws import hold
from metagym.checks.limits import LIMIT_LAWS, TABLE_LAWS
from metagym.checks.probe import Probe
from metagym.checks.rows import ROW_LAWS
from metagym.family import Family

__all__ = ["FAMILY_LAWS", "check_family"]

_NONE: Mapping[str, str] = MappingProxyType({})

# What a family declares and draws comes first: everything else is examined on its tasks.
FAMILY_LAWS = (ROW_LAWS[0], *TASK_LAWS[:1], *ROW_LAWS[1:], *TASK_LAWS[1:], *TABLE_LAWS, *DRIVEN_LAWS, *LIMIT_LAWS)


def check_family(
    family: Family[Any, Any],
    *,
    seed: int = 0,
    num_rows: int = 64,
    num_steps: int = 30,
    num_episodes: int = 2000,
    exempt: Mapping[str, str] = _NONE,
) -> dict[str, str]:
    """Check that a family keeps its contract.

    The check is deterministic, and takes about a second for most families. Give slow simulators fewer rows, steps and
    episodes.

    Args:
        family: an instance, such as ``metagym.make_family("MyFamily-v0")``.
        seed: of all tasks, noise and actions that are tried.
        num_rows: N of the calls that are compared with calls of fewer rows.
        num_steps: length of the trajectories that are compared.
        num_episodes: of random actions, from which returns are estimated.
        exempt: laws that are not checked, each with the reason.

    Returns:
        For every law "holds", or why it was not checked.

    Raises:
        ContractError: at the first law that is broken, naming it, the place, what was found and what is accepted.
        ConfigError: if `family` is no family, or an exemption names no law.
    """
    probe = Probe(family, seed=seed, num_rows=num_rows, num_steps=num_steps, num_episodes=num_episodes)
    return hold(FAMILY_LAWS, probe, exempt)
