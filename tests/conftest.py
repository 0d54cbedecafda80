"""Hypothesis: the same examples in every run, so that a red run can be repeated."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "metagym", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("metagym")
