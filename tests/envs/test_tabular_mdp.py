import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.tabular_mdp import TabularMDP, Visit
from metagym.errors import ConfigError, TaskError
from metagym.wrappers import RL2Context, Trial

ONE = np.nextafter(1.0, 0.0)
MEDIAN = 0.5  # the uniform at which a reward is its mean


def _sample(family, num_tasks, seed=0, part=None):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _two_states(**keywords):
    """State 0 pays 1 for staying (three times out of four) and 0 for going; state 1 pays 2 and -1."""
    family = TabularMDP(num_states=2, num_actions=2, **keywords)
    task = {"transitions": [[[0.75, 0.25], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]], "rewards": [[1, 0], [2, -1]]}
    return family, family.params_of([TaskDistribution(family).coerce(task)])


def _step(family, params, states, actions, noise):
    return family.step(Visit(np.array(states)), np.array(actions), params, np.array(noise, np.float64))


# --- dynamics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "action", "noise", "next_state", "reward"),
    [
        (0, 0, 0.0, 0, 1.0),
        (0, 0, 0.749, 0, 1.0),
        (0, 0, 0.75, 1, 1.0),
        (0, 1, 0.0, 1, 0.0),
        (1, 0, 0.5, 1, 2.0),
        (1, 1, ONE, 0, -1.0),
    ],
)
def test_the_next_state_is_the_one_whose_interval_the_uniform_falls_in(state, action, noise, next_state, reward):
    family, params = _two_states()
    step = _step(family, params, [state], [action], [[noise, MEDIAN]])
    assert step.state.state.tolist() == [next_state]
    assert step.reward.tolist() == [reward]
    assert step.terminated.tolist() == [False]
    assert step.success is None


def test_rewards_are_quantiles_of_a_normal_around_the_mean():
    family, params = _two_states(reward_std=2.0)
    # Phi(1) = 0.8413447460685429.
    noise = [[0.0, 0.8413447460685429], [0.0, 1 - 0.8413447460685429], [0.0, MEDIAN]]
    step = _step(family, params.take(np.zeros(3, np.int64)), [1, 1, 0], [0, 0, 0], noise)
    assert step.reward == pytest.approx([4.0, 0.0, 1.0])


def test_without_noise_rewards_are_the_means_at_all_uniforms():
    family, params = _two_states(reward_std=0.0)
    noise = [[0.0, 0.0], [0.0, 0.3], [0.0, ONE]]
    assert _step(family, params.take(np.zeros(3, np.int64)), [1] * 3, [1] * 3, noise).reward.tolist() == [-1.0] * 3


def test_next_states_and_rewards_have_the_law_of_the_task():
    family = TabularMDP()
    params = _sample(family, 1).take(np.zeros(40_000, np.int64))
    noise = np.random.default_rng(1).random((40_000, 2))
    step = _step(family, params, np.full(40_000, 7), np.full(40_000, 3), noise)
    expected = params.transitions[0, 7, 3] * 40_000
    assert stats.chisquare(np.bincount(step.state.state, minlength=10), expected).pvalue > 1e-3
    assert stats.kstest(step.reward, stats.norm(params.rewards[0, 7, 3], 1.0).cdf).pvalue > 1e-3
    correlation = np.corrcoef(step.state.state, step.reward)[0, 1]
    assert abs(correlation) < 4 / 200  # one uniform for each


def test_episodes_start_in_state_0_and_observe_the_state():
    family = TabularMDP()
    params = _sample(family, 3)
    state = family.initial(params, np.empty((3, 0)))
    observation = family.observe(Visit(np.array([4, 0, 9])), params)
    assert state.state.tolist() == [0, 0, 0]
    assert observation.tolist() == [4, 0, 9]
    assert observation.dtype == np.int64


def test_rl2_agents_see_the_state_as_the_one_hot_vector_of_the_paper():
    env = RL2Context(Trial(TaskEnv(TabularMDP()), episodes_per_trial=2))
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [1.0, *[0.0] * 9, *[0.0] * 5, 0.0, 1.0]
    observation, reward, *_ = env.step(3)
    assert sorted(observation[:10].tolist()) == [0.0] * 9 + [1.0]
    assert observation[10:].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, np.float32(reward), 0.0]


@pytest.mark.parametrize("num_states", [2, 3, 10, 100])
def test_rows_do_not_depend_on_each_other(num_states):
    family = TabularMDP(num_states=num_states, num_actions=3)
    rng = np.random.default_rng(2)
    keys, actions = rng.integers(0, 2**64, 64, np.uint64), rng.integers(0, 3, 64)
    states, noise = rng.integers(0, num_states, 64), rng.random((64, 2))
    for part in (None, "train", "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        whole = _step(family, params, states, actions, noise)
        values = family.state_values(params), family.state_values(params, greedy=False)
        for rows in ([3], [16, 5], list(range(7)), rng.permutation(64)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            assert fewer_ids.tolist() == ids[rows].tolist()
            assert fewer.transitions.tobytes() == params.transitions[rows].tobytes()
            step = _step(family, fewer, states[rows], actions[rows], noise[rows])
            assert step.reward.tobytes() == whole.reward[rows].tobytes()
            assert step.state.state.tolist() == whole.state.state[rows].tolist()
            assert family.state_values(fewer).tobytes() == values[0][rows].tobytes()
            assert family.state_values(fewer, greedy=False).tobytes() == values[1][rows].tobytes()


# --- exact values --------------------------------------------------------------------------------------------------


def test_values_of_two_states_by_hand():
    family, params = _two_states(episode_length=2)
    # With one step to go, 1 and 2; before that, 1 + (3 * 1 + 2) / 4 for staying in 0 and 0 + 2 for going.
    assert family.optimal_return(params).tolist() == [2.25]
    assert family.state_values(params).tolist() == [[2.25, 2.0 + 1.5]]
    # At random 0.5 a step in both states.
    assert family.random_return(params).tolist() == [1.0]
    assert family.state_values(params, horizon=0).tolist() == [[0.0, 0.0]]


def _following(params, policy, length):
    """Values of state 0 under a stationary policy (N, S)."""
    rows, states = np.arange(len(policy))[:, None], np.arange(policy.shape[1])
    transitions, rewards = params.transitions[rows, states, policy], params.rewards[rows, states, policy]
    value = np.zeros(policy.shape)
    for _ in range(length):
        value = rewards + np.einsum("nst,nt->ns", transitions, value)
    return value[:, 0]


def test_shortfalls_of_two_states_by_hand():
    family, params = _two_states(episode_length=2)
    solution = family.solve(params)
    # With one step to go rewards differ by 1 and 3; before that Q is 2.25 and 2 in state 0, 3.5 and 0 in state 1.
    assert solution.tolist() == [[[[0.0, 1.0], [0.0, 3.0]], [[0.0, 0.25], [0.0, 3.5]]]]


def test_shortfalls_add_up_to_what_a_policy_s_return_lacks_of_the_optimum():
    family = TabularMDP(num_states=5, num_actions=3, episode_length=6)
    params = _sample(family, 4)
    policy = np.random.default_rng(1).dirichlet(np.ones(3), (4, 5))  # of a stochastic agent
    solution, lost, earned = family.solve(params), np.zeros((4, 5)), np.zeros((4, 5))
    assert (solution >= 0.0).all()
    np.testing.assert_allclose(solution.min(axis=3), 0.0)
    for left in range(6):
        follow = np.einsum("nsat,nt->nsa", params.transitions, lost)
        lost = np.sum(policy * (solution[:, left] + follow), axis=2)
        follow = np.einsum("nsat,nt->nsa", params.transitions, earned)
        earned = np.sum(policy * (params.rewards + follow), axis=2)
    np.testing.assert_allclose(lost[:, 0], family.optimal_return(params) - earned[:, 0])


def test_average_returns_are_those_of_the_paper_s_processes():
    family, rng = TabularMDP(), np.random.default_rng(0)
    rewards = family.draw_structure(rng.random((25_000, 50)), "train")
    params = family.params_type(**rewards, **family.draw_details(rng.random((25_000, 500)), "train"))
    myopic, optimal = _following(params, params.rewards.argmax(axis=2), 10), family.optimal_return(params)
    assert optimal.mean() == pytest.approx(21.83, abs=0.02)
    assert myopic.mean() == pytest.approx(21.63, abs=0.02)
    assert family.random_return(params).mean() == pytest.approx(10.0, abs=0.02)
    assert np.all(myopic <= optimal + 1e-9)


def test_the_best_policy_earns_the_optimal_return_when_stepped():
    family = TabularMDP(num_states=4, num_actions=2, episode_length=3)
    params = _sample(family, 1)
    plan = []
    for left in range(3):
        value = family.state_values(params, horizon=2 - left)
        plan.append((params.rewards + np.einsum("nsat,nt->nsa", params.transitions, value))[0].argmax(axis=1))
    many = params.take(np.zeros(100_000, np.int64))
    state, total, rng = family.initial(many, np.empty((100_000, 0))), np.zeros(100_000), np.random.default_rng(5)
    for policy in plan:
        step = family.step(state, policy[state.state], many, rng.random((100_000, 2)))
        state, total = step.state, total + step.reward
    assert total.mean() == pytest.approx(family.optimal_return(params)[0], abs=4 * total.std() / 100_000**0.5)


# --- tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test", None])
def test_training_rows_are_flat_dirichlet_and_rewards_standard_normal_around_1(part):
    params = _sample(TabularMDP(), 2000, part=part)
    np.testing.assert_allclose(params.transitions.sum(axis=-1), 1.0, atol=1e-14)
    assert (params.transitions > 0.0).all()
    # Each component of a flat Dirichlet distribution over ten is Beta(1, 9).
    for place in (0, 9):
        assert stats.kstest(params.transitions[..., place].ravel(), stats.beta(1, 9).cdf).pvalue > 1e-3
    pair = params.transitions[..., :2].sum(axis=-1).ravel()
    assert stats.kstest(pair, stats.beta(2, 8).cdf).pvalue > 1e-3
    assert stats.kstest(params.rewards.ravel(), stats.norm(1.0, 1.0).cdf).pvalue > 1e-3


def test_train_and_test_share_no_rewards():
    train, test = (
        {row.tobytes() for row in _sample(TabularMDP(), 1000, part=part).rewards} for part in ("train", "test")
    )
    assert len(train) == len(test) == 1000
    assert not train & test


def test_ood_processes_have_two_next_states_uniform_over_pairs():
    params = _sample(TabularMDP(num_states=4), 3000, part="ood")
    possible = params.transitions > 0.0
    assert (possible.sum(axis=-1) == 2).all()
    np.testing.assert_allclose(params.transitions.sum(axis=-1), 1.0, atol=1e-14)
    pairs = (possible * (1 << np.arange(4))).sum(axis=-1).ravel()
    _, counts = np.unique(pairs, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3
    smaller = np.sort(params.transitions, axis=-1)[..., 2].ravel()
    assert stats.kstest(smaller, stats.uniform(0.0, 0.5).cdf).pvalue > 1e-3


def test_ood_processes_of_two_states_are_deterministic():
    assert set(_sample(TabularMDP(num_states=2), 100, part="ood").transitions.ravel().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("value", [0.0, ONE])
@pytest.mark.parametrize("region", ["train", "ood"])
def test_extreme_uniforms_give_tasks_inside_the_space(region, value):
    family = TabularMDP()
    structure = family.draw_structure(np.full((1, 50), value), region)
    draws = family.num_detail_draws if region == "train" else family.num_ood_detail_draws
    details = family.draw_details(np.full((1, draws), value), region)
    fields = {name: column[0] for name, column in {**structure, **details}.items()}
    task = TaskDistribution(family).coerce(fields)
    assert np.abs(task["rewards"] - 1.0).max() < 8.3
    step = _step(family, family.params_of([task]), [0], [0], [[value, value]])
    assert np.isfinite(step.reward).all()
    assert step.state.state[0] in range(10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transitions": np.full((3, 2, 3), 0.25)}, r"transitions\[0, 0\] sums to 0.75"),
        ({"transitions": np.full((3, 2, 3), 0.5)}, r"transitions\[0, 0\] sums to 1.5"),
        ({"transitions": np.full((2, 2, 3), 1 / 3)}, "transitions has shape"),
        ({"transitions": np.full((3, 2, 3), [-0.5, 0.5, 1.0])}, "transitions="),
        ({"rewards": np.full((3, 2), np.nan)}, "rewards="),
        ({"rewards": np.full((3, 2), 10.5)}, "rewards="),
        ({"noise": 1.0}, "unknown"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(change, message):
    task = {"transitions": np.full((3, 2, 3), 1 / 3), "rewards": np.ones((3, 2))}
    distribution = TaskDistribution(TabularMDP(num_states=3, num_actions=2))
    assert distribution.coerce(task)["transitions"].shape == (3, 2, 3)
    with pytest.raises(TaskError, match=message):
        distribution.coerce({**task, **change})


def test_the_row_that_sums_worst_is_named():
    transitions = np.full((3, 2, 3), 1 / 3)
    transitions[2, 1] = [0.3, 0.3, 0.3]
    task = {"transitions": transitions, "rewards": np.ones((3, 2))}
    with pytest.raises(TaskError, match=r"transitions\[2, 1\] sums to 0.89"):
        TaskDistribution(TabularMDP(num_states=3, num_actions=2)).coerce(task)


@pytest.mark.parametrize(
    "keywords",
    [{"num_states": 1}, {"num_states": 101}, {"num_actions": 1}, {"reward_std": -1.0}, {"episode_length": 0}],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        TabularMDP(**keywords)


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 10, 40])
def test_the_picture_shows_where_the_agent_is(size):
    family = TabularMDP(num_states=size, num_actions=size)
    params = _sample(family, 1)
    before, after = (family.draw(Visit(np.array([state])), params) for state in (0, 1))
    assert before.shape == after.shape
    assert before.dtype == np.uint8
    assert np.any(before != after)


def test_the_picture_has_room_for_more_actions_than_states_and_for_its_titles():
    family = TabularMDP(num_states=2, num_actions=9)
    image = family.draw(Visit(np.array([1])), _sample(family, 1))
    background = image[0, 0]
    assert np.all(image[-16:] == background)
    assert np.any(image[-20:-16] != background)  # the row of the last action
    assert np.all(
        TabularMDP(num_states=2, num_actions=2).draw(Visit(np.array([1])), _two_states()[1])[:, -1] == background
    )


def test_the_text_marks_the_state():
    family, params = _two_states()
    assert family.describe(Visit(np.array([1])), params) == "   0    1.00   0.00\n>  1    2.00  -1.00\n"


def test_drawn_numbers_lie_on_the_grid_and_rows_sum_to_one_exactly():
    params = _sample(TabularMDP(), 200)
    for column in (params.rewards, params.transitions):
        assert (np.rint(column * 2.0**30) == column * 2.0**30).all()
    assert (params.transitions.sum(axis=-1) == 1.0).all()
    assert params.transitions.min() > 0.0
