"""Builds the documentation: `make docs`, or `python docs/build.py FOLDER` to build it elsewhere than into site/.

What stands in `docs/pages` is joined by a page for each memory, environment and result. Registries and docstrings are
read from the sources, not imported, so that building needs neither JAX nor time. Figures come from the files in
`experiments/results`, and what the README says is not said twice. All of it is plain Markdown by the time that mkdocs
sees it, so that another generator of sites can take its place.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import griffe
import yaml
from reading import (
    ROOT,
    SHORT_TITLES,
    environments,
    find,
    lineage,
    memories,
    method,
    public_address,
    public_names,
    read,
    results,
    results_shown,
    tools,
)
from writing import docstring, field_list, microseconds, relink, rows_as_columns, section, table, with_links

PUBLIC = ("memrl", "memrl.memory", "memrl.evaluation", "memrl.introspection", "memrl.plotting")
"""The packages whose public names are the reference, each before those inside it."""


def main() -> int:
    """Writes pages and settings, and runs mkdocs; returns its exit status, which is not 0 if it has warnings."""
    settings = yaml.safe_load(read("docs/mkdocs.yml"))
    settings["nav"] += [
        {"Memories": ["memories/index.md", *({name: f"memories/{name}.md"} for name in memories())]},
        {"Environments": ["environments/index.md", *({name: f"environments/{name}.md"} for name in environments())]},
        {"Results": [{title: result_navigation(name)} for name, title in results_shown().items()]},
        {"Reference": [{it: f"reference/{it}.md"} for it in PUBLIC]},
        *([{"Source": public_address()}] if public_address() else []),
    ]
    settings["site_dir"] = str(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").absolute())
    settings["plugins"][-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    with tempfile.TemporaryDirectory() as folder:
        write_pages(Path(folder) / "pages")
        (Path(folder) / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        # mkdocs-material says in each build that zensical will follow it, which is no warning of ours.
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "docs")}
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        return subprocess.run(command, cwd=folder, env=environment).returncode


def write_pages(folder: Path) -> None:
    """Writes all pages into `folder`, and beside them what they show or link to."""
    shutil.copytree(ROOT / "docs" / "pages", folder)
    attached: set[Path] = set()
    for path, (text, origin) in generated_pages().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(relink(text, ROOT / origin, Path(path).parent, attached))
    for file in attached:
        shutil.copy(ROOT / "experiments" / file, folder / file)


def generated_pages() -> dict[str, tuple[str, str]]:
    """The text of each generated page by its path, and the folder that its links are relative to."""
    readme = read("README.md")
    start = [
        readme.partition("\n## ")[0],
        *(section(readme, title, 2) for title in ("Start", "What you get", "Using it")),
    ]
    written = {
        "index.md": "\n".join(start),
        "extending.md": "# Extending\n\n"
        + section(readme, "Add a memory", 2)
        + section(readme, "Add an environment", 2),
        "tools.md": "# Command line tools\n\n"
        + "".join(f"## experiments.{it}\n{docstring(f'experiments.{it}')}" for it in tools()),
        "memories/index.md": with_links(section(readme, "Memories", 1), memories()),
        "environments/index.md": with_links(section(readme, "Environments", 1), environments()),
    }
    written |= {f"memories/{name}.md": memory_page(name, config) for name, config in memories().items()}
    written |= {f"environments/{name}.md": environment_page(name, config) for name, config in environments().items()}
    written |= reference_pages()
    found = {path: (text, ".") for path, text in written.items()}
    for name in results_shown():
        folder = f"experiments/results/{name}"
        found |= {f"results/{name}/{path.name}": (path.read_text(), folder) for path in (ROOT / folder).glob("*.md")}
    return found


def result_navigation(name: str) -> list:
    """The pages of a result: what it says, and where there is one the report behind it."""
    report = (
        [{"All tables and figures": f"results/{name}/report.md"}]
        if (ROOT / f"experiments/results/{name}/report.md").exists()
        else []
    )
    return [f"results/{name}/README.md", *report]


def memory_page(name: str, config: griffe.Class) -> str:
    """The page of a memory: what it is, its fields, what it costs, what it learned, how it is built."""
    costs = results("speed/memories.json")["memories"][name]
    measured = {
        "parameters": f"{costs['parameters']:,}",
        **{f"state, room for {int(steps):,} steps": f"{it:,} bytes" for steps, it in costs["state_bytes"].items()},
        **{f"acting after {int(steps):,} steps": microseconds(it) for steps, it in costs["acting_seconds"].items()},
        "learning, forward": microseconds(costs["forward_seconds"]),
        "learning, forward and backward": microseconds(costs["backward_seconds"]),
    }
    learned = re.search(
        rf"(?m)^\| {name}(?: .*?)? \| (\S+) \| (\S+) \|$", read("experiments/results/diagnostics/README.md")
    )
    return f"""# {config.name}

`--memory {name}` on the command line, `from memrl.memory import {config.name}` in Python.

{docstring(config.path)}

## Fields

{field_list(config)}

## What it costs

With its default fields, on 2 CPU cores ([command and all figures](experiments/results/speed)). Bytes are
those of one environment. Acting is a step of 16 environments, with room for 1,024 steps. Learning is per token, in
sequences of 1,024.

{table(measured)}

## What it learned

{compared(name, "t_maze")}
{compared(name, "gridworld")}
### Repeat First and Repeat Previous

Return of one seed, 1 at best ([what was run](experiments/results/diagnostics)); in bold below 0.95.

{table(dict(zip(("Repeat First", "Repeat Previous"), learned.groups(), strict=True)))}

## How it is built

{"".join(docstring(module) for module in dict.fromkeys(it.module.path for it in lineage(config)))}
"""


def environment_page(name: str, config: griffe.Class) -> str:
    """The page of an environment: what it asks for, its fields, other settings, reference players, speed."""
    environment = find(config.all_members["make"].returns.slice.elements[0].canonical_path)
    _, remember, without, presets, _ = re.search(rf"(?m)^\| `{name}(?::NAME)?` (\|.*)$", read("README.md"))[1].split(
        "|"
    )
    told = {"what must be remembered": remember, "without memory": without, "configs": presets}
    speed = results("speed/environments.json")["environments"].get(name)
    if speed:
        millions = speed["steps_per_second"]["median"] / 1e6
        told["speed on 2 CPU cores"] = f"{millions:.1f} million steps per second ([how](experiments/results/speed))"
    parts = [
        f"# {name}\n\n`--env {name}` on the command line.\n",
        docstring(config.path),
        table(told),
        docstring(environment.module.path),
        f"## Fields\n\n{field_list(config)}\n",
    ]
    if (ROOT / f"docs/pages/environments/{name}.png").exists():  # see pictures.py
        parts.append(f"## What it looks like\n\n![{name}]({name}.png)\n{docstring(method(environment, 'render'))}")
    if "splits" in config.members:
        parts.append(f"## Settings to test in\n\n{docstring(method(config, 'splits'))}")
    if "players" in environment.all_members:
        parts.append(f"## Reference players\n\n{docstring(method(environment, 'players'))}")
    return "\n".join(parts)


def reference_pages() -> dict[str, str]:
    """A page for each package with public names. What several offer, and what has a page already, is linked to."""
    described = {config.path: f"(../memories/{name}.md)" for name, config in memories().items()}
    written = {}
    for package_path in reversed(PUBLIC):  # what a package inside offers is described there
        links, entries = [], []
        for name, it in public_names(package_path).items():
            if it.path in described:
                links.append(f"[`{name}`]{described[it.path]}")
            elif not it.is_module:
                described[it.path] = f"[{it.path}]"
                entries.append(f"::: {it.path}\n    options:\n      heading_level: 2\n      show_root_heading: true\n")
        others = f"Described elsewhere: {', '.join(links)}.\n" if links else ""
        written[f"reference/{package_path}.md"] = "\n".join(
            [f"# {package_path}\n", docstring(package_path), others, *entries]
        )
    return written


def compared(memory: str, result: str) -> str:
    """What a report over several seeds says of a memory; empty if that was not among the compared ones."""
    report = read(f"experiments/results/{result}/report.md")
    tables = []
    for heading in ("Other settings", "Longer trials", "What memory costs"):
        lines = section(report, heading, 4).splitlines()
        titles, *rows = [
            line[2:-2].split(" | ") for line in lines if line.startswith(("| policy |", f"| {memory} |"))
        ] or [[]]
        if rows:
            introductions = [line for line in lines if line.endswith(":")]
            tables.append("\n\n".join([lines[0], *introductions, rows_as_columns(titles, rows)]))
    if not tables:
        return ""
    title = f"### [{SHORT_TITLES[result]}](experiments/results/{result})"
    return "\n\n".join([title, report.split("\n\n")[1], *tables, ""])


if __name__ == "__main__":
    sys.exit(main())
