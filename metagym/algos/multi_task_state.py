"""Where a learner of Stable-Baselines3 stands in its training, besides what it has learnt: taken and put back.

Counters, the observations it will act on next, its replay buffer, its env and the process's random states: with these
and its parameters it goes on exactly as if it had never stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize, VecTransposeImage

from metagym.algos.learner_checkpoint import episode_records, restore_episode_records
from metagym.algos.reptile_normalize import (
    capture_statistics,
    flatten_statistics,
    restore_statistics,
    unflatten_statistics,
)
from metagym.errors import CheckpointError
from metagym.learner_state import generator_state, get_rng_state, set_generator_state
from metagym.replay import TaskReplayBuffer
from metagym.sections import prefixed, section
from metagym.types import Array
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = [
    "Position", "forget_episode", "replay_contents", "restore_env", "restore_position", "take_position",
]  # fmt: skip

COUNTERS = (
    "num_timesteps", "_n_updates", "_n_calls", "_episode_num", "_total_timesteps", "_num_timesteps_at_start",
    "_current_progress_remaining", "exploration_rate", "old_count",
)  # fmt: skip
MONITOR = ("episode_returns", "episode_lengths")
BUFFERS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, TaskReplayBuffer)


@dataclass
class Position:
    """A learner's place in its training.

    Attributes:
        meta: what JSON can express.
        arrays: by name; without the contents of the replay buffer, which are large.
    """

    meta: dict[str, Any]
    arrays: dict[str, Array]


def take_position(learner: BaseAlgorithm) -> Position:
    """Where a learner stands between two updates. Copies all but the replay buffer's contents."""
    state = vars(learner)
    meta: dict[str, Any] = {
        "counters": {name: _plain_number(state[name]) for name in COUNTERS if name in state},
        "action_rng": generator_state(learner.action_space.np_random),
        **episode_records(learner),
    }
    arrays = prefixed("rng", get_rng_state())
    if learner._last_obs is not None:
        arrays |= _named_parts("observation", learner._last_obs)
        if learner._vec_normalize_env is not None:
            arrays |= _named_parts("original", learner._last_original_obs)
        arrays["starts"] = np.array(learner._last_episode_starts, np.bool_)
    memory = state.get("_last_lstm_states")
    if memory is not None:
        arrays |= {f"memory/{index}": part.cpu().numpy().copy() for index, part in enumerate((*memory.pi, *memory.vf))}
    buffer: Any = state.get("replay_buffer")
    if type(buffer) in BUFFERS:
        arrays["replay/place"] = np.array([buffer.pos, buffer.full], np.int64)
        if isinstance(buffer, TaskReplayBuffer):
            arrays["replay/present_tasks"] = buffer.present_tasks
    return Position(meta, arrays | prefixed("env", _env_state(learner.env)))


def restore_position(learner: BaseAlgorithm, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put a learner where `take_position` found one: all but the env and the process's random states."""
    for name, value in meta["counters"].items():
        if name in COUNTERS and name in vars(learner):
            setattr(learner, name, value)
    set_generator_state(learner.action_space.np_random, meta["action_rng"])
    restore_episode_records(learner, meta)
    if "starts" in arrays:
        learner._last_obs = _laid_out(learner.env, _joined_parts("observation", arrays))
        learner._last_original_obs = _laid_out(learner.env, _joined_parts("original", arrays))
        learner._last_episode_starts = arrays["starts"]
    if memory := section("memory", arrays):
        pi_h, pi_c, vf_h, vf_c = (th.tensor(memory[str(index)], device=learner.device) for index in range(4))
        vars(learner)["_last_lstm_states"] = RNNStates((pi_h, pi_c), (vf_h, vf_c))
    buffer = vars(learner).get("replay_buffer")
    if "replay/place" in arrays and type(buffer) in BUFFERS:
        _fill(buffer, section("replay", arrays))


def forget_episode(learner: BaseAlgorithm) -> None:
    """Let the next ``learn`` begin with fresh episodes, whatever it counts: the running ones cannot go on."""
    learner._last_obs = None
    buffer: Any = vars(learner).get("replay_buffer")
    if getattr(buffer, "optimize_memory_usage", False):
        # Its next observation would be the first one of another episode.
        buffer.dones[(buffer.pos - 1) % buffer.buffer_size] = True


# --- replay buffers --------------------------------------------------------------------------------------------------


def replay_contents(learner: BaseAlgorithm) -> dict[str, Array]:
    """The filled part of a replay buffer's arrays; nothing for buffers of other classes than SB3's and metagym's."""
    buffer: Any = vars(learner).get("replay_buffer")
    if type(buffer) not in BUFFERS:
        return {}
    # One more, since optimize_memory_usage writes ahead.
    filled = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    return {name: array[:filled] for name, array in _buffer_arrays(buffer).items()}


def _buffer_arrays(buffer: Any) -> dict[str, Array]:
    """The arrays with one entry a step, by name, live."""
    arrays = {}
    for name, value in vars(buffer).items():
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(part, np.ndarray) and part.ndim > 1 and len(part) == buffer.buffer_size:
                arrays[f"{name}/{key}" if key else name] = part
    return arrays


def _fill(buffer: Any, stored: dict[str, Array]) -> None:
    pos, full = stored["place"].tolist()
    for name, array in _buffer_arrays(buffer).items():
        values = stored[name]
        if values.shape[1:] != array.shape[1:] or len(values) > len(array) or not 0 <= pos < len(array):
            raise CheckpointError(f"{name} of the stored replay buffer has shape {values.shape}, not {array.shape}")
        array[: len(values)] = values
    buffer.pos, buffer.full = pos, bool(full)
    if isinstance(buffer, TaskReplayBuffer):
        buffer.rebuild(stored["present_tasks"])


# --- the env ---------------------------------------------------------------------------------------------------------


def _layers(env: Any) -> tuple[list[Any], Any]:
    """SB3's wrappers, and the outermost env with a state inside them; None if there is anything else between."""
    wrappers = []
    while isinstance(env, VecMonitor | VecNormalize | VecTransposeImage | VectorEnvAdapter):
        wrappers.append(env)
        env = env.env if isinstance(env, VectorEnvAdapter) else env.venv
    return wrappers, env if hasattr(env, "get_state") and hasattr(env, "set_state") else None


def _env_state(env: VecEnv | None) -> dict[str, Array]:
    """State of the native env inside, of SB3's wrappers, and of seeds that wait for the first reset."""
    wrappers, native = _layers(env)
    if native is None:
        return {}
    arrays = prefixed("native", native.get_state())
    arrays |= prefixed("normalizer", flatten_statistics(capture_statistics(env)))
    for layer in wrappers:
        if isinstance(layer, VecMonitor):
            arrays |= {f"monitor/{name}": np.array(getattr(layer, name)) for name in MONITOR}
        elif isinstance(layer, VecNormalize):
            arrays["returns"] = layer.returns.copy()
        elif isinstance(layer, VectorEnvAdapter) and None not in layer._seeds:
            arrays["seeds"] = np.array(layer._seeds, np.int64)
    return arrays


def restore_env(env: VecEnv, arrays: Mapping[str, Array]) -> bool:
    """Put an env where `take_position` found one like it; False if it cannot be.

    Raises:
        CheckpointError: if the env is another one.
    """
    wrappers, native = _layers(env)
    if native is None or not section("native", arrays):
        return False
    restore_statistics(env, unflatten_statistics(section("normalizer", arrays)))
    for layer in wrappers:
        if isinstance(layer, VecMonitor):
            for name, array in section("monitor", arrays).items():
                setattr(layer, name, array.copy())
        elif isinstance(layer, VecNormalize):
            layer.returns = arrays["returns"].copy()
        elif isinstance(layer, VectorEnvAdapter):
            layer._seeds = arrays["seeds"].tolist() if "seeds" in arrays else [None] * env.num_envs
    try:
        native.set_state(section("native", arrays))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CheckpointError(f"the env does not take the stored state of the training env: {error!r}") from error
    return True


# --- names -----------------------------------------------------------------------------------------------------------


def _named_parts(prefix: str, observation: Any) -> dict[str, Array]:
    parts = observation if isinstance(observation, dict) else {"": observation}
    return {f"{prefix}/{key}": np.array(part) for key, part in parts.items()}


def _joined_parts(prefix: str, arrays: Mapping[str, Array]) -> Any:
    parts = section(prefix, arrays)
    return parts.get("", parts or None)


def _laid_out(env: VecEnv | None, observation: Any) -> Any:
    """Observations with their axes in memory as the env has them: convolutions round differently else."""
    layer = next((layer for layer in _layers(env)[0] if isinstance(layer, VecTransposeImage) and not layer.skip), None)
    if layer is None or observation is None:
        return observation
    if isinstance(observation, dict):
        return observation | {key: _channels_last_in_memory(observation[key]) for key in layer.image_space_keys}
    return _channels_last_in_memory(observation)


def _channels_last_in_memory(images: Array) -> Array:
    return VecTransposeImage.transpose_image(np.moveaxis(images, 1, -1).copy())


def _plain_number(value: Any) -> int | float:
    return float(value) if isinstance(value, float | np.floating) else int(value)
