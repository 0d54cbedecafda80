"""Row i of the vector env against the scalar env seeded alike, to the last bit; and what else a vector env does."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import metagym
from metagym.errors import ConfigError
from tests.foreign.worlds import Walk, carts, switches, walks
from tests.parity import MODES, assert_parity

MAKERS = {"attributes": carts, "construction": walks, "several numbers": switches}


@pytest.fixture(scope="module", params=MAKERS)
def family(request):
    return MAKERS[request.param]()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_rows_equal_scalar_envs(family, mode, num_envs):
    vector_env = family.make_vec(num_envs, autoreset_mode=mode)

    assert assert_parity(vector_env, family.make, num_steps=150) > 0


def test_rows_equal_scalar_envs_that_reveal_their_tasks():
    family = walks()
    vector_env = family.make_vec(2, reveal_task=True)

    assert_parity(vector_env, lambda: family.make(reveal_task=True), num_steps=40)


def test_infos_have_the_same_keys_and_dtypes_at_reset_and_at_every_step():
    env = walks().make_vec(2)
    _, at_reset = env.reset(seed=0)
    *_, at_step = env.step(np.array([1, 1]))

    kinds = {key: (value.dtype, value.shape) for key, value in at_reset.items()}
    assert kinds == {key: (value.dtype, value.shape) for key, value in at_step.items()}
    assert {"is_success", "moved", "place", "task_id", "trial_start"} <= kinds.keys()
    assert "label" not in kinds


def test_nothing_returned_is_written_to_later():
    env = carts().make_vec(2)
    first, infos = env.reset(seed=0)
    copies = first.copy(), {key: value.copy() for key, value in infos.items()}
    env.step(np.array([1, 0]))

    np.testing.assert_array_equal(first, copies[0])
    for key, value in infos.items():
        np.testing.assert_array_equal(value, copies[1][key])


def test_a_reset_mask_leaves_other_rows_alone():
    env = carts().make_vec(2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    moved = env.step(np.array([1, 1]))[0]
    after, infos = env.reset(options={"reset_mask": np.array([True, False])})

    np.testing.assert_array_equal(after[1], moved[1])
    assert infos["_task_id"].tolist() == [True, False]


def test_episodes_are_cut_at_max_episode_steps():
    env = carts().make_vec(2, max_episode_steps=3)
    env.reset(seed=0)
    cut = [env.step(np.array([t % 2, t % 2]))[3].tolist() for t in range(3)]

    assert cut == [[False, False], [False, False], [True, True]]


def test_an_action_outside_of_several_numbers_is_refused_before_any_row_moves():
    env = switches().make_vec(2)
    env.reset(seed=0)
    before = [list(world.actions) for world in env._rows.worlds]

    with pytest.raises(ConfigError, match="action must be in MultiDiscrete"):
        env.step(np.array([[0, 0], [0, 7]]))
    assert [list(world.actions) for world in env._rows.worlds] == before


def test_pictures_come_from_the_envs_inside():
    env = walks().make_vec(2, render_mode="ansi")
    env.reset(seed=0)

    assert [picture.strip(".") for picture in env.render()] == ["x", "x"]
    assert walks().make_vec(2).render() == (None, None)


def test_a_render_mode_that_the_envs_lack_is_refused():
    with pytest.raises(ConfigError, match=r"'rgb_array' is unknown to Walk; accepted are None and \['ansi'\]"):
        walks().make_vec(1, render_mode="rgb_array")


def test_gymnasiums_vector_wrappers_go_outside():
    env = gym.wrappers.vector.RecordEpisodeStatistics(walks().make_vec(2, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset(seed=0)
    finished = [env.step(np.array([1, 1]))[4].get("_episode") for _ in range(12)]

    assert any(mask is not None and mask.any() for mask in finished)


def test_closing_twice_is_no_error():
    env = walks().make_vec(2)
    env.reset(seed=0)
    env.close()
    env.close()


def test_actions_out_of_a_box_are_clipped_in_every_row():
    family = metagym.parameterize("MountainCarContinuous-v0", construct={"goal_velocity": [0.0, 0.01]})  # pays as asked
    rewards = []
    for push in (1.0, 50.0):
        env, rows = family.make(), family.make_vec(2)
        env.reset(seed=0)
        rows.reset(seed=0)
        rewards.append([env.step(np.array([push]))[1], *rows.step(np.array([[push], [-push]]))[1].tolist()])

    assert rewards[0] == rewards[1]


class Short(Walk):
    """Cuts its episodes itself, after three steps."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, _, info = super().step(0)
        return observation, reward, terminated, self.steps == 3, info


def test_an_episode_that_the_env_cuts_is_cut_at_that_step_alone():
    family = metagym.parameterize(Short, construct={"slip": (0.0, 0.4)}, episode_length=9)
    env = family.make_vec(2)
    env.reset(seed=0)
    cuts = [env.step(np.array([0, 1]))[3].tolist() for _ in range(9)]

    # The step after a cut is the reset.
    assert cuts == [[step in {2, 6}] * 2 for step in range(9)]
