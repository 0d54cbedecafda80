import numpy as np
import pytest
from scipy import stats

from metagym.errors import ConfigError
from metagym.statistics import (
    iqm,
    mean,
    mean_ci,
    paired_difference_ci,
    probability_of_improvement,
    stratified_bootstrap_ci,
)


def simulated(rng, num_runs, num_tasks, *, run_sd, task_effects):
    """Scores with mean 0: a run is good or bad on all tasks at once, and there is noise besides."""
    runs = run_sd * rng.standard_normal((num_runs, 1))
    return runs + task_effects + 0.3 * rng.standard_normal((num_runs, num_tasks))


def test_iqm_of_eight_scores_is_the_mean_of_the_middle_four():
    scores = np.array([[100.0, 3.0, 1.0, 4.0], [-50.0, 2.0, 6.0, 5.0]])
    assert iqm(scores) == (2.0 + 3.0 + 4.0 + 5.0) / 4


def test_iqm_drops_a_quarter_rounded_down():
    assert iqm([[9.0, 1.0, 2.0]]) == 4.0
    assert iqm([[9.0, 1.0, 2.0, 3.0, 4.0]]) == 3.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (4, 25), (2, 9, 3)])
def test_iqm_equals_scipys_trimmed_mean(shape):
    scores = np.random.default_rng(0).standard_normal(shape)
    expected = stats.trim_mean(scores.reshape(-1, *shape[2:]), 0.25, axis=0)
    assert iqm(scores) == pytest.approx(expected)


def test_iqm_of_mostly_successes_saturates_where_the_mean_does_not():
    scores = np.ones((1, 10))
    scores[0, :2] = 0.0
    assert iqm(scores) == 1.0
    assert mean(scores) == pytest.approx(0.8)


def test_statistics_of_columns_equal_those_of_each_column_alone():
    scores = np.random.default_rng(1).standard_normal((4, 6, 3))
    assert iqm(scores).shape == (3,)
    together = stratified_bootstrap_ci(scores, iqm, num_resamples=50, rng=7)
    assert together.shape == (2, 3)
    for episode in range(3):
        alone = stratified_bootstrap_ci(scores[..., episode], iqm, num_resamples=50, rng=7)
        assert together[:, episode] == pytest.approx(alone)


def test_interval_is_a_function_of_its_seed():
    scores = np.random.default_rng(2).standard_normal((5, 8))
    first = stratified_bootstrap_ci(scores, num_resamples=200, rng=3)
    assert np.array_equal(first, stratified_bootstrap_ci(scores, num_resamples=200, rng=np.random.default_rng(3)))
    assert not np.array_equal(first, stratified_bootstrap_ci(scores, num_resamples=200, rng=4))


def test_interval_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stratified_bootstrap_ci(np.eye(4), num_resamples=10)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_chunks_of_resamples_do_not_change_the_interval(monkeypatch):
    scores = np.random.default_rng(5).standard_normal((3, 4, 2))
    whole = stratified_bootstrap_ci(scores, num_resamples=100)
    monkeypatch.setattr("metagym.statistics._MAX_ELEMENTS", 24 * 7)
    assert np.array_equal(whole, stratified_bootstrap_ci(scores, num_resamples=100))


def test_runs_that_agree_leave_no_uncertainty_about_training_but_some_about_tasks():
    scores = np.tile(np.arange(10.0), (3, 1))
    assert stratified_bootstrap_ci(scores, mean).tolist() == [4.5, 4.5]
    low, high = stratified_bootstrap_ci(scores, mean, resample="tasks")
    assert low < 4.5 - 1.0
    assert high > 4.5 + 1.0
    assert np.array_equal(
        stratified_bootstrap_ci(scores, mean, resample="tasks"), stratified_bootstrap_ci(scores[:1], mean)
    )


def test_resampling_runs_takes_each_run_with_all_its_tasks():
    scores = np.array([[0.0] * 50, [1.0] * 50])
    low, high = stratified_bootstrap_ci(scores, mean, num_resamples=300)
    assert (low, high) == (0.0, 1.0)


def test_resampling_both_is_wider_than_either():
    scores = simulated(np.random.default_rng(0), 8, 12, run_sd=1.0, task_effects=np.linspace(-2, 2, 12))
    widths = {
        kind: np.diff(stratified_bootstrap_ci(scores, mean, resample=kind)).item() for kind in ("runs", "tasks", "both")
    }
    assert widths["both"] > widths["runs"]
    assert widths["both"] > widths["tasks"]


@pytest.mark.parametrize(("num_runs", "least"), [(5, 0.90), (10, 0.925)])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_interval_over_runs_covers_the_expected_score_on_these_tasks(num_runs, least, statistic):
    rng = np.random.default_rng(11)
    task_effects = np.linspace(-1.0, 1.0, 12)
    hits = 0
    for _ in range(300):
        scores = simulated(rng, num_runs, 12, run_sd=0.5, task_effects=task_effects)
        low, high = stratified_bootstrap_ci(scores, statistic, num_resamples=400, rng=rng)
        hits += low <= 0.0 <= high
    # All effects are symmetric about 0, so the expected mean and IQM are 0; the standard error is 0.013.
    assert least <= hits / 300 <= 0.98


def test_drawing_runs_anew_for_every_task_covers_less_than_half_as_often():
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        scores = simulated(rng, 5, 12, run_sd=0.5, task_effects=np.linspace(-1.0, 1.0, 12))
        redrawn = scores[rng.integers(5, size=(5, 12, 400)), np.arange(12)[None, :, None]]
        low, high = np.quantile(redrawn.mean(axis=(0, 1)), [0.025, 0.975])
        hits += low <= 0.0 <= high
    assert hits / 300 < 0.5


def test_interval_over_tasks_covers_the_mean_of_the_task_distribution():
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(300):
        low, high = stratified_bootstrap_ci(rng.exponential(size=(1, 60)), mean, num_resamples=400, rng=rng)
        hits += low <= 1.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_t_interval_is_the_textbook_one():
    scores = np.array([[1.0, 3.0], [2.0, 4.0], [6.0, 8.0]])
    units = np.array([2.0, 3.0, 7.0])
    half = 4.302652729911275 * units.std(ddof=1) / np.sqrt(3)
    assert mean_ci(scores) == pytest.approx([4.0 - half, 4.0 + half])
    assert mean_ci(scores[:1, :, None]).shape == (2, 1)
    assert mean_ci(scores[:1]) == pytest.approx([2.0 - 12.706204736432095, 2.0 + 12.706204736432095])


def test_single_unit_has_no_interval():
    assert np.isnan(mean_ci([[1.0]])).all()
    assert np.isnan(stratified_bootstrap_ci([[1.0]], num_resamples=10)).all()
    assert np.isnan(stratified_bootstrap_ci([[1.0, 2.0]], num_resamples=10, resample="both")).all()


def test_probability_of_improvement_counts_pairs_of_runs_and_half_of_ties():
    scores = np.array([[1.0, 0.0], [3.0, 0.0]])
    others = np.array([[2.0, 0.0]])
    assert probability_of_improvement(scores, others) == pytest.approx((0.5 + 0.5) / 2)
    assert probability_of_improvement(scores + 9.0, others) == 1.0
    assert probability_of_improvement(others, scores + 9.0) == 0.0


def test_probability_of_improvement_equals_mann_whitney():
    rng = np.random.default_rng(3)
    scores, others = rng.integers(0, 4, (6, 5)), rng.integers(0, 4, (7, 5))
    statistic = [stats.mannwhitneyu(scores[:, k], others[:, k]).statistic for k in range(5)]
    assert probability_of_improvement(scores, others) == pytest.approx(np.mean(statistic) / 42)


def test_what_tasks_have_in_common_cancels_in_a_paired_difference():
    rng = np.random.default_rng(4)
    tasks = 10.0 * rng.standard_normal((1, 40))
    scores = tasks + 1.0 + 0.1 * rng.standard_normal((1, 40))
    others = tasks + 0.1 * rng.standard_normal((1, 40))
    low, high = paired_difference_ci(scores, others)
    assert 0.9 < low < 1.0 < high < 1.1
    unpaired = stratified_bootstrap_ci(scores, mean)
    assert np.diff(unpaired) > 20 * (high - low)


def test_paired_difference_of_a_method_with_itself_shifted_is_the_shift():
    scores = np.random.default_rng(6).standard_normal((1, 9, 2))
    assert paired_difference_ci(scores + 2.0, scores, iqm) == pytest.approx(np.full((2, 2), 2.0))


def test_runs_of_two_methods_are_resampled_independently():
    scores = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert paired_difference_ci(scores, scores, num_resamples=300).tolist() == [-1.0, 1.0]


def test_paired_difference_covers_the_true_difference():
    rng = np.random.default_rng(13)
    effects = np.linspace(-3.0, 3.0, 10)
    hits = 0
    for _ in range(300):
        left = 0.4 + simulated(rng, 6, 10, run_sd=0.5, task_effects=effects)
        right = simulated(rng, 8, 10, run_sd=0.2, task_effects=effects)
        low, high = paired_difference_ci(left, right, num_resamples=300, rng=rng)
        hits += low <= 0.4 <= high
    assert 0.90 <= hits / 300 <= 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iqm([1.0, 2.0]), r"\(2,\)"),
        (lambda: mean(np.empty((0, 3))), r"\(0, 3\)"),
        (lambda: iqm([[np.nan, 1.0]]), "1 NaN"),
        (lambda: mean_ci([[1.0, np.inf]]), "finite"),
        (lambda: mean_ci([[1.0, 2.0]], confidence=1.0), "1.0"),
        (lambda: stratified_bootstrap_ci([[1.0, 2.0]], num_resamples=0), "got 0"),
        (lambda: stratified_bootstrap_ci([[1.0, 2.0]], resample="seeds"), "'seeds'"),
        (lambda: paired_difference_ci([[1.0, 2.0]], [[1.0]]), r"\(1, 2\) and \(1, 1\)"),
        (lambda: probability_of_improvement([[1.0]], [[np.nan]]), "others"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
