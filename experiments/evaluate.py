"""Evaluates a trained policy: `python -m experiments.evaluate FOLDER`, the folder of a run, trained to its end or not.

The parameters of the latest checkpoint are frozen and face trials up to several times longer than those they learned
in, and the other settings that the environment names, with the whole past in memory and with less. It prints a table
and writes into the folder

    evaluation.json     all figures; see `memrl.evaluation.evaluate`
    in_context.png      the return over a trial of the trained length         | where a trial is a fixed
    horizons.png        the return over the longest trial, for each budget    | number of steps
    splits.png          how episodes went in each setting
    training.png        the return over training
    trial.gif           one trial, where the environment can be drawn

These are derived from the checkpoint and can be made again at any time. What an earlier evaluation wrote is replaced
once the new one has all its figures.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from experiments import command_line
from experiments.command_line import UsageError
from experiments.config import Config, load_config, make_policy
from experiments.run import build, first_difference, identity
from memrl.checkpoint import Checkpointer
from memrl.evaluation import EvaluationConfig, Setting, evaluate, is_episodic, record_trial
from memrl.plotting import plot_horizons, plot_in_context, plot_splits, plot_training
from memrl.rendering import save_gif
from memrl.sharding import device_mesh
from memrl.tracking import read_metrics, write_json

LONGEST_ANIMATION = 500
"""Steps after which the animation of a trial stops."""
COLUMN_WIDTHS = {"trial": 7, "setting": 24}
"""Of the table, in characters, where not as wide as their titles need."""
NARROWEST_ANIMATION = 260
"""Pixels; smaller pictures are enlarged, so that there is room for the caption."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which run, and how."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    evaluation: EvaluationConfig
    """How it is evaluated; what is not said is as in the config of the run."""


def run(arguments: Sequence[str]) -> int:
    """Evaluates as the command line says; returns the exit status."""
    if not arguments:
        raise UsageError("Name the folder of a run: python -m experiments.evaluate FOLDER.")
    folder = read(arguments, EvaluationConfig()).folder
    try:
        config = load_config(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    # Once more, now that it is known what holds where nothing is said.
    evaluate_run(folder, read(arguments, config.evaluation).evaluation)
    return 0


def read(arguments: Sequence[str], evaluation: EvaluationConfig) -> Options:
    """What the command line says, and `evaluation` where it says nothing; UsageError if it is wrong."""
    default = Options(tyro.MISSING, evaluation)
    description = "Evaluates a trained policy."
    return command_line.parse(Options, default, [default], "experiments.evaluate", description, arguments)


def evaluate_run(folder: Path, evaluation: EvaluationConfig | None = None) -> dict[str, Any]:
    """Evaluates the run in `folder` and writes what the module's docstring says.

    Args:
      folder: of the run.
      evaluation: how; as its config says if not given.

    Returns:
      What is written to `evaluation.json`.

    Raises:
      CheckpointError, UsageError: there is no checkpoint to evaluate, or it cannot be; nothing has been changed.
    """
    config = load_config(folder)
    ((result, params),) = evaluate_seeds([folder], config.evaluation if evaluation is None else evaluation)
    if "windows" in result:
        print(summary(result))
    write_json(folder / "evaluation.json", result)
    print(f"Written to {folder}: evaluation.json, {', '.join(draw(folder, config, params, result))}")
    return result


def evaluate_seeds(folders: Sequence[Path], evaluation: EvaluationConfig) -> list[tuple[dict[str, Any], Any]]:
    """Evaluates runs whose configs differ in their seed alone; prints the table of the first, and writes nothing.

    Returns:
      For each what belongs into its `evaluation.json`, and its parameters.

    Raises:
      CheckpointError, UsageError: there is no checkpoint to evaluate, or it cannot be.
    """
    config = load_config(folders[0])
    environment, env_params = config.env.make()
    if not is_episodic(environment):
        try:
            evaluation.window_length(config.trial_length)
        except ValueError as error:
            raise UsageError(str(error)) from error
    loaded = [load_params(folder, load_config(folder)) for folder in folders]
    more = f", {len(folders) - 1} more seeds after it" if len(folders) > 1 else ""
    print(
        f"{folders[0]}: evaluating update {loaded[0][1]}, {evaluation.num_trials} trials for each line{more}.",
        flush=True,
    )
    results = evaluate(
        lambda memory: make_policy(config, environment, env_params, memory),
        config.memory,
        Setting(environment, env_params),
        {name: Setting(*split.make()) for name, split in config.env.splits().items()},
        [params for params, _ in loaded],
        evaluation,
        Table(list(getattr(environment, "players", dict)())).add,
    )
    return [
        ({"config": config.name, "update": update, **result}, params)
        for result, (params, update) in zip(results, loaded, strict=True)
    ]


def draw(folder: Path, config: Config, params: Any, result: dict[str, Any]) -> list[str]:
    """Draws what `evaluate_run` found; returns the names of the files."""
    references: dict[str, float] = {}
    written = []
    if "windows" in result:
        plot_in_context(result, folder / "in_context.png")
        plot_horizons(result, folder / "horizons.png")
        written += ["in_context.png", "horizons.png"]
        references = {name: sum(result["windows"][0][f"{name}_return_per_window"]) for name in result["players"]}
    if "episodes" in result:
        plot_splits(result, folder / "splits.png")
        written.append("splits.png")
        references = {name: result["episodes"][0]["players"][name]["return"]["mean"] for name in result["players"]}
    if (metrics := folder / "metrics.jsonl").exists():
        plot_training(read_metrics(metrics), folder / "training.png", references)
        written.append("training.png")
    if hasattr(config.env.make()[0], "render"):
        animate(folder / "trial.gif", config, params, result["seed"])
        written.append("trial.gif")
    else:
        print(f"There is no trial.gif: {config.env} cannot be drawn.")
    return written


def load_params(folder: Path, config: Config) -> tuple[Any, int]:
    """The parameters of the latest checkpoint, on the first device, and the updates that made them.

    Raises:
      CheckpointError, UsageError: there is none, it is damaged, or of another run.
    """
    training = build(config, device_mesh(1))
    checkpointer = Checkpointer(folder / "checkpoints")
    state, metadata = checkpointer.restore(jax.eval_shape(training.initial_state, jax.random.key(0)))
    if differs := first_difference(metadata["identity"], identity(config)):
        raise UsageError(f"{checkpointer.directory} is of another run: its {differs} is not the one in config.json.")
    return state.params, int(state.update)


class Table:
    """Prints a line for each entry of `windows` and `episodes`, as soon as it is there."""

    def __init__(self, players: Sequence[str]):
        """`players` are those of the environment, the best one first."""
        self.players = players
        self.kind: str | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Prints the line of `entry`, after a head if it is the first of its kind."""
        kind, cells = ("episodes", self._episodes(entry)) if "split" in entry else ("windows", self._windows(entry))
        cells |= {
            "bytes of state": f"{entry['state_bytes_per_env']:,}",
            "tokens read": f"{entry['tokens_attended']:.1f}",
        }
        if kind != self.kind:
            self.kind = kind
            self._print(cells, cells)
        self._print(cells.values(), cells)

    def _windows(self, entry: dict[str, Any]) -> dict[str, str]:
        returns = entry["return_per_window"]
        cells = {
            "trial": str(entry["horizon"]),
            "remembers": _budget(entry),
            "first window": f"{returns[0]:.2f}",
            "last window": f"{returns[-1]:.2f}",
            "total": f"{sum(returns):.2f}",
        }
        if self.players:
            best = sum(entry[f"{self.players[0]}_return_per_window"])
            cells[f"% of {self.players[0]}"] = f"{100 * sum(returns) / best:.1f}" if best > 0 else ""
        return cells

    def _episodes(self, entry: dict[str, Any]) -> dict[str, str]:
        cells = {
            "setting": entry["split"] or "as trained",
            "remembers": _budget(entry),
            "steps": f"{entry['length']['mean']:.1f}",
            "return": f"{entry['return']['mean']:.2f}",
        }
        cells |= {f"of {name}": f"{entry['players'][name]['return']['mean']:.2f}" for name in self.players}
        return cells | {name: f"{told['mean']:.2f}" if told else "" for name, told in entry["outcomes"].items()}

    def _print(self, cells: Iterable[str], head: Iterable[str]) -> None:
        """Prints cells in columns as wide as their titles in `head` need."""
        widths = [COLUMN_WIDTHS.get(title, max(9, len(title))) for title in head]
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)


def _budget(entry: dict[str, Any]) -> str:
    return "all" if entry["budget"] is None else str(entry["budget"])


def summary(result: dict[str, Any]) -> str:
    """What was learned within a trial, in words, from what `evaluate` returns."""
    trial, window = result["trial_length"], result["window_length"]
    entry, gain = result["windows"][0], result["in_context"]
    lines = []
    for name in result["players"]:
        returns = entry[f"{name}_return_per_window"]
        lines.append(
            f"{name}: {sum(returns):.2f} in {trial} steps, {returns[0]:.2f} in the first {window}, "
            f"{returns[-1]:.2f} in the last."
        )
    if (share := gain["last_window_over_upper_bound"]) is not None:
        lines.append(
            f"In the last {window} of {trial} steps the agent collects {100 * share:.1f}% "
            f"of what the {result['players'][0]} does in {window} on average."
        )
    if (ratio := gain["last_window_over_first"]) is not None:
        lines.append(f"In the last {window} of {trial} steps the agent collects {ratio:.2f} times its first {window}.")
    return "\n".join(lines)


def animate(path: Path, config: Config, params: Any, seed: int) -> None:
    """Writes a GIF of the beginning of one trial."""
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params, config.memory.without_noise())
    steps = min(config.trial_length, LONGEST_ANIMATION)
    recording = record_trial(policy, environment, env_params, params, steps, jax.random.key(seed))
    frames, captions, attempt, total = [], [], 1, 0.0
    for step in range(steps + 1):
        if step > 0:
            total += float(recording.reward[step - 1])
            attempt += int(recording.over[step - 1])
        state = jax.tree.map(lambda leaf, step=step: leaf[step], recording.states)
        frame = environment.render(state, env_params)
        enlarge = -(-NARROWEST_ANIMATION // frame.shape[1])
        frames.append(frame.repeat(enlarge, axis=0).repeat(enlarge, axis=1))
        captions.append(f"step {step}   attempt {attempt}   return {total:g}")
    save_gif(path, frames, 10, captions)


if __name__ == "__main__":
    command_line.main(run)
