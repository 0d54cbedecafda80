"""Objects come back from JSON as they were, and data that names what it may not only raises."""

import base64
import json
import math
import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from metagym.encoding import decode, encode
from metagym.errors import CheckpointError, ConfigError


def through_json(obj, **custom_objects):
    return decode(json.loads(json.dumps(encode(obj), allow_nan=False)), custom_objects or None)


@pytest.mark.parametrize(
    "obj",
    [
        None,
        True,
        -(2**70),
        0.1,
        math.inf,
        "a\n☃",
        [1, (2, (3,)), []],
        {"a": {"b": ()}, "c": [None]},
        {1: "one", (2, "x"): "pair"},
        {"$": "a key of our own", "items": 3},
        LinearSchedule,
        th.nn.Tanh,
        th.optim.RMSprop,
        RMSpropTFLike,
        ActorCriticPolicy,
        HerReplayBuffer,
        np.float32,
        th.device("cpu"),
        spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, 3.0]), dtype=np.float64),
        spaces.Box(0, 255, (2, 2, 3), np.uint8),
        spaces.Box(-1.0, 1.0, ()),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.MultiBinary(1), spaces.Box(0, 1, (1,))])}),
    ],
    ids=repr,
)
def test_decoding_undoes_encoding(obj):
    back = through_json({"key": obj}, **({"key": obj} if obj is LinearSchedule else {}))["key"]
    assert back == obj
    assert type(back) is type(obj)


def test_nan_arrays_and_scalars_come_back_bit_by_bit():
    assert math.isnan(through_json(math.nan))
    for value in (np.array([[1.5, np.nan]], np.float32), np.array(True), np.arange(3, dtype=">u2"), np.zeros((0, 2))):
        back = through_json(value)
        np.testing.assert_array_equal(back, value)
        assert back.shape == value.shape
        assert back.dtype == value.dtype.newbyteorder("=")
    scalar = through_json(np.float32(0.1))
    assert type(scalar) is np.float32
    assert scalar == np.float32(0.1)


def test_schedules_compute_the_same():
    for schedule in (
        LinearSchedule(1.0, 0.1, 0.5),
        ConstantSchedule(0.3),
        FloatSchedule(LinearSchedule(1.0, 0.0, 1.0)),
    ):
        back = through_json(schedule)
        assert type(back) is type(schedule)
        assert [back(x) for x in (1.0, 0.6, 0.0)] == [schedule(x) for x in (1.0, 0.6, 0.0)]


class OwnModule(th.nn.Module):
    pass


def test_a_hole_is_named_and_filled_by_custom_objects():
    schedule = lambda progress: progress  # noqa: E731
    data = encode({"policy_kwargs": {"activation_fn": OwnModule, "net_arch": [8]}, "learning_rate": schedule})
    with pytest.raises(CheckpointError) as caught:
        decode(data)
    assert "'policy_kwargs.activation_fn' (it was tests.test_encoding.OwnModule)" in str(caught.value).replace(
        OwnModule.__module__, "tests.test_encoding"
    )
    assert "'learning_rate'" in str(caught.value)
    filled = decode(data, {"policy_kwargs.activation_fn": OwnModule, "learning_rate": schedule})
    assert filled == {"policy_kwargs": {"activation_fn": OwnModule, "net_arch": [8]}, "learning_rate": schedule}


def test_a_custom_object_replaces_a_whole_part_and_a_misspelt_one_is_refused():
    data = encode({"policy_kwargs": {"activation_fn": OwnModule}, "n": 1})
    assert decode(data, {"policy_kwargs": {}, "n": 2}) == {"policy_kwargs": {}, "n": 2}
    with pytest.raises(ConfigError, match="polcy_kwargs"):
        decode(data, {"polcy_kwargs": {}, "policy_kwargs": {}})


def test_what_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="contains itself"):
        encode(loop)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "pickle:Unpickler",
        "torch:load",
        "torch.hub:load",
        "torch.nn.modules.activation:torch.hub.load",
        "torch.nn:Tanh.forward",
        "torch.nn.functional:relu",
        "torch.nn.modules.module:os",
        "stable_baselines3.common.base_class:io",
        "stable_baselines3.common.save_util:open_path",
        "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv",
        "numpy:load",
        "numpy.f2py:run_main",
        "metagym.__main__:Evil",
        "metagym.saving:Path",
        "torch.nn.nothing:Here",
        "torch.nn.modules.activation:",
        "torch.nnx:Tanh",
        "",
    ],
)
def test_a_file_may_not_name_what_could_be_called(name):
    with pytest.raises(CheckpointError):
        decode({"policy": {"$": "class", "name": name}})


def test_naming_a_module_does_not_import_it_unless_it_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="may not name 'evil_module:X'"):
        decode({"$": "class", "name": "evil_module:X"})
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        {"$": "array", "dtype": "|O", "shape": [1], "data": base64.b64encode(bytes(8)).decode()},
        {"$": "array", "dtype": "<f4", "shape": [10**12], "data": base64.b64encode(bytes(4)).decode()},
        {"$": "array", "dtype": "<f4", "shape": [-5], "data": "AAAA"},
        {"$": "array", "dtype": "<V9", "shape": [1], "data": "AAAA"},
        {"$": "array", "dtype": ["f4"], "shape": [1], "data": "AAAA"},
        {"$": "space", "kind": "Box", "parts": {"low": 0, "high": 1}},
        {"$": "space", "kind": "Text", "parts": {"max_length": 3}},
        {"$": "space", "kind": "Discrete", "parts": {"n": -1}},
        {"$": "space", "kind": "Tuple", "parts": {"spaces": [1]}},
        {"$": "space", "kind": "Dict", "parts": {"spaces": 3}},
        {"$": "schedule", "kind": "FloatSchedule", "arguments": ["no"]},
        {"$": "schedule", "kind": "ConstantSchedule", "arguments": ["no"]},
        {"$": "schedule", "kind": "eval", "arguments": [1]},
        {"$": "dict", "items": [[["unhashable"], 1]]},
        {"$": "tuple"},
        {"$": "float", "value": "1"},
        {"$": "device", "name": "nonsense"},
        {"$": "pickle", "data": "gASVBAAAAA=="},
        {"$": ["unhashable"]},
        {"$": None},
    ],
    ids=json.dumps,
)
def test_malformed_data_raises_one_kind_of_error(data):
    with pytest.raises(CheckpointError, match="malformed"):
        decode([data])


def test_deeply_nested_data_raises():
    data = 1
    for _ in range(100):
        data = [data]
    with pytest.raises(CheckpointError, match="nested deeper"):
        decode(data)
