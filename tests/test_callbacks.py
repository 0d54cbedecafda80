import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from metagym.algos.joint_training import JointTraining
from metagym.algos.reptile import Reptile
from metagym.algos.rl2 import RL2
from metagym.callbacks import AdaptationEvalCallback
from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState
from metagym.registry import make_family
from metagym.saving import read_archive
from metagym.wrappers import VectorEnvAdapter
from tests.algos.multi_task_setup import tiny as tiny_joint
from tests.algos.reptile_setup import tiny
from tests.algos.rl2_setup import BANDIT, SMALL, lake

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
FEW = {"eval_freq": 8, "n_tasks": 4, "seed": 3}


def bandit(**kwargs):
    settings = {"episodes_per_trial": 4, "seed": 0, "env_kwargs": {"num_arms": 3}, **SMALL}
    return RL2("MlpPolicy", BANDIT, **settings | kwargs)


class Saver(BaseCallback):
    """Remembers every call: at which step, and what its parent had found."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        self.seen.append((self.num_timesteps, self.parent.last_mean_reward))
        return True


def test_what_is_measured_is_what_evaluate_measures_with_the_model_of_that_moment(tmp_path):
    callback = AdaptationEvalCallback(best_model_save_path=tmp_path, **FEW)
    agent = bandit().learn(24, callback)  # one rollout: the parameters are those that were evaluated
    before = bandit()
    expected = evaluate(before, BANDIT, env_kwargs={"num_arms": 3}, n_tasks=4, episodes=4, seed=3)

    assert np.array_equal(callback.last_curve.scores, expected.scores)
    assert callback.last_mean_reward == callback.best_mean_reward == expected.mean[-1]
    assert np.array_equal(callback.last_curve.optimal, expected.optimal)
    assert agent.num_timesteps == 24


@pytest.mark.parametrize("make", [bandit, lambda: tiny(seed=0)], ids=["RL2", "Reptile"])
def test_training_is_the_same_with_and_without_evaluations(make):
    alone = make().learn(96)
    watched = make().learn(96, AdaptationEvalCallback(eval_freq=1, n_tasks=2, eval_episodes=1, episodes=2))

    one, other = alone.policy.state_dict(), watched.policy.state_dict()
    assert all(th.equal(one[name], other[name]) for name in one)


def test_evaluations_are_called_every_so_often_and_written_as_sb3_writes_them(tmp_path):
    children = Saver(), Saver()
    callback = AdaptationEvalCallback(
        callback_after_eval=children[0], callback_on_new_best=children[1], log_path=tmp_path, **FEW
    )
    bandit().learn(3 * 40, callback)

    steps = [24 * count for count in range(1, 6)]
    data = np.load(tmp_path / "evaluations.npz")
    assert data["timesteps"].tolist() == [step for step, _ in children[0].seen] == steps
    assert data["scores"].shape == (5, 4, 4)
    assert np.array_equal(data["results"], data["scores"][:, :, -1])
    assert data["results"].mean(axis=1).tolist() == [mean for _, mean in children[0].seen]
    bests = np.maximum.accumulate(data["results"].mean(axis=1))
    rises = [0, *(np.flatnonzero(np.diff(bests) > 0) + 1).tolist()]
    assert [step for step, _ in children[1].seen] == [steps[place] for place in rises]
    assert callback.best_mean_reward == bests[-1]
    assert data["task_ids"].tolist() == callback.last_curve.task_ids.tolist()


def test_the_best_model_is_a_checkpoint_of_metagym_with_the_best_score(tmp_path):
    callback = AdaptationEvalCallback(best_model_save_path=tmp_path / "new", **FEW)
    bandit().learn(3 * 40, callback)

    assert read_archive(tmp_path / "new" / "best_model.zip")[0]["kind"] == "RL2"
    best = RL2.load(tmp_path / "new" / "best_model.zip")
    again = evaluate(best, BANDIT, env_kwargs={"num_arms": 3}, n_tasks=4, episodes=4, seed=3)
    assert again.mean[-1] == callback.best_mean_reward


def test_reptile_is_evaluated_with_its_meta_parameters_before_and_after_adaptation(tmp_path):
    agent = tiny(seed=0, inner_timesteps=200)
    states = []

    class Watch(AdaptationEvalCallback):
        def _evaluate(self):
            states.append(LearnerState.capture(self.model.learner))
            return super()._evaluate()

    callback = Watch(eval_freq=2, n_tasks=2, eval_episodes=2, best_model_save_path=tmp_path)
    agent.learn(4 * 400, callback)

    assert callback.last_curve.experience.tolist() == [0, 2]  # 200 steps are two episodes of 100
    assert callback.evaluations_timesteps == [agent.num_timesteps // 2, agent.num_timesteps]
    final = LearnerState.capture(agent.learner).tensors
    assert all(th.equal(states[-1].tensors[name], final[name]) for name in final)
    expected = evaluate(agent, POINT, n_tasks=2, eval_episodes=2, budgets=(0, 2))
    assert np.array_equal(callback.last_curve.scores, expected.scores)
    assert isinstance(Reptile.load(tmp_path / "best_model.zip"), Reptile)


def test_scores_are_logged_between_random_and_optimum():
    records = {}

    class Peek(BaseCallback):
        def _on_step(self):
            records.update(self.parent.logged)
            return True

    class Watched(AdaptationEvalCallback):
        def _log(self, curve):
            dump, self.logger.dump = self.logger.dump, lambda step: None
            super()._log(curve)
            self.logged = dict(self.logger.name_to_value)
            self.logger.dump = dump

    callback = Watched(callback_after_eval=Peek(), **FEW)
    lake().learn(24, callback)
    curve = callback.last_curve

    assert records["meta/eval_first_episode"] == curve.mean[0]
    assert records["meta/eval_last_episode"] == curve.mean[-1]
    assert records["meta/eval_first_score"] == pytest.approx(curve.normalized().mean[0])
    assert records["meta/eval_last_score"] == pytest.approx(curve.normalized().mean[-1])


def test_sb3_stops_training_where_a_threshold_is_reached():
    stop = StopTrainingOnRewardThreshold(-1.0)
    agent = bandit()
    agent.learn(10_000, AdaptationEvalCallback(callback_on_new_best=stop, **FEW))

    assert agent.num_timesteps == 24


@pytest.mark.parametrize("make", [bandit, lambda: tiny(seed=0, learning_rate=1e-9)], ids=["RL2", "Reptile"])
def test_sb3_stops_training_that_does_not_improve(make):
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    callback = AdaptationEvalCallback(
        callback_after_eval=stop, eval_freq=1, n_tasks=1, episodes=1, eval_episodes=1, deterministic=True
    )
    callback.best_mean_reward = stop.last_best_mean_reward = np.inf
    agent = make()
    agent.learn(10_000, callback)

    assert stop.no_improvement_evals == 2
    assert len(callback.evaluations_timesteps) == 2
    assert agent.num_timesteps < 10_000


@pytest.mark.parametrize(
    ("make", "kind", "freq"), [(lake, RL2, 8), (lambda: tiny(seed=0), Reptile, 1)], ids=["RL2", "Reptile"]
)
def test_checkpoints_of_sb3s_callback_resume_to_the_bit(make, kind, freq, tmp_path):
    agent = make()
    agent.learn(128, CheckpointCallback(freq, str(tmp_path), "run", save_replay_buffer=True, save_vecnormalize=True))
    first = min(tmp_path.glob("run_*_steps.zip"), key=lambda path: int(path.stem.split("_")[1]))

    resumed = kind.load(first)
    assert resumed.num_timesteps == int(first.stem.split("_")[1]) < agent.num_timesteps
    resumed.learn(128 - resumed.num_timesteps, reset_num_timesteps=False)

    assert resumed.num_timesteps == agent.num_timesteps
    one, other = agent.policy.state_dict(), resumed.policy.state_dict()
    assert all(th.equal(one[name], other[name]) for name in one)


def test_sb3s_own_eval_callback_counts_trials():
    envs = gym.make_vec(BANDIT, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, num_arms=3)
    agent = bandit()
    callback = EvalCallback(VecMonitor(VectorEnvAdapter(agent._source.wrap(envs))), n_eval_episodes=5, eval_freq=4)
    callback.verbose = 0
    agent.learn(24, callback)

    assert np.isfinite(callback.last_mean_reward)
    assert 0.0 <= callback.last_mean_reward <= 4.0  # of trials of four pulls


@pytest.mark.parametrize("make", [bandit, lambda: tiny(seed=0, inner_timesteps=400)], ids=["RL2", "Reptile"])
def test_training_can_stop_after_so_many_episodes(make):
    agent = make()
    agent.learn(10_000, StopTrainingOnMaxEpisodes(1))

    assert agent.num_timesteps < 10_000


def test_the_family_may_be_given_or_is_found_in_the_training_env():
    by_rows = AdaptationEvalCallback(**FEW)
    given = AdaptationEvalCallback(make_family(BANDIT, num_arms=3), episodes=4, **FEW)
    by_id = AdaptationEvalCallback(BANDIT, env_kwargs={"num_arms": 3}, episodes=4, **FEW)
    for callback in (by_rows, given, by_id):
        bandit().learn(24, callback)

    assert np.array_equal(by_rows.last_curve.scores, given.last_curve.scores)
    assert np.array_equal(by_rows.last_curve.scores, by_id.last_curve.scores)


def test_scalar_envs_of_sb3s_make_are_found_too():
    agent = Reptile("MlpPolicy", make_vec_env(POINT, n_envs=2), inner_timesteps=100, meta_batch_size=1, seed=0)
    callback = AdaptationEvalCallback(eval_freq=1, n_tasks=1, eval_episodes=1)
    agent.learn(100, callback)

    assert callback.last_curve.env_id == "PointGoal"


def test_given_tasks_are_played():
    tasks = TaskDistribution(make_family(BANDIT, num_arms=3)).part("ood").sample(np.random.default_rng(0), 3)
    callback = AdaptationEvalCallback(tasks=tasks, **FEW)
    bandit().learn(24, callback)

    assert callback.last_curve.task_ids.tolist() == [task.id for task in tasks]


def test_an_ordinary_learner_across_tasks_is_evaluated_as_fixed():
    envs = gym.make_vec(BANDIT, num_envs=4, autoreset_mode=AutoresetMode.SAME_STEP, num_arms=3)
    model = PPO("MlpPolicy", VectorEnvAdapter(envs), n_steps=8, batch_size=32, seed=0, verbose=0)
    callback = AdaptationEvalCallback(**FEW)
    model.learn(32, callback)

    assert callback.last_curve.settings["kind"] == "fixed"
    assert callback.last_curve.num_episodes == 10


def test_no_evaluation_with_frequency_zero():
    callback = AdaptationEvalCallback(eval_freq=0)
    bandit().learn(24, callback)

    assert callback.last_curve is None


def test_what_cannot_be_evaluated_is_refused_by_name():
    with pytest.raises(ConfigError, match="eval_freq must be an integer of at least 0, got -1"):
        AdaptationEvalCallback(eval_freq=-1)
    with pytest.raises(ConfigError, match="go with an id"):
        bandit().learn(24, AdaptationEvalCallback(env_kwargs={"num_arms": 3}, eval_freq=1))
    with pytest.raises(ConfigError, match="does not tell its family"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, AdaptationEvalCallback(eval_freq=1))


# --- callbacks of SB3 around every learner ---------------------------------------------------------------------------

REPLAY = {"learning_starts": 8, "batch_size": 4, "buffer_size": 400}
MAKES = {
    "RL2-PPO": lambda: lake(env_kwargs={"size": 4, "episode_length": 5}),
    "RL2-DQN": lambda: RL2(
        "MlpPolicy", LAKE, learner_class="DQN", episodes_per_trial=2, window=3, n_envs=2, seed=0,
        env_kwargs={"episode_length": 5}, **REPLAY,
    ),
    "Reptile-PPO": lambda: tiny(LAKE, seed=0, env_kwargs={"episode_length": 5}),
    "Reptile-DQN": lambda: tiny(LAKE, learner_class=DQN, seed=0, env_kwargs={"episode_length": 5}),
    "JointTraining-PPO": lambda: tiny_joint(PPO, LAKE, env_kwargs={"episode_length": 5}),
    "JointTraining-DQN": lambda: tiny_joint(DQN, LAKE, env_kwargs={"episode_length": 5}),
}  # fmt: skip
every_learner = pytest.mark.parametrize("name", MAKES)


def few(name, **kwargs):
    """An evaluation after each iteration of Reptile, or each eighth step of all rows."""
    freq = 1 if name.startswith("Reptile") else 8
    return AdaptationEvalCallback(
        eval_freq=freq, n_tasks=2, eval_episodes=1, episodes=None if name.startswith("RL2") else 1, **kwargs
    )


@every_learner
def test_a_threshold_that_is_reached_stops_any_learner_at_its_first_evaluation(name):
    agent = MAKES[name]()
    watch = few(name, callback_on_new_best=StopTrainingOnRewardThreshold(-1.0))
    agent.learn(5_000, watch)

    assert watch.evaluations_timesteps == [agent.num_timesteps]
    agent.learn(64)  # and can go on
    assert agent.num_timesteps >= 64


@every_learner
def test_no_improvement_stops_any_learner_after_the_patience(name):
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)
    watch = few(name, callback_after_eval=stop)
    watch.best_mean_reward = stop.last_best_mean_reward = np.inf
    agent = MAKES[name]()
    agent.learn(5_000, watch)

    assert len(watch.evaluations_timesteps) == stop.no_improvement_evals == 2
    assert agent.num_timesteps == watch.evaluations_timesteps[-1] < 5_000


@every_learner
def test_training_is_the_same_to_the_bit_with_every_callback_around_it(name, tmp_path):
    alone = MAKES[name]().learn(192)
    watched, counted = MAKES[name](), Counter()
    callbacks = [
        few(name, best_model_save_path=tmp_path, log_path=tmp_path),
        EveryNTimesteps(48, counted),
        CheckpointCallback(2, str(tmp_path / "checkpoints")),
        eval_of_sb3(watched),
    ]
    watched.learn(192, callbacks)

    one, other = alone.policy.state_dict(), watched.policy.state_dict()
    assert all(th.equal(one[key], other[key]) for key in one)
    assert alone.num_timesteps == watched.num_timesteps
    assert len(np.load(tmp_path / "evaluations.npz")["timesteps"]) == len(callbacks[0].evaluations_timesteps) > 0
    assert type(type(watched).load(tmp_path / "best_model.zip")) is type(watched)
    # At least so many steps lie between two of its calls; Reptile calls once an iteration.
    assert counted.steps
    assert min(np.diff([0, *counted.steps])) >= 48
    assert np.isfinite(callbacks[-1].last_mean_reward)


class Counter(BaseCallback):
    """Notes when it was called."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        self.steps.append(self.num_timesteps)
        return True


def eval_of_sb3(agent):
    """SB3's EvalCallback, in an env that the learner can act in."""
    vector = gym.make_vec(LAKE, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, episode_length=5)
    wrapped = agent._source.wrap(vector) if isinstance(agent, RL2) or hasattr(agent, "window") else vector
    callback = EvalCallback(
        VecMonitor(VectorEnvAdapter(wrapped)), n_eval_episodes=2, eval_freq=1 if isinstance(agent, Reptile) else 8
    )
    callback.verbose = 0
    return callback


@every_learner
def test_a_checkpoint_of_sb3s_callback_goes_on_to_the_bit(name, tmp_path):
    whole = MAKES[name]()
    freq = 1 if name.startswith("Reptile") else 7  # in the middle of rollouts
    whole.learn(192, CheckpointCallback(freq, str(tmp_path), "run"))
    files = sorted(tmp_path.glob("run_*_steps.zip"), key=lambda path: int(path.stem.split("_")[1]))
    resumed = type(whole).load(files[len(files) // 2 - 1])
    assert 0 <= resumed.num_timesteps < whole.num_timesteps
    resumed.learn(192 - resumed.num_timesteps, reset_num_timesteps=False)

    one, other = whole.policy.state_dict(), resumed.policy.state_dict()
    assert all(th.equal(one[key], other[key]) for key in one)


def test_joint_training_is_evaluated_before_and_after_fine_tuning():
    watch = AdaptationEvalCallback(eval_freq=8, n_tasks=2, eval_episodes=2)
    agent = tiny_joint(PPO, LAKE, env_kwargs={"episode_length": 5}, inner_timesteps=20)
    agent.learn(64, watch)

    assert isinstance(agent, JointTraining)
    assert watch.last_curve.experience.tolist() == [0, 4]
    assert watch.last_curve.settings["kind"] == "gradient"
