"""The same draws in every run, so that a red run can be repeated, whatever ran before in the same process."""

import random
from collections.abc import Callable

import pytest
import torch as th
from hypothesis import HealthCheck, settings
from numpy.random import bit_generator
from stable_baselines3.common.utils import set_random_seed

settings.register_profile(
    "metagym", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("metagym")
# The networks here are tiny: several threads wait for each other, many times longer than one works.
th.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What is not seeded draws from here: NumPy's entropy (envs, spaces, generators) and the global generators.

    Returns:
        A function that begins anew, as every test does.
    """

    def begin() -> None:
        monkeypatch.setattr(bit_generator, "randbits", random.Random(0).getrandbits)
        set_random_seed(0)

    begin()
    return begin
