"""The protocols, which tell learners apart."""

from metagym.algos.base import GradientLearner, MemoryLearner, Policy


class Acts:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return observation, state


class Remembers(Acts):
    def make_env(self, task=None):
        return task


class Learns(Acts):
    def adapt(self, task, total_timesteps):
        return Acts()


def test_what_has_the_methods_satisfies_the_protocol():
    kinds = {kind: [isinstance(kind(), protocol) for protocol in (Policy, MemoryLearner, GradientLearner)] for kind in (
        Acts, Remembers, Learns, object
    )}  # fmt: skip

    assert kinds == {
        Acts: [True, False, False],
        Remembers: [True, True, False],
        Learns: [True, False, True],
        object: [False, False, False],
    }
