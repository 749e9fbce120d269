"""Figures over seeds and tasks: worked by hand, compared with SciPy and with the library of the method's authors."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from memrl.statistics import (
    interquartile_curve,
    interquartile_difference,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    wilson_interval,
)

SCORES = np.random.default_rng(1).normal(np.arange(3) / 3, 0.2, (10, 3))
OTHERS = np.random.default_rng(2).normal(np.arange(3) / 4, 0.2, (10, 3))
THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_interquartile_mean_by_hand():
    """Of eight scores the two lowest and the two highest are left out, of whichever tasks they are."""
    scores = np.array([[0.0, 100.0], [1.0, 2.0], [3.0, 4.0], [-50.0, 90.0]])
    assert interquartile_mean(scores).value == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert interquartile_mean([5.0, 1.0, 3.0]).value == pytest.approx(3)  # none of three is left out
    assert interquartile_mean([5.0, 1.0, 3.0, 4.0, -99.0]).value == pytest.approx((1 + 3 + 4) / 3)
    assert interquartile_mean(SCORES).value == pytest.approx(scipy.stats.trim_mean(SCORES.ravel(), 0.25))


def test_the_figures_of_rliable():
    """Those of rliable 1.2.0 (with arch 7.2.0 and pandas 2.3.3) for the same scores; intervals are farther apart.

    `get_interval_estimates` of `aggregate_iqm` with 50,000 draws and of `probability_of_improvement` with 20,000, and
    `create_performance_profile` with 20,000.
    """
    found = interquartile_mean(SCORES)
    assert found.value == pytest.approx(0.35663387)
    # z is 2.05 √(10 / 9) of 1.96 with 27 degrees of freedom.
    assert found.low == pytest.approx(0.35663387 - 1.1 * (0.35663387 - 0.2833), abs=0.01)
    assert found.high == pytest.approx(0.35663387 + 1.1 * (0.4167 - 0.35663387), abs=0.01)
    improvement = probability_of_improvement(SCORES, OTHERS)
    assert improvement.value == pytest.approx(0.64333333)
    assert (improvement.low, improvement.high) == (pytest.approx(0.4967, abs=0.02), pytest.approx(0.7801, abs=0.02))
    profile = performance_profile(SCORES, THRESHOLDS)
    np.testing.assert_allclose(profile.value, [0.73333333, 0.63333333, 0.4, 0.1, 0], atol=1e-8)
    assert (profile.low[:3] <= [0.63333333, 0.56666667, 0.33333333]).all()
    assert (profile.high >= [0.83333333, 0.66666667, 0.5, 0.2, 0]).all()


def test_the_interval_of_three_seeds_is_students():
    """None of three is left out: the mean ± 4.303 s / √3, as everyone makes it; the limits cut it off."""
    scores = np.array([2.0, 3.0, 7.0])
    interval = scipy.stats.t.interval(0.95, 2, 4, scipy.stats.sem(scores))
    found = interquartile_mean(scores)
    assert (found.low, found.high) == pytest.approx(interval, rel=0.05)
    assert interquartile_mean(scores, (0.0, 7.0))[1:] == (0, 7)
    pairs = interquartile_difference(scores + OTHERS[:3, 0], OTHERS[:3, 0], paired=True)
    assert pairs.value == pytest.approx(4) and (pairs.low, pairs.high) == pytest.approx(interval, rel=0.05)
    # s² of the others is 100: Welch's degrees of freedom are 2.27.
    apart = interquartile_difference(scores, [10, 20, 30], paired=False)
    welch = scipy.stats.ttest_ind(scores, [10, 20, 30], equal_var=False).confidence_interval()
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high), rel=0.05)
    assert interquartile_difference(scores, [10, 20, 30], paired=False, limits=(-20, 1))[1:] == (-20, 1)


def test_what_was_measured_is_what_results_say():
    """The coverage of the intervals taken, in the table of experiments/results/statistics, is that in its JSON."""
    folder = Path(__file__).parents[1] / "experiments" / "results" / "statistics"
    text, figures = (folder / "README.md").read_text(), json.loads((folder / "intervals.json").read_text())
    for population, rows in figures["intervals"]["Interquartile mean (IQM) or mean over seeds, one task"].items():
        taken = rows["IQM, widened bootstrap (taken)"]
        shares = " ".join(f"{taken[seeds]['coverage']:.2f}" for seeds in ("3", "5", "10", "20"))
        assert f"\n| {population} | {shares} |" in text


def test_one_of_five_seeds_that_fails_is_not_forgotten():
    """It is left out of the mean of the middle, but among other seeds most might fail: percentiles reach down to it."""
    found = interquartile_mean([1.0, 1.0, 0.0, 1.0, 1.0], (0.0, 1.0))
    assert tuple(found) == (1, 0, 1)


def test_tasks_are_drawn_apart():
    """Where the seeds of a task agree it adds nothing to the interval, however much it differs from others."""
    apart = np.array([[0.0, 1.0], [0.2, 1.0], [0.1, 1.0], [0.4, 1.0]])
    found = interquartile_mean(apart)
    assert found.low > 0.1 and found.high < 1.1


def test_no_interval_where_all_seeds_agree():
    """What is the same in all seeds has no spread that could be known, up to the rounding of sums."""
    scores = np.repeat([[0.1, 1.0, 5.3, 6.0]], 5, axis=0)
    for found in (interquartile_mean(scores), interquartile_mean([0.1] * 5)):
        assert np.isnan(found.low) and np.isnan(found.high)
    curve = interquartile_curve([[1.0, 2.0], [1.0, 3.0], [1.0, 2.5]])
    assert np.isnan(curve.low[0]) and np.isnan(curve.high[0]) and curve.low[1] < 2.5 < curve.high[1]
    for paired in (True, False):
        found = interquartile_difference([0.7] * 3, [0.1] * 3, paired=paired)
        assert found.value == pytest.approx(0.6) and np.isnan(found.low) and np.isnan(found.high)


def failing(rng, shape):
    """Success of which one seed in five has next to none."""
    return np.where(rng.random(shape) < 0.2, rng.normal(0.1, 0.05, shape), 1 - rng.exponential(0.01, shape))


def covered(made, truth):
    return np.mean([found.low <= truth <= found.high for found in made])


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("kind", ["normal", "exponential", "failing"])
def test_coverage(kind, seeds):
    """95% intervals hold the true figure in 90% to 99.5% of cases, and in 95% where they are exact."""
    rng = np.random.default_rng(0)
    draw = {"normal": rng.normal, "exponential": rng.exponential, "failing": lambda size: failing(rng, size)}[kind]
    truth = scipy.stats.trim_mean(draw(size=1_000_000), 0.25)
    found = interquartile_curve(draw(size=(1000, seeds)).T)  # every point is an experiment
    share = np.mean((found.low <= truth) & (found.high >= truth))
    assert 0.9 < share < 0.995
    if (kind, seeds) == ("normal", 3):
        assert share == pytest.approx(0.95, abs=0.015)


def test_coverage_of_what_several_tasks_say():
    """Three seeds of five tasks that differ: 95% intervals hold the true figures in 90% of cases at least."""
    rng = np.random.default_rng(1)
    means = np.linspace(0, 1, 5)
    many = rng.normal(means, 0.2, (100_000, 5))
    scores = rng.normal(means, 0.2, (200, 3, 5))
    assert covered(map(interquartile_mean, scores), scipy.stats.trim_mean(many.ravel(), 0.25)) >= 0.9
    profiles = [performance_profile(one, [0.5]) for one in scores]
    assert covered(profiles, (many > 0.5).mean()) >= 0.9
    others = rng.normal(means - 0.2, 0.2, (200, 3, 5))
    improvements = [probability_of_improvement(*pair) for pair in zip(scores, others, strict=True)]
    assert covered(improvements, scipy.stats.norm.cdf(0.5**0.5)) >= 0.9


def test_coverage_of_differences():
    """Seeds that make both alike: pairs tell more, and both kinds of interval hold the true difference."""
    rng = np.random.default_rng(2)
    common = rng.normal(size=(100, 5))
    scores, others = common + 0.3 * rng.normal(size=(100, 5)), common + 0.3 * rng.normal(size=(100, 5))
    made = {
        paired: [interquartile_difference(*pair, paired=paired) for pair in zip(scores, others, strict=True)]
        for paired in (True, False)
    }
    assert min(covered(found, 0) for found in made.values()) >= 0.92
    widths = {paired: np.median([found.high - found.low for found in of]) for paired, of in made.items()}
    assert widths[True] < widths[False] / 2


def test_curves_are_drawn_whole():
    """The interval at every point is that of the scores there, with the same draws."""
    curves = np.stack([SCORES[:, 0], 2 * SCORES[:, 0], OTHERS[:, 1]], axis=1)
    found = interquartile_curve(curves)
    assert found.value[2] == pytest.approx(interquartile_mean(OTHERS[:, 1]).value)
    for of_curve, of_point in zip(found, interquartile_mean(SCORES[:, 0]), strict=True):
        assert of_curve.shape == (3,)
        np.testing.assert_allclose(of_curve[:2], [of_point, 2 * of_point], rtol=1e-12, atol=1e-12)


def test_probability_of_improvement_by_hand():
    """Pairs within a task: in the first 3 of 4 are better, in the second 1 and one is equal."""
    scores, others = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 4.0], [2.0, 3.0]])
    assert probability_of_improvement(scores, others).value == pytest.approx((0.75 + 1.5 / 4) / 2)
    statistic = scipy.stats.mannwhitneyu(SCORES, OTHERS, axis=0).statistic / 100
    assert probability_of_improvement(SCORES, OTHERS).value == pytest.approx(statistic.mean())
    more_seeds = np.concatenate([OTHERS, OTHERS])
    assert probability_of_improvement(SCORES, more_seeds).value == pytest.approx(statistic.mean())


@pytest.mark.parametrize(("ahead", "all_of"), [(9, 9), (6, 9), (0, 9), (4.5, 9)])
def test_interval_of_newcombe(ahead, all_of):
    """Each end is where the figure found is 1.96 standard errors away, as Newcombe's equation has them (2006)."""
    others = {9: [0, 0, 0], 6: [0, 0, 9], 0: [9, 9, 9], 4.5: [0, 1.5, 9]}[ahead]
    found = probability_of_improvement([1.0, 1.5, 2.0], others)
    assert found.value == pytest.approx(ahead / all_of)
    for end in (found.low, found.high):
        if 0 < end < 1:
            more = (3 + 3) / 2 - 1
            variance = end * (1 - end) * (1 + more * ((1 - end) / (2 - end) + end / (1 + end))) / 9
            assert (found.value - end) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    assert (found.high == 1) == (ahead == 9) and (found.low == 0) == (ahead == 0)
    assert found.high - found.low > 0.4  # also where every run is ahead of every other
    mirrored = probability_of_improvement(others, [1.0, 1.5, 2.0])
    np.testing.assert_allclose([1 - mirrored.high, 1 - mirrored.low], [found.low, found.high], atol=1e-9)


def test_profiles_have_wilsons_interval():
    found = performance_profile(SCORES, THRESHOLDS)
    for threshold, low, high in zip(THRESHOLDS, found.low, found.high, strict=True):
        assert (low, high) == wilson_interval(SCORES.ravel() > threshold)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(seeds):
    scores = [[1.0, 2.0], [3.0, 5.0]][:seeds]
    for found in (
        interquartile_mean(scores),
        interquartile_curve(scores),
        interquartile_difference(np.ones(seeds), SCORES[:seeds, 0], paired=True),
        interquartile_difference(np.ones(seeds), SCORES[:, 0], paired=False),
        interquartile_difference(SCORES[:, 0], np.ones(seeds), paired=False),
        performance_profile(scores, [1.5]),
        probability_of_improvement(scores, OTHERS[:, :2]),
        probability_of_improvement(OTHERS[:, :2], scores),
    ):
        assert np.isfinite(found.value).all() and found.low is None and found.high is None


def test_the_same_scores_have_the_same_interval():
    assert interquartile_mean(SCORES) == interquartile_mean(SCORES.copy())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: interquartile_mean(np.zeros((2, 2, 2))), r"the shape \(2, 2, 2\): it must be \[seeds, tasks\]"),
        (lambda: interquartile_mean([]), r"the shape \(0, 1\)"),
        (lambda: performance_profile([1.0, np.nan], [0.5]), "not all finite"),
        (lambda: probability_of_improvement(SCORES, OTHERS[:, :2]), "scores are of 3 tasks and others of 2"),
        (lambda: interquartile_difference([1, 2, 3], [1, 2], paired=True), "3 scores cannot be paired with 2 others"),
        (lambda: interquartile_difference(SCORES, OTHERS, paired=True), r"the shape \(10, 3\): it must be \[seeds\]"),
    ],
    ids=["dimensions", "empty", "nan", "other tasks", "other seeds", "tasks"],
)
def test_bad_scores(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_interval_of_wilson():
    """8 of 10, as tables have it; and of 0 of 20 the upper end is z² / (20 + z²)."""
    assert wilson_interval([True] * 8 + [False] * 2) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(np.zeros(20)) == pytest.approx((0, 1.96**2 / (20 + 1.96**2)), abs=1e-4)
