"""What the seeds say together: intervals, differences and scores, added to the figures of each seed.

They are made from what `report.json` keeps, so that a report can be made again when its runs are gone.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from experiments.reporting.table import scale_of
from memrl.statistics import (
    INTERVAL,
    Estimate,
    interquartile_curve,
    interquartile_difference,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

THRESHOLDS = np.linspace(0, 1, 101)
"""Normalised scores at which a performance profile is drawn."""
FEW_POLICIES = 6
"""Up to so many policies every two are compared; of more, each is compared with the best."""
MAIN = ("success", "return", "return in a trial", "return in the last window")
"""Figures of the setting trained in, as the evaluations have them; shares are made from them."""

Figures = dict[str, Any]


def estimated(figures: Figures) -> Figures:
    """`figures`, of the runs or of a `report.json`, with all that follows from those of each seed."""
    aggregate = figures["aggregate"]
    return {
        "interval": INTERVAL,
        **{name: value for name, value in figures.items() if name != "interval"},
        "tasks": {task: _of_task(found) for task, found in figures["tasks"].items()},
        "matrices": [_cross_tested(found) for found in figures["matrices"]],
        "aggregate": None if aggregate is None else _aggregate(aggregate),
    }


def _of_task(found: Figures) -> Figures:
    main = {name: of for name, of in found["main"].items() if name in MAIN}
    players = {name: of for name, of in found["main_of_players"].items() if name in MAIN}
    seeds = {name: {policy: one["seeds"] for policy, one in of.items()} for name, of in main.items()}
    shares, shares_of_players = _shares(found, seeds, players)
    made = {
        **found,
        "main": {
            name: {policy: estimate(scores, name) for policy, scores in of.items()}
            for name, of in (seeds | shares).items()
        },
        "main_of_players": players | shares_of_players,
        "published": [row | {"ours": estimate(row["ours"]["seeds"], row["measure"])} for row in found["published"]],
        "memory": _of_memory(found["memory"]),
    }
    # Where success is told, the return says nothing else.
    compared = {name: (name, of) for name, of in seeds.items() if name == "success" or "success" not in seeds}
    if found["learning"] is not None:
        made["learning"] = found["learning"] | {"curves": _curves(found["learning"]["curves"])}
    if over := found.get("horizons"):
        made["horizons"] = _of_horizons(over)
        for index, length in enumerate(over["lengths"]):
            if length != found["trial_length"]:
                row = {policy: of[index]["seeds"] for policy, of in over["last_window"].items()}
                compared[f"return in the last window of {length} steps"] = ("return", row)
    if split := found.get("settings"):
        rows = {
            policy: [estimate(one["seeds"], split["measure"]) for one in row]
            for policy, row in split["policies"].items()
        }
        made["settings"] = split | {"policies": rows}
        for index, name in enumerate(split["names"]):
            if name != "as trained":
                row = {policy: of[index]["seeds"] for policy, of in rows.items()}
                compared[f"{split['measure']}, {name}"] = (split["measure"], row)
    return made | {"differences": _differences(compared)}


def estimate(seeds: Sequence[float], measure: str) -> Figures:
    """A figure of each seed, and what they say together."""
    lowest, highest = _limits(measure)
    made = interquartile_mean(seeds, (lowest, highest))
    return {**_plain(made), "min": min(seeds), "max": max(seeds), "seeds": list(seeds)}


def _limits(measure: str) -> tuple[float, float]:
    """What a figure cannot be below and above."""
    return (0.0, 1.0) if measure == "success" else (-np.inf, np.inf)


def _plain(found: Estimate) -> Figures:
    """As JSON has it: None where there is no interval."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return None if value is None or np.isnan(value) else float(value)

    return {name: plain(None if one is None else np.asarray(one).tolist()) for name, one in found._asdict().items()}


def _shares(
    found: Figures, seeds: Mapping[str, Mapping[str, Sequence[float]]], players: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, float]]]:
    """Returns as shares of what players reach, of each seed and of the players, by the names of the figures.

    The return in the last window is measured against what players reach in a window on average.
    """
    whole = next((name for name in ("return in a trial", "return") if name in seeds), None)
    if whole is None or (scale := scale_of(players[whole])) is None or scale.share(scale.low) is None:
        return {}, {}
    windows = (
        {"return in the last window": found["trial_length"] / over["window_length"]}
        if (over := found.get("horizons"))
        else {}
    )
    of_seeds, of_players = {}, {}
    for name, parts in {whole: 1, **windows}.items():
        title = f"{name.removeprefix('return in a ').removeprefix('return in the ')}, share {scale.name}"
        of_seeds[title] = {
            policy: [scale.share(score * parts) for score in scores] for policy, scores in seeds[name].items()
        }
        of_players[title] = {player: scale.share(value * parts) for player, value in players[name].items()}
    return of_seeds, of_players


def _differences(compared: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]]) -> dict[str, list[Figures]]:
    """How policies differ, by figure: every two of few policies, of many each and the one with the highest mean.

    Args:
      compared: what each figure measures, and its value for each seed, by policy.
    """
    found = {}
    pairs: list[tuple[str, str]] = []
    for name, (measure, scores) in compared.items():
        order = sorted(scores, key=lambda policy: -float(np.mean(scores[policy])))
        if len(order) > FEW_POLICIES:
            pairs = [(policy, order[0]) for policy in scores if policy != order[0]]
        elif not pairs:
            pairs = list(combinations(order, 2))
        found[name] = [
            {"policy": one, "other": other, **difference(scores[one], scores[other], measure)} for one, other in pairs
        ]
    return found


def difference(scores: Sequence[float], others: Sequence[float], measure: str) -> Figures:
    """What two rows of figures, of the same seeds, differ by."""
    lowest, highest = _limits(measure)
    limits = (lowest - highest, highest - lowest)
    return _plain(interquartile_difference(scores, others, paired=True, limits=limits))


def _curves(curves: Mapping[str, Figures]) -> dict[str, Figures]:
    """Curves with their bands; without where only what the seeds said together was kept."""
    unknown = {"low": None, "high": None}
    return {
        policy: one | (_plain(interquartile_curve(one["seeds"])) if "seeds" in one else unknown)
        for policy, one in curves.items()
    }


def _of_horizons(over: Figures) -> Figures:
    rows = {}
    for policy, row in over["last_window"].items():
        rows[policy] = [estimate(one["seeds"], "return") for one in row]
        for one in rows[policy][1:]:
            one["from_first"] = difference(one["seeds"], row[0]["seeds"], "return")
    return over | {"curves": _curves(over["curves"]), "last_window": rows}


def _of_memory(found: Figures) -> Figures:
    sizes = {}
    for policy, row in found["sizes"].items():
        sizes[policy] = [size | estimate(size["seeds"], found["measure"]) for size in row]
        for size in sizes[policy][1:]:
            size["from_first"] = difference(size["seeds"], row[0]["seeds"], found["measure"])
    return found | {"sizes": sizes}


def _cross_tested(found: Figures) -> Figures:
    rows = {
        label: [None if one is None else estimate(one["seeds"], found["measure"]) for one in row]
        for label, row in found["policies"].items()
    }
    return found | {"policies": rows}


def _aggregate(found: Figures) -> Figures:
    scores = {policy: np.asarray(matrix) for policy, matrix in found["scores"].items()}
    return found | {
        "interquartile_mean": {policy: _plain(interquartile_mean(matrix)) for policy, matrix in scores.items()},
        "profile": {
            "thresholds": THRESHOLDS,
            **{policy: _plain(performance_profile(matrix, THRESHOLDS)) for policy, matrix in scores.items()},
        },
        "improvement": {
            one: {
                other: _plain(probability_of_improvement(scores[one], scores[other]))
                for other in scores
                if other != one
            }
            for one in scores
        },
    }
