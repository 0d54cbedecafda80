"""Runs of an iteration in worker processes, with the result that one process has, to the bit.

Each worker holds a learner and copies of the env's rows. It is given the start of an iteration and jobs, and returns
where its runs ended. A worker that dies is replaced, and its job is done again: a run hangs on its start and its seed
alone.
"""

import pickle
import signal
import traceback
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import torch as th
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from metagym.algos.reptile_adapt import make_learner
from metagym.algos.reptile_env import packed_env, unpacked_env
from metagym.algos.reptile_run import Finish, Job, Runs, Start
from metagym.errors import ConfigError, WorkerError
from metagym.learner_state import LearnerState

if TYPE_CHECKING:
    from metagym.algos.reptile import Reptile

__all__ = ["RemoteTracebackError", "WorkerError", "WorkerPool", "parcel_of", "serve"]

MOST_DEATHS = 3
PATIENCE = 5.0  # seconds for a worker to end by itself


class RemoteTracebackError(Exception):
    """Where in a worker process an exception came from, as text."""

    @override
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _start_method() -> Any:
    """Fork of a server that has imported what workers need, where there is one: libraries are then loaded once.

    Never a fork of this process, whose threads may hold locks.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def parcel_of(agent: "Reptile", env: VecEnv, frozen: Collection[str]) -> bytes:
    """All that a worker is made of, as bytes.

    Raises:
        ConfigError: if something in it cannot be sent.
    """
    recipe = {
        name: getattr(agent, name) for name in ("learner_class", "policy_argument", "policy_kwargs", "device", "n_envs")
    }
    try:
        made_of: bytes = cloudpickle.dumps((recipe, agent._inner_arguments, frozenset(frozen)))
    except Exception as cause:  # whatever a foreign object raises, the way out is the same
        raise ConfigError(
            f"the learner's arguments cannot be sent to worker processes ({cause}): use n_workers=1"
        ) from cause
    return pickle.dumps((made_of, packed_env(env)))


def _unpack(parcel: bytes) -> Runs:
    made_of, env = pickle.loads(parcel)
    recipe, arguments, frozen = pickle.loads(made_of)
    rows = unpacked_env(env)
    like_an_agent: Any = SimpleNamespace(**recipe)
    return Runs(make_learner(like_an_agent, rows, arguments), rows, frozen)


def serve(connection: Connection) -> None:
    """What a worker process does until the other end of the connection is closed."""
    # Ctrl-C reaches all processes of a terminal; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    th.set_num_threads(1)
    try:
        try:
            runs = _unpack(connection.recv_bytes())
        except Exception as error:  # whatever it is, the parent raises it
            connection.send_bytes(_failure(error))
            return
        connection.send_bytes(pickle.dumps(("ready", None)))
        start: Any = None
        while True:
            message = pickle.loads(connection.recv_bytes())
            if isinstance(message, Job):
                connection.send_bytes(_reply(runs, start, message))
            else:
                start = _received(message)
    except (EOFError, OSError):
        return


def _reply(runs: Runs, start: Start, job: Job) -> bytes:
    try:
        finish = next(iter(runs.play(start, [job])))
        finish.phi = _sendable(finish.phi)
        blob: bytes = cloudpickle.dumps(("finish", finish))
    except Exception as error:  # whatever it is, the parent raises it
        return _failure(error)
    return blob


def _failure(error: Exception) -> bytes:
    text = "".join(traceback.format_exception(error))
    try:
        blob: bytes = cloudpickle.dumps(("error", (error, text)))
        pickle.loads(blob)  # some exceptions can be written and not read
    except Exception:  # exceptions may hold anything
        blob = pickle.dumps(("error", (WorkerError(f"{type(error).__name__}: {error}"), text)))
    return blob


def _sendable(state: LearnerState) -> LearnerState:
    """As NumPy arrays: torch would send tensors through shared memory, one file descriptor each."""
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in state.tensors.items()}
    return LearnerState(arrays, {})


def _received(start: Start) -> Start:
    return Start(_as_tensors(start.theta, {}), start.statistics, start.optimizer, start.timesteps)


def _as_tensors(state: LearnerState, like: Mapping[str, th.Tensor]) -> LearnerState:
    tensors = {name: th.tensor(array) for name, array in state.tensors.items()}
    return LearnerState(
        {name: tensor.to(like[name].device) if like else tensor for name, tensor in tensors.items()}, {}
    )


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    start: Start | None = None
    job: Job | None = None


class WorkerPool:
    """Runs of an iteration in several processes at a time. Use it like `Runs`, and close it.

    Args:
        num_workers: processes.
        parcel: from `parcel_of`.

    Raises:
        WorkerError: from `play`, if workers cannot be started, or die repeatedly over one job.
    """

    def __init__(self, num_workers: int, parcel: bytes) -> None:
        self._parcel = parcel
        self._context = _start_method()
        self._workers: list[_Worker] = []
        self._deaths: dict[int, int] = {}
        try:
            for _ in range(num_workers):
                self._workers.append(self._launch())
            for worker in self._workers:  # once all are starting, since a pipe may take in no more before they read
                _send(worker, parcel)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[BaseProcess]:
        """The worker processes that there are now."""
        return [worker.process for worker in self._workers]

    def play(self, start: Start, jobs: Iterable[Job]) -> Iterator[Finish]:
        """Where the runs ended, in the order of the jobs; the first of them to fail raises its error here."""
        ordered = list(jobs)
        waiting, done = deque(ordered), dict[int, Finish]()
        self._deaths.clear()
        sent = Start(_sendable(start.theta), start.statistics, start.optimizer, start.timesteps)
        for job in ordered:
            while job.index not in done:
                self._assign(sent, waiting)
                for finish, index in self._collect(waiting):
                    finish.phi = _as_tensors(finish.phi, start.theta.tensors)
                    done[index] = finish
            yield done.pop(job.index)

    def _launch(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), daemon=True, name="metagym-worker")
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _assign(self, start: Start, waiting: deque[Job]) -> None:
        for worker in self._workers:
            if worker.job is None and waiting:
                worker.job = waiting.popleft()
                if worker.start is not start:
                    _send(worker, cloudpickle.dumps(start))
                    worker.start = start
                _send(worker, cloudpickle.dumps(worker.job))

    def _collect(self, waiting: deque[Job]) -> Iterator[tuple[Finish, int]]:
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            try:
                kind, value = pickle.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                self._replace(worker, waiting)
                continue
            if kind == "ready":
                worker.is_ready = True
            elif kind == "error":
                error, text = value
                raise error from RemoteTracebackError(text)
            elif worker.job is not None:
                index, worker.job = worker.job.index, None
                yield value, index

    def _replace(self, worker: _Worker, waiting: deque[Job]) -> None:
        _stop([worker], patience=PATIENCE)
        code = worker.process.exitcode
        if not worker.is_ready:
            raise WorkerError(
                f"a worker process ended with exit code {code} before it was ready. Worker processes import the main "
                'script again: what it runs must stand under `if __name__ == "__main__":`. Or use n_workers=1'
            )
        job = worker.job
        if job is not None:
            self._deaths[job.index] = self._deaths.get(job.index, 0) + 1
            if self._deaths[job.index] >= MOST_DEATHS:
                raise WorkerError(
                    f"{MOST_DEATHS} worker processes died over one run (task {job.task!r}), the last with exit code "
                    f"{code}; -9 often means that memory ran out"
                )
            waiting.appendleft(job)
        fresh = self._launch()
        self._workers[self._workers.index(worker)] = fresh
        _send(fresh, self._parcel)

    def close(self) -> None:
        """End all workers: those at rest by themselves, the others at once."""
        workers, self._workers = self._workers, []
        _stop([worker for worker in workers if worker.job is not None], patience=0.0)
        _stop([worker for worker in workers if worker.job is None], patience=PATIENCE)


def _send(worker: _Worker, blob: bytes) -> None:
    try:
        worker.connection.send_bytes(blob)
    except OSError:
        return  # it is dead: reading from it will say so


def _stop(workers: list[_Worker], *, patience: float) -> None:
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        process = worker.process
        process.join(patience)
        for end in (process.terminate, process.kill):
            if process.is_alive():
                end()
                process.join(PATIENCE)
