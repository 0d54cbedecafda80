"""Training runs as folders: configuration, checkpoints that resume to the bit, progress, the finished agent.

A run folder holds ``config.json`` (what was asked for), ``checkpoint.zip`` (resumable; replaced as training goes on),
``progress.csv`` (SB3's log; ``progress.2.csv`` and so on after a resume) and, at the end, ``agent.zip``.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from typing_extensions import override

from metagym.algos.multi_task import MultiTask
from metagym.errors import ConfigError
from metagym.registry import make_family
from metagym.runs.config import RunConfig, learner_type
from metagym.saving import read_meta

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["make_folder", "read_progress", "steps_taken", "train"]

_LOG_LINES = 2000


class _Checkpoints(BaseCallback):
    """Saves a resumable checkpoint every so many seconds, at moments when the learner is consistent."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self._path, self._seconds, self._last = path, seconds, time.monotonic()
        self.stopped = False

    @override
    def _on_step(self) -> bool:
        if self.stopped or time.monotonic() - self._last >= self._seconds:
            before = time.monotonic()
            self.model.save(self._path)
            self._last = time.monotonic()
            # A large replay buffer takes long to write: it shall cost a twentieth of the time at most.
            self._seconds = max(self._seconds, 20 * (self._last - before)) if self._seconds else 0.0
        if self.stopped:
            raise KeyboardInterrupt
        return True


@contextmanager
def _stopping_at(callback: _Checkpoints, *, wanted: bool) -> Iterator[None]:
    """Hear Ctrl-C at the next call of the callback, a second one at once.

    Learners that SB3 alone trains stand at the beginning of a rollout in their checkpoints, and can only be written
    as they stood there from a callback.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: Any) -> None:
        if callback.stopped:
            signal.default_int_handler(number, frame)
        callback.stopped = True

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    progress_bar: bool = False,
) -> Path:
    """Train a learner in a folder of its own.

    Ctrl-C (KeyboardInterrupt) goes on to the caller after a checkpoint was written, a second one at once; a killed
    process leaves its last checkpoint. Either way ``train(..., resume=True)`` goes on from there, to the same result as
    an uninterrupted run.

    Args:
        config: what to train. With `resume`, only `total_timesteps` may differ from the folder's.
        out: the folder; made if missing.
        resume: go on with the run that is there.
        checkpoint_seconds: time between checkpoints.
        progress_bar: show one.

    Returns:
        The path of ``agent.zip``.

    Raises:
        ConfigError: if a setting is out of range, the folder cannot be written, or it holds a run already.
        CheckpointError: if there is nothing to resume, or the checkpoint is damaged.
    """
    out = Path(out)
    checkpoint, final = out / "checkpoint.zip", out / "agent.zip"
    if resume:
        agent = _resumed(config, out, checkpoint)
    else:
        if (out / "config.json").exists():
            raise ConfigError(f"{out} holds a run already; resume it (--resume) or choose another folder (--out)")
        agent = config.build()
        make_folder(out)
    config.write(out)
    agent.set_logger(Logger(str(out), _writers(out, config)))
    try:
        _learn(agent, config, checkpoint, checkpoint_seconds, progress_bar)
    finally:
        agent.logger.close()
    agent.save(final)
    return final


def steps_taken(agent: str | Path) -> int:
    """Environment steps in the training of a saved agent: those asked for, rounded up to whole rollouts.

    Raises:
        CheckpointError: if the file is no checkpoint of metagym's, or damaged.
    """
    meta = read_meta(agent)
    # Learners that SB3 alone trains keep their own counters where training stands.
    return int(meta.get("position", meta)["counters"]["num_timesteps"])


def _resumed(config: RunConfig, out: Path, checkpoint: Path) -> Any:
    """The learner of a run that was stopped; what a kill in the middle of a write has left is removed."""
    RunConfig.read(out)
    for partial in out.glob(".*.partial"):
        partial.unlink(missing_ok=True)
    if checkpoint.exists():
        return learner_type(config.algo).load(checkpoint, device=config.device)
    return config.build()  # killed before its first checkpoint, it has learnt nothing


def _learn(agent: Any, config: RunConfig, checkpoint: Path, seconds: float, progress_bar: bool) -> None:
    """Train up to `total_timesteps`, with a checkpoint before, between and after."""
    agent.save(checkpoint)
    steps, callback = config.total_timesteps - agent.num_timesteps, _Checkpoints(checkpoint, seconds)
    by_sb3 = isinstance(agent, MultiTask)
    try:
        if steps > 0:
            options = {"log_interval": _log_interval(agent, config), "progress_bar": progress_bar}
            with _stopping_at(callback, wanted=by_sb3):
                agent.learn(steps, callback, reset_num_timesteps=False, **options)
    except KeyboardInterrupt:
        # Learners leave themselves consistent when they are interrupted, but what SB3 trains begins a new episode; and
        # after any other error they may not be. The last checkpoint stays then.
        if not by_sb3:
            agent.save(checkpoint)
        raise
    agent.save(checkpoint)


def _log_interval(agent: Any, config: RunConfig) -> int:
    """Updates, or, as off-policy learners count, episodes between two lines of the log: not too many lines."""
    if not isinstance(agent.learner if isinstance(agent, MultiTask) else agent, OffPolicyAlgorithm):
        return 1
    settings, length = config.settings, int(make_family(config.env_id, **config.env_kwargs).episode_length)
    trial = int(settings.get("steps_per_trial") or length * int(settings.get("episodes_per_trial", 1)))
    return max(4, config.total_timesteps // (_LOG_LINES * max(trial, 1)))


def make_folder(folder: Path) -> Path:
    """Make a folder where it is missing, and make sure that files can be written into it.

    Raises:
        ConfigError: if it cannot be made or written to.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder


def _writers(out: Path, config: RunConfig) -> list[KVWriter]:
    segment = len(list(out.glob("progress*.csv"))) + 1
    writers: list[KVWriter] = [
        CSVOutputFormat(str(out / ("progress.csv" if segment == 1 else f"progress.{segment}.csv")))
    ]
    if config.tensorboard:
        try:
            from stable_baselines3.common.logger import TensorBoardOutputFormat

            writers.append(TensorBoardOutputFormat(str(out / "tensorboard")))
        except AssertionError as missing:
            raise ConfigError("TensorBoard is not installed: pip install 'metagym-rl[logging]'") from missing
    return writers


def read_progress(out: str | Path) -> "pd.DataFrame":
    """The log of a run, across resumes; what an interrupted process logged after its last checkpoint is left out.

    Raises:
        ConfigError: if the folder holds no log.
    """
    import pandas as pd

    paths = sorted(Path(out).glob("progress*.csv"), key=lambda path: (len(path.name), path.name))
    frames = [pd.read_csv(path) for path in paths if path.stat().st_size]
    if not frames:
        raise ConfigError(f"{out} holds no progress.csv")
    steps = "time/total_timesteps"
    for earlier, later in zip(range(len(frames)), frames[1:], strict=False):
        frames[earlier] = frames[earlier][frames[earlier][steps] < later[steps].min()]
    return pd.concat(frames, ignore_index=True)
