"""Training that is killed, at any moment and again and again, ends where training that is left alone does."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from metagym.saving import read_archive
from tests.algos.killed_runs import KINDS, reptile, train
from tests.algos.reptile_setup import same, state
from tests.matrix.cycles import assert_same_archives

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
# PyTorch imports its compiler at the first step of an optimiser.
PRELOADED = ["metagym.algos", "metagym.algos.rl2_window", "metagym.algos.reptile_workers", "torch._dynamo"]


def process(kind, folder, **kwargs):
    """A new process that trains; all are forked from one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # A worker of a worker would not be allowed to have children.
    started = context.Process(target=train, args=(kind, str(folder)), kwargs=kwargs, daemon=False)
    started.start()
    return started


def finish(running):
    running.join(PATIENCE)
    assert running.exitcode == 0


def left_alone(kind, folder, **kwargs):
    """What the uninterrupted run ends with."""
    folder.mkdir()
    finish(process(kind, folder, **kwargs))
    return read_archive(folder / "final")


def progress(folder):
    """Steps that a run has taken, of all that were taken in the folder."""
    path = folder / "progress"
    return int((path.read_bytes() if path.exists() else b"")[-9:] or 0)


def wait_for(condition, running):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert running.is_alive() or condition()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_at(running, folder, steps, seconds, *, in_write):
    """Kill a run so long after it has taken so many steps, or after the next write began."""
    wait_for(lambda: progress(folder) >= steps, running)
    if in_write:
        wait_for((folder / "writing").exists, running)
    time.sleep(seconds)
    running.kill()
    running.join(PATIENCE)
    assert running.exitcode == -signal.SIGKILL
    (folder / "writing").unlink(missing_ok=True)


def chain(kind, folder, *, moments, seed, share=1.0, in_write=False):
    """A run that is killed at random moments, each time taken up again from its last checkpoint.

    Returns:
        How many of the kills left a checkpoint behind that was written in part.
    """
    whole = left_alone(kind, folder / "alone", share=share)
    killed, rng, torn = folder / "killed", random.Random(f"{kind}, {seed}"), 0
    killed.mkdir()
    for at in sorted(rng.uniform(0.05, 0.8) for _ in range(moments)):
        running = process(kind, killed, share=share, writes_take=0.2 if in_write else 0.0)
        kill_at(running, killed, at * share * KINDS[kind][2], rng.uniform(0.0, 0.02), in_write=in_write)
        torn += len(list(killed.glob(".*.partial"))) > torn
        read_archive(killed / "checkpoint")  # always whole
    finish(process(kind, killed, share=share))
    assert_same_archives(read_archive(killed / "final"), whole)
    return torn


@pytest.mark.parametrize("kind", ["Reptile", "RL2", "WindowRL2, DQN"])
def test_a_killed_run_ends_as_one_that_was_left_alone(kind, tmp_path):
    chain(kind, tmp_path, moments=1, seed=0, share=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_killed_at_random_moments_end_as_those_that_were_left_alone(kind, tmp_path):
    """Four moments each, 24 in all."""
    chain(kind, tmp_path, moments=4, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_killed_while_they_write_end_as_those_that_were_left_alone(kind, tmp_path):
    """Writes take long, and the kill comes after one began."""
    assert chain(kind, tmp_path, moments=2, seed=2, in_write=True) >= 1


@pytest.mark.parametrize("write", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_dies_before_its_checkpoint_has_its_name_keeps_the_one_before(write, tmp_path):
    """A write syncs the file, then the folder: at the odd ones, the checkpoint is there and has not its name yet."""
    whole = left_alone("JointTraining, PPO", tmp_path / "alone", share=0.25)
    killed = tmp_path / "killed"
    killed.mkdir()
    running = process("JointTraining, PPO", killed, share=0.25, die_in_write=write)
    running.join(PATIENCE)
    assert running.exitcode == -signal.SIGKILL
    assert len(list(killed.glob(".*.partial"))) == write % 2
    read_archive(killed / "checkpoint")
    finish(process("JointTraining, PPO", killed, share=0.25))
    assert_same_archives(read_archive(killed / "final"), whole)


# --- worker processes -------------------------------------------------------------------------------------------------


def marked(mark):
    """Pids of the processes that inherited a mark in their environment."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _has(folder, mark)]


def _has(folder, mark):
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and mark.encode() in (folder / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return False


def orphans_of(code, folder, moment):
    """Kill a training with workers so long after its first checkpoint; processes left of it after a while."""
    mark = f"METAGYM_{uuid.uuid4().hex}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), mark: "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT) as parent:
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.glob("checkpoint.zip"))) == 0:
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moment)
        family = len(marked(mark))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20.0
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = marked(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return family, left


WITH_WORKERS = """
if __name__ == "__main__":
    from tests.algos.killed_runs import Saves, reptile
    reptile(2).learn(10_000_000, Saves({path!r}, 1), log_interval=None)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("moment", [0.0, 0.37, 1.03])
def test_no_worker_outlives_a_killed_parent(moment, tmp_path):
    family, left = orphans_of(WITH_WORKERS.format(path=str(tmp_path / "checkpoint")), tmp_path, moment)
    assert family >= 3  # the parent and its workers
    assert left == []


@pytest.mark.slow
def test_workers_killed_at_random_moments_change_no_bit_of_the_result():
    alone, together = reptile(), reptile(2)
    alone.learn(16_384, log_interval=None)
    rng, killed, over = random.Random(0), [], threading.Event()

    def kill():
        while not over.wait(rng.uniform(0.4, 0.9)):
            alive = [child for child in multiprocessing.active_children() if child.name == "metagym-worker"]
            ready = [child for child in alive if child.pid not in killed]
            if len(ready) == 2:
                killed.append(rng.choice(ready).pid)
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        together.learn(16_384, log_interval=None)
    finally:
        over.set()
        killer.join()
    assert killed
    assert same(state(alone), state(together))
    assert [child for child in multiprocessing.active_children() if child.name == "metagym-worker"] == []
