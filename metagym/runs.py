"""Training runs as folders: configuration, checkpoints that resume to the bit, progress, the finished agent.

A run folder holds ``config.json`` (what was asked for), ``checkpoint.zip`` (resumable; replaced as training goes on),
``progress.csv`` (SB3's log; ``progress.2.csv`` and so on after a resume) and, at the end, ``agent.zip``.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger
from typing_extensions import override

from metagym.errors import CheckpointError, ConfigError
from metagym.files import replacing
from metagym.registry import make_family
from metagym.saving import read_archive

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALGOS",
    "RunConfig",
    "env_of",
    "learner_type",
    "load_agent",
    "make_folder",
    "read_progress",
    "replace_timesteps",
    "train",
]

ALGOS = {"rl2": "metagym.algos.rl2:RL2", "reptile": "metagym.algos.reptile:Reptile"}
_KINDS = {"RL2": "rl2", "Reptile": "reptile"}


def learner_type(algo: str) -> Any:
    """The learner class that a name of `ALGOS` stands for.

    Raises:
        ConfigError: if the name is unknown.
    """
    if algo not in ALGOS:
        raise ConfigError(f"algorithm {algo!r} is unknown; accepted are {', '.join(sorted(ALGOS))}")
    module, _, name = ALGOS[algo].partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a training run is asked to do; written to the run's folder.

    Attributes:
        algo: "rl2" or "reptile".
        env_id: id of a family.
        total_timesteps: environment steps.
        env_kwargs: keywords of the family.
        settings: keywords of the learner, JSON-able (``{"episodes_per_trial": 5}``).
        split: part of the distribution that training tasks come from.
        seed: of everything random.
        device: torch device.
        tensorboard: also log for TensorBoard, into the folder.
    """

    algo: str
    env_id: str
    total_timesteps: int
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    split: str | None = "train"
    seed: int = 0
    device: str = "auto"
    tensorboard: bool = False

    def build(self) -> Any:
        """A new learner.

        Raises:
            ConfigError: if a setting is out of range or unknown.
        """
        if isinstance(self.total_timesteps, bool) or self.total_timesteps < 1:
            raise ConfigError(f"timesteps must be at least 1, got {self.total_timesteps}")
        common = {"env_kwargs": self.env_kwargs, "split": self.split, "seed": self.seed, "device": self.device}
        try:
            make_family(self.env_id, **self.env_kwargs)  # names a wrong id or keyword better than a learner can
            return learner_type(self.algo)("MlpPolicy", self.env_id, **common, **self.settings)
        except TypeError as error:
            raise ConfigError(f"the learner or the family does not take these settings: {error}") from error

    def write(self, out: Path) -> None:
        """Write ``config.json``."""
        with replacing(out / "config.json") as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, out: Path) -> "RunConfig":
        """Read ``config.json``.

        Raises:
            CheckpointError: if the folder holds no run, or its configuration is damaged.
        """
        path = out / "config.json"
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise CheckpointError(f"{out} holds no run to resume: there is no config.json") from error
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


class _Checkpoints(BaseCallback):
    """Saves a resumable checkpoint every so many seconds, at moments when the learner is consistent."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self._path, self._seconds, self._last = path, seconds, time.monotonic()

    @override
    def _on_step(self) -> bool:
        if time.monotonic() - self._last >= self._seconds:
            self.model.save(self._path)
            self._last = time.monotonic()
        return True


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    progress_bar: bool = False,
) -> Path:
    """Train a learner in a folder of its own.

    Ctrl-C (KeyboardInterrupt) goes on to the caller after a checkpoint was written; a killed process leaves its last
    one. Either way ``train(..., resume=True)`` goes on from there, to the same result as an uninterrupted run.

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
        agent = learner_type(config.algo).load(checkpoint, device=config.device)
    else:
        if (out / "config.json").exists():
            raise ConfigError(f"{out} holds a run already; resume it (--resume) or choose another folder (--out)")
        agent = config.build()
        make_folder(out)
    config.write(out)
    agent.set_logger(Logger(str(out), _writers(out, config)))
    try:
        _learn(agent, config.total_timesteps, checkpoint, checkpoint_seconds, progress_bar)
    finally:
        agent.logger.close()
    agent.save(final)
    return final


def _learn(agent: Any, total_timesteps: int, checkpoint: Path, seconds: float, progress_bar: bool) -> None:
    """Train up to `total_timesteps`, with a checkpoint before, between and after."""
    agent.save(checkpoint)
    steps = total_timesteps - agent.num_timesteps
    try:
        if steps > 0:
            callback = _Checkpoints(checkpoint, seconds)
            agent.learn(steps, callback, reset_num_timesteps=False, progress_bar=progress_bar)
    except KeyboardInterrupt:
        # Learners leave themselves consistent when they are interrupted; after any other error they may not be, and
        # the last checkpoint stays.
        agent.save(checkpoint)
        raise
    agent.save(checkpoint)


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


def load_agent(path: str | Path, *, device: str = "auto") -> Any:
    """A learner from a checkpoint of any of metagym's learners; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is no checkpoint of metagym's.
    """
    path = Path(path) / "agent.zip" if Path(path).is_dir() else Path(path)
    kind = read_archive(path)[0].get("kind")
    if kind not in _KINDS:
        raise CheckpointError(f"{path} is a checkpoint of {kind!r}; accepted are {sorted(_KINDS)}")
    return learner_type(_KINDS[kind]).load(path, device=device)


def replace_timesteps(config: RunConfig, total_timesteps: int) -> RunConfig:
    """The same run with another number of steps."""
    return replace(config, total_timesteps=total_timesteps)


def env_of(agent: Any) -> tuple[str, dict[str, Any]]:
    """Id and keywords of the family that a loaded learner was trained on.

    Raises:
        ConfigError: if it was trained on an env without an id.
    """
    env_id, env_kwargs = agent.env_id, dict(agent.env_kwargs or {})
    if env_id is None:
        raise ConfigError("the learner was trained on an env without an id; name one with --env")
    return env_id, env_kwargs
