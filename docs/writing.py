"""Pieces of pages, in Markdown."""

import re
from pathlib import Path

import griffe
from reading import ROOT, find, lineage, public_address, results_shown


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
