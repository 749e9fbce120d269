"""What runs say when they are compared: the figures of `experiments.report`, as `report.json` has them.

`measure` collects the figures of each seed from the runs; what they say together is added by
`experiments.reporting.estimates`, from the runs' figures or from those of a `report.json`.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from experiments.config import config_to_dict
from experiments.reporting import matrix
from experiments.reporting.matrix import Matrix
from experiments.reporting.published import published
from experiments.runs.arms import Arm
from experiments.runs.folder import Run
from memrl.evaluation import (
    EpisodesEntry,
    Means,
    SavedEvaluation,
    WindowsEntry,
    episodes_of,
    main_measure,
    measured,
    returns_per_window,
    windows_of,
)
from memrl.memory import MEMORIES
from memrl.plotting import window_centres

POINTS = 100
"""Points of a learning curve, at most; each is the mean over the trials that ended since the one before."""

Figures = dict[str, Any]

Entry = TypeVar("Entry", WindowsEntry, EpisodesEntry)


def measure(arms: Sequence[Arm], matrices: Sequence[Matrix] = (), left_out: Sequence[str] = ()) -> Figures:
    """The figures of each seed, where `experiments.reporting.estimates` finds them.

    Args:
      arms, matrices: what is compared, which has been checked.
      left_out: the cells that cannot be, in words.
    """
    tasks = {task: [arm for arm in arms if arm.task == task] for task in dict.fromkeys(arm.task for arm in arms)}
    policies = {arm.policy: list(MEMORIES).index(arm.memory) for arm in arms}
    return {
        "seeds": list(arms[0].seeds),
        "policies": sorted(policies, key=lambda name: policies[name]),
        "arms": [describe(arm) for arm in arms],
        "left_out": list(left_out),
        "tasks": {task: measure_task(members) for task, members in tasks.items()},
        "matrices": [cross_tested(result) for result in matrices],
        "aggregate": aggregate(tasks) if len(tasks) > 1 else None,
    }


def describe(arm: Arm) -> Figures:
    """What was run."""
    records = [record for run in arm.runs for record in run.records]
    commits = {
        f"{record['commit'][:10]}{' +' if record['uncommitted_changes'] else ''}"
        for record in records
        if record["commit"]
    }
    seconds = [run.seconds for run in arm.runs if run.seconds is not None]
    return {
        "label": arm.label,
        "policy": arm.policy,
        "task": arm.task,
        "memory": arm.memory,
        "env": config_to_dict(arm.config)["env"],
        "configs": sorted({run.config.name for run in arm.runs}),
        "folders": [str(run.folder) for run in arm.runs],
        "total_steps": arm.config.num_updates * arm.config.steps_per_update,
        "seconds": sum(seconds) if len(seconds) == len(arm.runs) else None,
        "commits": sorted(commits),
        "commands": list(dict.fromkeys(shlex.join(record["command"]) for record in records)),
    }


def measure_task(arms: Sequence[Arm]) -> Figures:
    """The figures of the arms that face the same task."""
    evaluation = arms[0].runs[0].evaluation
    measures = main_measures(evaluation)
    figures = {
        "num_trials": evaluation["num_trials"],
        "trial_length": evaluation["trial_length"],
        "players": evaluation["players"],
        "main": {
            name: {arm.policy: {"seeds": [of(run.evaluation, None) for run in arm.runs]} for arm in arms}
            for name, of in measures.items()
        },
        "main_of_players": {
            name: {player: of(evaluation, player) for player in evaluation["players"]} for name, of in measures.items()
        },
        "learning": learning(arms),
        "published": compare_published(arms),
    }
    if "windows" in evaluation:
        figures |= {"horizons": horizons(arms), "memory": memory_of_windows(arms)}
    else:
        figures |= {"memory": memory_of_episodes(arms)}
    if len({entry["split"] for entry in evaluation.get("episodes", [])}) > 1:
        figures["settings"] = settings(arms)
    return figures


Measure = Callable[[SavedEvaluation, str | None], float]
"""A figure of an evaluation, of the policy or, by name, of a player."""


def main_measures(evaluation: SavedEvaluation) -> dict[str, Measure]:
    """The figures of the setting trained in, by name, the most important first."""
    if "windows" in evaluation:
        return {"return in a trial": trial_return, "return in the last window": last_window}
    success = main_measure(episodes_of(evaluation)[:1]) == "success"
    return ({"success": episode_success} if success else {}) | {"return": episode_return}


def trial_return(evaluation: SavedEvaluation, player: str | None) -> float:
    """The return in a trial of the trained length."""
    return sum(returns_per_window(windows_of(evaluation)[0], player))


def last_window(evaluation: SavedEvaluation, player: str | None) -> float:
    """The return in its last window."""
    return returns_per_window(windows_of(evaluation)[0], player)[-1]


def _key(player: str | None) -> str:
    return "return_per_window" if player is None else f"{player}_return_per_window"


def episode_return(evaluation: SavedEvaluation, player: str | None) -> float:
    """The return of an episode in the setting trained in."""
    return _means(episodes_of(evaluation)[0], player)["return"]["mean"]


def episode_success(evaluation: SavedEvaluation, player: str | None) -> float:
    """The success in the setting trained in."""
    return measured(_means(episodes_of(evaluation)[0], player), "success")["mean"]


def _means(entry: EpisodesEntry, player: str | None) -> Means:
    return entry if player is None else entry["players"][player]


def learning(arms: Sequence[Arm]) -> Figures | None:
    """Learning curves, and the players' returns in a trial; None where a run has no metrics."""
    if any(not run.metrics for arm in arms for run in arm.runs):
        return None
    evaluation = arms[0].runs[0].evaluation
    of_trial = trial_return if "windows" in evaluation else episode_return
    known = evaluation["players"]
    references = {name: of_trial(evaluation, name) for name in known if name in (known[0], "memoryless")}
    curves = {}
    for arm in arms:
        steps = arm.config.num_updates * arm.config.steps_per_update
        edges = np.linspace(0, steps, min(POINTS, arm.config.num_updates) + 1)
        returns = np.array([binned(run, edges) for run in arm.runs])
        told = np.isfinite(returns).all(axis=0)
        if told.any():
            curves[arm.policy] = {"env_steps": edges[1:][told], "seeds": returns[:, told]}
    return {"curves": curves, "references": references}


def binned(run: Run, edges: np.ndarray) -> np.ndarray:
    """The mean return of the trials that ended between each two `edges`, in environment steps; NaN if none did."""
    lines = [line for line in run.metrics if line["return"] is not None]
    steps, returns, trials = (np.array([line[name] for line in lines]) for name in ("env_steps", "return", "trials"))
    index = np.searchsorted(edges, steps) - 1
    totals, counts = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    np.add.at(totals, index, returns * trials)
    np.add.at(counts, index, trials)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def horizons(arms: Sequence[Arm]) -> Figures:
    """The return over time in the longest trial, and in the last window of each; the whole past is remembered."""
    evaluation = arms[0].runs[0].evaluation
    lengths = sorted({entry["horizon"] for entry in windows_of(evaluation)})
    assert "window_length" in evaluation  # where there are windows
    window, players = evaluation["window_length"], evaluation["players"]

    def returns(of: Run, length: int) -> list[float]:
        return _unrestricted(windows_of(of.evaluation), length)["return_per_window"]

    longest = _unrestricted(windows_of(evaluation), lengths[-1])
    return {
        "window_length": window,
        "trained": evaluation["trial_length"],
        "time": window_centres(longest, window),
        "curves": {arm.policy: {"seeds": [returns(run, lengths[-1]) for run in arm.runs]} for arm in arms},
        "players": {name: returns_per_window(longest, name) for name in players},
        "lengths": lengths,
        "last_window": {
            arm.policy: [{"seeds": [returns(run, length)[-1] for run in arm.runs]} for length in lengths]
            for arm in arms
        },
        "last_window_of_players": {
            name: [returns_per_window(_unrestricted(windows_of(evaluation), length), name)[-1] for length in lengths]
            for name in players
        },
    }


def _unrestricted(entries: Sequence[WindowsEntry], horizon: int) -> WindowsEntry:
    return next(entry for entry in entries if entry["horizon"] == horizon and entry["budget"] is None)


def memory_of_windows(arms: Sequence[Arm]) -> Figures:
    """What is reached in the last window of the longest trial with each size of memory."""
    horizon = max(entry["horizon"] for entry in windows_of(arms[0].runs[0].evaluation))

    def entries(of: Run) -> list[WindowsEntry]:
        return [entry for entry in windows_of(of.evaluation) if entry["horizon"] == horizon]

    return memory(arms, horizon, "return in the last window", entries, lambda entry: entry["return_per_window"][-1])


def memory_of_episodes(arms: Sequence[Arm]) -> Figures:
    """What is reached in the setting trained in with each size of memory."""
    first = episodes_of(arms[0].runs[0].evaluation)[0]
    measure = main_measure([first])

    def entries(of: Run) -> list[EpisodesEntry]:
        return [entry for entry in episodes_of(of.evaluation) if entry["split"] is None]

    def score(entry: EpisodesEntry) -> float:
        return measured(entry, measure)["mean"]

    return memory(arms, first["horizon"], measure, entries, score)


def memory(
    arms: Sequence[Arm],
    horizon: int,
    measure: str,
    entries: Callable[[Run], list[Entry]],
    score: Callable[[Entry], float],
) -> Figures:
    """What sizes of memory cost, and what is reached with them.

    Args:
      arms: whose.
      horizon: steps of the trials.
      measure: name of what is reached.
      entries: the entries of a run's evaluation, one for each size.
      score: what is reached in one of them.
    """
    sizes = {}
    for arm in arms:
        of_runs = [entries(run) for run in arm.runs]
        whole = arm.config.memory == arm.config.memory.with_capacity(arm.config.trial_length)
        as_trained = "all" if whole or horizon > arm.config.trial_length else "as trained"
        sizes[arm.policy] = [
            {
                "budget": alike[0]["budget"],
                "remembers": as_trained if alike[0]["budget"] is None else f"{alike[0]['budget']} steps",
                "state_bytes_per_env": alike[0]["state_bytes_per_env"],
                "tokens_attended": float(np.mean([entry["tokens_attended"] for entry in alike])),
                "seeds": [score(entry) for entry in alike],
            }
            for alike in zip(*of_runs, strict=True)
        ]
    return {"horizon": horizon, "measure": measure, "sizes": sizes}


def settings(arms: Sequence[Arm]) -> Figures:
    """How each arm does in each setting; the whole past is remembered."""
    evaluation = arms[0].runs[0].evaluation
    first = [entry for entry in episodes_of(evaluation) if entry["budget"] is None]
    measure = main_measure(entry for arm in arms for run in arm.runs for entry in episodes_of(run.evaluation))

    def score(entry: EpisodesEntry, player: str | None = None) -> float:
        return measured(_means(entry, player), measure)["mean"]

    return {
        "measure": measure,
        "names": [entry["split"] or "as trained" for entry in first],
        "policies": {
            arm.policy: [
                {"seeds": [score(entry) for entry in alike]}
                for alike in zip(
                    *([entry for entry in episodes_of(run.evaluation) if entry["budget"] is None] for run in arm.runs),
                    strict=True,
                )
            ]
            for arm in arms
        },
        "players": {name: [score(entry, name) for entry in first] for name in evaluation["players"]},
    }


def cross_tested(result: Matrix) -> Figures:
    """The figures of a matrix of what was trained and what is tested; None where a policy cannot face a setting."""
    measure_of_all, policies, players = matrix.figures(result)
    names = [setting["name"] for setting in result["settings"]]
    return {
        "measure": measure_of_all,
        "num_trials": result["num_trials"],
        "names": names,
        "trained": {arm["label"]: arm["trained"] for arm in result["arms"]},
        "policies": {
            label: [{"seeds": row[name]} if name in row else None for name in names] for label, row in policies.items()
        },
        "players": {player: [row.get(name) for name in names] for player, row in players.items()},
    }


def compare_published(arms: Sequence[Arm]) -> list[Figures]:
    """Figures of papers for the same setting and memory, beside ours."""
    rows = []
    for arm in arms:
        for figure in published(config_to_dict(arm.config)["env"], arm.memory):
            found = [_published_measure(run.evaluation, figure.split, figure.measure) for run in arm.runs]
            ours = [value for value in found if value is not None]
            if len(ours) == len(found):
                rows.append(
                    {
                        "policy": arm.policy,
                        "setting": figure.split or "as trained",
                        "measure": figure.measure,
                        "ours": {"seeds": ours},
                        "our_mean": float(np.mean(ours)),
                        "published": figure.value,
                        "source": figure.source,
                        "confidence": figure.confidence,
                    }
                )
    return rows


def _published_measure(evaluation: SavedEvaluation, split: str | None, measure: str) -> float | None:
    """Our figure in a setting; None if it was not evaluated."""
    if split is None and "windows" in evaluation:
        return trial_return(evaluation, None) if measure == "return" else None
    entries = [entry for entry in evaluation.get("episodes", []) if entry["split"] == split]
    if not entries:
        return None
    told = entries[0]["return"] if measure == "return" else entries[0]["outcomes"].get(measure)
    return told["mean"] if told else None


def aggregate(tasks: Mapping[str, Sequence[Arm]]) -> Figures:
    """Normalised scores over several tasks, of the policies that are in all of them."""
    scores: dict[str, list[list[float]]] = {}
    normalised, left_out = {}, {}
    for task, arms in tasks.items():
        evaluation = arms[0].runs[0].evaluation
        measure, of = next(iter(main_measures(evaluation).items()))
        if not evaluation["players"]:
            left_out[task] = "no player shows what can be reached"
            continue
        upper = evaluation["players"][0]
        high = of(evaluation, upper)
        low, lower = 0.0, "no return"
        without = next((arm for arm in arms if arm.memory == "none"), None)
        if "memoryless" in evaluation["players"]:
            low, lower = of(evaluation, "memoryless"), "the player memoryless"
        elif without is not None:
            low, lower = float(np.mean([of(run.evaluation, None) for run in without.runs])), "the policy without memory"
        if high <= low:
            left_out[task] = f"{lower} reaches as much as the player {upper}"
            continue
        normalised[task] = {"measure": measure, "0": [lower, low], "1": [f"the player {upper}", high]}
        for arm in arms:
            values = [(of(run.evaluation, None) - low) / (high - low) for run in arm.runs]
            scores.setdefault(arm.policy, []).append(values)
    order = [policy for policy in scores if len(scores[policy]) == len(normalised)]
    return {
        "tasks": normalised,
        "left_out": left_out,
        "policies_left_out": sorted({arm.policy for arms in tasks.values() for arm in arms} - set(order)),
        "scores": {policy: np.array(scores[policy]).T for policy in order},
    }
