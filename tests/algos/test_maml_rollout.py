"""One episode a row: all tasks at once as one after the other, in metagym's vector envs and in anybody's."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from metagym.algos.maml import MAML
from metagym.algos.maml_policy import stacked
from metagym.algos.maml_rollout import Collector
from metagym.algos.maml_rows import LockStepRows, VecEnvRows, lock_step_rows
from tests.algos.maml_setup import CART, MDP, POINT, task_of, tiny
from tests.algos.reptile_setup import Line, line_env


def collector(agent, num_tasks=2, env=None, max_steps=None):
    agent.policy.double()
    return Collector(agent._parts.function, agent._parts.law, env or agent.env, num_tasks, max_steps)


def parameters_of(agent, num_tasks=2):
    own = stacked(dict(agent.policy.named_parameters()), num_tasks)
    generator = th.Generator().manual_seed(0)
    return {
        name: tensor + 0.2 * th.randn(tensor.shape, generator=generator, dtype=th.float64)
        for name, tensor in own.items()
    }  # fmt: skip


@pytest.mark.parametrize("env_id", [POINT, MDP, CART])
def test_tasks_play_together_as_they_play_alone(env_id):
    agent = tiny(env=env_id)
    tasks = [task_of(env_id, seed) for seed in range(2)]
    together, alone = collector(agent), collector(agent, 1)
    parameters = parameters_of(agent)
    whole = together.collect(parameters, tasks, [5, 6])

    total = 0
    for place in range(2):
        own = {name: tensor[place : place + 1] for name, tensor in parameters.items()}
        part = alone.collect(own, tasks[place : place + 1], [5 + place])
        steps = part.mask.shape[2]
        assert np.array_equal(whole.mask[place, :, :steps], part.mask[0])
        assert not whole.mask[place, :, steps:].any()
        np.testing.assert_allclose(whole.rewards[place, :, :steps], part.rewards[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(whole.returns[place], part.returns[0], rtol=1e-10)
        assert np.array_equal(whole.cut[place], part.cut[0])
        total += part.timesteps
    assert whole.timesteps == total == whole.mask.sum()


def test_episodes_are_those_of_the_scalar_env_with_the_same_actions():
    agent = tiny()
    task = task_of()
    found = collector(agent, 1).collect(parameters_of(agent, 1), [task], [7])
    env = gym.make(POINT, episode_length=6)
    for row in range(3):
        env.unwrapped.set_task(task)
        env.reset(seed=7 + row)
        for step in range(6):
            action = found.actions[0, row * 6 + step].numpy()
            _, reward, terminated, truncated, _ = env.step(action.clip(-0.1, 0.1).astype(np.float32))
            assert found.rewards[0, row, step] == pytest.approx(reward, rel=1e-6)
        assert (terminated, truncated) == (False, True)
    assert found.cut.all()


def test_rewards_after_an_end_do_not_count():
    agent = tiny(env=CART)
    found = collector(agent).collect(parameters_of(agent), [task_of(CART, seed) for seed in range(2)], [1, 2])

    assert len(np.unique(found.lengths)) > 1
    assert np.array_equal(found.returns, found.lengths)  # a pole earns 1 a step
    assert (np.diff(found.mask.astype(int), axis=2) <= 0).all()
    assert np.array_equal(found.cut, found.lengths == 25)
    th.testing.assert_close(found.weights.sum(1), th.ones(2, dtype=th.float64))
    assert ((found.weights > 0).numpy() == found.mask.reshape(2, -1)).all()


def test_an_episode_can_be_cut_short():
    agent = tiny()
    found = collector(agent, max_steps=4).collect(parameters_of(agent), [task_of(), task_of(seed=1)], [1, 2])

    assert found.mask.shape == (2, 3, 4)
    assert found.mask.all()
    assert found.cut.all()
    # Where the point is after four moves.
    moves = found.actions.reshape(2, 3, 4, 2).clamp(-0.1, 0.1).sum(2)
    th.testing.assert_close(found.last_seen, moves, rtol=1e-5, atol=1e-6)


def test_what_policies_said_stays_when_their_parameters_move_on():
    agent = tiny()
    found = collector(agent).collect(
        agent._parts.start.begin(agent._parts.start.tensors, [0, 1]), [task_of()] * 2, [1, 2]
    )
    before = found.heads.log_std.clone()
    with th.no_grad():
        agent.policy.log_std.add_(1.0)

    assert th.equal(found.heads.log_std, before)
    th.testing.assert_close(agent._parts.law.log_prob(found.heads, found.actions), found.log_probs)


def test_anybodys_env_plays_tasks_one_after_the_other():
    agent = tiny(env=line_env(3))
    assert lock_step_rows(agent.env, 2) is None
    found = collector(agent).collect(parameters_of(agent), [0.5, -0.5], [1, 2])

    assert isinstance(collector(agent)._rows, VecEnvRows)
    assert found.mask.all()
    assert found.mask.shape == (2, 3, 5)
    # Line's reward is minus the distance to its task, and its episodes are cut at five steps.
    positions = found.actions.reshape(2, 3, 5).clamp(-1.0, 1.0).cumsum(2).numpy()
    goals = np.array([0.5, -0.5])[:, None, None]
    np.testing.assert_allclose(found.rewards, -np.abs(positions - goals), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.last_seen[:, :, 0], positions[:, :, -1], rtol=1e-5, atol=1e-6)
    assert found.cut.all()
    assert found.timesteps == 2 * 3 * 5


class Uneven(Line):
    """Row i's episodes end by themselves after one more step than those of the row before; observations are dicts."""

    def __init__(self, length):
        super().__init__()
        self.length = length
        self.observation_space = spaces.Dict(place=self.observation_space)

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return {"place": observation}, info

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        done = self.steps == self.length
        return {"place": observation}, reward, done, False, info | ({"is_success": self.length == 2} if done else {})


def test_uneven_episodes_of_dicts_are_padded():
    lengths = iter((1, 2, 4))
    env = make_vec_env(lambda: Uneven(next(lengths)), 3, seed=0)
    agent = MAML("MultiInputPolicy", env, meta_batch_size=2, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0)
    found = collector(agent).collect(parameters_of(agent), [0.5, -0.5], [1, 2])

    assert found.lengths.tolist() == [[1, 2, 4]] * 2
    assert not found.cut.any()
    assert found.successes == [False, True, False] * 2
    assert found.timesteps == 2 * 3 * 4  # rows that wait for others step on
    assert set(found.seen) == {"place"}
    assert agent.learn(1).num_timesteps == 2 * 2 * 3 * 4
    assert agent.ep_info_buffer[0]["l"] == 1
    assert sum(agent.ep_success_buffer) == 4


def test_the_noise_of_a_task_hangs_on_its_seed_alone():
    agent = tiny()
    own = collector(agent)
    tasks, parameters = [task_of(), task_of(seed=1)], parameters_of(agent)
    first = own.collect(parameters, tasks, [5, 6])
    th.manual_seed(1)
    again, other = own.collect(parameters, tasks, [5, 6]), own.collect(parameters, tasks, [5, 7])

    assert isinstance(own._rows, LockStepRows)
    assert th.equal(first.actions, again.actions)
    assert th.equal(first.actions[0], other.actions[0])
    assert not th.equal(first.actions[1], other.actions[1])
