import numpy as np
import pytest

from metagym.envs.arguments import choice_of, flag, integer, number
from metagym.errors import ConfigError


def test_accepted_values_come_back_as_plain_python():
    assert flag("remap", True) is True
    assert integer("size", np.int64(16), 2, 16) == 16
    assert type(integer("size", np.int64(4), 2, 16)) is int
    assert number("rate", 0, 0.0, 1.0) == 0.0
    assert type(number("rate", np.float32(0.5), 0.0, 1.0)) is float
    assert choice_of("reward", "gaussian", ["bernoulli", "gaussian"]) == "gaussian"


@pytest.mark.parametrize("value", [1, None, "yes", np.bool_(True)])
def test_a_flag_is_a_bool(value):
    with pytest.raises(ConfigError, match="remap="):
        flag("remap", value)


@pytest.mark.parametrize("value", [1, 17, 4.0, "4", None, True])
def test_an_integer_is_whole_and_in_range(value):
    with pytest.raises(ConfigError, match=r"size=.*integer in \[2, 16\]"):
        integer("size", value, 2, 16)


@pytest.mark.parametrize("value", [0.0, 1.5, np.nan, "0.5", None, True])
def test_a_number_is_real_and_in_range(value):
    with pytest.raises(ConfigError, match=r"rate=.*number in \(0.0, 1.0\]"):
        number("rate", value, 0.0, 1.0, above=True)


@pytest.mark.parametrize("value", ["poisson", None, ["gaussian"]])
def test_a_choice_is_one_of_those_listed(value):
    with pytest.raises(ConfigError, match=r"reward=.*'bernoulli', 'gaussian'"):
        choice_of("reward", value, ["bernoulli", "gaussian"])
