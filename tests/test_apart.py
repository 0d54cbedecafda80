"""Measurements in processes of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.apart import apart, peak_memory

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="peak_memory reads /proc/self/status")


def test_a_function_runs_in_another_process_with_its_arguments():
    assert apart("os", "getpid") != os.getpid()
    assert apart("statistics", "median", [3, 1, 2]) == 2


def test_a_function_that_fails_there_fails_here():
    with pytest.raises(subprocess.CalledProcessError):
        apart("statistics", "median", [])


@on_linux
def test_the_most_memory_a_process_held_is_its_own():
    held = np.ones(40_000_000)
    before = peak_memory()
    assert before > held.nbytes
    del held
    assert peak_memory() >= before - 1_000_000  # the kernel counts pages in batches
    assert apart("benchmarks.apart", "peak_memory") < 40_000_000
