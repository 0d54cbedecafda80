"""The learner inside Reptile: which classes are accepted, and their arguments."""

import copy
from collections.abc import Mapping
from typing import Any

import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from metagym.algos.keywords import keywords_of
from metagym.errors import ConfigError

__all__ = [
    "NOT_STORED", "OWN_ARGUMENTS", "ROLLOUTS_PER_RUN", "adaptable_arguments", "adaptation_arguments",
    "adaptation_budget", "check_counts", "check_inner_optimizer", "check_outer", "check_workers",
    "constructor_arguments", "find_learner_class", "inner_arguments", "reptile_arguments",
    "require_constant_schedules", "require_masks", "require_support", "rollout_size", "varies",
]  # fmt: skip

OWN_ARGUMENTS = frozenset({"policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log"})
ROLLOUTS_PER_RUN = 4
# A2C does not store these: it puts the optimiser that they describe into policy_kwargs.
NOT_STORED = {"use_rms_prop": False, "rms_prop_eps": 1e-5}


def check_counts(**counts: Any) -> None:
    """Refuse what is no integer of at least 1.

    Raises:
        ConfigError: if there is one such.
    """
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")


def check_outer(learning_rate: Any, inner_optimizer: Any) -> None:
    """Refuse settings of the outer loop that are out of range.

    Raises:
        ConfigError: if one is.
    """
    check_inner_optimizer(inner_optimizer)
    positive = isinstance(learning_rate, int | float) and learning_rate > 0
    if not (positive or callable(learning_rate)):
        raise ConfigError(f"learning_rate must be a positive number or a schedule, got {learning_rate!r}")


def check_inner_optimizer(inner_optimizer: Any) -> None:
    """Refuse what says nothing of an optimiser's moments.

    Raises:
        ConfigError: if it does not.
    """
    if inner_optimizer not in {"fresh", "carry"}:
        raise ConfigError(f"inner_optimizer must be 'fresh' or 'carry', got {inner_optimizer!r}")


def find_learner_class(learner_class: Any) -> type[BaseAlgorithm]:
    """The class, given as itself or by its name in Stable-Baselines3 or its contrib package.

    Raises:
        ConfigError: if it is no PyTorch learner of Stable-Baselines3's kind.
    """
    found = learner_class
    if isinstance(learner_class, str):
        found = vars(stable_baselines3).get(learner_class, vars(sb3_contrib).get(learner_class))
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        raise ConfigError(
            f"learner_class must be a Stable-Baselines3 algorithm such as PPO or 'PPO', got {learner_class!r}"
        )
    if found.__module__.partition(".")[0] == "sbx":
        raise ConfigError(
            f"{found.__name__} of SBX keeps its parameters in JAX; give a PyTorch learner of SB3 or contrib"
        )
    return found


def inner_arguments(
    learner_class: type[BaseAlgorithm], given: Mapping[str, Any], n_envs: int, timesteps: int
) -> dict[str, Any]:
    """The learner's keywords, with defaults that suit runs of `timesteps` steps where none is given.

    Raises:
        ConfigError: if a keyword is Reptile's own or unknown, or one rollout is longer than the run.
    """
    own = sorted(OWN_ARGUMENTS.intersection(given))
    if own:
        raise ConfigError(f"learner_kwargs may not hold {own}: give Reptile itself those of them that it has")
    arguments, keywords = copy.deepcopy(dict(given)), keywords_of(learner_class)
    defaults = keywords.defaults
    unknown = sorted(given.keys() - defaults.keys())
    if unknown and not keywords.open:
        raise ConfigError(f"learner_kwargs holds {unknown}, which {learner_class.__name__} does not have")
    if "buffer_size" in defaults:
        arguments = {"buffer_size": timesteps, **_first_update(given), **arguments}
        if defaults.get("target_update_interval", 0) >= timesteps:
            arguments.setdefault("target_update_interval", max(n_envs, timesteps // 10))
    if issubclass(learner_class, OnPolicyAlgorithm) and "n_steps" in defaults:
        arguments |= _rollout_arguments(given, defaults, n_envs, timesteps)
    return arguments


def adaptable_arguments(
    learner_class: type[BaseAlgorithm], given: Mapping[str, Any], n_envs: int, inner_timesteps: int
) -> dict[str, Any]:
    """`inner_arguments` for a learner whose own training has other rollouts than its adaptation, maybe longer ones.

    Raises:
        ConfigError: if a keyword is not the learner's to have, or unknown.
    """
    return inner_arguments(learner_class, given, n_envs, max(inner_timesteps, given.get("n_steps", 1) * n_envs))


def adaptation_budget(total_timesteps: int | None, inner_timesteps: int) -> int:
    """Environment steps of an adaptation: those asked for, or `inner_timesteps`.

    Raises:
        ConfigError: if it is no integer of at least 1.
    """
    budget = inner_timesteps if total_timesteps is None else total_timesteps
    check_counts(total_timesteps=budget)
    return budget


def _first_update(given: Mapping[str, Any]) -> dict[str, int]:
    """Hindsight needs a finished episode, and how long those are the learner does not know: SB3's default stays."""
    buffer = given.get("replay_buffer_class")
    hindsight = isinstance(buffer, type) and issubclass(buffer, HerReplayBuffer)
    return {} if hindsight else {"learning_starts": 0}


def _rollout_arguments(
    given: Mapping[str, Any], defaults: Mapping[str, Any], n_envs: int, timesteps: int
) -> dict[str, Any]:
    n_steps = given.get("n_steps", defaults["n_steps"])
    if "n_steps" not in given and n_steps * n_envs > timesteps:
        n_steps = max(_fewest_steps(n_envs), timesteps // (ROLLOUTS_PER_RUN * n_envs))
    if n_steps * n_envs > timesteps:
        raise ConfigError(f"one rollout of {n_steps} steps in {n_envs} envs is longer than inner_timesteps={timesteps}")
    if "batch_size" in given or "batch_size" not in defaults:
        return {"n_steps": n_steps}
    return {"n_steps": n_steps, "batch_size": _batch_size(defaults["batch_size"], n_steps * n_envs)}


def _fewest_steps(n_envs: int) -> int:
    """Advantages are normalised over a rollout, which therefore needs two transitions."""
    return 2 if n_envs == 1 else 1


def adaptation_arguments(arguments: Mapping[str, Any], n_envs: int, timesteps: int) -> dict[str, Any]:
    """The keywords of training, with rollouts no longer than a run of `timesteps` steps and a buffer for all of it."""
    fitted = copy.deepcopy(dict(arguments))
    if "buffer_size" in fitted:
        fitted["buffer_size"] = max(fitted["buffer_size"], timesteps)
    elif "n_steps" in fitted:
        fitted["n_steps"] = min(fitted["n_steps"], max(_fewest_steps(n_envs), timesteps // n_envs))
        if fitted.get("batch_size"):
            fitted["batch_size"] = _batch_size(fitted["batch_size"], fitted["n_steps"] * n_envs)
    return fitted


def _batch_size(wanted: int, rollout: int) -> int:
    """The largest size up to `wanted` that divides a rollout into equal batches, unless that is much smaller."""
    largest = min(wanted, rollout)
    return next((size for size in range(largest, largest // 2, -1) if rollout % size == 0), rollout)


def rollout_size(model: BaseAlgorithm) -> int:
    """Steps between two updates: what ``learn`` rounds its budget up to a multiple of."""
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps * model.n_envs
    frequency = getattr(model, "train_freq", 1)
    if isinstance(frequency, TrainFreq):
        frequency = frequency.frequency if frequency.unit.value == "step" else 1
    return int(frequency) * model.n_envs


def varies(schedule: Any) -> bool:
    """Whether something is a schedule, and not a constant one."""
    return callable(schedule) and len({schedule(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)}) > 1


def require_constant_schedules(model: BaseAlgorithm) -> None:
    """Refuse schedules inside: a run of one rollout would see only their last value, mostly 0.

    Raises:
        ConfigError: if one of the learner's schedules is not constant.
    """
    for name in ("lr_schedule", "clip_range", "clip_range_vf", "delta_std_schedule"):
        schedule = getattr(model, name, None)
        if varies(schedule):
            raise ConfigError(
                f"{name} of the inner {type(model).__name__} changes during learning, which would restart for every "
                "task: make it constant, and give Reptile itself a schedule as learning_rate"
            )


def require_masks(learner_class: type[BaseAlgorithm], env: VecEnv | None) -> None:
    """Refuse MaskablePPO where no actions are masked.

    Raises:
        ConfigError: if the learner masks actions and the env does not say which are allowed.
    """
    if env is not None and issubclass(learner_class, MaskablePPO) and not is_masking_supported(env):
        raise ConfigError(
            "MaskablePPO needs envs with a method action_masks(), which this env does not have: add it, or use PPO"
        )


def require_support(learner_class: type[BaseAlgorithm], env: VecEnv | None) -> None:
    """Refuse envs that the learner takes and cannot learn in.

    Raises:
        ConfigError: if masks are missing, or the learner is RecurrentPPO and actions are binary.
    """
    require_masks(learner_class, env)
    is_binary = env is not None and isinstance(env.action_space, spaces.MultiBinary)
    if is_binary and issubclass(learner_class, RecurrentPPO):
        # Its buffer hands out actions as the integers they are, and the loss of a Bernoulli asks for floats.
        raise ConfigError("RecurrentPPO of sb3-contrib fails on MultiBinary actions: use MultiDiscrete([2, ...])")


def check_workers(n_workers: int, inner_optimizer: str) -> None:
    """Refuse workers where one run needs what the run before it left.

    Raises:
        ConfigError: if moments are carried from run to run by several workers.
    """
    check_counts(n_workers=n_workers)
    if n_workers > 1 and inner_optimizer == "carry":
        raise ConfigError(
            f"n_workers={n_workers} with inner_optimizer='carry': moments go from each task to the next, which must "
            "wait for them; use inner_optimizer='fresh' or n_workers=1"
        )


def constructor_arguments(model: BaseAlgorithm) -> dict[str, Any]:
    """The keywords that a learner was constructed with, as far as they are not Reptile's own.

    Raises:
        ConfigError: if the learner does not store one of its arguments.
    """
    names = keywords_of(type(model)).defaults.keys() - OWN_ARGUMENTS - {"_init_setup_model", "monitor_wrapper"}
    arguments: dict[str, Any] = {name: NOT_STORED[name] for name in names & NOT_STORED.keys()}
    for name in sorted(names - NOT_STORED.keys()):
        stored = next((key for key in (f"{name}_schedule", name, f"_{name}") if key in vars(model)), None)
        if stored is None:
            raise ConfigError(f"{type(model).__name__} does not store its argument {name!r}: use Reptile(...) instead")
        arguments[name] = _as_given(vars(model)[stored])
    if arguments.get("n_steps", 1) > 1 and "buffer_size" in arguments:
        # SB3 chooses the buffer of n-step returns itself, and warns if it is given.
        arguments |= {"replay_buffer_class": None, "replay_buffer_kwargs": None}
    return arguments


def reptile_arguments(model: BaseAlgorithm) -> dict[str, Any]:
    """Keywords for a Reptile whose inner learner is like this one.

    Raises:
        ConfigError: if the learner is not accepted, or does not store one of its arguments.
    """
    return {
        "learner_class": find_learner_class(type(model)),
        "learner_kwargs": constructor_arguments(model),
        "policy_kwargs": copy.deepcopy(model.policy_kwargs),
        "inner_timesteps": max(1024, rollout_size(model)),
        "device": model.device,
    }


def _as_given(value: Any) -> Any:
    if isinstance(value, TrainFreq):
        return (value.frequency, value.unit.value)
    return copy.deepcopy(value.base_noise if isinstance(value, VectorizedActionNoise) else value)
