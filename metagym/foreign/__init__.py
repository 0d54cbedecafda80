"""Families whose dynamics are somebody else's: any Gymnasium env by `parameterize`, and Meta-World."""

from metagym.foreign.application import check_application
from metagym.foreign.env import ForeignEnv
from metagym.foreign.family import ForeignFamily
from metagym.foreign.parameterized import ParameterizedFamily, parameterize
from metagym.foreign.vector import ForeignVectorEnv

__all__ = [
    "ForeignEnv", "ForeignFamily", "ForeignVectorEnv", "ParameterizedFamily", "check_application", "parameterize",
]  # fmt: skip
