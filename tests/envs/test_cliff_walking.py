import gymnasium as gym
import numpy as np
import pytest

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.cliff_walking import CliffWalking
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

beside_gymnasiums = pytest.mark.skipif(
    "CliffWalkingSlippery-v1" not in gym.registry,
    reason="this Gymnasium has no CliffWalkingSlippery-v1 to compare with",
)

UP, RIGHT, DOWN, LEFT = range(4)
START = 36


def _params(family, *tasks):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce(task) for task in tasks])


def _step(family, params, cell, action, noise=0.5):
    cells, actions, draws = np.broadcast_arrays(cell, action, noise)
    state = Position(np.array(cells, np.int64).reshape(-1))
    return family.step(state, np.array(actions, np.int64).reshape(-1), params, np.array(draws).reshape(-1, 1))


def _sample(family, num_tasks, part=None):
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _original(is_slippery):
    return gym.make("CliffWalkingSlippery-v1" if is_slippery else "CliffWalking-v1")


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "action", "next_cell", "reward", "terminated"),
    [
        (START, UP, 24, -1.0, False),
        (START, LEFT, START, -1.0, False),  # the border
        (START, RIGHT, START, -100.0, False),  # off the cliff
        (30, DOWN, START, -100.0, False),
        (35, DOWN, 47, -1.0, True),
        (11, RIGHT, 11, -1.0, False),
    ],
)
def test_transitions_of_gymnasiums_map_by_hand(cell, action, next_cell, reward, terminated):
    family = CliffWalking()
    step = _step(family, _params(family, family.nominal()), cell, action)
    assert step.state.cell.tolist() == [next_cell]
    assert step.reward.tolist() == [reward]
    assert step.terminated.tolist() == step.success.tolist() == [terminated]


def test_a_slippery_step_goes_to_either_side_with_a_third():
    family = CliffWalking(is_slippery=True)
    params = _params(family, family.nominal()).take(np.zeros(3, np.int64))
    assert _step(family, params, 13, RIGHT, [0.3, 0.5, 0.7]).state.cell.tolist() == [1, 14, 25]


@beside_gymnasiums
@pytest.mark.parametrize("is_slippery", [False, True])
def test_the_table_of_the_nominal_task_equals_gymnasiums(is_slippery):
    family = CliffWalking(is_slippery=is_slippery)
    task = TaskDistribution(family).coerce(family.nominal())
    assert family.transitions(task) == _original(is_slippery).unwrapped.P


@beside_gymnasiums
def test_trajectories_of_the_nominal_task_equal_gymnasiums():
    env, original = TaskEnv(CliffWalking()), _original(False)
    env.set_task(CliffWalking.nominal())
    rng = np.random.default_rng(0)
    for _ in range(30):
        observation, _ = env.reset(seed=0)
        assert observation == original.reset()[0]
        truncated = terminated = False
        while not (truncated or terminated):
            # Mostly up and to the right, so that some episodes end at the goal.
            action = int(rng.choice(4, p=[0.2, 0.4, 0.3, 0.1]))
            observation, reward, terminated, truncated, _ = env.step(action)
            assert (observation, reward, terminated) == original.step(action)[:3]


@beside_gymnasiums
def test_slippery_trajectories_visit_what_gymnasiums_table_says():
    family = CliffWalking(is_slippery=True)
    params = _params(family, family.nominal()).take(np.zeros(6000, np.int64))
    rng = np.random.default_rng(1)
    cells, actions = rng.integers(0, 47, 6000), rng.integers(0, 4, 6000)
    step = _step(family, params, cells, actions, rng.random(6000))
    table = _original(True).unwrapped.P
    rows = zip(cells.tolist(), actions.tolist(), step.state.cell.tolist(), step.reward.tolist(), strict=True)
    assert all(
        any(outcome[1:3] == (next_cell, reward) for outcome in table[cell][action])
        for cell, action, next_cell, reward in rows
    )


@beside_gymnasiums
def test_gymnasium_sets_no_limit_and_this_family_does():
    assert gym.spec("CliffWalking-v1").max_episode_steps is None
    assert CliffWalking().episode_length == 100
    assert CliffWalking(height=10, width=10).episode_length == 200
    assert CliffWalking(episode_length=7).episode_length == 7


# --- exact values ----------------------------------------------------------------------------------------------------


def test_optima_of_gymnasiums_map():
    family, slippery = CliffWalking(), CliffWalking(is_slippery=True)
    params = _params(family, family.nominal())
    assert family.optimal_return(params).tolist() == [-13.0]
    assert slippery.optimal_return(params) == pytest.approx([-63.01], abs=0.005)
    # A random action goes everywhere with a quarter, slippery or not.
    assert family.random_return(params) == pytest.approx([-1083.0], abs=0.05)
    assert slippery.random_return(params) == pytest.approx(family.random_return(params))


@beside_gymnasiums
def test_the_optimum_by_a_second_computation_from_gymnasiums_table():
    table, value = _original(True).unwrapped.P, np.zeros(48)
    for _ in range(100):
        value = np.array(
            [
                max(
                    sum(share * (reward + (0.0 if over else value[after])) for share, after, reward, over in outcomes)
                    for outcomes in table[cell].values()
                )
                for cell in range(48)
            ]
        )
    family = CliffWalking(is_slippery=True)
    assert family.optimal_return(_params(family, family.nominal())) == pytest.approx([value[START]])


def test_random_actions_earn_the_random_return():
    family = CliffWalking(height=3, width=4, episode_length=20)
    params = _sample(family, 1).take(np.zeros(4000, np.int64))
    rng, state, alive = np.random.default_rng(2), family.initial(params, np.empty((4000, 0))), np.ones(4000, np.bool_)
    total = np.zeros(4000)
    for _ in range(20):
        step = family.step(state, rng.integers(0, 4, 4000), params, np.empty((4000, 0)))
        total += alive * step.reward
        alive &= ~step.terminated
        state = step.state
    expected = family.random_return(params.take(np.zeros(1, np.int64)))
    assert expected == pytest.approx([total.mean()], abs=4 * total.std() / 4000**0.5)


def test_the_documented_averages_over_training_maps():
    family = CliffWalking()
    params = _sample(family, 1500, "train")
    for values, documented in ((family.optimal_return(params), -14.50), (family.random_return(params), -1302)):
        assert values.mean() == pytest.approx(documented, abs=4 * values.std() / 1500**0.5)


# --- rows and tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_slippery", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(is_slippery, num_rows):
    family, rng = CliffWalking(is_slippery=is_slippery), np.random.default_rng(3)
    params, cells = _sample(family, 64), rng.integers(0, 48, 64)
    actions, noise = rng.integers(0, 4, 64), rng.random(64)
    whole = _step(family, params, cells, actions, noise)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, params.take(rows), cells[rows], actions[rows], noise[rows])
    assert part.state.cell.tolist() == whole.state.cell[rows].tolist()
    assert part.reward.tolist() == whole.reward[rows].tolist()


@pytest.mark.parametrize("keywords", [{}, {"height": 3, "width": 4}, {"random_goal": True}, {"height": 7, "width": 5}])
@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_drawn_tasks_are_accepted_and_their_goals_in_their_region(keywords, part):
    family = CliffWalking(**keywords)
    distribution = TaskDistribution(family)
    tasks = distribution.part(part).sample(np.random.default_rng(0), 30)
    assert all(distribution.coerce(task) == task for task in tasks)
    rows = {int(np.argwhere(task["map"] == 3)[0, 0]) for task in tasks}
    assert rows == {0} if part == "ood" else 0 not in rows
    if part != "ood" and not family.random_goal:
        assert rows == {family.height - 1}


@pytest.mark.parametrize("keywords", [{}, {"height": 2, "width": 3}])
def test_train_and_test_share_no_map(keywords):
    family = CliffWalking(**keywords)
    train, test = ({codes.tobytes() for codes in _sample(family, 2000, part).map} for part in ("train", "test"))
    assert train
    assert test
    assert not train & test


@pytest.mark.parametrize("keywords", [{"height": 2, "width": 3}, {}])
def test_the_single_map_without_cliffs_is_for_training(keywords):
    family = CliffWalking(cliff_probability=0.0, **keywords)
    assert len(np.unique(_sample(family, 50, "train").map, axis=0)) == 1
    with pytest.raises(ConfigError, match="no test part here: there is a single map"):
        TaskDistribution(family).split("test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["FCF", "SCG"], "a way from S to G"),
        (["FFF", "SFF"], "exactly one goal G, got 0"),
        (["FGF", "SFG"], "exactly one goal G, got 2"),
        (["SFF", "FFG"], "one start S, at the bottom left"),
        (["SFF", "SFG"], "one start S, at the bottom left"),
        (["FF", "SG"], r"shape \(2, 2\)"),
        (["FFX", "SFG"], "letters"),
        ([[1, 1, 4], [0, 1, 3]], "map="),
    ],
)
def test_maps_that_make_no_sense_are_refused(rows, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(CliffWalking(height=2, width=3)).coerce({"map": rows})


@pytest.mark.parametrize(
    "keywords",
    [
        {"height": 1},
        {"width": 17},
        {"cliff_probability": 0.7},
        {"is_slippery": 1},
        {"random_goal": None},
        {"episode_length": 0},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        CliffWalking(**keywords)


def test_picture_and_text_show_the_agent():
    family = CliffWalking()
    params = _params(family, family.nominal())
    state = family.initial(params, np.empty((1, 0)))
    assert family.describe(state, params).split("\n")[3] == "[S] C  C  C  C  C  C  C  C  C  C  G"
    assert family.draw(state, params).shape == (256, 768, 3)
