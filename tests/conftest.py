"""Hypothesis: the same examples in every run, so that a red run can be repeated. Torch: one thread."""

import torch as th
from hypothesis import HealthCheck, settings

settings.register_profile(
    "metagym", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("metagym")
# The networks here are tiny: several threads wait for each other, many times longer than one works.
th.set_num_threads(1)
