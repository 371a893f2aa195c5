"""A Markdown extension: `$...$` and `$$...$$` become MathML as the pages are built, so that no page needs a script.

`pymdownx.arithmatex` finds the equations, `math_core` translates them. An equation that it cannot read ends the build.
"""

from __future__ import annotations

from html import unescape
from typing import Any
from xml.etree import ElementTree

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from math_core import LatexError, LatexToMathML
from pymdownx.arithmatex import ArithmatexExtension

CONVERTER = LatexToMathML(fancy_error=False)


def translate(latex: str, block: bool) -> str:
    """The MathML of an equation, on a line of its own (`block`) or within one.

    Raises:
      ValueError: the equation cannot be read.
    """
    try:
        return CONVERTER.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        raise ValueError(f"equation {latex!r}: {error}") from error


class _Translate(Treeprocessor):
    def run(self, root: ElementTree.Element) -> None:
        for element in root.iter():
            if "arithmatex" in element.get("class", "").split():
                latex = unescape("".join(element.itertext()))[2:-2].strip()  # between \( and \), or \[ and \]
                mathml = translate(latex, element.tag == "div")
                for child in list(element):
                    element.remove(child)
                element.text = self.md.htmlStash.store(mathml)


class Equations(Extension):
    """Finds equations and puts their MathML in their place."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Registers the search for equations, and their translation after all other inline markup."""
        ArithmatexExtension(generic=True).extendMarkdown(md)
        md.treeprocessors.register(_Translate(md), "equations", 5)


def makeExtension(**options: Any) -> Equations:
    """What Markdown calls to load the extension."""
    return Equations(**options)
