"""Pages for people: HTML files that load nothing from elsewhere, all from one template and one style sheet."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


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
        items: lines of a list.
        pictures: PNG by what they show.
        slot: a word by which :func:`filled` finds the section again.
    """

    heading: str = ""
    text: str = ""
    table: Table | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    items: Sequence[str] = ()
    slot: str = ""


@dataclass(frozen=True)
class Verdict:
    """The first thing on a page: a line, green, red or yellow, and the reasons.

    Attributes:
        passed: ``None``: it cannot be told.
    """

    passed: bool | None
    text: str
    because: Sequence[str] = ()


def page(title: str, sections: Sequence[Section], verdict: Verdict | None = None) -> str:
    """A page as HTML; every text is escaped."""
    return _template().render(title=title, sections=sections, verdict=verdict)


def filled(html: str, section: Section) -> str:
    """A page that was made before, with another section in the slot of this one.

    Raises: ValueError: the page has no such slot.
    """
    start, end = f"<!-- {section.slot} -->\n", f"<!-- /{section.slot} -->"
    before, opened, rest = html.partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"the page has no slot {section.slot!r}")
    content = _template().module.content(section)  # type: ignore[attr-defined]  # a macro
    return f"{before}{start}{content}\n{end}{after}"


def _breakable(text: str) -> Markup:
    """A text that may be broken after an underscore, and not between a sign and its number."""
    from markupsafe import Markup, escape

    for sign in "±≥≤":
        text = text.replace(f"{sign} ", f"{sign}\N{NO-BREAK SPACE}")
    return escape(text).replace("_", Markup("_<wbr>"))


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html.j2")
