"""Builds the documentation: `make docs`, or `python docs/build.py FOLDER` to build it elsewhere than into site/.

What stands in `docs/pages` is joined by a page for each memory, environment and result. Registries and docstrings are
read from the sources, not imported, so that building needs neither JAX nor time. Figures come from the files in
`experiments/results`, and what the README says is not said twice. All of it is plain Markdown by the time that mkdocs
sees it, so that another generator of sites can take its place.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from pathlib import Path

import griffe
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHORT_TITLES = {
    "memo_gridworld": "The main job",
    "gridworld": "Dark Key-To-Door, compared",
    "t_maze": "Endless T-Maze, compared",
    "diagnostics": "Repeat First and Previous",
    "environments": "First runs",
    "speed": "Speed",
}
"""Titles in the navigation of folders of `experiments/results`, in its order; others follow with their own titles."""
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


def results_shown() -> dict[str, str]:
    """The folders of `experiments/results` that say something, and their titles."""
    texts = {path.parent.name: path.read_text() for path in sorted(ROOT.glob("experiments/results/*/README.md"))}
    own = {name: text.splitlines()[0].removeprefix("# ") for name, text in texts.items()}
    return {name: title for name, title in (SHORT_TITLES | own | SHORT_TITLES).items() if name in texts}


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


# Sources


def read(path: str) -> str:
    """A text file of the repository."""
    return (ROOT / path).read_text()


def public_address() -> str | None:
    """The address of the repository, if it is filled in in pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))["project"].get("urls", {}).get("Repository")


@cache
def results(path: str) -> dict:
    """A JSON file of results."""
    return json.loads(read(f"experiments/results/{path}"))


@cache
def package(name: str) -> griffe.Module:
    """A package, read without being run."""
    return griffe.load(name, search_paths=[str(ROOT)], allow_inspection=False)


def find(path: str) -> griffe.Object:
    """A module or class by its full name."""
    return package(path.partition(".")[0]).modules_collection[path]


def registry(path: str) -> dict[str, griffe.Class]:
    """A dict of classes with literal keys, as it is written in the sources."""
    entries = find(path).value
    return {key.strip("'\""): find(it.canonical_path) for key, it in zip(entries.keys, entries.values, strict=True)}


def public_names(path: str) -> dict[str, griffe.Object]:
    """What a package offers: what its `__all__` names or, where that is made of a stub, what the stub imports."""
    module = find(path)
    imported = (name for name, it in module.members.items() if it.is_alias and it.target_path.startswith("memrl."))
    targets = {name: module[name] for name in sorted(module.exports or imported)}
    return {name: it.final_target if it.is_alias else it for name, it in targets.items()}


def tools() -> list[str]:
    """The modules of `experiments` that are started from the command line."""
    files = sorted((ROOT / "experiments").glob("*.py"))
    return [path.stem for path in files if '__name__ == "__main__"' in path.read_text()]


def memories() -> dict[str, griffe.Class]:
    """The config of each memory by its name."""
    return registry("memrl.memory.MEMORIES")


def environments() -> dict[str, griffe.Class]:
    """The config of each environment by its name."""
    return registry("envs.ENVIRONMENTS")


def lineage(config: griffe.Class) -> list[griffe.Class]:
    """A config and those that it inherits from, without the contract that all have in common."""
    return [it for it in (config, *config.mro()) if it.module.path not in ("memrl.memory.base", "envs.base")]


def method(owner: griffe.Class, name: str) -> str:
    """The full name of a method where it is written, which may be a base."""
    found = owner.all_members[name]
    return found.final_target.path if found.is_alias else found.path


# Markdown


def docstring(path: str) -> str:
    """Makes mkdocstrings show the docstring of a module, class or function, and nothing else of it."""
    return f"\n::: {path}\n    options:\n      members: []\n      show_signature: false\n\n"


def field_list(config: griffe.Class) -> str:
    """The fields of a frozen dataclass, those of its bases first: name, type, default, docstring."""
    entries = []
    for name, field in config.all_members.items():
        if field.is_attribute and "property" not in field.labels:
            documented = (it.members[name].docstring for it in lineage(config) if name in it.members)
            text = " ".join(next(filter(None, documented)).value.split())
            entries.append(f"`{name}: {spelled_out(field.annotation)} = {field.value}`\n\n:   {text}\n")
    return "\n".join(entries) or "It has none."


def spelled_out(annotation: griffe.Expr) -> str:
    """A type; where it is a name for allowed values, these."""
    if isinstance(annotation, griffe.ExprName) and "." in annotation.canonical_path:
        return str(find(annotation.canonical_path).value)
    return str(annotation)


def table(cells: dict[str, str]) -> str:
    """A table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {title.strip()} | {it.strip()} |" for title, it in cells.items())])


def rows_as_columns(titles: list[str], rows: list[list[str]]) -> str:
    """A table with a line for each column but the first, which is easier to read where there is little room."""
    lines = [[title, *cells] for title, *cells in zip(titles, *rows, strict=True)][1:]
    lines = [[""] * len(lines[0]), ["---"] * len(lines[0]), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(measured: dict[str, float]) -> str:
    """A time as it was measured, in seconds, for reading."""
    return f"{1e6 * measured['median']:.3g} µs"


def section(text: str, title: str, level: int) -> str:
    """The part of a text under the heading `title`, made a heading of `level`; empty if there is none."""
    lines, own, in_code = [], 0, False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        depth = 0 if in_code else len(re.match("#*", line)[0])
        if 0 < depth <= own:
            break
        if depth and line.lstrip("# ") == title:
            own = depth
        if own:
            lines.append("#" * (depth + level - own) + line[depth:] if depth else line)
    return "".join(f"{line}\n" for line in lines)


def with_links(text: str, names: dict[str, griffe.Class]) -> str:
    """The first cells of a table, where they are names in backticks, made links to the pages of these."""
    return re.sub(
        r"(?m)^\| (`(\w+)[:\w]*`) \|", lambda it: f"| [{it[1]}]({it[2]}.md) |" if it[2] in names else it[0], text
    )


def relink(text: str, origin: Path, page: Path, attached: set[Path]) -> str:
    """A text whose links to files of the repository lead to pages and files of the site.

    A link to a file that is not in the site leads to the repository; as long as that has no address it becomes text.

    Args:
      text: in Markdown.
      origin: the folder that the links are relative to.
      page: the folder of the page in the site.
      attached: files in `experiments` that the page needs beside it are added to this set.
    """

    def change(match: re.Match) -> str:
        shown, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or not (origin / target).exists():
            return match[0]
        path = (origin / target).resolve().relative_to(ROOT)
        if path == Path("README.md"):
            path, anchor = Path(anchor.removeprefix("#")) / "index.md", ""
        elif path.is_relative_to("experiments/results") and path.parts[2:3] and path.parts[2] in results_shown():
            path = path.relative_to("experiments")
            if len(path.parts) == 2:
                path /= "README.md"
            elif path.suffix != ".md":
                attached.add(path)
        elif public_address():
            return f"{shown}({public_address()}/blob/main/{path})"
        else:
            return shown.strip("![]")
        return f"{shown}({'../' * len(page.parts)}{path}{anchor})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)", change, text)


if __name__ == "__main__":
    sys.exit(main())
