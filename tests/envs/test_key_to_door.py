import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs import grids
from metagym.envs.hidden_goal import distances
from metagym.envs.key_to_door import KeyToDoor
from metagym.errors import ConfigError, TaskError

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def _draw(family, num_tasks, part=None, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _params(family, *tasks):
    return family.params_of([TaskDistribution(family).coerce(task) for task in tasks])


class Source:
    """The rules of toy-meta-gym's dark key-to-door, written out for one room."""

    def __init__(self, start, key, door, size):
        self.place, self.key, self.door, self.size, self.has_key = start, key, door, size, False

    def step(self, action):
        direction = {0: (0, 0), 1: (-1, 0), 2: (0, 1), 3: (1, 0), 4: (0, -1)}[action]
        row, column = np.clip(np.array(divmod(self.place, self.size)) + direction, 0, self.size - 1).tolist()
        self.place = row * self.size + column
        reward = 0.0
        if self.place == self.key and not self.has_key:
            self.has_key, reward = True, 1.0
        opens = self.place == self.door and self.has_key
        return self.place, reward + opens, opens


# --- dynamics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_episodes_are_those_of_the_source(size):
    env, rng = TaskEnv(KeyToDoor(size=size)), np.random.default_rng(size)
    num_ends = 0
    for _ in range(150):
        start, key, door = rng.integers(0, size**2, 3).tolist()
        env.reset(options={"task": {"key": key, "door": door, "start": start}})
        source, over = Source(start, key, door, size), False
        for action in rng.integers(0, 5, 30).tolist():
            observation, reward, over, _, info = env.step(action)
            assert (observation, reward, over) == source.step(action)
            assert info["is_success"] == over
            if over:
                num_ends += 1
                break
    assert num_ends > 50


def test_the_key_must_be_taken_before_the_door_opens():
    env = TaskEnv(KeyToDoor(size=3))
    env.set_task({"key": 2, "door": 1, "start": 0})
    assert env.reset(seed=0)[0] == 0
    results = [env.step(action) for action in (RIGHT, RIGHT, STAY, LEFT)]
    assert [result[0] for result in results] == [1, 2, 2, 1]
    assert [result[1] for result in results] == [0.0, 1.0, 0.0, 1.0]
    assert [result[2] for result in results] == [False, False, False, True]
    assert [result[4]["is_success"] for result in results] == [False, False, False, True]


def test_starting_on_the_key_takes_it_once_a_step_has_ended_there():
    env = TaskEnv(KeyToDoor(size=2))
    env.set_task({"key": 0, "door": 1, "start": 0})
    env.reset(seed=0)
    assert [env.step(action)[1] for action in (RIGHT, LEFT, RIGHT)] == [0.0, 1.0, 1.0]
    env.reset()
    assert [env.step(action)[1] for action in (STAY, RIGHT)] == [1.0, 1.0]


def test_key_and_door_in_one_cell_pay_together_also_where_episodes_start():
    env = TaskEnv(KeyToDoor(size=2))
    env.set_task({"key": 3, "door": 3, "start": 3})
    env.reset(seed=0)
    assert env.step(STAY)[1:3] == (2.0, True)
    family = env.family
    assert family.optimal_return(_params(family, {"key": 3, "door": 3, "start": 3})).tolist() == [2.0]


def test_rows_are_paid_for_the_key_the_door_and_both():
    family = KeyToDoor(size=2)
    params = _params(family, *({"key": key, "door": door, "start": 0} for key, door in ((1, 3), (3, 1), (1, 1))))
    state = family.initial(params, np.zeros((3, 1)))
    step = family.step(state, np.full(3, RIGHT), params, np.empty((3, 0)))
    assert step.reward.tolist() == [1.0, 0.0, 2.0]
    assert step.terminated.tolist() == step.success.tolist() == [False, False, True]


def test_an_episode_is_truncated_after_50_steps():
    env = TaskEnv(KeyToDoor())
    env.set_task({"key": 0, "door": 80, "start": 40})
    env.reset(seed=0)
    results = [env.step(STAY) for _ in range(50)]
    assert [result[3] for result in results] == [False] * 49 + [True]


def test_a_permuted_action_does_what_the_action_map_says():
    env = TaskEnv(KeyToDoor())
    env.set_task({"key": 0, "door": 80, "start": 40, "action_map": [3, 2, 1, 0, 4]})
    env.reset(seed=0)
    assert [env.step(action)[0] for action in range(5)] == [49, 50, 41, 41, 40]


def test_amagos_agent_sees_coordinates_and_whether_it_has_the_key():
    env = TaskEnv(KeyToDoor(variant="amago"))
    env.set_task({"key": (1, 7), "door": (7, 7), "start": (1, 6)})
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert observation.tolist() == [0.125, 0.75, 0.0]
    assert env.step(RIGHT)[0].tolist() == [0.125, 0.875, 1.0]
    assert env.step(DOWN)[0].tolist() == [0.25, 0.875, 1.0]
    assert env.observation_space.high.tolist() == [0.875, 0.875, 1.0]


def test_without_a_start_of_its_own_a_task_starts_anywhere():
    family = KeyToDoor(size=3)
    params = _params(family, {"key": 0, "door": 1}).take(np.zeros(9000, np.int64))
    states = family.initial(params, np.random.default_rng(0).random((9000, 1)))
    counts = np.bincount(family.observe(states, params), minlength=9)
    assert stats.chisquare(counts).pvalue > 1e-3


# --- exact values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 4])
def test_the_optimum_is_by_distances_to_the_key_and_from_there_to_the_door(length):
    family = KeyToDoor(size=4, episode_length=length)
    steps = distances(grids.neighbours(4, grids.MOVES))
    rng = np.random.default_rng(0)
    tasks = [dict(zip(("key", "door", "start"), rng.integers(0, 16, 3).tolist(), strict=True)) for _ in range(60)]
    expected = []
    for task in tasks:
        to_key = steps[task["start"], task["key"]]
        to_door = to_key + (steps[task["key"], task["door"]] if task["key"] != task["door"] else 0)
        expected.append(float(to_key <= length) + float(to_door <= length))
    assert family.optimal_return(_params(family, *tasks)).tolist() == expected
    assert len(set(expected)) == 3  # neither, the key alone, both


def test_a_task_that_starts_anywhere_is_worth_the_mean_over_starts():
    family = KeyToDoor(size=3, episode_length=3)
    everywhere = family.optimal_return(_params(family, {"key": 0, "door": 8}))
    each = family.optimal_return(_params(family, *({"key": 0, "door": 8, "start": cell} for cell in range(9))))
    assert everywhere == pytest.approx([each.mean()])


@pytest.mark.parametrize(("variant", "random"), [("ad", 0.2523), ("amago", 0.3175)])
def test_the_documented_returns_hold_for_a_sample(variant, random):
    family = KeyToDoor(variant=variant)
    params = _draw(family, 300)
    assert family.optimal_return(params).tolist() == [2.0] * 300
    values = family.random_return(params)
    assert values.mean() == pytest.approx(random, abs=4 * values.std() / 300**0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "random"), [("ad", 0.2523), ("amago", 0.3175)])
def test_the_documented_returns_exactly(variant, random):
    family = KeyToDoor(variant=variant)
    columns, weights = family.enumerate_structures()
    # Of a start drawn for each task or for each episode, the mean is the same.
    details = KeyToDoor().draw_details(np.empty((len(weights), 0)), "train")
    params = family.params_type(**columns, **details)
    parts = [family.random_return(params.take(rows)) for rows in np.array_split(np.arange(len(weights)), 40)]
    assert np.concatenate(parts) @ weights == pytest.approx(random, abs=5e-5)


# --- distributions -------------------------------------------------------------------------------------------------


def test_there_are_6561_tasks_of_which_a_fifth_is_for_testing():
    columns, weights = KeyToDoor().enumerate_structures()
    pairs = set(zip(columns["key"].tolist(), columns["door"].tolist(), strict=True))
    assert len(pairs) == len(weights) == 6561
    train, test = (
        set(zip(params.key.tolist(), params.door.tolist(), strict=True))
        for params in (_draw(KeyToDoor(), 30_000, part) for part in ("train", "test"))
    )
    assert len(test) == 1312
    assert not train & test
    assert train | test <= pairs


def test_cells_of_tasks_are_uniform_and_the_rest_is_as_the_variant_says():
    ours, theirs = _draw(KeyToDoor(), 8100), _draw(KeyToDoor(variant="amago"), 6400)
    for column, num_cells in [(ours.key, 81), (ours.door, 81), (theirs.key, 64), (theirs.start, 64)]:
        assert stats.chisquare(np.bincount(column, minlength=num_cells)).pvalue > 1e-3
    assert (ours.start == -1).all()
    assert (ours.action_map == np.arange(5)).all()
    assert (theirs.action_map == np.arange(5)).all()


def test_shuffled_actions_are_uniform_over_all_120_orders():
    params = _draw(KeyToDoor(variant="amago", remap_actions=True), 12_000)
    _, counts = np.unique(params.action_map, axis=0, return_counts=True)
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-3
    # One draw decides the start, another the order.
    assert abs(np.corrcoef(params.start, params.action_map[:, 0])[0, 1]) < 0.05


@pytest.mark.parametrize("variant", ["ad", "amago"])
def test_ood_tasks_have_shuffled_actions(variant):
    params = _draw(KeyToDoor(variant=variant), 5000, "ood")
    assert len(np.unique(params.action_map, axis=0)) == 119
    assert not (params.action_map == np.arange(5)).all(axis=1).any()
    assert (params.start == -1).all() == (variant == "ad")


def test_an_empty_ood_region_is_said_to_be_empty():
    with pytest.raises(ConfigError, match="no ood region"):
        _draw(KeyToDoor(remap_actions=True), 1, "ood")


def test_proposed_cells_cover_the_room():
    drawn = KeyToDoor(size=2).draw_structure(np.random.default_rng(0).random((500, 2)), "train")
    assert len(set(zip(drawn["key"].tolist(), drawn["door"].tolist(), strict=True))) == 16


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"key": 81, "door": 0}, "key=81"),
        ({"key": 0, "door": -1}, "door=-1"),
        ({"key": 0, "door": 0, "start": -2}, "start=-2"),
        ({"key": 0, "door": (0, 9)}, "door=.* lies outside the grid"),
        ({"key": 0, "door": 0, "action_map": [0, 0, 1, 2, 3]}, "permutation"),
        ({"key": 0}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(KeyToDoor()).coerce(task)


@pytest.mark.parametrize(
    "keywords", [{"variant": "dark"}, {"size": 1}, {"size": 17}, {"episode_length": 0}, {"remap_actions": 1}]
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        KeyToDoor(**keywords)


# --- rows and pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
@pytest.mark.parametrize("variant", ["ad", "amago"])
def test_rows_do_not_depend_on_each_other(variant, num_rows):
    family, rng = KeyToDoor(variant=variant, size=2, remap_actions=True), np.random.default_rng(2)
    params, rows = _draw(family, 64, seed=3), rng.permutation(64)[:num_rows]
    some = params.take(rows)
    noise = rng.random((64, 1))
    state, part = family.initial(params, noise), family.initial(some, noise[rows])
    for _ in range(6):
        actions = rng.integers(0, 5, 64)
        step = family.step(state, actions, params, np.empty((64, 0)))
        taken = family.step(part, actions[rows], some, np.empty((num_rows, 0)))
        assert taken.state.cell.tolist() == step.state.cell[rows].tolist()
        assert taken.reward.tobytes() == step.reward[rows].tobytes()
        assert family.observe(taken.state, some).tobytes() == family.observe(step.state, params)[rows].tobytes()
        state, part = step.state, taken.state


def test_pictures_and_texts_show_the_key_until_it_is_taken():
    env = TaskEnv(KeyToDoor(size=3), render_mode="ansi")
    env.set_task({"key": 1, "door": 8, "start": 0})
    env.reset(seed=0)
    assert env.render() == "[.] K  .\n .  .  .\n .  .  D\nwithout the key\n"
    before = env.family.draw(env._row.state, env._row.params)
    env.step(RIGHT)
    assert env.render() == " . [.] .\n .  .  .\n .  .  D\nwith the key\n"
    after = env.family.draw(env._row.state, env._row.params)
    assert before.shape == after.shape == (192, 192, 3)
    assert (before != after).any()
    both = TaskEnv(KeyToDoor(size=2), render_mode="ansi")
    both.set_task({"key": 3, "door": 3, "start": 0})
    both.reset(seed=0)
    assert both.render() == "[.] .\n .  B\nwithout the key\n"
    both.step(RIGHT)
    assert both.step(DOWN)[1] == 2.0
    assert both.render() == " .  .\n . [D]\nwith the key\n"
