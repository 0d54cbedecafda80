"""Every option of PPO and A2C, against Stable-Baselines3 itself."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from tests.algos.batched_setup import agent_of, finishes, require_equal
from tests.algos.reptile_setup import LAKE, POINT

ENVS = [LAKE, pytest.param(POINT, marks=pytest.mark.slow)]

PPO_OPTIONS = {
    "clipped values": {"clip_range_vf": 0.05},
    "entropy": {"ent_coef": 0.1, "vf_coef": 0.1},
    "advantages as they are": {"normalize_advantage": False},
    "a last minibatch that is smaller": {"batch_size": 12},
    "a last minibatch of one": {"batch_size": 31},
    "hard clipping": {"max_grad_norm": 0.01, "clip_range": 0.02},
    "no clipping": {"max_grad_norm": 1e9},
    "discounts": {"gamma": 0.8, "gae_lambda": 0.3},
    "a step size": {"learning_rate": 0.01},
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("options", PPO_OPTIONS.values(), ids=PPO_OPTIONS)
@pytest.mark.parametrize("env", ENVS)
def test_options_of_ppo(env, options):
    require_equal(agent_of(env, learner_kwargs=options), tolerance=3e-6)


A2C_OPTIONS = {
    "normalised advantages": {"normalize_advantage": True},
    "Adam": {"use_rms_prop": False},
    "discounts": {"gamma": 0.8, "gae_lambda": 0.3, "ent_coef": 0.1, "max_grad_norm": 0.01},
}


@pytest.mark.parametrize("options", A2C_OPTIONS.values(), ids=A2C_OPTIONS)
@pytest.mark.parametrize("env", ENVS)
def test_options_of_a2c(env, options):
    require_equal(agent_of(env, learner_class=A2C, learner_kwargs=options), tolerance=3e-6)


OPTIMIZERS = {
    "AdamW": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}},
    "AMSGrad": {"optimizer_class": th.optim.Adam, "optimizer_kwargs": {"amsgrad": True}},
    "RMSprop": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"momentum": 0.5, "centered": True}},
    "RMSprop as TensorFlow has it": {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}},
    "SGD": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
}


@pytest.mark.parametrize("policy_kwargs", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers(policy_kwargs):
    options = {"learning_rate": 0.01}
    require_equal(agent_of(LAKE, policy_kwargs=policy_kwargs, learner_kwargs=options), tolerance=3e-6)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("target_kl", [1e-9, 1e-5, 1e-4, 10.0])
def test_each_task_stops_by_itself_where_its_policy_has_moved_too_far(env, target_kl):
    """A task that stopped draws no minibatches and counts no steps of its optimiser."""
    agent = agent_of(env, learner_kwargs={"target_kl": target_kl, "n_epochs": 4})
    alone, together, _ = finishes(agent)
    for one, other in zip(alone, together, strict=True):
        for name, tensor in one.phi.tensors.items():
            np.testing.assert_allclose(other.phi.tensors[name], tensor, atol=2e-6)
