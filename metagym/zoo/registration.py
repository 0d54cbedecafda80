"""Registration of metagym's learners with RL Zoo, and its command line with metagym's recipes.

RL Zoo (https://github.com/DLR-RM/rl-baselines3-zoo) makes learners by name from its table ``ALGOS``, with keywords
from a YAML file that has a block for each id.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch as th
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from typing_extensions import Self, override

from metagym.algos import RL2, Reptile
from metagym.errors import ConfigError

__all__ = ["ZooRL2", "ZooReptile", "main", "recipes", "register"]

_FOLDER = Path(__file__).parent


_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
# To play an agent, RL Zoo replaces what old pickles could not hold. Checkpoints of metagym's hold it.
_PLACEHOLDERS = frozenset({"learning_rate", "lr_schedule", "clip_range"})


class ZooRL2(RL2):
    """`RL2` with what RL Zoo passes: its linear schedules become SB3's, which checkpoints can hold."""

    def __init__(self, policy: Any = "MlpPolicy", env: Any = None, **kwargs: Any) -> None:
        super().__init__(policy, env, **_with_storable_schedules(kwargs))

    @classmethod
    @override
    def load(  # type: ignore[override]
        cls,
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        return super().load(path, env, device, _needed(custom_objects), **kwargs)


class ZooReptile(Reptile):
    """`Reptile` with what RL Zoo passes: its linear schedules become SB3's, which checkpoints can hold."""

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        super().__init__(policy, env, **_with_storable_schedules(kwargs))

    @classmethod
    @override
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """As `Reptile.load`; the seed is that of the checkpoint, with which training goes on to the bit."""
        kwargs.pop("seed", None)
        told: dict[str, Any] = {name: kwargs.pop(name) for name in ("tensorboard_log", "verbose") if name in kwargs}
        needed = _needed(custom_objects)
        agent = super().load(path, env, device, needed, print_system_info, force_reset, **kwargs)
        vars(agent).update(told)
        return agent


_ALGOS: dict[str, type[BaseAlgorithm]] = {"rl2": ZooRL2, "reptile": ZooReptile}


def _needed(custom_objects: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (custom_objects or {}).items() if name not in _PLACEHOLDERS}


def _with_storable_schedules(kwargs: dict[str, Any]) -> dict[str, Any]:
    changed = dict(kwargs)
    for name in _SCHEDULES:
        if type(changed.get(name)).__name__ == "SimpleLinearSchedule":  # of rl_zoo3.utils
            changed[name] = LinearSchedule(changed[name].initial_value, 0.0, 1.0)
    return changed


def register() -> dict[str, type[BaseAlgorithm]]:
    """Put ``rl2`` and ``reptile`` into RL Zoo's table of algorithms.

    Returns:
        The table.

    Raises:
        DependencyNotInstalled: if there is no RL Zoo.
    """
    try:
        from rl_zoo3 import ALGOS
    except ImportError as missing:
        raise DependencyNotInstalled("metagym.zoo needs RL Zoo: pip install rl_zoo3") from missing
    # One table, which all of RL Zoo's modules hold.
    table: dict[str, type[BaseAlgorithm]] = ALGOS
    table.update(_ALGOS)
    return table


def recipes(algo: str) -> Path:
    """The file of hyperparameters for an algorithm, what RL Zoo calls ``--conf-file``.

    Raises:
        ConfigError: if the algorithm is none of metagym's.
    """
    if algo not in _ALGOS:
        raise ConfigError(f"algorithm {algo!r} has no recipes; accepted are {sorted(_ALGOS)}")
    return _FOLDER / f"{algo}.yml"


def main(arguments: Sequence[str] | None = None) -> None:
    """RL Zoo's commands ``train`` (the default) and ``enjoy``, which know metagym's learners, ids and recipes.

    Evaluation during training plays held-out tasks, unless ``--eval-env-kwargs`` say otherwise.

    Args:
        arguments: of the command line, the first may name the command; default: those of this process.

    Raises:
        DependencyNotInstalled: if there is no RL Zoo.
    """
    register()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given.pop(0) if given[:1] in (["train"], ["enjoy"]) else "train"
    run: Any = getattr(import_module(f"rl_zoo3.{name}"), name)
    before, sys.argv = sys.argv, ["metagym.zoo", *(_completed(given) if name == "train" else given)]
    try:
        run()
    finally:
        sys.argv = before


def _completed(given: list[str]) -> list[str]:
    """A command line with the recipes and held-out tasks for evaluation, where it does not say otherwise."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("--env-kwargs", nargs="+")
    parser.add_argument("--eval-env-kwargs", nargs="+")
    known = parser.parse_known_args(given)[0]
    if known.algo not in _ALGOS:
        return given
    file = recipes(known.algo) if known.conf_file is None else Path(known.conf_file)
    added = [] if known.conf_file is not None else ["--conf-file", str(file)]
    if known.eval_env_kwargs is None:
        # RL Zoo itself does not hand a recipe's env_kwargs on to the envs it evaluates in.
        keywords = known.env_kwargs or [f"{name}:{value!r}" for name, value in _env_kwargs(file, known.env).items()]
        added += ["--eval-env-kwargs", *keywords, "split:'test'"]
    return [*given, *added]


def _env_kwargs(file: Path, env_id: str) -> dict[str, Any]:
    """The ``env_kwargs`` of an id in a file of recipes."""
    if file.suffix not in {".yml", ".yaml"}:
        return {}
    import yaml  # RL Zoo brings it along

    blocks = yaml.safe_load(file.read_text(encoding="utf-8"))
    return dict(blocks.get(env_id, blocks.get("default", {})).get("env_kwargs", {}))
