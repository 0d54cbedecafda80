"""Tables solved for the trainer: what actions give away, against the limits of the families."""

import numpy as np
import pytest

from metagym import Task, TaskDistribution, make_family


@pytest.mark.parametrize(
    ("env_id", "keywords"),
    [
        ("MetaGridNavi-v0", {}),
        ("MetaFrozenLake-v0", {}),
        ("MetaTwoStep-v0", {"random_transitions": True}),
        ("MetaDarkRoom-v0", {}),
        ("MetaCliffWalking-v0", {"is_slippery": True, "episode_length": 20}),
    ],
)
def test_shortfalls_add_up_to_what_random_actions_lack_of_the_optimum(env_id, keywords):
    family = make_family(env_id, **keywords)
    (task,) = TaskDistribution(family).part(None).sample(np.random.default_rng(0), 1)
    params = family.params_of([task])
    solution = family.solve(params)
    assert solution.shape == (1, family.episode_length, len(family.successors), family.action_space.n)
    dense = family.dense(params)
    lost = np.zeros(len(family.successors))
    for left in range(family.episode_length):
        onward = (dense.probability * ~dense.terminated * lost[dense.successor]).sum(axis=3)
        lost = (solution[0, left] + onward[0]).mean(axis=1)
    assert solution.min() == 0.0
    starts = family.starts(params)[0]
    lacking = family.optimal_return(params) - family.random_return(params)
    np.testing.assert_allclose(lost[starts].mean(), lacking[0], rtol=1e-9)


def test_a_step_gives_away_what_its_table_says():
    family = make_family("MetaGridNavi-v0")
    solution = family.solve(family.params_of([Task("GridNavi", {"goal": 2})]))
    # The goal is two cells along. Staying, also at walls, arrives a step later, which costs 1.1; going down, two.
    np.testing.assert_allclose(solution[0, 14, 0], [1.1, 0.0, 2.2, 1.1, 1.1])


def test_tables_too_large_to_keep_are_not_solved():
    assert make_family("MetaTaxi-v0").solve(None) is None
    assert make_family("MetaFrozenLake-v0", size=8).solve(None) is None
