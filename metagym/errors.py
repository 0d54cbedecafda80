"""The errors metagym raises, one class per kind of mistake."""

__all__ = [
    "CheckpointError", "ConfigError", "ContractError", "DivergenceError", "MetagymError", "TaskError", "WorkerError",
]  # fmt: skip


class MetagymError(Exception):
    """Base of every error that metagym raises on purpose."""


class TaskError(MetagymError, ValueError):
    """A task does not belong to the family it was given to."""


class ConfigError(MetagymError, ValueError):
    """An argument is outside what is accepted."""


class CheckpointError(MetagymError, ValueError):
    """A file is no metagym checkpoint, is damaged, or needs something that was not passed."""


class DivergenceError(MetagymError, FloatingPointError):
    """Learning left numbers that are not finite: nothing of it was kept."""


class WorkerError(MetagymError, RuntimeError):
    """Worker processes cannot be started, or die again and again."""


class ContractError(MetagymError, AssertionError):
    """A family, env or wrapper breaks a law of its contract: which one, where, what was found, what is accepted."""
