"""Experience of many tasks in one replay buffer, sampled by task."""

from array import array
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["TaskReplayBuffer"]

_HOW = (
    "envs of metagym put task_id into the infos; behind a VectorEnvAdapter, whose infos are empty for speed, call "
    "model.replay_buffer.watch(model.get_env()) once"
)


class _Queue:
    """Places of one task's transitions, oldest first: grows at the end, shrinks at the front, and is indexed."""

    __slots__ = ("head", "order", "places", "task_id")

    def __init__(self, task_id: int, order: int) -> None:
        self.task_id, self.order = task_id, order
        self.places, self.head = array("q"), 0

    def __len__(self) -> int:
        return len(self.places) - self.head

    def __getitem__(self, index: int) -> int:
        return self.places[self.head + index]

    def pop(self) -> None:
        self.head += 1
        if self.head > 32 and 2 * self.head > len(self.places):
            # As many places go as were popped one by one since the last time: a constant time for each.
            del self.places[: self.head]
            self.head = 0


class TaskReplayBuffer(ReplayBuffer):
    """SB3's replay buffer that knows which task each transition is of.

    `sample` first draws a task, uniformly among those of which anything is stored, then one of its transitions, so
    that a task with few or short episodes is learnt from as often as another. All tasks share the room: whatever is
    oldest is forgotten, of whichever task. Adding and sampling a transition take a constant time each.

    Give it to a learner as ``replay_buffer_class=TaskReplayBuffer``. Ids of tasks are read from
    ``infos[i]["task_id"]`` or, behind a `VectorEnvAdapter`, from its `last_infos`: see `watch`.

    Args:
        buffer_size: transitions, over all rows and tasks.
        observation_space: of one row; no `Dict`.
        action_space: of one row.
        device: of samples.
        n_envs: rows of the env.
        optimize_memory_usage: store observations once, as SB3 does.
        handle_timeout_termination: as in SB3.
        sampling: "uniform" draws tasks with equal probabilities; "proportional" with those of their shares in what is
            stored, which is SB3's own sampling, to the bit.

    Attributes:
        task_ids: (buffer_size / n_envs, n_envs) int64.

    Raises:
        ConfigError: if the observations are dicts or `sampling` is unknown.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        sampling: Literal["uniform", "proportional"] = "uniform",
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ConfigError(f"TaskReplayBuffer stores arrays, not dicts, as observations; got {observation_space}")
        if sampling not in {"uniform", "proportional"}:
            raise ConfigError(f"sampling must be 'uniform' or 'proportional', got {sampling!r}")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
        )
        self.sampling = sampling
        self.task_ids: Int = np.zeros((self.buffer_size, n_envs), np.int64)
        self._watched: VectorEnvAdapter | None = None
        self._clear()

    def _clear(self) -> None:
        self._stored: Bool = np.zeros(self.buffer_size, np.bool_)
        self._queues: dict[int, _Queue] = {}
        self._present: list[_Queue] = []

    @override
    def reset(self) -> None:
        super().reset()
        self._clear()

    def watch(self, env: VecEnv | None) -> None:
        """Read the tasks' ids from the `VectorEnvAdapter` inside an env from now on, if there is one.

        Args:
            env: the env that the learner steps, in any of SB3's wrappers; None stops it.
        """
        layer: Any = env
        while isinstance(layer, VecEnvWrapper):
            layer = layer.venv
        self._watched = layer if isinstance(layer, VectorEnvAdapter) else None

    # --- storing -----------------------------------------------------------------------------------------------

    @override
    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        ids = self._ids_of(infos)
        step = self.pos
        self._forget(step)
        if self.optimize_memory_usage:
            # The next observations are written where those of the oldest step were.
            self._forget((step + 1) % self.buffer_size)
        super().add(obs, next_obs, action, reward, done, infos)
        self.task_ids[step] = ids
        for place, task_id in enumerate(self.task_ids[step].tolist(), step * self.n_envs):
            queue = self._queues.get(task_id)
            if queue is None:
                self._queues[task_id] = queue = _Queue(task_id, len(self._present))
                self._present.append(queue)
            queue.places.append(place)
        self._stored[step] = True

    def _ids_of(self, infos: list[dict[str, Any]]) -> Any:
        if self._watched is not None:
            ids = self._watched.last_infos.get("task_id")
        else:
            ids = [info.get("task_id") for info in infos]
            ids = None if None in ids else ids
        if ids is None or len(ids) != self.n_envs:
            raise ConfigError(f"TaskReplayBuffer needs the task_id of each of {self.n_envs} rows: {_HOW}")
        return ids

    def _forget(self, step: int) -> None:
        if not self._stored[step]:
            return
        self._stored[step] = False
        for task_id in self.task_ids[step].tolist():
            queue = self._queues[task_id]
            queue.pop()
            if not len(queue):
                last = self._present.pop()
                if last is not queue:
                    self._present[queue.order], last.order = last, queue.order
                del self._queues[task_id]

    # --- sampling ----------------------------------------------------------------------------------------------

    @override
    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Transitions of many tasks, as `sampling` says.

        Args:
            batch_size: B.
            env: normalises what is sampled.

        Raises:
            ConfigError: if nothing is stored.
        """
        if not self._present:
            raise ConfigError("nothing is stored yet, so nothing can be sampled")
        if self.sampling == "proportional":
            return super().sample(batch_size, env)
        present = self._present
        chosen = np.random.randint(len(present), size=batch_size).tolist()  # noqa: NPY002 (SB3's stream)
        shares = np.random.random_sample(batch_size).tolist()  # noqa: NPY002
        queues = [present[index] for index in chosen]
        return self._gather([queue[int(u * len(queue))] for queue, u in zip(queues, shares, strict=True)], env)

    def sample_task(self, task: Task | int, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Transitions of one task, each as likely.

        Args:
            task: the task, or its id.
            batch_size: B.
            env: normalises what is sampled.

        Raises:
            ConfigError: if nothing of the task is stored.
        """
        task_id = task.id if isinstance(task, Task) else int(task)
        queue = self._queues.get(task_id)
        if queue is None:
            raise ConfigError(f"nothing of task {task_id} is stored; something of {len(self._present)} others is")
        drawn = np.random.randint(len(queue), size=batch_size).tolist()  # noqa: NPY002 (SB3's stream)
        return self._gather([queue[index] for index in drawn], env)

    def _gather(self, places: list[int], env: VecNormalize | None) -> ReplayBufferSamples:
        steps, rows = np.divmod(np.array(places, np.int64), self.n_envs)
        if self.optimize_memory_usage:
            next_observations = self.observations[(steps + 1) % self.buffer_size, rows]
        else:
            next_observations = self.next_observations[steps, rows]
        ends = self.dones[steps, rows] * (1 - self.timeouts[steps, rows])
        parts: tuple[Any, ...] = (
            self._normalize_obs(self.observations[steps, rows], env),
            self.actions[steps, rows],
            self._normalize_obs(next_observations, env),
            ends[:, None],
            self._normalize_reward(self.rewards[steps, rows][:, None], env),
        )
        return ReplayBufferSamples(*(self.to_torch(part) for part in parts))

    # --- what is stored ----------------------------------------------------------------------------------------

    @property
    def present_tasks(self) -> Int:
        """Ids of the tasks of which anything is stored, in the order in which `sample` counts them."""
        return np.array([queue.task_id for queue in self._present], np.int64)

    def count(self, task: Task | int) -> int:
        """Number of transitions of a task that are stored."""
        queue = self._queues.get(task.id if isinstance(task, Task) else int(task))
        return 0 if queue is None else len(queue)

    def rebuild(self, present_tasks: Sequence[int] | Int = ()) -> None:
        """Make the index by task anew, from `task_ids`, `pos` and `full`: after these were set.

        Args:
            present_tasks: ids in the order in which `sample` shall count them; others come after these, by age.
        """
        self._clear()
        steps = np.arange(self.buffer_size if self.full else self.pos)
        if self.full:
            steps = (steps + self.pos) % self.buffer_size
            steps = steps[1:] if self.optimize_memory_usage else steps
        self._stored[steps] = True
        ids = self.task_ids[steps].reshape(-1).tolist()
        places = (steps[:, None] * self.n_envs + np.arange(self.n_envs)).reshape(-1).tolist()
        known = set(ids)
        for task_id in (*(int(one) for one in present_tasks), *ids):
            if task_id in known and task_id not in self._queues:
                self._queues[task_id] = _Queue(task_id, len(self._present))
                self._present.append(self._queues[task_id])
        for task_id, place in zip(ids, places, strict=True):
            self._queues[task_id].places.append(place)

    @override
    def __getstate__(self) -> dict[str, Any]:
        # SB3 pickles buffers; an env does not belong into one.
        return {**vars(self), "_watched": None}
