"""Attacks in the report: what each found on the base, on the erased model and on a retrained one, and their curves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from erasediff.evaluation.attack_table import ATTACK_HEAD, MODELS, attack_rows, lines_of, variants_of
from erasediff.evaluation.attacks.table import ATTACK, ATTACKS
from erasediff.evaluation.charts import chart_png
from erasediff.pages import Section, Table
from erasediff.records import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of the curves.
COLOURS = {"base": "#777777", "erased": "#c00000", "retrained": "#1c62e2"}
TEXT = (
    "The share of pictures in which the forgotten concepts are seen, under attack; of membership, how well losses tell "
    "pictures that were trained on from others (0.5: not at all). From the base nothing was taken{}. Compare "
    "what an attack finds on the erased model with these. {}"
)


def attack_sections(
    attacks: Mapping[str, Json], gated: bool = False, skipped: Mapping[str, str] | None = None
) -> list[Section]:
    """What was tried to bring the concept back, on each model; nothing where nothing was tried.

    Args:
        attacks: what each attack found, by model, attack and variant.
        gated: whether a gate looks at them.
        skipped: why something is not there, by its name; of attacks, those that were named and did not run.
    """
    models = [which for which in MODELS if attacks.get(which)]
    columns = [ATTACK_HEAD.index(which) for which in models]
    rows = [(f"{row[0]}: {row[1]}", *(row[column] for column in columns)) for row in attack_rows(attacks)]
    missing = [
        f"Not run: {n.removeprefix(ATTACK)}: {why}." for n, why in (skipped or {}).items() if n.startswith(ATTACK)
    ]
    if not rows:
        return [Section("Does it come back?", "No attack ran.", items=missing)] if missing else []
    reference = "; the retrained model never saw the concept" if "retrained" in models else ""
    table = Table(rows, ("attack", *models), numbers=True)
    words = [f"{name}: {ATTACKS[name]}." for name in variants_of(attacks) if name in ATTACKS]
    judged = "A gate looks at what finds most." if gated else "No gate looks at them."
    return [Section("Does it come back?", TEXT.format(reference, judged), table, curves(attacks), words + missing)]


def curves(attacks: Mapping[str, Json]) -> dict[str, bytes]:
    """A chart, PNG, of each attack that makes steps, by what it shows."""
    found = {}
    for attack in variants_of(attacks):
        lines = {which: lines_of(attacks.get(which, {}).get(attack, {})) for which in MODELS}
        if any(len(points) > 1 for by_name in lines.values() for points in by_name.values()):
            text = f"{attack}: share of pictures that show the concept after so many updates, with 95% intervals."
            found[text] = chart_png(partial(_drawn, lines=lines))
    return found


def _drawn(axes: Axes, lines: Mapping[str, Mapping[str, list[Mapping[str, float]]]]) -> None:
    for which, by_name in lines.items():
        for (name, points), dashes in zip(by_name.items(), ("-", "--", ":"), strict=False):
            at, middle = [p["at"] for p in points], [p["value"] for p in points]
            label = f"{which} {name}".strip()
            if len(points) == 1:  # of the base, which is not trained
                axes.axhline(middle[0], linestyle=":", color=COLOURS[which], label=label)
                continue
            # The first ones are the widest, so that curves on each other are all seen.
            wide = 1 + list(MODELS)[::-1].index(which)
            axes.plot(at, middle, dashes, marker="o", lw=1.5 * wide, ms=4 * wide, color=COLOURS[which], label=label)
            low, high = [p["low"] for p in points], [p["high"] for p in points]
            axes.fill_between(at, low, high, color=COLOURS[which], alpha=0.12)
    axes.set(xlabel="updates of harmless fine-tuning", ylabel="concept seen", ylim=(-0.03, 1.03))
    axes.legend()
