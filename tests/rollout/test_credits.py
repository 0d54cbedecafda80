"""What a trainer learns from in place of rewards, which neither the policy nor the logs get to see."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from metagym import TaskDistribution, make_family
from metagym.algos import RL2
from metagym.engine import TaskVectorEnv
from metagym.errors import ConfigError
from metagym.rollout import Credits
from metagym.rollout.tasks import env_layers
from metagym.tabular import TabularFamily
from metagym.wrappers import RL2Context, Trial
from tests.rollout.rollout_setup import Counting

FAMILIES = [
    ("MetaBandit-v0", {"num_arms": 4}),
    ("MetaBandit-v0", {"num_arms": 3, "reward": "gaussian"}),
    ("MetaBandit-v0", {"variant": "uniform"}),
    ("MetaBandit-v0", {"variant": "informative"}),
    ("MetaBandit-v0", {"variant": "restless"}),
    ("MetaTabularMDP-v0", {}),
    ("MetaFrozenLake-v0", {}),
    ("MetaTaxi-v0", {}),
    ("MetaTwoStep-v0", {}),
    ("MetaCliffWalking-v0", {"is_slippery": True}),
]


@pytest.mark.parametrize(("env_id", "kwargs"), FAMILIES)
def test_an_expected_reward_is_the_mean_of_many_sampled_ones(env_id, kwargs):
    family = make_family(env_id, **kwargs)
    rng = np.random.default_rng(0)
    (task,) = TaskDistribution(family).part(None).sample(rng, 1)
    params = family.params_of([task])
    state = family.initial(params, rng.random((1, family.num_initial_draws)))
    n_draws = 4000
    for _ in range(3):
        for action in range(min(int(family.action_space.n), 4)):
            chosen = np.array([action])
            expected = family.expected_reward(state, chosen, params)
            assert expected.shape == (1,)
            rows = np.zeros(n_draws, np.int64)
            many = type(state)(*(column[rows] for column in state))
            noise = rng.random((n_draws, family.num_step_draws))
            rewards = family.step(many, chosen[rows], params.take(rows), noise).reward
            # 5 standard errors: one of a hundred such comparisons fails with a probability below 1e-4.
            assert abs(rewards.mean() - expected[0]) <= 5.0 * rewards.std() / n_draws**0.5 + 1e-12
        state = family.step(state, rng.integers(0, family.action_space.n, 1), params,
                            rng.random((1, family.num_step_draws))).state  # fmt: skip


def test_a_family_with_a_step_of_its_own_does_not_tell_from_tables():
    family = make_family("MetaFrozenLake-v0")

    class Own(type(family)):
        def step(self, state, action, params, noise):
            return super().step(state, action, params, noise)

    (task,) = TaskDistribution(family).part(None).sample(np.random.default_rng(0), 1)
    params = family.params_of([task])
    state = family.initial(params, np.zeros((1, family.num_initial_draws)))
    assert isinstance(family, TabularFamily)
    assert family.expected_reward(state, np.array([0]), params) is not None
    assert Own().expected_reward(state, np.array([0]), params) is None


def make_agent(expected, **kwargs):
    settings = {"n_envs": 4, "n_steps": 6, "seed": 0, "device": "cpu", "gamma": 0.9, "gae_lambda": 0.5} | kwargs
    return RL2(
        "MlpPolicy",
        "MetaBandit-v0",
        env_kwargs={"num_arms": 3},
        episodes_per_trial=3,
        expected_rewards=expected,
        policy_kwargs={"rnn_hidden_size": 4},
        **settings,
    )


def collected(agent, n_steps=6):
    """The columns of the first rollout, as it was trained on."""
    stored, compute = {}, agent.rollout_buffer.compute_returns_and_advantage

    def spy(*args, **kwargs):
        compute(*args, **kwargs)
        stored.update({name: column[:n_steps].copy() for name, column in agent.rollout_buffer._columns.items()})

    agent.rollout_buffer.compute_returns_and_advantage = spy
    agent.env.seed(3)
    th.manual_seed(3)
    agent.learn(24, log_interval=None)
    return stored


def test_the_buffer_holds_both_and_learns_from_the_expected_ones():
    told, plain = make_agent(True), make_agent(False)
    both, sampled = collected(told), collected(plain)
    assert set(np.unique(both["rewards"])) <= {0.0, 1.0}
    assert len(np.unique(both["credits"])) > 4
    # The same trajectories: what is seen and done does not change.
    for name in ("observations", "actions", "rewards", "values"):
        np.testing.assert_array_equal(both[name], sampled[name])
    assert "credits" not in sampled


def test_returns_are_made_of_the_expected_rewards_by_hand():
    agent = make_agent(True)
    columns = collected(agent)
    for row in range(4):
        for first in (0, 3):
            advantage, following = 0.0, 0.0
            for step in reversed(range(first, first + 3)):
                value = columns["values"][step, row]
                delta = columns["credits"][step, row] + 0.9 * following - value
                advantage = delta + 0.9 * 0.5 * advantage
                following = value
                np.testing.assert_allclose(columns["advantages"][step, row], advantage, rtol=1e-5, atol=1e-6)
    # Episodes' returns in the logs are those that were paid.
    assert all(episode["r"] == round(episode["r"]) for episode in agent.ep_info_buffer)


def test_regret_takes_the_optimum_of_the_task_being_played_off_each_episode():
    # Trials of three pulls: two trials in each row of the rollout, of different tasks.
    told, plain = make_agent(True), make_agent(True, regret=True)
    means, optima = collected(told), collected(plain)
    np.testing.assert_array_equal(means["rewards"], optima["rewards"])
    taken = means["credits"] - optima["credits"]
    for row in taken.T:
        np.testing.assert_allclose(row[:3], row[0], rtol=1e-6)
        np.testing.assert_allclose(row[3:], row[3], rtol=1e-6)
        assert row[0] != row[3]
    assert np.all(optima["credits"] <= 1e-7)
    assert np.any(np.abs(optima["credits"]) < 1e-7)  # the best arm was pulled


def test_regret_is_taken_off_where_an_episode_ends_and_without_expected_rewards_too():
    agent = RL2(
        "MlpPolicy",
        "MetaTabularMDP-v0",
        episodes_per_trial=2,
        n_envs=3,
        n_steps=20,
        regret=True,
        env_kwargs={"episode_length": 5},
        policy_kwargs={"rnn_hidden_size": 4},
        device="cpu",
    )
    columns = collected(agent, 10)
    taken = columns["rewards"] - columns["credits"]
    last = np.arange(10) % 5 == 4
    np.testing.assert_array_equal(taken[~last], 0.0)
    np.testing.assert_allclose(taken[4], taken[9], atol=1e-5)  # the same task
    assert np.all(taken[4] > 0.0)


def test_expected_regret_is_what_actions_give_away_where_the_family_can_solve_its_tasks():
    agent = RL2(
        "MlpPolicy",
        "MetaTabularMDP-v0",
        episodes_per_trial=2,
        n_envs=2,
        n_steps=12,
        expected_rewards=True,
        regret=True,
        env_kwargs={"num_states": 4, "num_actions": 3, "episode_length": 3},
        policy_kwargs={"rnn_hidden_size": 4},
        device="cpu",
    )
    native = next(layer for layer in env_layers(agent.env) if isinstance(layer, TaskVectorEnv))
    tasks = native.sample_tasks(2)
    native.set_tasks(tasks)  # of all trials, so that they are known here
    columns = collected(agent, 12)
    solution = native.family.solve(native.family.params_of(tasks))
    for step in range(12):
        states, actions = columns["observations"][step, :, :4].argmax(1), columns["actions"][step, :, 0]
        lost = [solution[row, 2 - step % 3, states[row], int(actions[row])] for row in range(2)]
        np.testing.assert_allclose(columns["credits"][step], -np.array(lost), atol=1e-6)
    assert columns["credits"].min() < -0.1


def test_the_tasks_of_new_trials_are_solved_when_they_begin():
    agent = RL2(
        "MlpPolicy",
        "MetaTabularMDP-v0",
        episodes_per_trial=1,
        n_envs=3,
        expected_rewards=True,
        regret=True,
        env_kwargs={"num_states": 3, "num_actions": 2, "episode_length": 2},
        policy_kwargs={"rnn_hidden_size": 4},
        device="cpu",
    )
    agent.learn(24, log_interval=None)
    native = next(layer for layer in env_layers(agent.env) if isinstance(layer, TaskVectorEnv))
    np.testing.assert_array_equal(agent._credits._solutions, native.solutions(np.arange(3)))


@pytest.mark.parametrize("helps", [{}, {"regret": True}])
def test_training_with_credits_resumes_to_the_bit(helps, tmp_path):
    agent = make_agent(True, **helps)
    agent.learn(30, log_interval=None)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", device="cpu")
    assert (loaded.expected_rewards, loaded.regret) == (True, bool(helps))
    for learner in (agent, loaded):
        learner.learn(60, log_interval=None, reset_num_timesteps=False)
    for mine, own in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert mine.equal(own)


def test_envs_that_cannot_tell_are_refused():
    foreign = DummyVecEnv([lambda: RL2Context(Trial(gym.make("MetaBandit-v0"), episodes_per_trial=2))])
    with pytest.raises(ConfigError, match="expected_rewards needs metagym's native vector env; DummyVecEnv"):
        Credits(foreign, expected=True, regret=False)
    with pytest.raises(ConfigError, match="regret needs metagym's native vector env; Counting"):
        Credits(Counting([[2]]), expected=False, regret=True)
    with pytest.raises(ConfigError, match=r"expected_rewards needs a family with expected_reward\(\); Point"):
        RL2("MlpPolicy", "MetaPointGoal-v0", episodes_per_trial=1, n_envs=2, expected_rewards=True)
    with pytest.raises(ConfigError, match="regret needs trials of a fixed number of episodes"):
        RL2("MlpPolicy", "MetaBandit-v0", steps_per_trial=5, n_envs=2, regret=True)
    with pytest.raises(ConfigError, match="expected_rewards must be True or False, not 1"):
        make_agent(1)
    with pytest.raises(ConfigError, match="regret must be True or False, not 'yes'"):
        make_agent(True, regret="yes")
