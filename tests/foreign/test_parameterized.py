"""`metagym.parameterize`: the three strategies on envs that everybody knows, the splits, and the messages."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import metagym
from metagym.errors import ConfigError, TaskError
from metagym.foreign.parameterized import Field
from tests.foreign.worlds import Walk, carts, refresh_cart, refresh_walk, walks
from tests.parity import assert_same
from tests.strategies import plainly


@pytest.fixture
def box2d():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its bindings; as an error, one of them ends the interpreter
        pytest.importorskip("Box2D")


def play(env, actions, seed):
    return [env.reset(seed=seed)[0], *(tuple(env.step(action)[:4]) for action in actions)]


# --- the strategies -----------------------------------------------------------------------------------------------


def test_attributes_with_refresh_play_as_a_cart_pole_that_was_changed_by_hand():
    env = carts().make()
    env.set_task({"gravity": 12.0, "length": 0.3})
    observation, _ = env.reset(seed=0)
    theirs = gym.make("CartPole-v1")
    theirs.reset(seed=0)
    bare = theirs.unwrapped
    bare.gravity, bare.length, bare.polemass_length = 12.0, 0.3, 0.1 * 0.3
    bare.state = np.array(env._row.world.env.unwrapped.state)

    for step in range(15):
        action = int(step % 3 == 0)
        assert_same(env.step(action)[:3], theirs.step(action)[:3])
    assert observation.dtype == np.float32


def test_attributes_leave_the_published_env_where_the_task_is_the_published_one():
    env = carts().make()
    env.set_task({"gravity": 9.8, "length": 0.5})
    env.reset(seed=0)
    theirs = gym.make("CartPole-v1")
    observation, _ = theirs.reset(seed=env._row.world.seed)

    np.testing.assert_array_equal(observation, env._row.world.observation)
    for step in range(15):
        assert_same(env.step(step % 2)[:3], theirs.step(step % 2)[:3])


def test_a_length_without_refresh_is_caught_and_what_is_stale_is_named():
    with pytest.raises(ConfigError, match=r"polemass_length, which hangs on length, is 0\.05.*refresh="):
        metagym.parameterize("CartPole-v1", attributes={"gravity": (5.0, 15.0), "length": (0.25, 1.0)})


def test_gravity_needs_no_refresh():
    metagym.parameterize("CartPole-v1", attributes={"gravity": (5.0, 15.0)})


def test_a_refresh_that_is_wrong_is_caught():
    def wrong(cart):
        cart.polemass_length = cart.masspole * 0.5

    with pytest.raises(ConfigError, match="polemass_length"):
        metagym.parameterize("CartPole-v1", attributes={"length": (0.25, 1.0)}, refresh=wrong)


def test_construction_builds_the_lander_that_the_keywords_say(box2d):
    family = metagym.parameterize("LunarLander-v3", construct={"gravity": (-11.9, -2.0)})
    env = family.make()
    env.set_task({"gravity": -3.5})
    env.reset(seed=0)
    theirs = gym.make("LunarLander-v3", gravity=-3.5)
    actions = [0, 2, 2, 1, 3, 0, 0, 2]

    theirs.reset(seed=env._row.world.seed)
    for action in actions:
        observation, reward, terminated, truncated, _ = theirs.step(action)
        assert_same(env.step(action)[:4], (observation, float(reward), terminated, truncated))
    family.check_application(num_tasks=3)


def test_layouts_are_grids_that_stay_the_same_in_every_episode_of_a_task():
    minigrid = pytest.importorskip("minigrid")
    family = metagym.parameterize(
        "MiniGrid-FourRooms-v0", layouts=10_000, wrappers=[minigrid.wrappers.ImgObsWrapper], id="MetaFourRooms-v0"
    )
    env = gym.make("MetaFourRooms-v0")
    first, info = env.reset(seed=0)
    again, again_info = env.reset(options={"repeat_task": True})
    other, other_info = env.reset()

    np.testing.assert_array_equal(first, again)
    assert info["task_id"] == again_info["task_id"] != other_info["task_id"]
    assert not np.array_equal(first, other)
    assert family.episode_length == 100
    theirs = minigrid.wrappers.ImgObsWrapper(gym.make("MiniGrid-FourRooms-v0"))
    env.reset(options={"task": {"layout": 123}})
    np.testing.assert_array_equal(env.unwrapped._row.world.observation, theirs.reset(seed=123)[0])
    family.check_application()


def test_a_users_own_env_is_made_with_keywords_of_its_own():
    family = walks(env_kwargs={"cells": 3})
    env = family.make()
    env.set_task({"slip": 0.25})
    env.reset(seed=0)

    walk = env._row.world.env
    assert (type(walk), walk.cells, walk.slip) == (Walk, 3, 0.25)
    assert family.name == "Walk"


def test_a_users_own_env_takes_attributes_too():
    given = {"attributes": {"slip": (0.0, 0.4)}, "construct": None}

    walks(**given, refresh=refresh_walk)
    with pytest.raises(ConfigError, match=r"stay, which hangs on slip, is 0\.9"):
        walks(**given)


def test_dotted_paths_lead_into_the_simulator():
    mujoco = pytest.importorskip("mujoco")
    family = metagym.parameterize("InvertedPendulum-v5", attributes={"model.opt.gravity": spaces.Box(-9.0, -5.0, (3,))})
    env = family.make()
    env.reset(seed=0)

    model = env._row.world.env.unwrapped.model
    np.testing.assert_allclose(model.opt.gravity, env.task["model_opt_gravity"])
    assert isinstance(model, mujoco.MjModel)


def test_wrappers_flatten_what_a_dict_observes():
    gym.register("Dictful-v0", entry_point="tests.foreign.worlds:Dictful", max_episode_steps=5)
    try:
        with pytest.raises(ConfigError, match=r"observes Dict.*FlattenObservation"):
            metagym.parameterize("Dictful-v0", construct={"scale": [1.0, 2.0]})
        family = metagym.parameterize(
            "Dictful-v0", construct={"scale": [1.0, 2.0]}, wrappers=[gym.wrappers.FlattenObservation]
        )
    finally:
        gym.registry.pop("Dictful-v0")

    assert family.observation_space.shape == (2,)


# --- tasks --------------------------------------------------------------------------------------------------------


def test_choices_are_handed_over_as_they_were_given():
    made = []

    def make(shape, soft, count):
        made.append((shape, soft, count))
        return Walk()

    domains = {"shape": ["round", "square"], "soft": [True, False], "count": [2, 5]}
    family = metagym.parameterize(make, construct=domains, episode_length=5)
    env = family.make(split=None)
    env.reset(options={"task": {"shape": 1, "soft": 0, "count": 5}})

    assert made[-1] == ("square", True, 5)
    assert type(made[-1][2]) is int
    with pytest.raises(TaskError, match="count=3 is none of the choices"):
        env.set_task({"shape": 1, "soft": 0, "count": 3})


def test_train_and_test_share_no_task_and_small_families_are_split_exactly():
    family = metagym.parameterize(Walk, layouts=50, episode_length=5)
    rng = np.random.default_rng(0)
    train, test = ({task["layout"].item() for task in family.distribution(part).sample(rng, 600)}
                   for part in ("train", "test"))  # fmt: skip

    assert (len(train), len(test)) == (40, 10)
    assert not train & test


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_continuous_tasks_belong_to_their_part_alone(seed):
    family = CARTS
    rng = np.random.default_rng(seed)
    parts = {name: family.distribution(name) for name in ("train", "test", "ood")}

    train, test = parts["train"].sample(rng), parts["test"].sample(rng)
    assert train in parts["train"]
    assert train not in parts["test"]
    assert test not in parts["train"]


CARTS = carts()
GOLDEN = [3801563634496160223, 6466776806574658066]
GOLDEN_LAYOUTS = [89, 89, 22, 89]


def test_ood_tasks_lie_in_the_named_ranges_and_the_others_stay():
    rng = np.random.default_rng(0)
    drawn = CARTS.distribution("ood").sample(rng, 200)

    gravity, length = (np.array([task[name] for task in drawn]) for name in ("gravity", "length"))
    assert 15.0 <= gravity.min() < 15.2
    assert 19.8 < gravity.max() <= 20.0
    assert 0.25 <= length.min() < 0.3
    assert 0.95 < length.max() <= 1.0


def test_ood_may_name_choices_and_layouts():
    family = metagym.parameterize(Walk, layouts=[1, 2, 3], ood={"layout": [7, 8]}, episode_length=5)
    coded = Field("map", ["a", "b"], ["c"])

    assert {task["layout"].item() for task in family.distribution("ood").sample(np.random.default_rng(0), 40)} == {7, 8}
    assert coded.value(np.array(2)) == "c"
    assert coded.space.high == 2


def test_tasks_between_the_ranges_may_be_set():
    env = CARTS.make()
    env.set_task({"gravity": 17.0, "length": 0.5})

    assert env.reset()[1]["task_id"] == env.task.id


def test_ids_of_tasks_stay_what_they_are():
    drawn = CARTS.distribution("train").sample(np.random.default_rng(0), 2)
    layouts = metagym.parameterize(Walk, layouts=100, episode_length=5).distribution("test")

    assert [task.id for task in drawn] == GOLDEN
    assert [task["layout"].item() for task in layouts.sample(np.random.default_rng(0), 4)] == GOLDEN_LAYOUTS


def test_the_first_observation_does_not_depend_on_the_task():
    env = CARTS.make()
    tasks = env.sample_tasks(5)
    first = [env.reset(seed=7, options={"task": task})[0] for task in tasks]

    assert len({observation.tobytes() for observation in first}) == 1


def test_a_family_survives_pickling_and_so_do_its_tasks_columns():
    family = pickle.loads(pickle.dumps(CARTS))
    tasks = CARTS.distribution().sample(np.random.default_rng(0), 3)
    columns = CARTS.params_of(tasks)

    assert family.task_space == CARTS.task_space
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(columns)).gravity, columns.gravity)
    assert_same(play(family.make(), [0, 1], 3), play(CARTS.make(), [0, 1], 3))


# --- messages -----------------------------------------------------------------------------------------------------


def test_an_unknown_attribute_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"no attribute 'gravty'; its attributes that are numbers are .*gravity, "):
        metagym.parameterize("CartPole-v1", attributes={"gravty": (5.0, 15.0)})
    with pytest.raises(ConfigError, match=r"no attribute 'model'"):
        metagym.parameterize("CartPole-v1", attributes={"model.opt": (5.0, 15.0)})


def test_an_unknown_keyword_is_named():
    with pytest.raises(ConfigError, match=r"CartPole-v1 cannot be made with {'gravity'.*unexpected keyword"):
        metagym.parameterize("CartPole-v1", construct={"gravity": (5.0, 15.0)})


def test_an_unknown_id_is_named():
    with pytest.raises(ConfigError, match="Cartpole-v77"):
        metagym.parameterize("Cartpole-v77", construct={"gravity": (5.0, 15.0)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "exactly one of attributes=, construct= and layouts=, got none"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "layouts": 4}, r"got \['attributes', 'layouts'\]"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "construct": {"gravity": (1.0, 2.0)}}, "exactly one"),
        ({"attributes": {}}, "attributes= names nothing that varies"),
        ({"attributes": {"gravity": (2.0, 2.0)}}, r"gravity=\(2.0, 2.0\) is no range"),
        ({"attributes": {"gravity": []}}, r"gravity=\[\] is empty"),
        ({"layouts": 1}, "layouts=1 must be at least 2"),
        ({"layouts": 4, "refresh": refresh_cart}, "refresh goes with attributes="),
        ({"attributes": {"gravity": (1.0, 2.0)}, "ood": {"mass": (1.0, 2.0)}}, r"ood names \['mass'\]"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "ood": {"gravity": (1.5, 3.0)}}, r"overlaps \(1.0, 2.0\)"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "ood": {"gravity": spaces.Box(3, 4, (2,))}}, "another shape"),
        ({"construct": {"sutton_barto_reward": [True]}, "ood": {"sutton_barto_reward": [True]}}, "shares choices"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "episode_length": 0}, "episode_length must be"),
        ({"attributes": {"not a name": (1.0, 2.0)}}, "a task can have no field 'not a name'"),
        ({"construct": {"columns": (1.0, 2.0)}}, "a task can have no field 'columns'"),
        ({"construct": {"class": (1.0, 2.0)}}, "a task can have no field 'class'"),
        ({"attributes": {"unwrapped": [1, 2]}}, "attribute 'unwrapped' of CartPoleEnv cannot be set"),
        ({"layouts": (1, 5)}, "layouts must be a number of seeds, or a list"),
        ({"layouts": [1, -5]}, "layouts must be a number of seeds, or a list"),
        ({"layouts": 4, "wrappers": gym.wrappers.FlattenObservation}, "wrappers must be a list"),
        ({"attributes": {"gravity": (1.0, 2.0)}, "infos": {"task_id": 1}}, "infos="),
    ],
    ids=plainly,
)
def test_what_is_not_accepted_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        metagym.parameterize("CartPole-v1", **wrong)


def test_a_family_without_ood_ranges_says_how_to_give_it_some():
    with pytest.raises(ConfigError, match=r"Walk has no ood region.*ood="):
        walks().distribution("ood").sample(np.random.default_rng(0))


def test_an_env_whose_episodes_never_end_must_be_given_a_length():
    with pytest.raises(ConfigError, match="episode_length="):
        metagym.parameterize(Walk, construct={"slip": (0.0, 0.4)})


def test_tasks_that_change_the_spaces_are_refused():
    def make(size):
        return gym.wrappers.TransformObservation(Walk(), lambda x: np.zeros(size), spaces.Box(0, 1, (size,)))

    family = metagym.parameterize(make, construct={"size": [2, 3, 4]}, episode_length=5)
    env = family.make(split=None)

    assert family.observation_space.shape == (3,)
    env.reset(options={"task": {"size": 3}})
    with pytest.raises(ConfigError, match="the tasks of a family share Box"):
        env.reset(options={"task": {"size": 2}})


def test_an_env_that_has_tasks_already_is_refused():
    with pytest.raises(ConfigError, match="MetaBandit-v0 has tasks already"):
        metagym.parameterize("MetaBandit-v0", layouts=5)


def test_no_env_at_all_is_refused():
    with pytest.raises(ConfigError, match="an env id or a callable"):
        metagym.parameterize(3, layouts=4)
    with pytest.raises(ConfigError, match=r"which is no gymnasium\.Env"):
        metagym.parameterize(lambda: 3, layouts=4, episode_length=5)
