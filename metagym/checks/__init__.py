"""Checks of what you wrote: families, envs with tasks, and wrappers of them, against the contracts of metagym.

Plain NumPy, no test framework: each check either returns what it has checked, or raises a `ContractError` that names
the law, the place, what was found and what is accepted.
"""

from metagym.checks.env import check_env
from metagym.checks.family import check_family
from metagym.checks.wrapper import check_wrapper

__all__ = ["check_env", "check_family", "check_wrapper"]
