"""Pages for people: HTML files that load nothing from elsewhere, all from one template and one style sheet."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """Cells of text under heads; no heads: the first column names each row.

    Attributes:
        numbers: cells are not broken into lines.
    """

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    numbers: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page, under a heading where it has one.

    Attributes:
        pictures: PNG by what they show.
    """

    heading: str = ""
    text: str = ""
    table: Table | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The first thing on a page: a line, green or red, and the reasons."""

    passed: bool
    text: str
    because: Sequence[str] = ()


def page(title: str, sections: Sequence[Section], verdict: Verdict | None = None) -> str:
    """A page as HTML; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup, escape

    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))
    return environment.get_template("page.html.j2").render(title=title, sections=sections, verdict=verdict)
