"""Figures over seeds and tasks: worked by hand, compared with SciPy and with the library of the method's authors."""

import numpy as np
import pytest
import scipy.stats

from memrl.statistics import (
    interquartile_curve,
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
    """Those of rliable 1.2.0 (with arch 7.2.0 and pandas 2.3.3) for the same scores.

    `get_interval_estimates` of `aggregate_iqm` with 50,000 draws and of `probability_of_improvement` with 20,000, and
    `create_performance_profile` with 20,000. Its intervals vary by 0.001 from call to call, ours by about 0.003 from
    seed to seed.
    """
    mean = interquartile_mean(SCORES)
    assert mean.value == pytest.approx(0.35663387)
    assert (mean.low, mean.high) == (pytest.approx(0.2833, abs=0.005), pytest.approx(0.4167, abs=0.005))
    improvement = probability_of_improvement(SCORES, OTHERS)
    assert improvement.value == pytest.approx(0.64333333)
    assert (improvement.low, improvement.high) == (pytest.approx(0.4967, abs=0.01), pytest.approx(0.7801, abs=0.01))
    profile = performance_profile(SCORES, THRESHOLDS)
    np.testing.assert_allclose(profile.value, [0.73333333, 0.63333333, 0.4, 0.1, 0], atol=1e-8)
    # Shares of 30 runs: a percentile may fall on the next.
    np.testing.assert_allclose(profile.low, [0.63333333, 0.56666667, 0.33333333, 0, 0], atol=1 / 30 + 1e-8)
    np.testing.assert_allclose(profile.high, [0.83333333, 0.66666667, 0.5, 0.2, 0], atol=1 / 30 + 1e-8)


def test_tasks_are_drawn_apart():
    """Where seeds of a task agree, nothing is uncertain, however much tasks differ."""
    scores = np.repeat([[0.0, 1.0, 5.0, 6.0]], 5, axis=0)
    assert interquartile_mean(scores) == (3, 3, 3)
    profile = performance_profile(scores, [0.5, 5.5])
    assert profile.value.tolist() == profile.low.tolist() == profile.high.tolist() == [0.75, 0.25]


def test_coverage():
    """How often intervals for the mean of normal scores hold it: what the docstring of the module says."""
    draws = np.random.default_rng(0).normal(size=(500, 10))
    for seeds, share in ((10, 0.94), (5, 0.91), (3, 0.76), (2, 0.51)):
        found = interquartile_curve(draws[:, :seeds].T)  # every point is an experiment
        assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(share, abs=0.03)


def test_curves_are_drawn_whole():
    """The interval at every point is that of the scores there, with the same draws."""
    curves = np.stack([SCORES[:, 0], 2 * SCORES[:, 0], OTHERS[:, 1]], axis=1)
    found = interquartile_curve(curves)
    assert found.value[2] == pytest.approx(interquartile_mean(OTHERS[:, 1]).value)
    for of_curve, of_point in zip(found, interquartile_mean(SCORES[:, 0]), strict=True):
        assert of_curve.shape == (3,)
        np.testing.assert_allclose(of_curve[:2], [of_point, 2 * of_point], rtol=1e-12)


def test_probability_of_improvement_by_hand():
    """Pairs within a task: in the first 3 of 4 are better, in the second 1 and one is equal."""
    scores, others = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 4.0], [2.0, 3.0]])
    assert probability_of_improvement(scores, others).value == pytest.approx((0.75 + 1.5 / 4) / 2)
    statistic = scipy.stats.mannwhitneyu(SCORES, OTHERS, axis=0).statistic / 100
    assert probability_of_improvement(SCORES, OTHERS).value == pytest.approx(statistic.mean())
    more_seeds = np.concatenate([OTHERS, OTHERS])
    assert probability_of_improvement(SCORES, more_seeds).value == pytest.approx(statistic.mean())


def test_one_seed_has_no_interval():
    for found in (
        interquartile_mean([[1.0, 2.0]]),
        interquartile_curve([[1.0, 2.0]]),
        performance_profile([[1.0, 2.0]], [1.5]),
        probability_of_improvement([[1.0, 2.0]], OTHERS[:, :2]),
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
    ],
    ids=["dimensions", "empty", "nan", "other tasks"],
)
def test_bad_scores(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_interval_of_wilson():
    """8 of 10, as tables have it; and of 0 of 20 the upper end is z² / (20 + z²)."""
    assert wilson_interval([True] * 8 + [False] * 2) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(np.zeros(20)) == pytest.approx((0, 1.96**2 / (20 + 1.96**2)), abs=1e-4)
