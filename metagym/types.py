"""Array aliases, and the letters that shapes are written in.

N rows (envs or tasks), T steps, E episodes of a trial, B minibatch, D observation width, A actions,
P task parameters, S states, K outcomes. Time-major ``(T, N, ...)``.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Bool", "Float", "Int", "Json", "Keys"]

Array: TypeAlias = NDArray[Any]
Float: TypeAlias = NDArray[np.float64]
Int: TypeAlias = NDArray[np.int64]
Bool: TypeAlias = NDArray[np.bool_]
Keys: TypeAlias = NDArray[np.uint64]
Json: TypeAlias = Any
"""What JSON can express."""
