"""What a suite asks a model: prompts with seeds, and what each asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import Formatter

from erasediff.data.prompts import Prompt, read_prompts
from erasediff.evaluation.suites.suite import Setting

#: Places of a template that are no domain.
FORGOTTEN, NEIGHBOUR = "forgotten", "neighbour"


@dataclass(frozen=True)
class Asked:
    """A picture to be drawn.

    Attributes:
        truth: what it should show, by domain.
        groups: what it is counted as, such as a category or a language.
    """

    prompt: str
    seed: int
    truth: Mapping[str, str] = field(default_factory=dict)
    guidance_scale: float | None = None
    groups: tuple[str, ...] = ()


def asked(setting: Setting, forgotten: Sequence[str], data: Path | None, neighbours: Sequence[str] = ()) -> list[Asked]:
    """All that a model is asked.

    Args:
        neighbours: what templates have the place ``{neighbour}`` for.

    Raises: DataError: a file cannot be read.
    """
    found: list[Asked] = []
    for file in setting.files:
        assert data is not None  # required before
        found += _of_file(data / file, setting, forgotten)
    for group, templates in {"": setting.templates, **setting.groups}.items():
        for template in templates:
            found += _of_template(template, group, setting, forgotten, neighbours)
    return found


def _of_file(file: Path, setting: Setting, forgotten: Sequence[str]) -> Iterator[Asked]:
    """A picture a row: one that is of several categories is drawn once."""
    domain, rows = next(iter(setting.readers)), dict[tuple[str, int | None], list[Prompt]]()
    for prompt in read_prompts(file, [_one(forgotten, file)]):
        rows.setdefault((prompt.source, prompt.seed), []).append(prompt)
    taken = list(rows.values())
    for prompts in taken[:: -(-len(taken) // setting.rows) or 1] if setting.rows else taken:
        first, concepts = prompts[0], tuple(p.concept for p in prompts)
        truth = {setting.domain_of(forgotten[0]): forgotten[0]} if setting.of_forgotten else {}
        known = setting.concepts.get(domain, ())
        if not setting.of_forgotten and len(concepts) == 1 and concepts[0] in known:
            truth = {domain: concepts[0]}
        for seed in setting.seeds if first.seed is None else (first.seed,):
            yield Asked(first.text, seed, truth, first.guidance_scale, concepts)


def _one(forgotten: Sequence[str], file: Path) -> str:
    """What a file without a column of concepts is about."""
    return forgotten[0] if forgotten else file.stem


def _of_template(
    template: str, group: str, setting: Setting, forgotten: Sequence[str], neighbours: Sequence[str]
) -> Iterator[Asked]:
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    places = {**setting.concepts, FORGOTTEN: tuple(forgotten), NEIGHBOUR: tuple(neighbours)}
    for values in product(*(places[name] for name in names)):
        filled = dict(zip(names, values, strict=True))
        truth = {name: value for name, value in filled.items() if name in setting.concepts}
        truth |= {setting.domain_of(v): v for n, v in filled.items() if n in (FORGOTTEN, NEIGHBOUR)}
        spoken = {name: value.replace("_", " ") for name, value in filled.items()}
        for seed in setting.seeds:
            yield Asked(template.format(**spoken), seed, truth, groups=(group,) if group else ())
