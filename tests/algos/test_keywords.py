"""Which keywords a learner class takes, looked for in the classes that it hands keywords on to."""

import pytest
from stable_baselines3 import PPO, SAC

from metagym.algos.keywords import keywords_of, require_keywords
from metagym.errors import ConfigError


class Boosted(PPO):
    def __init__(self, policy, env, *, boost=1.0, n_steps=7, **kwargs):
        super().__init__(policy, env, n_steps=n_steps, **kwargs)


class Renamed(Boosted):
    """Without a constructor of its own."""


class Closed(PPO):
    def __init__(self, policy, env, rate=0.5):
        super().__init__(policy, env, learning_rate=rate)


class Open:
    def __init__(self, **kwargs):
        self.kwargs = kwargs


def test_keywords_are_handed_on_to_the_base_and_own_defaults_win():
    for kind in (Boosted, Renamed):
        names, defaults, is_open = keywords_of(kind)
        assert defaults["boost"] == 1.0
        assert defaults["n_steps"] == 7
        assert defaults["batch_size"] == 64
        assert {"policy", "env", "seed"} <= set(names)
        assert not is_open


def test_what_takes_no_others_has_only_its_own():
    assert keywords_of(Closed) == (("policy", "env", "rate"), {"rate": 0.5}, False)
    assert keywords_of(SAC).defaults["ent_coef"] == "auto"


def test_what_hands_keywords_on_to_nobody_takes_any():
    assert keywords_of(Open).open
    require_keywords(Open, ["anything"])


def test_unknown_keywords_are_named_with_those_that_are_taken():
    require_keywords(Boosted, ["boost", "n_epochs"])
    with pytest.raises(ConfigError, match=r"unknown keywords \['n_epoch'\]; Boosted takes .*'boost'.*'n_epochs'"):
        require_keywords(Boosted, ["n_epoch"])
    with pytest.raises(ConfigError, match=r"Closed takes \['rate'\]"):
        require_keywords(Closed, ["n_epochs"])
