"""The documents of the house say what is so."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def closure(edges):
    """All pairs that a path of edges joins."""
    found, more = set(edges), True
    while more:
        new = {(a, d) for a, b in found for c, d in found if b == c} - found
        found, more = found | new, bool(new)
    return found


@pytest.mark.pipeline
def test_the_picture_of_the_pipeline_is_that_of_dvc():
    command = [sys.executable, "-m", "dvc", "dag", "--dot"]
    dot = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    titles = re.findall(r"<title>(.+?)</title>", (DOCS / "pipeline.svg").read_text())
    drawn = {tuple(t.split("&#45;&gt;")) for t in titles if "&gt;" in t}
    assert closure(drawn) == closure(set(re.findall(r'"(.+?)" -> "(.+?)"', dot)))


@pytest.mark.unit
def test_the_map_of_the_rooms_names_each_and_nothing_else():
    text = (DOCS / "architecture.md").read_text()
    named = {n for n in re.findall(r"^\| \**`([\w./]+)`", text, re.M) if "/" in n}
    missing = sorted(n for n in named if not (ROOT / n).exists())
    assert not missing, f"docs/architecture.md names what is not there: {missing}"
    here = {p.name + ("/" if p.is_dir() else "") for p in (ROOT / "erasediff").iterdir()}
    rooms = {f"erasediff/{n}" for n in here if not n.startswith(("_", "."))} - {"erasediff/py.typed"}
    assert rooms <= named, f"docs/architecture.md does not name {sorted(rooms - named)}"


@pytest.mark.unit
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", (ROOT / page).read_text()):
        if "://" not in link:
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"


@pytest.mark.unit
@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_the_budgets_of_attacks_are_those_that_are_searched_with(budget):
    """Each number of a budget stands in its column; what both have stands in the first alone."""
    table = (DOCS / "attacks.md").read_text().partition("| `paper` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", table, re.M)
    assert len(rows) == 8
    for attack, quick, paper in rows:
        room = import_module(f"erasediff.evaluation.attacks.{attack}")
        told = numbers(quick if budget == "quick" else f"{quick} {paper}")
        for name in ("COSTS", "STEPS", "PICTURES"):
            wanted = numbers(str(getattr(room, name, {budget: ""})[budget]))
            assert set(wanted) <= set(told), (attack, budget, wanted, told)


def numbers(text):
    return [float(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]
