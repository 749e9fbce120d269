"""Evaluates trained runs; see `experiments.evaluate` for what is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.command_line import UsageError
from experiments.config import Config, make_policy
from experiments.reporting.table import Table, summary
from experiments.runs.folder import Run, load_params, load_run, parameter_shapes
from experiments.terminal import say
from experiments.training.room import check_evaluation
from memrl.environment import hooks
from memrl.evaluation import (
    EvaluationConfig,
    SavedEvaluation,
    Setting,
    evaluate,
    record_trial,
    returns_per_window,
    write_evaluation,
)
from memrl.files import check_writable
from memrl.plotting import plot_horizons, plot_in_context, plot_splits, plot_training
from memrl.rendering import save_gif

LONGEST_ANIMATION = 500
"""Steps after which the animation of a trial stops."""
NARROWEST_ANIMATION = 260
"""Pixels; smaller pictures are enlarged, so that there is room for the caption."""


def evaluate_run(folder: Path, evaluation: EvaluationConfig | None = None) -> SavedEvaluation:
    """Evaluates the run in `folder` and writes what `experiments.evaluate` says.

    Args:
      folder: of the run.
      evaluation: how; as its config says if not given.

    Returns:
      What is written to `evaluation.json`.

    Raises:
      CheckpointError, FileError, UsageError: there is no checkpoint to evaluate, or it cannot be, or the metrics are
        damaged; nothing has been changed.
    """
    run = load_run(folder)
    check_writable(folder)
    run.metrics  # noqa: B018 (is read before the work, not when it is drawn)
    ((result, params),) = evaluate_seeds([run], run.config.evaluation if evaluation is None else evaluation)
    if "windows" in result:
        say(summary(result))
    write_evaluation(folder / "evaluation.json", result)
    say(f"Written to {folder}: evaluation.json, {', '.join(draw(run, params, result))}")
    return result


def evaluate_seeds(runs: Sequence[Run], evaluation: EvaluationConfig) -> list[tuple[SavedEvaluation, Any]]:
    """Evaluates runs whose configs differ in their seed alone; prints the table of the first, and writes nothing.

    Returns:
      For each what belongs into its `evaluation.json`, and its parameters.

    Raises:
      CheckpointError, UsageError: there is no checkpoint to evaluate, or it cannot be.
    """
    config = runs[0].config
    environment, env_params = config.env.make()
    if not hooks(environment).episodic:
        try:
            evaluation.window_length(config.trial_length)
        except ValueError as error:
            raise UsageError(str(error)) from error
    check_evaluation(config, evaluation)
    shapes = parameter_shapes(config)
    loaded = [load_params(run, shapes) for run in runs]
    more = f", {len(runs) - 1} more seeds after it" if len(runs) > 1 else ""
    say(f"{runs[0].folder}: evaluating update {loaded[0][1]}, {evaluation.num_trials} trials for each line{more}.")
    results = evaluate(
        lambda memory: make_policy(config, environment, env_params, memory),
        config.memory,
        Setting(environment, env_params),
        {name: Setting(*split.make()) for name, split in config.env.splits().items()},
        [params for params, _ in loaded],
        evaluation,
        Table(list(hooks(environment).players())).add,
    )
    return [
        ({"config": config.name, "update": update, **result}, params)
        for result, (params, update) in zip(results, loaded, strict=True)
    ]


def draw(run: Run, params: Any, result: SavedEvaluation) -> list[str]:
    """Draws what `evaluate_run` found; returns the names of the files."""
    folder, config = run.folder, run.config
    references: dict[str, float] = {}
    written = []
    if "windows" in result:
        plot_in_context(result, folder / "in_context.png")
        plot_horizons(result, folder / "horizons.png")
        written += ["in_context.png", "horizons.png"]
        references = {name: sum(returns_per_window(result["windows"][0], name)) for name in result["players"]}
    if "episodes" in result:
        plot_splits(result, folder / "splits.png")
        written.append("splits.png")
        references = {name: result["episodes"][0]["players"][name]["return"]["mean"] for name in result["players"]}
    if run.metrics:
        plot_training(run.metrics, folder / "training.png", references)
        written.append("training.png")
    if hooks(config.env.make()[0]).render is not None:
        animate(folder / "trial.gif", config, params, result["seed"])
        written.append("trial.gif")
    else:
        say(f"There is no trial.gif: {config.env} cannot be drawn.")
    return written


def animate(path: Path, config: Config, params: Any, seed: int) -> None:
    """Writes a GIF of the beginning of one trial."""
    environment, env_params = config.env.make()
    render = hooks(environment).render
    assert render is not None  # or there would be no animation
    policy = make_policy(config, environment, env_params, config.memory.without_noise())
    steps = min(config.trial_length, LONGEST_ANIMATION)
    recording = record_trial(policy, environment, env_params, params, steps, jax.random.key(seed))
    frames, captions, attempt, total = [], [], 1, 0.0
    for step in range(steps + 1):
        if step > 0:
            total += float(recording.reward[step - 1])
            attempt += int(recording.over[step - 1])
        state = jax.tree.map(lambda leaf, step=step: leaf[step], recording.states)
        frame = render(state, env_params)
        enlarge = -(-NARROWEST_ANIMATION // frame.shape[1])
        frames.append(frame.repeat(enlarge, axis=0).repeat(enlarge, axis=1))
        captions.append(f"step {step}   attempt {attempt}   return {total:g}")
    save_gif(path, frames, 10, captions)
