"""A vector env beside Gymnasium's `SyncVectorEnv` of scalar envs: everything they return must agree to the last bit."""

from gymnasium.vector import AutoresetMode

from metagym.checks.laws import require_same as assert_same
from metagym.checks.parity import Pair, disturb
from metagym.checks.parity import require_parity as assert_parity

__all__ = ["MODES", "Pair", "assert_parity", "assert_same", "disturb"]

MODES = list(AutoresetMode)
