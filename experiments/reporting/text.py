"""Writes the text of a report, in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.reporting.comparison import Figures
from experiments.reporting.figures import settings_matrix
from memrl.statistics import FEWEST_SEEDS, IMPROVEMENT_INTERVAL, INTERVAL, LEVEL, PROFILE_INTERVAL

COMMANDS = 10
"""Command lines that are shown; `report.json` has all."""


class Page:
    """Writes `report.md`."""

    def __init__(self, figures: Figures, pictures: Mapping[str, str]) -> None:
        """`figures` as `measure` returns them, `pictures` as `draw` does."""
        self.figures, self.pictures = figures, pictures
        self.lines: list[str] = []
        self.pictures_shown = 0
        self.single = len(figures["seeds"]) == 1
        self.intervals = len(figures["seeds"]) >= FEWEST_SEEDS

    def text(self) -> str:
        """The whole report."""
        arms = self.figures["arms"]
        self.lines.append("# Report")
        self._say(self._seeds())
        if left_out := self.figures["left_out"]:
            self._say(f"Cells that are not done, and left out: {'; '.join(left_out)}.")
        self._what_was_run(arms)
        for task, found in self.figures["tasks"].items():
            self._task(task, found)
        for number_of, found in enumerate(self.figures["matrices"], start=1):
            self._cross_tested(f"/matrix-{number_of}", found)
        if self.figures["aggregate"] is not None:
            self._aggregate(self.figures["aggregate"])
        self._commands(arms)
        return "\n".join(self.lines) + "\n"

    def _seeds(self) -> str:
        seeds = self.figures["seeds"]
        if self.single:
            return (
                f"One seed only, {seeds[0]}: there are no intervals, and nothing here shows what another seed would do."
            )
        number, named = len(seeds), ", ".join(map(str, seeds))
        if not self.intervals:
            return (
                f"{number} seeds only ({named}): figures are means over them at the end of training. With fewer than "
                f"{FEWEST_SEEDS} seeds there are no intervals."
            )
        told = (
            f"Figures are interquartile means over {number} seeds ({named}) at the end of training; in brackets is the "
            f"{INTERVAL}."
        )
        if number < 4:
            told += " Of so few seeds none is left out: it is their mean."
        unseen = 1 - (1 - LEVEL) ** (1 / number)
        return (
            f"{told} Where all seeds agree there is none: no interval knows what no seed has shown. If all {number} do "
            f"well, up to {unseen:.0%} of other seeds may still fail, at a confidence of {LEVEL:.0%}."
        )

    def _what_was_run(self, arms: Sequence[Figures]) -> None:
        self._title(2, "What was run")
        self._table(
            ["arm", "config", "memory", "environment", "seeds", "environment steps", "training time", "commit"],
            [
                [
                    arm["label"],
                    ", ".join(arm["configs"]),
                    arm["memory"],
                    arm["env"]["name"],
                    str(len(arm["folders"])),
                    f"{arm['total_steps']:,}",
                    clock(arm["seconds"]),
                    ", ".join(arm["commits"]),
                ]
                for arm in arms
            ],
        )
        if any(commit.endswith("+") for arm in arms for commit in arm["commits"]):
            self._say("A + behind a commit: with changes that were not committed.")
        self._say("Environment steps are those of a run, training time that of all runs of an arm together.")

    def _task(self, task: str, found: Figures) -> None:
        self._title(2, task)
        self._main(found)
        seeds = "one seed" if self.single else "the interquartile mean over seeds"
        if found["learning"] is not None:
            bands = self._bands(found["learning"]["curves"])
            self._picture(
                f"{task}/learning_curves",
                f"Return of training trials, {seeds}.{bands} Lines across: what players reach in such a trial.",
            )
        if over := found.get("horizons"):
            self._horizons(task, over, seeds)
        self._memory(task, found["memory"])
        if split := found.get("settings"):
            self._settings(task, split)
        if self.intervals and all(found["differences"].values()):
            self._differences(found["differences"])
        if found["published"]:
            self._published(task, found["published"])

    def _bands(self, curves: Mapping[str, Figures]) -> str:
        """What the bands of curves are."""
        if any(one["low"] is not None for one in curves.values()):
            return f" Bands: {INTERVAL}, at each point by itself."
        return " The figures of each seed were not kept, so there are no bands." if self.intervals else ""

    def _main(self, found: Figures) -> None:
        self._title(3, "In the setting trained in")
        measures = found["main"]
        head = ["policy"]
        for name in measures:
            head += [name] if self.single else [name, "least to most"]
        rows = []
        for policy in next(iter(measures.values())):
            row = [policy]
            for of_policy in measures.values():
                one = of_policy[policy]
                row += [interval(one)]
                row += [] if self.single else [f"{number(one['min'])} to {number(one['max'])}"]
            rows.append(row)
        for player in found["players"]:
            row = [f"*{player}*"]
            for of_players in found["main_of_players"].values():
                row += [number(of_players[player])] + [""] * (not self.single)
            rows.append(row)
        self._table(head, rows)
        told = f"{found['num_trials']} trials of {found['trial_length']} steps at most for each seed."
        if over := found.get("horizons"):
            told += f" A window has {over['window_length']} steps."
        told += "" if self.single else " Least and most are over seeds."
        self._say(told + (" In italics: reference players." if found["players"] else ""))

    def _horizons(self, task: str, over: Figures, seeds: str) -> None:
        self._title(3, "Longer trials" if len(over["lengths"]) > 1 else "Over a trial")
        self._picture(
            f"{task}/horizons",
            f"Return over a trial of {over['lengths'][-1]} steps with the whole past in memory, {seeds}."
            f"{self._bands(over['curves'])}",
        )
        if len(over["lengths"]) > 1:
            self._say(f"Return in the last {over['window_length']} steps of a trial, the whole past remembered:")
            first, *_, last = over["lengths"]
            change = [f"{last} less {first}"] if self.intervals else []
            head = ["policy", *(f"{length} steps" for length in over["lengths"]), *change]
            rows = [
                [policy, *map(interval, row), *(_difference(row[-1]["from_first"]) for _ in change)]
                for policy, row in over["last_window"].items()
            ]
            rows += [
                [f"*{name}*", *map(number, row), *("" for _ in change)]
                for name, row in over["last_window_of_players"].items()
            ]
            self._table(head, rows)
            if change:
                self._say(BOLD)

    def _memory(self, task: str, found: Figures) -> None:
        self._title(3, "What memory costs")
        several = any(len(sizes) > 1 for sizes in found["sizes"].values())
        change = ["less its first line"] if several and self.intervals else []
        self._table(
            ["policy", "remembers", "bytes of state", "tokens read per step", found["measure"], *change],
            [
                [
                    policy,
                    size["remembers"],
                    f"{size['state_bytes_per_env']:,}",
                    f"{size['tokens_attended']:.1f}",
                    interval(size),
                    *(_difference(size["from_first"]) if "from_first" in size else "" for _ in change),
                ]
                for policy, sizes in found["sizes"].items()
                for size in sizes
            ],
        )
        told = f"In trials of {found['horizon']} steps. Bytes are those of one environment."
        self._say(f"{told} {BOLD}" if change else told)
        bars = f" Bars: {INTERVAL}." if self.intervals else ""
        self._picture(f"{task}/memory", f"What is reached with memories of several sizes.{bars}")

    def _settings(self, task: str, split: Figures) -> None:
        self._title(3, "Other settings")
        # Settings are many and policies few, or the other way round: the longer of the two goes down the page.
        self._say(f"{split['measure'].capitalize()}, the whole past remembered:")
        rows = [["policy", *split["names"]]]
        rows += [[policy, *map(interval, row)] for policy, row in split["policies"].items()]
        rows += [[f"*{player}*", *map(number, row)] for player, row in split["players"].items()]
        if len(split["names"]) >= len(split["policies"]):
            rows = [list(column) for column in zip(*rows, strict=True)]
            rows[0][0] = "setting"
        self._table(rows[0], rows[1:])
        _, label, _ = settings_matrix(split)
        self._picture(f"{task}/settings", f"{label.capitalize()} of each policy in each setting.")

    def _differences(self, found: Mapping[str, Sequence[Figures]]) -> None:
        """Every two policies, a line for each two, or each policy and the best in a figure, a line for each policy."""
        self._title(3, "Differences")
        best = [{row["other"] for row in rows} for rows in found.values()]
        if any(len(others) > 1 for others in best):
            head = ["", *found]
            rows = [
                [f"{same[0]['policy']} less {same[0]['other']}", *map(_difference, same)]
                for same in zip(*found.values(), strict=True)
            ]
        else:
            head = ["policy", *(f"{name}, less {rows[0]['other']}" for name, rows in found.items())]
            by_policy = [{row["policy"]: _difference(row) for row in rows} for rows in found.values()]
            policies = dict.fromkeys(policy for row in by_policy for policy in row)
            rows = [[policy, *(row.get(policy, "") for row in by_policy)] for policy in policies]
        self._table(head, rows)
        self._say(f"{BOLD} Of all such intervals one in twenty leaves out 0 where there is no difference.")

    def _published(self, task: str, rows: Sequence[Figures]) -> None:
        self._title(3, "Beside published figures")
        self._table(
            ["policy", "setting", "measure", "ours", "our mean", "published", "source", "where from"],
            [
                [
                    row["policy"],
                    row["setting"],
                    row["measure"],
                    interval(row["ours"]),
                    number(row["our_mean"]),
                    number(row["published"]),
                    row["source"],
                    row["confidence"],
                ]
                for row in rows
            ],
        )
        self._say(
            "Published figures are means over seeds. Learning algorithms, budgets and the choice of checkpoints are "
            "those of the papers, not ours."
        )
        bars = f" Bars: {INTERVAL}." if self.intervals else ""
        self._picture(f"{task}/published", f"Our figures beside published ones.{bars}")

    def _cross_tested(self, picture: str, found: Figures) -> None:
        self._title(2, "Trained in one setting, tested in others")
        self._say(f"{found['measure'].capitalize()} in {found['num_trials']} trials for each seed:")
        rows = []
        for label, row in found["policies"].items():
            cells = []
            for name, one in zip(found["names"], row, strict=True):
                told = "" if one is None else interval(one)
                cells.append(f"**{told}**" if told and found["trained"][label] == name else told)
            rows.append([label, *cells])
        for player, row in found["players"].items():
            rows.append([f"*{player}*", *("" if value is None else number(value) for value in row)])
        self._table(["trained", *found["names"]], rows)
        self._say("Bold: the setting trained in." + (" In italics: reference players." if found["players"] else ""))
        self._picture(picture, f"{found['measure'].capitalize()} of each policy in each setting.")

    def _aggregate(self, found: Figures) -> None:
        self._title(2, "Over all tasks")
        if found["left_out"]:
            self._say(f"Left out: {'; '.join(f'{task}, since {why}' for task, why in found['left_out'].items())}.")
        if found["policies_left_out"]:
            self._say(f"Not in every task, and left out: {', '.join(found['policies_left_out'])}.")
        if not found["scores"]:
            self._say("No policy is in every task: name only runs of tasks that policies share.")
            return
        self._say("Scores are normalised to:")
        self._table(
            ["task", "measure", "0", "1"],
            [
                [task, one["measure"], *(f"{who}: {number(value)}" for who, value in (one["0"], one["1"]))]
                for task, one in found["tasks"].items()
            ],
        )
        self._table(
            ["policy", "interquartile mean of normalised scores"],
            [[policy, interval(one)] for policy, one in found["interquartile_mean"].items()],
        )
        bars = f" Bars: {INTERVAL}." if self.intervals else ""
        bands = f" Bands: {PROFILE_INTERVAL}." if self.intervals else ""
        self._picture("/interquartile_mean", f"Interquartile mean of normalised scores over all tasks.{bars}")
        self._picture("/performance_profile", f"Share of runs above each normalised score, over all tasks.{bands}")
        if len(found["improvement"]) > 1:
            told = f"; in brackets is the {IMPROVEMENT_INTERVAL}" if self.intervals else ""
            self._say(
                f"Probability that a run of the policy in the row is better than one of that in the column{told}."
            )
            names = list(found["improvement"])
            self._table(
                ["", *names],
                [
                    [
                        one,
                        *("" if one == other else interval(found["improvement"][one][other]) for other in names),
                    ]
                    for one in names
                ],
            )
            self._picture("/improvement", "Probability of improvement, the mean over tasks.")

    def _commands(self, arms: Sequence[Figures]) -> None:
        commands = list(dict.fromkeys(command for arm in arms for command in arm["commands"]))
        if not commands:
            return
        self._title(2, "Command lines")
        self._say("What trained the runs:")
        more = len(commands) - COMMANDS
        self._say(
            "\n".join(["```", *commands[:COMMANDS], *[f"... and {more} more, in report.json"] * (more > 0), "```"])
        )

    def _title(self, level: int, text: str) -> None:
        self.lines += ["", f"{'#' * level} {text}"]

    def _say(self, text: str) -> None:
        self.lines += ["", text]

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        self.lines += ["", lines[0], "|" + "---|" * len(head), *lines[1:]]

    def _picture(self, key: str, caption: str) -> None:
        if key in self.pictures:
            self.pictures_shown += 1
            name = self.pictures[key]
            vector = Path(name).with_suffix(".svg").name
            self.lines += [
                "",
                f"![{caption}]({name})",
                "",
                f"*Figure {self.pictures_shown}.* {caption} ([SVG]({vector}))",
            ]


BOLD = "Differences are paired by seed; bold: the interval leaves out 0."


def _difference(found: Figures) -> str:
    told = interval(found)
    return f"**{told}**" if found["low"] is not None and not found["low"] <= 0 <= found["high"] else told


def interval(found: Figures) -> str:
    """A figure with its interval, if it has one."""
    told = number(found["value"])
    return told if found["low"] is None else f"{told} [{number(found['low'])}, {number(found['high'])}]"


def number(value: float) -> str:
    """A figure in as many digits as are worth reading."""
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # without the + 0.0 there would be a -0.00


def clock(seconds: float | None) -> str:
    """A duration in hours, minutes and seconds."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
