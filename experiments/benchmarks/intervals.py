"""How often intervals over seeds hold the true figure, for `experiments.benchmark --intervals`.

Seeds are drawn from populations whose figures are known, again and again, and each method makes its 95% interval of
each sample. Beside the methods of `memrl.statistics`, which are called as reports call them, stand the ones that were
not taken. For every method, population and number of seeds there are

    coverage   the share of the intervals that hold the true figure: 0.95 is right
    width      the median of their widths
    none       the share of samples without an interval, since all seeds agree; left out where there are none
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from memrl.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Estimate,
    interquartile_curve,
    interquartile_difference,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

EXPERIMENTS = 1_000
"""Samples of each size of one task; of all else, where intervals are made one by one, a fifth as many."""
TRUTH = 1_000_000
"""Draws from which the true figure of a population is taken."""
SEEDS = (2, 3, 5, 10, 20)
SEVERAL_TASKS_SEEDS = (3, 5, 10)
TRIALS = 64
"""Of which the success of each seed is the share, where seeds and trials are drawn again."""
RESAMPLES = 1_000
CHUNK = 200
"""Samples at a time, which bounds the memory needed."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Interval = tuple[np.ndarray, np.ndarray]


def failing(share: float | np.ndarray) -> Draw:
    """Success where a `share` of seeds fails, at 0.1 or so, and the others are just below 1."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        good, bad = 1 - rng.exponential(0.01, shape), rng.normal(0.1, 0.05, shape)
        return np.clip(np.where(rng.random(shape) < share, bad, good), 0, 1)

    return draw


RETURNS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape),
}
SUCCESSES: dict[str, Draw] = {
    "success, Beta(8, 0.8)": lambda rng, shape: rng.beta(8, 0.8, shape),
    "success, 1 of 10 fails": failing(0.1),
    "success, 1 of 5 fails": failing(0.2),
    "success, half fail": failing(0.5),
    "success, 1 or 0 (2 to 1)": lambda rng, shape: (rng.random(shape) < 2 / 3).astype(float),
}

COMPARED = ("normal", "exponential", "success, 1 of 5 fails")
"""Of these populations, in differences."""


def compare_intervals(experiments: int) -> dict[str, Any]:
    """Measures all methods; prints a table for each kind of figure, and returns the figures.

    Args:
      experiments: samples of each size.
    """
    figures: dict[str, Any] = {"experiments": experiments}
    for title, measure, number in (
        ("Interquartile mean (IQM) or mean over seeds, one task", of_one_task, experiments),
        ("Differences of two policies in one task", of_differences, experiments // 5),
        ("Interquartile mean over tasks", of_tasks, experiments // 5),
        ("Performance profile, at the median", of_profiles, experiments // 5),
        ("Probability of improvement", of_improvements, experiments // 5),
    ):
        figures[title] = measure(np.random.default_rng(0), number)
        print_table(title, figures[title])
    return figures


def of_one_task(rng: np.random.Generator, experiments: int) -> dict[str, Any]:
    """Figures by population, method and number of seeds."""
    figures: dict[str, Any] = {}
    for population, draw in (RETURNS | SUCCESSES).items():
        limits = (0.0, 1.0) if population in SUCCESSES else (-np.inf, np.inf)
        many = draw(rng, (TRUTH,))
        truths = {"IQM": float(iqm(many)), "mean": float(mean(many))}
        rows = figures[population] = {"IQM, widened bootstrap (taken)": {}}
        for seeds in SEEDS:
            samples = draw(rng, (experiments, seeds))
            found = interquartile_curve(samples.T)  # every point of the curve is a sample
            if found.low is not None and found.high is not None:
                interval = np.clip(found.low, *limits), np.clip(found.high, *limits)
                add(rows, "IQM, widened bootstrap (taken)", seeds, truths["IQM"], interval)
            for method, interval in rivals(rng, samples, population in SUCCESSES).items():
                add(rows, method, seeds, truths[method.partition(",")[0]], interval)
    return figures


def rivals(rng: np.random.Generator, samples: np.ndarray, success: bool) -> dict[str, Interval]:
    """What other methods make of samples `[experiments, seeds]`, by the figure and the method."""
    seeds, found = samples.shape[1], {}
    index = rng.integers(0, seeds, (RESAMPLES, seeds))
    parts = [samples[first : first + CHUNK] for first in range(0, len(samples), CHUNK)]
    for name, of in (("mean", mean), ("IQM", iqm)):
        drawn = np.concatenate([of(part[:, index]) for part in parts])  # [experiments, resamples]
        found[f"{name}, percentiles"] = percentiles(drawn)
        if seeds >= FEWEST_SEEDS:
            found[f"{name}, BCa"] = corrected(samples, of, drawn)
            errors = np.concatenate([error_of(of, part[:, index]) for part in parts])
            found[f"{name}, bootstrap-t"] = studentised(samples, of, drawn, errors)
        kept = seeds - 2 * int(0.25 * seeds) if of is iqm else seeds
        # The error is of a trimmed mean, with the degrees of freedom of what is kept (Tukey and McLaughlin, 1963).
        away = error_of(of, samples) * stats.t.ppf((1 + LEVEL) / 2, kept - 1)
        found[f"{name}, t"] = of(samples) - away, of(samples) + away
        if success:
            found[f"{name}, t of the logit"] = of_logit(of(samples), away)
            trials = np.concatenate([of(rng.binomial(TRIALS, part[:, index]) / TRIALS) for part in parts])
            found[f"{name}, percentiles over seeds and trials"] = percentiles(trials)
    return found


def mean(samples: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return samples.mean(axis=-1)


def iqm(samples: np.ndarray) -> np.ndarray:
    """The interquartile mean over the last axis."""
    return stats.trim_mean(samples, 0.25, axis=-1)


def error_of(of: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    """The standard error of `mean` or, by the winsorised variance, `iqm`."""
    seeds = samples.shape[-1]
    cut = int(0.25 * seeds) if of is iqm else 0
    ordered, kept = np.sort(samples, axis=-1), seeds - 2 * cut
    winsorised = np.clip(ordered, ordered[..., cut, None], ordered[..., seeds - cut - 1, None])
    return np.sqrt(winsorised.var(axis=-1) * seeds / (kept * (kept - 1)))


def percentiles(drawn: np.ndarray) -> Interval:
    """Of figures of resamples `[experiments, resamples]`."""
    low, high = np.percentile(drawn, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2], axis=1)
    return low, high


def corrected(samples: np.ndarray, of: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray) -> Interval:
    """Percentiles corrected for bias and acceleration (Efron, 1987)."""
    below = (drawn < of(samples)[:, None]).mean(axis=1) + (drawn == of(samples)[:, None]).mean(axis=1) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    left_out = np.stack([of(np.delete(samples, seed, axis=1)) for seed in range(samples.shape[1])], axis=1)
    away = left_out.mean(axis=1, keepdims=True) - left_out
    spread = 6 * (away**2).sum(axis=1) ** 1.5
    acceleration = np.divide((away**3).sum(axis=1), spread, out=np.zeros_like(spread), where=spread > 0)
    ordered, ends = np.sort(drawn, axis=1), []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + stats.norm.ppf(tail)
        rank = (RESAMPLES * stats.norm.cdf(bias + z / (1 - acceleration * z))).astype(int)
        ends.append(np.take_along_axis(ordered, np.minimum(rank, RESAMPLES - 1)[:, None], axis=1)[:, 0])
    return ends[0], ends[1]


def studentised(
    samples: np.ndarray, of: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray, errors: np.ndarray
) -> Interval:
    """Percentiles of how many of its own standard errors a resample is away; resamples without an error left out."""
    away = np.divide(drawn - of(samples)[:, None], errors, out=np.zeros_like(drawn), where=errors > 0)
    low, high = percentiles(away)
    return of(samples) - high * error_of(of, samples), of(samples) - low * error_of(of, samples)


def of_logit(value: np.ndarray, away: np.ndarray) -> Interval:
    """The interval of a share whose logit is ± as much; without width where the share is 0 or 1."""
    inside = (value > 0) & (value < 1)
    centre = np.where(inside, value, 0.5)
    logit, steps = np.log(centre / (1 - centre)), away / (centre * (1 - centre))
    low, high = (1 / (1 + np.exp(-np.clip(logit + sign * steps, -50, 50))) for sign in (-1, 1))
    return np.where(inside, low, value), np.where(inside, high, value)


def of_differences(rng: np.random.Generator, experiments: int) -> dict[str, Any]:
    """Of policies that do the same, with the same seeds or with others; seeds may make both alike."""
    figures: dict[str, Any] = {}
    for population, draw in (RETURNS | SUCCESSES).items():
        if population not in COMPARED:
            continue
        limits = (-1.0, 1.0) if population in SUCCESSES else (-np.inf, np.inf)
        for alike in (False, True) if population in RETURNS else (False,):
            rows = figures.setdefault(population + (", seeds make both alike" if alike else ""), {})
            for seeds in (seeds for seeds in SEEDS if seeds >= FEWEST_SEEDS):
                one, other = draw(rng, (experiments, seeds)), draw(rng, (experiments, seeds))
                if alike:  # half of the variance is common
                    common = draw(rng, (experiments, seeds))
                    one, other = one + common, other + common
                for name, number, paired in (
                    ("paired, widened bootstrap (taken)", seeds, True),
                    ("not paired, Welch (taken)", seeds, False),
                    ("not paired, Welch, others have 3", 3, False),
                ):
                    pairs = zip(one, other[:, :number], strict=True)
                    made = [interquartile_difference(x, y, paired=paired, limits=limits) for x, y in pairs]
                    add(rows, name, seeds, 0.0, ends(made))
    return figures


def of_tasks(rng: np.random.Generator, experiments: int) -> dict[str, Any]:
    """Of the scores of several tasks together."""
    figures: dict[str, Any] = {}
    for tasks in (3, 10):
        for population, draw in suites(tasks).items():
            truth = float(iqm(draw(rng, (TRUTH // tasks, tasks)).ravel()))
            rows = figures[f"{tasks} tasks, {population}"] = {}
            for seeds in SEVERAL_TASKS_SEEDS:
                samples = draw(rng, (experiments, seeds, tasks))
                made = [interquartile_mean(sample) for sample in samples]
                add(rows, "widened bootstrap (taken)", seeds, truth, ends(made))
                drawn = stratified(rng, samples, lambda runs: iqm(runs.reshape(len(runs), -1)))
                add(rows, "percentiles, stratified", seeds, truth, percentiles(drawn))
    return figures


def of_profiles(rng: np.random.Generator, experiments: int) -> dict[str, Any]:
    """Of the share of runs above the median of all."""
    figures: dict[str, Any] = {}
    for tasks in (1, 3, 10):
        for population, draw in suites(tasks).items():
            many = draw(rng, (TRUTH // tasks, tasks))
            threshold = float(np.median(many))
            rows, truth = figures.setdefault(f"{tasks} tasks, {population}", {}), float((many > threshold).mean())
            for seeds in SEVERAL_TASKS_SEEDS:
                samples = draw(rng, (experiments, seeds, tasks))
                made = [performance_profile(sample, [threshold]) for sample in samples]
                add(rows, "Wilson (taken)", seeds, truth, ends(made))
                drawn = stratified(rng, samples, lambda runs, at=threshold: (runs > at).mean(axis=(1, 2)))
                add(rows, "percentiles, stratified", seeds, truth, percentiles(drawn))
    return figures


def of_improvements(rng: np.random.Generator, experiments: int) -> dict[str, Any]:
    """Of runs being better than runs of the same kind that are moved by their standard deviation."""
    figures: dict[str, Any] = {}
    for tasks in (1, 3, 10):
        for population, draw in suites(tasks).items():
            many = draw(rng, (TRUTH // 10, tasks))
            moved = many.std(axis=0)
            other = draw(rng, (TRUTH // 10, tasks))
            ahead = [stats.mannwhitneyu(many[:, task] + moved[task], other[:, task])[0] for task in range(tasks)]
            truth, rows = float(np.mean(ahead) / len(many) ** 2), figures.setdefault(f"{tasks} tasks, {population}", {})
            for seeds in SEVERAL_TASKS_SEEDS:
                one = draw(rng, (experiments, seeds, tasks)) + moved
                others = draw(rng, (experiments, seeds, tasks))
                made = [probability_of_improvement(x, y) for x, y in zip(one, others, strict=True)]
                add(rows, "Newcombe (taken)", seeds, truth, ends(made))
                both = stratified(rng, np.concatenate([one, others], axis=2), improvement)
                add(rows, "percentiles, stratified", seeds, truth, percentiles(both))
    return figures


def improvement(runs: np.ndarray) -> np.ndarray:
    """Of runs `[resamples, seeds, 2 x tasks]` the share of pairs in which the first half is ahead."""
    one, other = np.split(runs, 2, axis=2)
    ahead = one[:, :, None] - other[:, None]
    return ((ahead > 0) + 0.5 * (ahead == 0)).mean(axis=(1, 2, 3))


def suites(tasks: int) -> dict[str, Draw]:
    """Populations of runs `[.., tasks]` of tasks that differ."""
    apart = np.linspace(0, 1, tasks)
    share = np.linspace(0.1, 0.5, tasks)
    return {
        "normal": lambda rng, shape: rng.normal(apart, 0.2, shape),
        "exponential": lambda rng, shape: apart + rng.exponential(0.2, shape),
        "success, 1 of 10 to half fail": lambda rng, shape: failing(share)(rng, shape),
    }


def stratified(rng: np.random.Generator, samples: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Figures `[experiments, resamples]` of samples `[experiments, seeds, tasks]`, seeds drawn again in each task."""
    _, seeds, tasks = samples.shape
    index = rng.integers(0, seeds, (RESAMPLES, seeds, tasks))
    return np.stack([of(sample[index, np.arange(tasks)]) for sample in samples])


def ends(made: Sequence[Estimate]) -> Interval:
    """The ends of intervals, each of one figure; NaN where there is none."""
    low, high = (np.array([np.squeeze(getattr(one, end)) for one in made], float) for end in ("low", "high"))
    return low, high


def add(rows: dict[str, Any], method: str, seeds: int, truth: float, interval: Interval) -> None:
    """Notes how often intervals hold the true figure, up to rounding."""
    low, high = (end[np.isfinite(interval[0])] for end in interval)
    held = (low <= truth + 1e-9) & (high >= truth - 1e-9)
    rows.setdefault(method, {})[seeds] = {
        "coverage": float(held.mean()) if len(held) else None,
        "width": float(np.median(high - low)) if len(held) else None,
        "none": 1 - len(held) / len(interval[0]),
    }


def print_table(title: str, figures: Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]) -> None:
    """Prints coverage and, in brackets, width, by number of seeds."""
    columns = sorted({seeds for rows in figures.values() for row in rows.values() for seeds in row})
    print(f"\n{title}\n{'':44}" + "".join(f"{f'{seeds} seeds':>21}" for seeds in columns))
    for population, rows in figures.items():
        print(population)
        for method, row in rows.items():
            print(f"  {method:42}" + "".join(f"{_cell(row.get(seeds)):>21}" for seeds in columns), flush=True)


def _cell(found: Mapping[str, float] | None) -> str:
    if found is None or found["coverage"] is None:
        return ""
    none = f" -{found['none']:.2f}" if found["none"] else ""
    return f"{found['coverage']:.3f} ({found['width']:.3g}){none}"
