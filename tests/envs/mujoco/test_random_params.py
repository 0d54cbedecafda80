from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.mujoco import simulator
from metagym.envs.mujoco.random_params import BodyParams, HopperParams, Walker2DParams
from metagym.envs.mujoco.simulator import Simulator
from metagym.errors import TaskError
from tests.envs.mujoco.bodies import MADE, actions_of, begin, move, mujoco, play, sample, step

ONE = np.nextafter(1.0, 0.0)
KINDS = [HopperParams, Walker2DParams]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
FIELDS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")


def _nominal(family):
    return BodyParams(**{name: np.zeros((1, *space.shape)) for name, space in family.task_space.items()})


def _equipped(family, params):
    """The constants of a simulator that was made for one task, computed from a model of its own."""
    fresh = Simulator(family.xml_file, family.frame_skip, with_contacts=False)
    model, data = fresh.model, fresh.data
    model.body_mass[1:] *= 1.5 ** params.log_mass[0]
    model.body_inertia[1:] *= 1.5 ** params.log_inertia[0][:, None]
    model.dof_damping[3:] *= 1.3 ** params.log_damping[0]
    model.geom_friction[:, 0] *= 1.5 ** params.log_friction[0]
    mujoco.mj_setConst(model, data)
    return model


def _numbers(model):
    """All arrays and statistics of a model but those of cameras and lights, which simulations do not see."""
    names = [name for name in dir(model) if not name.startswith(("_", "cam_", "light_"))]
    arrays = {name: getattr(model, name) for name in names}
    found = {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return found | {
        f"stat.{name}": np.array(getattr(model.stat, name)) for name in ("meaninertia", "meanmass", "extent")
    }


# --- what a task changes -------------------------------------------------------------------------------------------


@every_kind
def test_a_task_changes_the_model_as_if_it_had_been_made_so(kind):
    family = MADE[kind]
    tasks = sample(family, 3)
    for row in (0, 2, 1, 2, 2, 0):  # some are met again
        family.equip(family.simulator, tasks, row)
        found, expected = _numbers(family.simulator.model), _numbers(_equipped(family, tasks.take(np.array([row]))))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert np.allclose(found[name], value, rtol=1e-12, atol=0.0, equal_nan=True), name


def test_what_was_derived_for_a_task_is_kept_but_not_of_all_tasks(monkeypatch):
    monkeypatch.setattr(simulator, "_MOST_KNOWN", 3)
    family = HopperParams()
    tasks = sample(family, 8)
    state = begin(family, tasks)
    expected = step(MADE[HopperParams], state, actions_of(family, (8,)), tasks)
    assert len(family.simulator._known) <= 3
    for _ in range(2):
        found = step(family, state, actions_of(family, (8,)), tasks)
        assert found.state.physics.tobytes() == expected.state.physics.tobytes()
    assert len(family.simulator._known) <= 3


@every_kind
def test_the_nominal_task_leaves_the_model_as_gymnasium_ships_it(kind):
    family = MADE[kind]
    family.equip(family.simulator, sample(family, 1), 0)
    family.equip(family.simulator, _nominal(family), 0)
    found = _numbers(family.simulator.model)
    shipped = _numbers(Simulator(family.xml_file, family.frame_skip, with_contacts=False).model)
    assert all(np.array_equal(found[name], value, equal_nan=value.dtype.kind == "f") for name, value in shipped.items())


@every_kind
def test_a_model_compiled_with_other_masses_has_the_constants_that_are_computed(kind):
    family = MADE[kind]
    params = sample(family, 1, seed=4)
    assets = Path(gym.__file__).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / family.xml_file))
    shipped = Simulator(family.xml_file, family.frame_skip, with_contacts=False).model
    spec.compiler.inertiafromgeom = 0
    for index in range(1, shipped.nbody):
        body = spec.body(shipped.body(index).name)
        body.mass = shipped.body_mass[index] * 1.5 ** params.log_mass[0, index - 1]
        body.inertia = shipped.body_inertia[index] * 1.5 ** params.log_inertia[0, index - 1]
        body.ipos, body.iquat = shipped.body_ipos[index], shipped.body_iquat[index]
        body.explicitinertial = True
    compiled = spec.compile()
    family.equip(family.simulator, params, 0)
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        assert getattr(family.simulator.model, name) == pytest.approx(getattr(compiled, name), rel=1e-9), name
    assert family.simulator.model.stat.meaninertia == pytest.approx(compiled.stat.meaninertia, rel=1e-9)


@every_kind
@pytest.mark.parametrize("field", ["log_mass", "log_inertia", "log_damping", "log_friction"])
def test_every_kind_of_constant_matters(kind, field):
    family = MADE[kind]
    nominal = _nominal(family)
    changed = BodyParams(**{**nominal.columns(), field: np.full_like(getattr(nominal, field), 2.0)})
    state = begin(family, nominal)
    last = []
    for params in (nominal, changed):
        current = state
        for action in actions_of(family, (40, 1)):
            current = step(family, current, action, params).state
        last.append(current.physics[0])
    assert np.abs(last[0] - last[1]).max() > 1e-3


@every_kind
def test_what_the_source_also_draws_does_not_matter(kind):
    # Factors of the world, of the root's damping, of spinning and rolling friction, of inertia about other axes.
    family, rng = MADE[kind], np.random.default_rng(2)
    params = sample(family, 1)
    full = Simulator(family.xml_file, family.frame_skip, with_contacts=False)
    family.equip(full, params, 0)
    mujoco.mj_forward(full.model, full.data)
    across = np.abs(full.data.ximat.reshape(-1, 3, 3)[1:, 1]) < 1e-9
    assert across.sum(axis=1).tolist() == [2] * family.num_parts
    full.model.body_mass[0] = full.model.body_inertia[0] = 0.0
    full.model.body_inertia[1:][across] *= 1.5 ** rng.uniform(-3.0, 3.0, across.sum())
    full.model.geom_friction[:, 1:] *= 1.5 ** rng.uniform(-3.0, 3.0, (family.num_parts + 1, 2))
    mujoco.mj_setConst(full.model, full.data)
    assert full.model.dof_damping[:3].tolist() == [0.0] * 3
    state = begin(family, params)
    following = np.empty_like(state.physics[0])
    for action in actions_of(family, (100, 1)):
        full.advance(state.physics[0], action[0], following)
        state = step(family, state, action, params).state
        assert following == pytest.approx(state.physics[0], rel=1e-6, abs=1e-6)
        following = following.copy()


# --- ends and observations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "healthy"),
    [
        (HopperParams, {}, True),
        (HopperParams, {"x1": 0.7}, False),
        (HopperParams, {"x2": 0.2}, False),
        (HopperParams, {"x2": -0.19}, True),
        (HopperParams, {"v5": 100.0}, False),
        (HopperParams, {"v5": -99.0}, True),
        (HopperParams, {"x0": 200.0}, True),
        (Walker2DParams, {}, True),
        (Walker2DParams, {"x1": 0.8}, False),
        (Walker2DParams, {"x1": 2.0}, False),
        (Walker2DParams, {"x2": -1.0}, False),
        (Walker2DParams, {"v5": 200.0}, True),
    ],
)
def test_the_ends_of_episodes(kind, changes, healthy):
    family = MADE[kind]
    params = _nominal(family)
    before = move(family, begin(family, params), x0=0.0)
    after = move(family, before, **{"x0": 0.016, **changes})
    reward, terminated = family.judge(before, after, np.full((1, family.num_actions), 0.5), params)
    assert terminated.tolist() == [not healthy]
    assert reward[0] == pytest.approx(after.physics[0, 0] / 0.008 + healthy - 1e-3 * family.num_actions * 0.25)


@every_kind
def test_velocities_are_observed_up_to_ten(kind):
    family = MADE[kind]
    params = _nominal(family)
    state = move(family, begin(family, params), v0=50.0, v1=-50.0, v2=3.0, x2=50.0)
    observation = family.observe(state, params)[0]
    velocities = observation[-family.num_velocities :]
    assert velocities[:3].tolist() == [10.0, -10.0, 3.0]
    assert observation[1] == 50.0
    assert state.physics[0, family.num_positions] == 50.0


@every_kind
def test_the_first_observation_is_the_same_whatever_the_task(kind):
    family = MADE[kind]
    params = sample(family, 4)
    noise = np.tile(np.random.default_rng(0).random((1, family.num_initial_draws)), (4, 1))
    assert len(np.unique(family.observe(family.initial(params, noise), params), axis=0)) == 1


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("part", ["train", "ood"])
def test_no_drawn_body_makes_the_simulation_diverge(kind, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would log it
    family = kind()
    params = sample(family, 300, part)
    state = begin(family, params)
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = np.where(rng.random((300, family.num_actions)) < 0.5, -1.0, 1.0)
        result = step(family, state, action, params)
        assert np.isfinite(result.state.physics).all()
        assert np.isfinite(result.reward).all()
        state = result.state
    assert [warning.number for warning in family.simulator.data.warning] == [0] * 8
    assert not list(tmp_path.iterdir())


# --- tasks ---------------------------------------------------------------------------------------------------------


@every_kind
def test_exponents_are_uniform_and_the_torso_is_out_of_distribution_in_ood(kind):
    family = MADE[kind]
    for part in ("train", "test", "ood"):
        columns = sample(family, 1500, part).columns()
        for name, column in columns.items():
            inside = column[:, 1:] if name == "log_mass" else column
            assert stats.kstest(inside.ravel(), stats.uniform(-3.0, 6.0).cdf).pvalue > 1e-4
        torso = columns["log_mass"][:, 0]
        if part == "ood":
            assert np.all((np.abs(torso) > 3.0) & (np.abs(torso) <= 4.0))
            assert stats.kstest(np.abs(torso), stats.uniform(3.0, 1.0).cdf).pvalue > 1e-3
            assert abs(np.sign(torso).mean()) < 4.0 / 1500**0.5
        else:
            assert np.abs(torso).max() <= 3.0


@every_kind
def test_extreme_uniforms_give_tasks_inside_the_space(kind):
    family = MADE[kind]
    for region in ("train", "ood"):
        for value in (0.0, np.nextafter(0.5, 0.0), 0.5, ONE):
            fields = family.draw_structure(np.full((1, family.num_structure_draws), value), region)
            assert all(fields[name][0] in family.task_space[name] for name in fields)
            assert (abs(fields["log_mass"][0, 0]) > 3.0) == (region == "ood")


@every_kind
def test_fields_are_as_long_as_the_model_has_parts_joints_and_geoms(kind):
    family = MADE[kind]
    model = family.simulator.model
    widths = {name: space.shape[0] for name, space in family.task_space.items()}
    assert widths == {
        "log_mass": model.nbody - 1,
        "log_inertia": model.nbody - 1,
        "log_damping": model.nv - 3,
        "log_friction": model.ngeom,
    }


def test_a_task_out_of_range_is_refused():
    fields = {name: np.zeros(space.shape) for name, space in MADE[HopperParams].task_space.items()}
    with pytest.raises(TaskError, match="log_inertia="):
        TaskDistribution(MADE[HopperParams]).coerce({**fields, "log_inertia": np.full(4, 3.5)})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "documented"), [(HopperParams, 18), (Walker2DParams, 2.7)])
def test_random_actions_earn_about_the_documented_return(kind, documented):
    family = MADE[kind]
    returns = play(family, sample(family, 300, "train"), 200)
    assert returns.mean() == pytest.approx(documented, abs=6.0 * returns.std() / 300**0.5)
