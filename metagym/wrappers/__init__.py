"""Wrappers of envs with tasks. All but `VectorEnvAdapter` wrap a scalar env or metagym's vector env.

`VectorEnvAdapter` imports Stable-Baselines3, and is imported when asked for: the others need neither that nor torch.
"""

from typing import TYPE_CHECKING, Any

from metagym.wrappers.context import RL2Context
from metagym.wrappers.reveal import RevealTask
from metagym.wrappers.trial import Trial
from metagym.wrappers.window import Window

if TYPE_CHECKING:
    from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["RL2Context", "RevealTask", "Trial", "VectorEnvAdapter", "Window"]


def __getattr__(name: str) -> Any:
    if name == "VectorEnvAdapter":
        from metagym.wrappers.sb3 import VectorEnvAdapter

        return VectorEnvAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
