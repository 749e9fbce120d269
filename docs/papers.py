"""An extension of Markdown: where a paper is named by its number, `arXiv 1707.06347`, there is a link to it."""

import re
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor


class Paper(InlineProcessor):
    """Links a number of arXiv, unless it is part of a link."""

    ANCESTOR_EXCLUDES = ("a",)

    def handleMatch(self, m: re.Match, data: str) -> tuple[Element, int, int]:  # noqa: N802 (the name is Markdown's)
        link = Element("a", href=f"https://arxiv.org/abs/{m[1]}")
        link.text = m[0]
        return link, m.start(), m.end()


class Papers(Extension):
    """What Markdown is given."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.inlinePatterns.register(Paper(r"\barXiv (\d{4}\.\d{4,5})\b"), "papers", 70)


def makeExtension(**settings: object) -> Papers:  # noqa: N802
    """Called by Markdown."""
    return Papers(**settings)
