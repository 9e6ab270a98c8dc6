"""What attacks found, as rows: for the report, MLflow and DVC."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from erasediff.records import Json

#: Models that are attacked, as an evaluation has them.
MODELS = ("base", "erased", "retrained")
#: Heads of :func:`attack_rows`.
ATTACK_HEAD = ("attack", "variant", *MODELS)


def attack_rows(attacks: Mapping[str, Json]) -> list[tuple[str, ...]]:
    """A row of :data:`ATTACK_HEAD` a variant, as text: ``0.180 (0.100 to 0.290)``, empty where it was not tried.

    Args:
        attacks: what each attack found, by model, attack and variant.
    """
    return [
        (attack, variant, *(_cell(_of(attacks, which, attack).get(variant)) for which in MODELS))
        for attack, variants in variants_of(attacks).items()
        for variant in variants
    ]


def attacks_csv(attacks: Mapping[str, Json]) -> str:
    """The columns ``attack``, such as "settings: 2 steps, erased", ``found``, ``low`` and ``high``: a bar a row."""
    rows = [
        (f"{attack}: {variant}, {which}", *(found[end] for end in ("value", "low", "high")))
        for attack, variants in variants_of(attacks).items()
        for variant in variants
        for which in MODELS
        if (found := _of(attacks, which, attack).get(variant))
    ]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([("attack", "found", "low", "high"), *rows])
    return lines.getvalue()


def curve_points(attacks: Mapping[str, Json]) -> dict[int, dict[str, float]]:
    """What was found after so many steps, by the steps and by ``attack.NAME.CURVE.MODEL``, in the order of steps."""
    found: dict[int, dict[str, float]] = {}
    for attack in variants_of(attacks):
        for which in MODELS:
            for name, points in lines_of(_of(attacks, which, attack)).items():
                for point in points if len(points) > 1 else ():
                    found.setdefault(int(point["at"]), {})[f"attack.{attack}.{name}.{which}"] = point["value"]
    return dict(sorted(found.items()))


def variants_of(attacks: Mapping[str, Json]) -> dict[str, list[str]]:
    """The variants of each attack, those of any model."""
    found: dict[str, dict[str, None]] = {}
    for which in MODELS:
        for attack, variants in attacks.get(which, {}).items():
            found.setdefault(attack, {}).update(dict.fromkeys(variants))
    return {attack: list(variants) for attack, variants in found.items()}


def lines_of(variants: Mapping[str, Mapping[str, float]]) -> dict[str, list[Mapping[str, float]]]:
    """The points of each curve, by the name that its variants begin with."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for variant, point in variants.items():
        if "at" in point:
            found.setdefault(variant.rpartition(", ")[0], []).append(point)
    return {name: sorted(points, key=lambda point: point["at"]) for name, points in found.items()}


def _of(attacks: Mapping[str, Json], which: str, attack: str) -> Json:
    variants: Json = attacks.get(which, {}).get(attack, {})
    return variants


def _cell(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
