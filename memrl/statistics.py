"""What a few runs say: interquartile means, their differences, performance profiles, probabilities of improvement.

As Agarwal et al. (Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv 2108.13264) ask for, but
with intervals that hold for a few seeds. Theirs are percentiles of a bootstrap over seeds, stratified by task; of those
that are to hold the true figure in 95% of cases, with 3 seeds some 75% do, with 5 some 90%. Here

    interquartile means, differences   the bootstrap widened twice, and at each end the farther counts: the figure ±
                                       z standard errors, and the percentiles at Φ(±z) (Hesterberg 2015,
                                       expanded), z = t √(n / (n - 1)) for n seeds and Student's t with the degrees of
                                       freedom that seeds and tasks leave
    performance profiles               Wilson's (1927), of the share of all runs above a score
    probabilities of improvement       Newcombe's (2006, method 5), of the Mann-Whitney statistic

How often each holds the true figure, and how wide it and its rivals are, is measured by
`python -m experiments.benchmark --intervals`; experiments/results/statistics has the figures. No interval can know what
no seed has shown: a failure of one seed in ten is seen in 41% of samples of 5. Hence there is no interval where all
seeds agree, and none for fewer than `FEWEST_SEEDS`.

The trimmed mean, the bootstrap and Wilson's interval are SciPy's, which JAX brings along. The library of Agarwal et
al., rliable 1.2.0, has not been released since 2024 and cannot be imported beside pandas 3.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

INTERVAL = "95% interval over seeds, of a bootstrap that is widened by Student's t for so few"
PROFILE_INTERVAL = "95% interval of Wilson"
IMPROVEMENT_INTERVAL = "95% interval of Newcombe"
FEWEST_SEEDS = 3
"""With fewer there are no intervals: of two seeds they would be three times as wide as of three."""
LEVEL = 0.95
RESAMPLES = 2_000
"""Times that the seeds are drawn again."""
BATCH = 500
"""Resamples computed at a time, which bounds the memory needed."""
TINY = 1e-12
"""A standard error that is nothing but the rounding of sums, of figures of size 1 or less."""


class Estimate(NamedTuple):
    """A figure, or an array of them, with its interval.

    `low` and `high` are None where there are fewer than `FEWEST_SEEDS`, and NaN where all seeds agree.
    """

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def interquartile_mean(scores: ArrayLike, limits: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """The mean of the middle half of all scores `[seeds, tasks]` together, or `[seeds]` of one task.

    A quarter of the scores, rounded down, is left out at each end: of three scores none, of five one. The interval is
    cut off at `limits`, beyond which no score can be.
    """
    scores = _matrix(scores)
    seeds, tasks = scores.shape
    value, drawn = _bootstrap([*scores.T], lambda *tasks: _trimmed_mean(np.concatenate(tasks, axis=-1)))
    return _widened(value, drawn, seeds, tasks * (seeds - 1), limits)


def interquartile_curve(scores: ArrayLike) -> Estimate:
    """The interquartile mean over seeds at each point, `[points]`, of curves `[seeds, points]`.

    Whole curves are drawn again. The interval is that of each point by itself.
    """
    scores = _matrix(scores)
    value, drawn = _bootstrap([scores.T], _trimmed_mean)
    return _widened(value, drawn, len(scores), len(scores) - 1)


def interquartile_difference(
    scores: ArrayLike, others: ArrayLike, *, paired: bool, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The interquartile mean of scores `[seeds]` less that of others `[other seeds]`, of the same task.

    Args:
      scores: of one policy.
      others: of the other.
      paired: whether the two have the same seeds, in the same order. Both are then drawn together, which is right
        however much a seed makes them alike; else each by itself, and the interval is ± standard errors with Welch's
        degrees of freedom.
      limits: of the difference; the interval is cut off there.
    """
    scores, others = _of_one_task(scores), _of_one_task(others)
    if paired:
        if len(scores) != len(others):
            raise ValueError(f"{len(scores)} scores cannot be paired with {len(others)} others.")
        value, drawn = _bootstrap([scores, others], lambda x, y: _trimmed_mean(x) - _trimmed_mean(y), paired=True)
        return _widened(value, drawn, len(scores), len(scores) - 1, limits)
    (value, drawn), (other, other_drawn) = (_bootstrap([one], _trimmed_mean) for one in (scores, others))
    if drawn is None or other_drawn is None:
        return Estimate(value - other, None, None)
    seeds = np.array([len(scores), len(others)])
    parts = np.array([drawn.var(ddof=1), other_drawn.var(ddof=1)]) * seeds / (seeds - 1)
    if np.sqrt(parts.sum()) < TINY * max(1, abs(value), abs(other)):
        return Estimate(value - other, np.array(np.nan), np.array(np.nan))
    away = np.sqrt(parts.sum()) * _quantile_of_t(parts.sum() ** 2 / (parts**2 / (seeds - 1)).sum())
    return Estimate(value - other, *np.clip([value - other - away, value - other + away], *limits))


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over the last axis of `[.., B]`, B at least 2."""
    return values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])


def wilson_interval(hits: ArrayLike) -> tuple[float, float]:
    """The 95% interval of a share, of which `hits`, bool `[N]`, are a sample (Wilson 1927). Also near 0 and 1."""
    from scipy import stats

    hits = np.asarray(hits)
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Estimate:
    """The share of runs with a score above each threshold, `[thresholds]`, of scores `[seeds, tasks]`.

    The interval is as if runs of all tasks were alike: too wide, if anything, where tasks differ.
    """
    scores = _matrix(scores)
    above = scores.ravel() > np.asarray(thresholds, float)[:, None]
    if len(scores) < FEWEST_SEEDS:
        return Estimate(above.mean(axis=1), None, None)
    return Estimate(above.mean(axis=1), *np.array([wilson_interval(runs) for runs in above]).T)


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> Estimate:
    """How probable it is that a run has a higher score than one of the others, the mean over tasks.

    Args:
      scores: `[seeds, tasks]`.
      others: `[seeds, tasks]`, of the same tasks; the number of seeds may differ. Equal scores count half.

    The interval holds the probabilities θ from which the one found is within z standard errors, as large as they would
    be for θ; they are too large, if anything, where tasks differ.
    """
    from scipy import optimize, stats

    scores, others = _matrix(scores), _matrix(others)
    if scores.shape[1] != others.shape[1]:
        raise ValueError(f"scores are of {scores.shape[1]} tasks and others of {others.shape[1]}: it must be the same.")
    ahead = scores[:, None] - others
    value = ((ahead > 0) + 0.5 * (ahead == 0)).mean()
    if min(len(scores), len(others)) < FEWEST_SEEDS:
        return Estimate(value, None, None)
    z = stats.norm.ppf((1 + LEVEL) / 2)
    more = (len(scores) + len(others)) / 2 - 1

    def error(theta: float) -> float:
        alike = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return np.sqrt(theta * (1 - theta) * (1 + more * alike) / ahead.size)

    def lowest(found: float) -> float:
        # At 1 the error is 0 whatever was found: the end of the interval is the root below.
        below = min(found, 1 - 1e-9)
        if found <= 0:
            return 0.0
        return cast(float, optimize.brentq(lambda theta: found - theta - z * error(theta), 0, below))

    return Estimate(value, np.array(lowest(value)), np.array(1 - lowest(1 - value)))


def _matrix(scores: ArrayLike) -> np.ndarray:
    """Scores as `[seeds, tasks]`; ValueError if they are not, or not finite."""
    scores = np.asarray(scores, float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores have the shape {scores.shape}: it must be [seeds, tasks], neither of them 0.")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not all finite.")
    return scores


def _of_one_task(scores: ArrayLike) -> np.ndarray:
    """Scores as `[seeds]`; ValueError if they are not, or not finite."""
    matrix = _matrix(scores)
    if matrix.shape[1] != 1:
        raise ValueError(f"scores have the shape {matrix.shape}: it must be [seeds], of one task.")
    return matrix[:, 0]


def _trimmed_mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half over the last axis."""
    from scipy.stats import trim_mean  # half a second that others need not wait for

    return trim_mean(scores, 0.25, axis=-1)


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], paired: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """`statistic(*samples)`, and what it is of resamples `[.., RESAMPLES]`; None of fewer than `FEWEST_SEEDS`.

    Every sample `[.., seeds]` is drawn again by itself, or all alike if `paired`. The draws depend on nothing else: the
    same samples have the same interval.
    """
    from scipy.stats import bootstrap

    value = np.asarray(statistic(*samples))
    if samples[0].shape[-1] < FEWEST_SEEDS:
        return value, None
    found = bootstrap(
        samples,
        lambda *drawn, axis: statistic(*drawn),
        axis=-1,
        vectorized=True,
        paired=paired,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return value, found.bootstrap_distribution


def _quantile_of_t(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _widened(
    value: np.ndarray,
    drawn: np.ndarray | None,
    seeds: int,
    freedom: float,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """The interval around `value` from what resamples give, `drawn`; see the docstring of the module."""
    from scipy.stats import norm

    if drawn is None:
        return Estimate(value, None, None)
    z = _quantile_of_t(freedom) * math.sqrt(seeds / (seeds - 1))
    error = drawn.std(axis=-1, ddof=1)
    error = np.where(error > TINY * np.maximum(1, np.abs(value)), error, np.nan)
    lowest, highest = np.quantile(drawn, [norm.cdf(-z), norm.cdf(z)], axis=-1)
    low, high = np.minimum(value - z * error, lowest), np.maximum(value + z * error, highest)
    return Estimate(value, np.clip(low, *limits), np.clip(high, *limits))
