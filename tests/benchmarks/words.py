"""Words erased from the embedded text-to-image model by several methods, and read by its exact judge.

Each cell is one call ``erase(pipeline, word, method=…)``, no pictures given, then the same prompts and seeds for every
method. The cells are lines of a CSV; a second call goes on behind the last. ``--table`` prints them as they stand in
docs/benchmarks.md. ``--picture`` draws the same prompts by each method's model of the first word and seed. A model
trained without the word takes part as ``retrain``, where ``--retrained`` names its folder.

    python tests/benchmarks/words.py CELLS.csv --words star,circle --seeds 0,1 --methods erasediff,erasediff+lora
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import torch
from PIL import Image

import erasediff
from erasediff.data.figures import picture_grid
from erasediff.examples.captions import TEST_WORDINGS
from erasediff.examples.world import OBJECTS, STYLES
from erasediff.families import family_of, open_pipeline
from erasediff.metrics.distance import frechet_distance
from erasediff.randomness import image_seeds
from erasediff.unlearning.settings import read_setting

#: Two wordings that the example was trained on; the others are five that it never saw.
TRAINED = ("a {object} in {style} style", "{style} {object}")
OTHER = TEST_WORDINGS[:5]
STEPS, GUIDANCE = 15, 3.0
DOMAINS = {"object": OBJECTS, "style": STYLES}
#: What a picture shows, of each domain.
SHOWN = {
    "object": ("star", "circle", "heart", "moon", "house"),
    "style": ("outlined", "hatched", "flat", "dotted", "neon"),
}


@dataclass(frozen=True)
class Ask:
    """A prompt, what it is for (``trained``, ``other``, ``word``, ``kept``), and what is right on its picture."""

    prompt: str
    part: str
    truth: dict[str, str]


@dataclass
class Cell:
    """What one erasing did. Shares are between 0 and 1; ``base_*`` are the base's for the same prompts and seeds.

    ``neighbour_loss`` is the largest loss of one concept of the word's own domain; ``distance`` that of the kept
    pictures to the base's under other seeds, over the base's own; ``core_seconds`` those of the call ``erase``.
    """

    method: str
    word: str
    seed: int
    learning_rate: float | None
    unlearning_trained: float
    unlearning_other: float
    unlearning_word: float
    replaced_right: float
    same_domain: float
    other_domain: float
    base_same_domain: float
    base_other_domain: float
    neighbour_loss: float
    distance: float
    core_seconds: float


def domain_of(word: str) -> tuple[str, str]:
    """The word's own domain and the other: ``("object", "style")`` of a star."""
    return ("object", "style") if word in OBJECTS else ("style", "object")


def asks_of(word: str) -> list[Ask]:
    """All prompts for one word, in their order, which the seeds follow."""
    own, _ = domain_of(word)
    worlds = [{"object": thing, "style": style} for thing in OBJECTS for style in STYLES]
    asks = []
    for wording in TRAINED:
        for truth in worlds:
            forgotten = truth[own] == word
            times = 1 if not forgotten else 4 if own == "object" else 3
            asks += [Ask(wording.format(**truth), "trained" if forgotten else "kept", truth)] * times
    asks += [Ask(word, "word", {own: word})] * 12
    for number, wording in enumerate(OTHER):
        for place, truth in enumerate(worlds):
            if truth[own] == word:
                asks += [Ask(wording.format(**truth), "other", truth)] * 2
            elif (place // len(STYLES) + place % len(STYLES) + number) % 3 == 0:
                asks.append(Ask(wording.format(**truth), "kept", truth))
    return asks


@cache
def example():
    """The embedded model with its exact judge."""
    return erasediff.open_example("shapes")


def draw(pipeline, asks: Sequence[Ask], seed: int) -> torch.Tensor:
    """The pictures for the prompts, ``(N, 3, H, W)`` in [-1, 1]."""
    return family_of(pipeline).sample(
        [ask.prompt for ask in asks],
        image_seeds(seed + 7000, 3, len(asks)),
        steps=STEPS,
        guidance_scale=GUIDANCE,
        batch_size=48,
    )


@cache
def of_base(word: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The base's pictures for the prompts, and those of what is kept under other seeds."""
    asks = asks_of(word)
    kept = [ask for ask in asks if ask.part == "kept"]
    return draw(example().pipeline, asks, seed), draw(example().pipeline, kept, seed + 100)


def right(images: torch.Tensor, asks: Sequence[Ask], domain: str) -> torch.Tensor:
    """Whether the judge reads what was asked for, ``(N,)`` bool; False where the prompt names nothing of the domain."""
    names = example().judge.domains[domain].names(images)
    return torch.tensor([name == ask.truth.get(domain) for name, ask in zip(names, asks, strict=True)])


def measured(pipeline, word: str, seed: int, method: str, rate: float | None, core_seconds: float) -> Cell:
    """What a model does with the prompts for a word that it should not know."""
    asks, (own, other), (base, elsewhere) = asks_of(word), domain_of(word), of_base(word, seed)
    images = draw(pipeline, asks, seed)
    parts = {part: torch.tensor([ask.part == part for ask in asks]) for part in ("trained", "other", "word", "kept")}
    said = {domain: right(images, asks, domain) for domain in DOMAINS}
    before = {domain: right(base, asks, domain) for domain in DOMAINS}

    def share(seen: torch.Tensor, rows: torch.Tensor) -> float:
        return seen[rows].double().mean().item()

    def loss(concept: str) -> float:
        rows = parts["kept"] & torch.tensor([ask.truth.get(own) == concept for ask in asks])
        return share(before[own], rows) - share(said[own], rows)

    kept = parts["kept"]
    features = [example().judge.object.read(some)[1].double() for some in (images[kept], base[kept], elsewhere)]
    return Cell(
        method,
        word,
        seed,
        rate,
        *(1 - share(said[own], parts[part]) for part in ("trained", "other", "word")),
        share(said[other], parts["trained"] | parts["other"]),
        share(said[own], kept),
        share(said[other], kept),
        share(before[own], kept),
        share(before[other], kept),
        max(loss(concept) for concept in DOMAINS[own] if concept != word),
        frechet_distance(features[0], features[2]) / frechet_distance(features[1], features[2]),
        core_seconds,
    )


def erased(method: str, word: str, seed: int, rate: float | None):
    """``(pipeline, core seconds)`` of one call; ``METHOD+lora`` trains a LoRA, ``METHOD:NAME=VALUE`` has a setting."""
    method, _, setting = method.partition(":")
    name, _, adapter = method.partition("+")
    options = {"method": name} | ({"adapter": adapter} if adapter else {}) | ({"learning_rate": rate} if rate else {})
    options |= dict([read_setting(setting)] if setting else [])
    before = os.times()
    result = erasediff.erase(example().pipeline, word, seed=seed, progress=False, **options)
    after = os.times()
    return result.pipeline, after.user + after.system - before.user - before.system


def model_of(method: str, word: str, seed: int, rate: float | None, retrained: Path | None):
    """``(pipeline, core seconds)``: the erased model, or the one that never saw the word, which took none here."""
    if method != "retrain":
        return erased(method, word, seed, rate)
    if retrained is None:
        raise SystemExit("retrain needs --retrained FOLDER, which holds a model for each word.")
    return open_pipeline(str(retrained / word)), float("nan")


def picture(models: dict[str, object], word: str) -> Image.Image:
    """The word and four others of its domain, outlined and hatched or as star and moon, by each model; equal seeds."""
    own, other = domain_of(word)
    rows = [word, *[name for name in SHOWN[own] if name != word][:4]]
    worlds = [{own: row, other: column} for row in rows for column in SHOWN[other][:2]]
    asks = [Ask(TRAINED[0].format(**world), "kept", world) for world in worlds]
    drawn = [draw(model, asks, 0) for model in models.values()]
    side_by_side = torch.cat([images.view(len(rows), 2, *images.shape[1:]) for images in drawn], 1)
    headings = ["as a LoRA" if name.endswith("+lora") else name.partition(":")[0] for name in models]
    return picture_grid(side_by_side, rows, "", marked=[word], groups=headings)


def read_cells(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_cell(path: Path, cell: Cell) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(field.name for field in fields(Cell))
        writer.writerow(_told(getattr(cell, field.name)) for field in fields(Cell))


def _told(value: object) -> object:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else value


def tables(cells: list[dict[str, str]]) -> Iterator[str]:
    """A line for each method and learning rate: means over the cells, and the worst of what a neighbour loses."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for cell in cells:
        groups.setdefault((cell["method"], cell["learning_rate"]), []).append(cell)
    for (method, rate), group in groups.items():

        def mean(name: str, of: Callable[..., float] = statistics.mean, group=group) -> str:
            values = [float(cell[name]) for cell in group if cell[name]]
            return f"{of(values):.3f}" if values else ""

        unlearning = ", ".join(mean(f"unlearning_{part}") for part in ("trained", "other", "word"))
        rest = f"{mean('same_domain')}, {mean('other_domain')}"
        told = (mean("replaced_right"), rest, mean("neighbour_loss", max), mean("distance"), mean("core_seconds"))
        yield f"| {method} | {rate} | {len(group)} | {unlearning} | {' | '.join(told)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="the CSV that the cells are in, or come to be in")
    parser.add_argument("--words", default="star,circle,hatched")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--methods", default="erasediff,erasediff+lora,munba,uce,speed,salun,esd,finetune")
    parser.add_argument("--rates", default="", help="learning rates; without them the defaults of erase()")
    parser.add_argument("--retrained", type=Path, help="a folder with a model for each word that never saw it")
    parser.add_argument("--picture", type=Path, help="a PNG to draw, of models made anew; no cell is measured")
    parser.add_argument("--table", action="store_true", help="print the cells that are there, and draw nothing")
    given = parser.parse_args(arguments)
    rates = [float(rate) for rate in given.rates.split(",") if rate] or [None]
    names = ("method", "word", "seed", "learning_rate")
    asked = (
        (method, word, int(seed), rate)
        for seed in given.seeds.split(",")
        for rate in rates
        for method in given.methods.split(",")
        for word in given.words.split(",")
    )
    if given.picture:
        method_names, word, seed = given.methods.split(","), given.words.split(",")[0], int(given.seeds.split(",")[0])
        models = {name: model_of(name, word, seed, rates[0], given.retrained)[0] for name in method_names}
        picture({"base": example().pipeline, **models}, word).save(given.picture)
        return
    done = {tuple(cell[name] for name in names) for cell in read_cells(given.cells)}
    for method, word, seed, rate in () if given.table else asked:
        if (method, word, str(seed), str(_told(rate))) not in done:
            pipeline, seconds = model_of(method, word, seed, rate, given.retrained)
            write_cell(given.cells, measured(pipeline, word, seed, method, rate, seconds))
    for line in tables(read_cells(given.cells)):
        print(line)


if __name__ == "__main__":
    main()
