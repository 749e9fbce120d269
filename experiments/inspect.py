"""Looks inside the memory of a trained policy: `python -m experiments.inspect FOLDER`, the folder of a run.

The parameters of the latest checkpoint are frozen and act as in an evaluation. It writes into `FOLDER/inside`

    attention.png/.svg  which steps, or summaries of steps, were attended to when         | of one trial, where the
    gates.png/.svg      how far the gates of the memory were open when                    | memory has any
    memory.gif          the same trial, as far as it can be drawn, beside the first of these
    probe.png/.svg      how often a linear classifier decodes from the memory what was to be remembered, by the time
                        since it was shown, in trials that it did not learn from; where the environment has facts
    inside.json         the figures in it

Pictures that do not apply are left out, and the tool says why. Everything can be made again at any time; earlier files
are replaced.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from experiments import command_line
from experiments.command_line import UsageError
from experiments.config import config_to_dict, make_policy
from experiments.runs.folder import load_params, load_run, parameter_shapes
from experiments.terminal import say
from memrl.environment import hooks
from memrl.files import check_writable
from memrl.introspection import (
    PROJECTED,
    TRAINING_SHARE,
    Trace,
    accuracy_by_age,
    age_groups,
    attention_map,
    sample_memories,
    state_size,
    trace_trial,
)
from memrl.plotting import memory as plotting_memory
from memrl.rendering import save_gif
from memrl.tracking import write_json

LONGEST = 500
"""Steps after which a trial is not looked at any more."""
LONGEST_VIDEO = 200
"""Steps after which the video stops."""
FEWEST_TRIALS = 100
"""For a probe to learn from some and to be tested on others."""
ROOM = 320
"""Pixels: smaller pictures of an environment are enlarged to at least this width."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which run, and how closely."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    trials: int = 512
    """Trials that the probe looks into."""
    seed: int = 0
    """Seed of the tasks, the actions, and the moments that the probe looks at."""


def run(arguments: Sequence[str]) -> int:
    """Looks as the command line says; returns the exit status."""
    if not arguments:
        raise UsageError("Name the folder of a run: python -m experiments.inspect FOLDER.")
    default = Options(tyro.MISSING)
    description = "Looks inside the memory of a trained policy."
    options = command_line.parse(Options, default, [default], "experiments.inspect", description, arguments)
    if options.trials < FEWEST_TRIALS:
        raise UsageError(f"trials is {options.trials}: it must be at least {FEWEST_TRIALS}.")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"seed is {options.seed}: it must be from 0 to 2^32 - 1.")
    inspect_run(options.folder, options.trials, options.seed)
    return 0


def inspect_run(folder: Path, trials: int = Options.trials, seed: int = Options.seed) -> dict[str, Any]:
    """Looks into the run in `folder` and writes what the module's docstring says.

    Returns:
      What is written to `inside.json`.

    Raises:
      CheckpointError, UsageError: there is no checkpoint to look into, or it cannot be; nothing has been changed.
    """
    trained = load_run(folder)
    config = trained.config
    check_writable(folder)
    params, update = load_params(trained, parameter_shapes(config))
    environment, env_params = config.env.make()
    policy = make_policy(config, environment, env_params, config.memory.without_noise())
    steps = min(config.trial_length, LONGEST)
    values = config_to_dict(config)
    memory = values["memory"]["name"]
    inside = folder / "inside"
    say(f"{folder}: looking into update {update}, {steps} steps of a trial.")

    trace_key, samples_key = jax.random.split(jax.random.key(seed))
    trace = trace_trial(policy, environment, env_params, params, steps, trace_key)
    written = draw_trial(inside, memory, environment, env_params, trace)
    result = {
        "config": config.name,
        "memory": memory,
        "update": update,
        "seed": seed,
        "steps": steps,
        "gates": {name: float(gate.openness.mean()) for name, gate in trace.gates.items()},
    }
    if trace.shown:
        say(f"Probing {trials} trials ...")
        result["probe"], names = probe_run(inside, policy, environment, env_params, params, steps, trials, samples_key)
        written += names
    else:
        say(f"There is no probe: {values['env']['name']} does not say what its agents must remember.")
    write_json(inside / "inside.json", result)
    say(f"Written to {inside}: {', '.join([*written, 'inside.json'])}")
    return result


def draw_trial(inside: Path, memory: str, environment: Any, env_params: Any, trace: Trace) -> list[str]:
    """Draws what applies of `attention`, `gates` and `memory.gif`; returns the names of the files."""
    recording, steps = trace.recording, len(trace.recording.over)
    shown = {name: told for name, told in trace.shown.items() if told.any()}
    events = plotting_memory.Events(recording.over, shown, "episode" if hooks(environment).episodic else "attempt")
    maps = {name: attention_map(seen, steps) for name, seen in trace.attention.items()}
    maps = {name: seen for name, seen in maps.items() if seen.any()}
    figures, written = [], []
    if maps:
        written += plotting_memory.plot_attention(maps, events, inside / "attention")
        figures.append(plotting_memory.attention_figure)
    else:
        say(f"There is no picture of attention: {memory} attends to nothing of the past.")
    if trace.gates:
        written += plotting_memory.plot_gates(trace.gates, events, inside / "gates")
    else:
        say(f"There is no picture of gates: {memory} shows none.")
    if not maps and not trace.gates:
        say("There is no memory.gif: there is nothing to see inside.")
    elif hooks(environment).render is None:
        say("There is no memory.gif: the environment cannot be drawn.")
    else:
        until = min(steps, LONGEST_VIDEO)
        first = plotting_memory.Events(
            recording.over[:until], {name: told[:until] for name, told in shown.items()}, events.ends
        )
        if maps:
            figure = plotting_memory.attention_figure(
                {name: seen[:until, :until] for name, seen in maps.items()}, first
            )
        else:
            figure = plotting_memory.gates_figure(
                {name: gate._replace(openness=gate.openness[:until]) for name, gate in trace.gates.items()}, first
            )
        film = plotting_memory.Film(figure, until)
        frames, captions = zip(*video(film, environment, env_params, trace, until), strict=True)
        written.append(save_gif(inside / "memory.gif", frames, 5, captions))
    return [file.name for file in written]


def video(
    film: plotting_memory.Film, environment: Any, env_params: Any, trace: Trace, steps: int
) -> Iterator[tuple[np.ndarray, str]]:
    """The frames of the video and their captions: what the agent reads in a step, and what its memory does with it."""
    recording, count, total = trace.recording, 1, 0.0
    name = "episode" if hooks(environment).episodic else "attempt"
    for step in range(steps):
        state = jax.tree.map(lambda leaf, step=step: leaf[step], recording.states)
        picture = environment.render(state, env_params)
        enlarge = -(-ROOM // picture.shape[1])
        picture = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
        told = [fact for fact, shown in trace.shown.items() if shown[step]]
        caption = f"step {step}   {name} {count}   return {total:g}" + f"   shown: {', '.join(told)}" * bool(told)
        yield plotting_memory.beside(picture, film.frame(step)), caption
        total += float(recording.reward[step])
        count += int(recording.over[step])


def probe_run(
    inside: Path,
    policy: Any,
    environment: Any,
    env_params: Any,
    params: Any,
    steps: int,
    trials: int,
    key: jax.Array,
) -> tuple[dict[str, Any], list[str]]:
    """Probes `trials` trials for every fact; returns what to write down, and the names of the files."""
    samples = sample_memories(policy, environment, env_params, params, steps, trials, key)
    ages = age_groups(steps)
    found = {fact: accuracy_by_age(looks, ages) for fact, looks in samples.items()}
    probes = {fact: result for fact, result in found.items() if result is not None}
    size = state_size(policy.memory)
    state = f"{PROJECTED} random projections of the {size}" if size > PROJECTED else f"the {size}"
    record = {
        "trials": trials,
        "training_share": TRAINING_SHARE,
        "interval": "95%: Wilson's for a binomial, over trials",
        "sources": {
            "state": f"{state} numbers that the memory carries",
            "output": "the memory's output",
            "input": "the encoder's output, without memory",
        },
        "facts": probes,
    }
    if missing := [fact for fact in found if fact not in probes]:
        say(f"Not probed, since it was shown too seldom or is always the same: {', '.join(missing)}.")
    for fact, result in probes.items():
        say(summary(fact, result))
    if not probes:
        return record, []
    return record, [file.name for file in plotting_memory.plot_probe(probes, inside / "probe")]


def summary(fact: str, result: dict[str, Any]) -> str:
    """What a probe found, in words, for the oldest moments."""
    group = result["groups"][-1]
    first, last = group["ages"] or (None, None)
    when = "before it is shown" if first is None else f"{first} to {last} steps after it was shown"
    told = ", ".join(
        f"{100 * group[source]['accuracy']:.0f}% from the {source}"
        for source in plotting_memory.SOURCES
        if source in group
    )
    return f"{fact}: {when}, decoded correctly {told} (chance {100 * group['chance']:.0f}%)."


if __name__ == "__main__":
    command_line.main(run)
