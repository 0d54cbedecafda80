"""Gradient meta-learners as their users see them: the rules of SB3, adaptation, and what happens when things fail."""

import subprocess
import sys
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule

from metagym.algos.base import GradientLearner
from metagym.algos.maml import FOMAML, MAML
from metagym.algos.maml_iteration import live
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import get_rng_state
from tests.algos.maml_setup import CART, MDP, METHODS, POINT, Looking, parameters_of, same, task_of, tiny
from tests.algos.reptile_setup import Line, line_env

ITERATION = 2 * 2 * 3 * 6  # tasks, plays, episodes, steps


def unchanged_rng(before):
    return all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("env", [POINT, CART])
def test_every_method_learns_adapts_and_predicts(method, env):
    agent = tiny(method, env)
    before = parameters_of(agent)
    agent.learn(2)
    expert = agent.adapt(task_of(env), n_steps=2)

    assert type(expert) is A2C
    assert not same(parameters_of(agent), before)
    actor = "mlp_extractor.policy_net.0.weight"
    assert not th.equal(expert.policy.get_parameter(actor), agent.policy.get_parameter(actor))
    action, _ = agent.predict(agent.observation_space.sample())
    assert agent.action_space.contains(action)


def test_environment_steps_of_all_tasks_are_counted_before_and_after_adaptation():
    agent = tiny().learn(ITERATION + 1)

    assert agent.num_timesteps == 2 * ITERATION
    assert agent.adapt(task_of(), n_steps=3).num_timesteps == 3 * 3 * 6
    assert tiny(n_inner_steps=2).learn(1).num_timesteps == ITERATION * 3 // 2
    assert tiny(n_steps=2).learn(1).num_timesteps == ITERATION // 3


def test_adaptation_changes_neither_the_learner_nor_random_states():
    agent = tiny().learn(1)
    before, rng, timesteps = parameters_of(agent), get_rng_state(), agent.num_timesteps
    first, second = (agent.adapt(task_of(), n_steps=1) for _ in range(2))

    assert same(parameters_of(agent), before)
    assert unchanged_rng(rng)
    assert agent.num_timesteps == timesteps
    assert same(dict(first.policy.state_dict()), dict(second.policy.state_dict()))
    other = agent.adapt(task_of(), n_steps=1, seed=5)
    assert not same(dict(first.policy.state_dict()), dict(other.policy.state_dict()))


def test_no_step_is_the_meta_parameters_and_more_steps_go_on_from_fewer():
    agent = tiny(inner_learning_rate=(0.1, 0.05))
    none = agent.adapt(task_of(), n_steps=0, seed=1)

    assert same(dict(none.policy.state_dict()), dict(agent.policy.state_dict()))
    biases = [agent.adapt(task_of(), n_steps=k, seed=1).policy.action_net.bias for k in range(4)]
    moves = [float((after - before).detach().norm()) for before, after in pairwise(biases)]
    assert min(moves) > 0
    assert same(
        dict(agent.adapt(task_of(), seed=1).policy.state_dict()),
        dict(agent.adapt(task_of(), n_steps=1, seed=1).policy.state_dict()),
    )


@pytest.mark.parametrize("env", [POINT, MDP])
def test_adapting_to_many_tasks_is_adapting_to_each(env):
    agent = tiny(env=env)
    tasks = [task_of(env, seed) for seed in range(3)]
    many = agent.adapt_many(tasks, n_steps=2, seed=4)

    alone = agent.adapt(tasks[0], n_steps=2, seed=4)
    for one, other in zip(many[0].policy.parameters(), alone.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert [model.env.env_method("get_task")[0] if model.env.reset() is not None else 0 for model in many] == tasks
    assert agent.adapt_many([]) == []
    with_steps = {model.num_timesteps for model in many}
    assert len(with_steps) == 1


@pytest.mark.parametrize("learner_class", [A2C, PPO, "TRPO"])
def test_what_adapt_returns_is_a_plain_learner_that_loads_and_learns_on(learner_class, tmp_path):
    kwargs = {"n_steps": 8} | ({} if learner_class is A2C else {"batch_size": 8})
    agent = tiny(learner_class=learner_class, learner_kwargs=kwargs)
    expert = agent.adapt(task_of())
    assert type(expert) in {A2C, PPO, TRPO}
    expert.save(tmp_path / "expert")
    loaded = type(expert).load(tmp_path / "expert", device="cpu")
    assert same(dict(loaded.policy.state_dict()), dict(expert.policy.state_dict()))
    before = expert.policy.action_net.bias.detach().clone()
    expert.learn(24)
    assert not th.equal(expert.policy.action_net.bias, before)


@pytest.mark.slow
def test_the_zip_of_what_adapt_returns_loads_without_metagym(tmp_path):
    tiny().adapt(task_of()).save(tmp_path / "expert")
    code = (
        f"import sys; from stable_baselines3 import A2C; A2C.load({str(tmp_path / 'expert')!r}); "
        "assert 'metagym' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_envs_can_be_adapted_in_as_they_are():
    agent = tiny()
    scalar = gym.make(POINT, episode_length=6)
    scalar.unwrapped.set_task(task_of(seed=3))
    by_env, by_task = agent.adapt(scalar, n_steps=1, seed=2), agent.adapt(task_of(seed=3), n_steps=1, seed=2)

    for one, other in zip(by_env.policy.parameters(), by_task.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    line = tiny(env=line_env(3))
    assert line.adapt(line_env(2), n_steps=1).n_envs == 2
    before = line.env.get_attr("played")[0].copy()
    line.adapt(0.5, n_steps=2)
    assert line.env.get_attr("played")[0] == before


def test_adaptation_may_play_more_episodes_than_training():
    agent = tiny()
    expert = agent.adapt(task_of(), n_steps=2, n_envs=5, seed=1)

    assert expert.n_envs == 5
    assert expert.num_timesteps == 2 * 5 * 6
    assert expert.learn(40).num_timesteps >= 40
    # Three rows are what they are by default.
    one, other = (agent.adapt(task_of(), n_envs=rows, seed=1) for rows in (3, None))
    assert same(dict(one.policy.state_dict()), dict(other.policy.state_dict()))
    for call, words in (
        (lambda: agent.adapt(task_of(), n_envs=0), "n_envs must be an integer"),
        (lambda: agent.adapt(tiny().env, n_envs=4), "goes with a task"),
        (lambda: tiny(env=line_env(3)).adapt(0.5, n_envs=4), "of one of metagym's families"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()


class Recorder(BaseCallback):
    def __init__(self):
        super().__init__()
        self.logs, self.states = [], []

    def _on_step(self):
        self.logs.append(dict(self.logger.name_to_value))
        self.states.append(parameters_of(self.model))
        return True


def test_callbacks_run_once_an_iteration_with_the_meta_parameters_installed(tmp_path):
    agent, seen = tiny(), Recorder()
    checkpoints = CheckpointCallback(1, str(tmp_path), name_prefix="agent")
    evaluation = EvalCallback(tiny().env, n_eval_episodes=3, eval_freq=1, verbose=0, warn=False)
    agent.learn(3 * ITERATION, callback=[seen, checkpoints, evaluation], log_interval=None)

    assert len(seen.states) == 3
    assert same(seen.states[-1], parameters_of(agent))
    assert not same(seen.states[0], seen.states[1])
    assert len(list(tmp_path.glob("agent_*.zip"))) == 3
    assert evaluation.n_calls == 3
    keys = {"meta/pre_adapt_return", "meta/post_adapt_return", "meta/divergence", "meta/outer_loss", "train/std"}
    assert keys <= seen.logs[-1].keys()
    stopped = tiny().learn(10**6, callback=StopTrainingOnMaxEpisodes(5, verbose=0))
    assert stopped.num_timesteps == 2 * ITERATION  # three rows end at a time, as SB3 counts rows


class Lines(KVWriter):
    def __init__(self):
        self.lines = []

    def write(self, key_values, key_excluded, step=0):
        self.lines.append((step, dict(key_values)))

    def close(self):
        pass


def test_what_is_logged_has_environment_steps_on_its_axis():
    agent, lines = tiny(), Lines()
    agent.set_logger(Logger(None, [lines]))
    agent.learn(2 * ITERATION)

    assert [step for step, _ in lines.lines] == [ITERATION, 2 * ITERATION]
    values = lines.lines[-1][1]
    assert values["meta/iterations"] == 2
    assert values["rollout/ep_len_mean"] == 6
    assert values["time/total_timesteps"] == 2 * ITERATION


def test_the_learning_rate_of_adam_follows_its_schedule():
    agent = tiny(outer="ppo", n_epochs=1, learning_rate=LinearSchedule(1e-2, 0.0, 1.0))
    seen = Recorder()
    agent.learn(4 * ITERATION, callback=seen)

    path = [seen.states[0], *seen.states]
    moves = [float((b["action_net.bias"] - a["action_net.bias"]).abs().max()) for a, b in pairwise(path)]
    assert moves[1] > moves[3] > 0


def test_learning_leaves_random_states_as_they_are_and_hangs_on_the_seed():
    agent = tiny(seed=1)
    before = get_rng_state()
    agent.learn(2 * ITERATION)

    assert unchanged_rng(before)
    assert same(parameters_of(agent), parameters_of(tiny(seed=1).learn(2 * ITERATION)))
    assert not same(parameters_of(agent), parameters_of(tiny(seed=2).learn(2 * ITERATION)))


def test_it_can_be_evaluated_with_budgets_of_gradient_steps():
    agent = tiny()
    assert isinstance(agent, GradientLearner)
    curve = evaluate(agent, POINT, n_tasks=2, budgets=(0, 1, 3), eval_episodes=2, env_kwargs={"episode_length": 6})

    assert curve.scores.shape == (1, 2, 3)
    mean, _ = evaluate_policy(agent.adapt(task_of()), tiny().env, n_eval_episodes=2, warn=False)
    assert mean < 0


def test_the_deviation_counts_in_the_width_of_the_action_space():
    assert tiny().policy.log_std.exp().tolist() == pytest.approx([0.1, 0.1])
    assert tiny(normalize_actions=False).policy.log_std.tolist() == [0.0, 0.0]
    assert tiny(policy_kwargs={"log_std_init": -1.0}).policy.log_std.tolist() == [-1.0, -1.0]


class Doubled(Line):
    """The same line, with actions twice as wide."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def step(self, action):
        return super().step(action / 2)


def test_units_of_actions_make_no_difference():
    narrow, wide = tiny(env=line_env(3)), tiny(env=make_vec_env(Doubled, 3, seed=0))
    with th.no_grad():
        wide.policy.action_net.weight.copy_(2 * narrow.policy.action_net.weight)
    one, other = (agent.adapt(0.5, n_steps=2, seed=1).policy for agent in (narrow, wide))

    th.testing.assert_close(2 * one.action_net.bias, other.action_net.bias, rtol=1e-4, atol=1e-6)
    first = "mlp_extractor.policy_net.0.weight"
    th.testing.assert_close(one.get_parameter(first), other.get_parameter(first), rtol=1e-4, atol=1e-6)
    assert float((one.action_net.bias - narrow.policy.action_net.bias).detach().abs().max()) > 1e-4


# --- other policies --------------------------------------------------------------------------------------------------


class Picture(Line):
    """The line as an image."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)

    def picture(self):
        image = np.zeros((8, 8, 1), np.uint8)
        image[4, int(np.clip(4 + 2 * self.position, 0, 7))] = 255
        return image

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.picture(), {}

    def step(self, action):
        return self.picture(), *super().step(action)[1:]


@pytest.mark.parametrize("share", [True, False])
def test_policies_that_look_at_images_learn(share):
    kwargs = {"features_extractor_class": Looking, "share_features_extractor": share}
    agent = MAML("CnnPolicy", make_vec_env(Picture, 3, seed=0), meta_batch_size=2, policy_kwargs=kwargs, device="cpu",
                 seed=0)  # fmt: skip
    before = parameters_of(agent)
    agent.learn(1)

    name = "features_extractor.layers.0.weight"
    assert not th.equal(parameters_of(agent)[name], before[name])
    adapted = agent.adapt(0.5, n_steps=2).policy
    assert not th.equal(adapted.get_parameter(name), agent.policy.get_parameter(name))


def test_a_value_network_can_be_the_baseline():
    agent = tiny(baseline="value_net", env=CART, learning_rate=1e-2)
    before = parameters_of(agent)
    agent.learn(2)
    critic = "mlp_extractor.value_net.0.weight"

    assert not th.equal(parameters_of(agent)[critic], before[critic])
    adapted = agent.adapt(task_of(CART), n_steps=1).policy
    assert not th.equal(adapted.get_parameter(critic), agent.policy.get_parameter(critic))
    linear = tiny(env=CART)
    before = parameters_of(linear)
    assert th.equal(parameters_of(linear.learn(2))[critic], before[critic])


def test_another_env_can_be_set():
    agent = tiny(env=line_env(3)).learn(1)
    agent.set_env(line_env(3, seed=9))
    agent.learn(1, reset_num_timesteps=False)

    assert agent.num_timesteps == 2 * 2 * 2 * 3 * 5
    with pytest.raises(ConfigError, match="3"):
        agent.set_env(line_env(2))


def test_first_order_is_another_gradient_for_less():
    second, first = tiny(MAML).learn(1), tiny(FOMAML).learn(1)

    assert first.first_order
    assert not same(parameters_of(first), parameters_of(second))
    assert live(first).keys() == live(second).keys()
