"""The table of what learners take is SB3's own."""

from itertools import product

import pytest
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from tests.matrix.cycles import learner_arguments
from tests.matrix.support import (
    ACTIONS,
    BROKEN_ACTIONS,
    BROKEN_OBSERVATIONS,
    IMAGES,
    LEARNERS,
    OBSERVATIONS,
    SB3_ACTIONS,
    VECTORS_ONLY,
    Cell,
    policy_of,
    sb3_takes,
)
from tests.matrix.worlds import masked_rows, scalar_of

LEAST = {"net_arch": [4]}
ALL = [Cell("none", *spaces_of) for spaces_of in product(LEARNERS, OBSERVATIONS, ACTIONS)]


@pytest.mark.parametrize("learner", LEARNERS)
def test_actions_are_those_that_the_algorithm_declares(learner, monkeypatch):
    declared = []
    init = BaseAlgorithm.__init__

    def spy(self, *args, **kwargs):
        declared.append(kwargs["supported_action_spaces"])
        init(self, *args, **kwargs)

    monkeypatch.setattr(BaseAlgorithm, "__init__", spy)
    learner("MlpPolicy" if "MlpPolicy" in learner.policy_aliases else "MlpLstmPolicy", None, _init_setup_model=False)

    kinds = {"box": spaces.Box, "discrete": spaces.Discrete, "multi_discrete": spaces.MultiDiscrete,
             "multi_binary": spaces.MultiBinary}  # fmt: skip
    assert set(declared[0]) == {kinds[action] for action in SB3_ACTIONS[learner]}


@pytest.mark.parametrize("learner", LEARNERS)
def test_observations_are_those_that_the_algorithm_has_policies_for(learner):
    for observation in ("image_first", "dict"):
        assert (policy_of(learner, observation) in learner.policy_aliases) == (learner not in VECTORS_ONLY)


def trains(cell):
    """Whether the bare learner of SB3 does; what it raises where it does not."""
    learner, observation, action = cell.learner, cell.observation, cell.action
    masks = learner.__name__ == "MaskablePPO" and action != "box"
    env = masked_rows(observation, action) if masks else make_vec_env(lambda: scalar_of(observation, action), 2)
    nets = {"features_extractor_kwargs": {"features_dim": 4}} if observation in IMAGES else {}
    try:
        policy = policy_of(learner, observation)
        model = learner(
            policy, env, policy_kwargs={**LEAST, **nets}, device="cpu", seed=0, **learner_arguments(learner)
        )
        model.learn(16)
    except (AssertionError, ValueError, TypeError, RuntimeError) as refusal:
        return refusal
    return True


@pytest.mark.parametrize(("learner", "action"), BROKEN_ACTIONS)
def test_what_sb3_declares_and_fails_on_with_actions(learner, action):
    assert isinstance(trains(Cell("none", learner, "box", action)), RuntimeError)


@pytest.mark.parametrize(("learner", "observation"), BROKEN_OBSERVATIONS)
def test_what_sb3_declares_and_fails_on_with_observations(learner, observation):
    assert isinstance(trains(Cell("none", learner, observation, "discrete")), TypeError)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ALL, ids=str)
def test_the_bare_learner_trains_where_the_table_says_so_and_nowhere_else(cell):
    assert (trains(cell) is True) == sb3_takes(cell.learner, cell.observation, cell.action)
