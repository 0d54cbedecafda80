"""The two drivers of a family: one `gymnasium.Env`, or N rows of a `gymnasium.vector.VectorEnv`."""

from metagym.engine.autoreset import RowsVectorEnv
from metagym.engine.scalar import TaskEnv
from metagym.engine.vector import TaskVectorEnv

__all__ = ["RowsVectorEnv", "TaskEnv", "TaskVectorEnv"]
