"""One model measured: drawn, read by the judge, compared with held-out pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erasediff.data.images import decode
from erasediff.data.inputs import Given
from erasediff.data.wordings import in_turns
from erasediff.device import device
from erasediff.errors import DataError, ParamsError, UnknownConcept, shown
from erasediff.evaluation import planted
from erasediff.evaluation.changes import features_of
from erasediff.evaluation.neighbours import neighbours_of
from erasediff.evaluation.numbers import Numbers, numbers_of
from erasediff.evaluation.protocol import Plan, Protocol
from erasediff.evaluation.reading import Reader
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.judges import REST, Judge, asked_concepts, read_as
from erasediff.metrics.draw import Draw
from erasediff.metrics.inception import Inception
from erasediff.metrics.looks import told
from erasediff.metrics.recognition import unlearning_accuracy
from erasediff.metrics.table import CLIP_SCORE, FIDELITY, INCEPTION, UNLEARNING_ACCURACY
from erasediff.randomness import image_seeds
from erasediff.records import Json, Measured, Value

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

__all__ = ["Measurement", "Plan", "Protocol", "Reader", "measure", "measure_pipeline"]

#: Pictures of each concept that are kept to be shown.
SHOWN = 8
#: Training pictures that drawn ones are compared with, at most: every second, third, … of more.
COPIED_FROM = 5000


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        shown: some pictures of each concept, ``(concepts, SHOWN, C, H, W)`` in [-1, 1].
        instead: how many of the pictures drawn for each concept to forget the judge reads as what.
        protocol: how it was measured.
        planted: numbers of planted models, by name; empty where these were not asked for.
        neighbours: retained concepts whose pictures look most like those of each one to forget, nearest first.
        skipped: why a number, a concept or an attack is not there, by its name.
    """

    numbers: Numbers
    shown: Tensor
    instead: dict[str, dict[str, int]]
    protocol: dict[str, Value]
    planted: dict[str, Numbers] = field(default_factory=dict)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def noted(
        self, model_sha256: str, attacks: Json | None = None, retrained: Json | None = None, **more: float
    ) -> Measured:
        """The record of it; ``more``: numbers that stand beside those measured."""
        planted = {name: {"numbers": found.flat, "counts": found.counts} for name, found in self.planted.items()}
        return Measured(
            {**self.numbers.told, **more},
            model_sha256,
            self.protocol,
            self.numbers.counts,
            self.instead,
            planted,
            attacks or {},
            self.neighbours,
            self.skipped,
            retrained or {},
        )


class Measuring:
    """A model that is being measured, draw by draw. Pictures are read as they are drawn, and let go.

    Args:
        on_progress: called with the number of images drawn since the last call.
        together: batches that the family is asked for at once.
    """

    def __init__(
        self,
        family: Family,
        reader: Reader,
        protocol: Protocol,
        on_progress: Callable[[int], None] = lambda drawn: None,
        together: int = 1,
    ):
        self.family, self.reader, self.protocol, self.on_progress = family, reader, protocol, on_progress
        self._at_once = protocol.batch_size * together
        judge, prompts, each = reader.judge, reader.plan.prompts, protocol.samples_per_concept
        wordings = {c: prompts.get(c) or [c] for c in asked_concepts(judge, prompts)}
        self.names = [read_as(judge, c) for c in wordings for _ in range(each)]
        self.asked = [p for prompts_of_one in wordings.values() for p in in_turns(prompts_of_one, each)]
        self.draws: list[Draw] = []
        self._first: list[Tensor] = []
        self._of_planted: dict[str, Numbers] | None = None

    def draw_to(self, number: int) -> None:
        """Draw until there are so many draws."""
        while len(self.draws) < number:
            batches = self._drawn(self.family, self.asked, *self._seeds_and_guidance(len(self.draws)))
            if not self.draws:
                batches = self._some_kept(batches)
            self.draws.append(self.reader.read_all(batches, self.names, self.asked))

    def told(self) -> str:
        """Whether enough is drawn, as far as this model's own unlearning accuracy goes; empty: more is needed."""
        limit, plan = self.protocol.decide_at, self.reader.plan
        readings = [unlearning_accuracy(draw) for draw in self.draws]
        if limit is None or not plan.forgotten or any(found is None for found in readings):
            return "" if len(self.draws) < self.protocol.draws else "drawn as planned"
        seen = torch.cat([found for found in readings if found is not None])
        least = UNLEARNING_ACCURACY.least
        found = told(int(seen.sum()), len(seen), limit, self.protocol.confidence, least)
        enough = found == "failed" or (found == "passed" and len(self.draws) >= self.protocol.draws)
        return found if enough else ""

    def finished(self) -> Measurement:
        """What was measured so far."""
        names, draws, plan, protocol = self.names, self.draws, self.reader.plan, self.protocol
        first, few = torch.cat(self._first), self._few()
        each = min(few, protocol.samples_per_concept)
        shown = first.view(-1, each, *first.shape[1:])[:, :SHOWN]
        counts = {"drawn_pictures": len(names) * len(draws), "held_out_pictures": len(plan.held_out)}
        counts |= {} if plan.training is None else {"training_pictures": len(plan.training)}
        how = {**protocol.noted(), **counts, "judge": self.reader.judge.fingerprint}
        if self.reader.inception is not None:
            how["inception"] = self.reader.inception.fingerprint
        numbers = numbers_of(draws, protocol.seed, confidence=protocol.confidence)
        numbers.readings.update(_raw(self.reader.judge, draws))
        numbers.readings.update(features_of(draws))
        if self._of_planted is None:
            self._of_planted = self._planted(first) if plan.self_checks else {}
        near, skipped = neighbours_of(draws), _skipped(self.reader, numbers)
        return Measurement(numbers, shown, _instead(draws), how, self._of_planted, near, skipped)

    def _planted(self, first: Tensor) -> dict[str, Numbers]:
        """Numbers of models that are planted to be seen through, made of this one and of its ``first`` pictures."""
        plan, seed = self.reader.plan, self.protocol.seed
        few, fewer = self._rows(self._few()), self._rows(at_random(self.reader.judge, plan))
        seeds, scales = self._seeds_and_guidance(0)
        drawn = planted.pictures(first, [self.names[i] for i in few], plan.forgotten, seed)
        random = self._drawn(
            planted.with_random_weights(self.family, seed),
            [self.asked[i] for i in fewer],
            [seeds[i] for i in fewer],
            [scales[i] for i in fewer],
        )
        drawn[planted.RANDOM] = torch.cat(list(random)).nan_to_num(0.0, 1.0, -1.0)
        found = {}
        for name, images in drawn.items():
            rows = fewer if name == planted.RANDOM else few
            read = self.reader.read(images, [self.names[i] for i in rows], [self.asked[i] for i in rows])
            found[name] = numbers_of([read], seed, planted.RESAMPLES)
        return found

    def _few(self) -> int:
        """Pictures of each concept of the first draw that are kept."""
        return max(SHOWN, planted.PICTURES if self.reader.plan.self_checks else 0)

    def _rows(self, few: int) -> list[int]:
        """The first pictures of each concept."""
        return [i for i in range(len(self.names)) if i % self.protocol.samples_per_concept < few]

    def _some_kept(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        kept, start = set(self._rows(self._few())), 0
        for images in batches:
            rows = [i for i in range(len(images)) if start + i in kept]
            self._first.append(images[rows])
            start += len(images)
            yield images

    def _seeds_and_guidance(self, number: int) -> tuple[list[int], list[float | None]]:
        """Of each picture of a draw: what its prompt was given with, else the protocol's."""
        seeds: list[int] = image_seeds(self.protocol.seed, number, len(self.names))
        scales: list[float | None] = [self.protocol.guidance_scale] * len(seeds)
        if not self.reader.plan.given:
            return seeds, scales
        asked = list(zip(self.names, self.asked, strict=True))
        a_draw, before = Counter(asked), Counter[tuple[str, str]]()
        for picture, key in enumerate(asked):
            turn = number * a_draw[key] + before[key]
            before[key] += 1
            if rows := self.reader.plan.given.get(key[1]):
                row = rows[turn % len(rows)]
                scales[picture] = scales[picture] if row.guidance_scale is None else row.guidance_scale
                if turn < len(rows) and row.seed is not None:
                    seeds[picture] = row.seed
        return seeds, scales

    def _drawn(
        self, family: Family, prompts: Sequence[str], seeds: Sequence[int], scales: Sequence[float | None]
    ) -> Iterator[Tensor]:
        """A picture a prompt and seed, ``(B, C, H, W)`` in [-1, 1], a batch after the other."""
        protocol = self.protocol
        for start in range(0, len(prompts), self._at_once):
            chunk = range(start, min(start + self._at_once, len(prompts)))
            parts: dict[int, Tensor] = {}
            for scale in dict.fromkeys(scales[i] for i in chunk):
                these = [i for i in chunk if scales[i] == scale]
                drawn = family.sample(
                    [prompts[i] for i in these],
                    [seeds[i] for i in these],
                    steps=protocol.inference_steps,
                    guidance_scale=scale,
                    batch_size=protocol.batch_size,
                    sampler=protocol.sampler,
                )
                self.on_progress(len(drawn))
                parts |= dict(zip(these, drawn, strict=True))
            yield torch.stack([parts[i] for i in chunk])


def measure(
    family: Family,
    judge: Judge,
    plan: Plan,
    protocol: Protocol,
    *,
    inception: Inception | None = None,
    cache: Path | None = None,
    draw_on: bool = True,
    on_progress: Callable[[int], None],
    together: int = 1,
) -> Measurement:
    """Measure a model.

    Args:
        inception: reads the pictures too, for FID.
        cache: folder that keeps the judge's features of held-out pictures for the next time.
        draw_on: stop early, or draw on, as the protocol says; else it is drawn ``draws`` times.
        on_progress: called with the number of images drawn since the last call.
        together: batches that the family is asked for at once.

    Raises: ModelError, IntegrityError: pictures, or what was measured of them, are no finite numbers.
    """
    it = Measuring(family, Reader(judge, plan, inception, cache), protocol, on_progress, together)
    for look in protocol.looks if draw_on else (protocol.draws,):
        it.draw_to(look)
        if it.told():
            break
    return it.finished()


def require_retained(judge: Judge, prompts: Mapping[str, Sequence[str]], gone: Collection[str]) -> None:
    """Raises: ParamsError: nothing is drawn but what is to be forgotten, so that nothing is known of the rest."""
    if not {*asked_concepts(judge, prompts)} - {*gone}:
        raise ParamsError(
            f"the judge knows nothing but what is to be forgotten ({shown(', '.join(gone))}), so whether the rest is "
            "kept cannot be measured: give a judge of other concepts too, or prompts of them to one that has a rest"
        )


def at_random(judge: Judge, plan: Plan) -> int:
    """Pictures of each concept that the planted model of random weights draws."""
    return planted.drawn_at_random(len({*asked_concepts(judge, plan.prompts)} - {*plan.forgotten, *plan.earlier}))


def _skipped(reader: Reader, numbers: Numbers) -> dict[str, str]:
    """Why a metric, or a concept of the plan, is not among the numbers."""
    found = numbers.untold
    if INCEPTION.name not in numbers.flat:
        found[INCEPTION.name] = "no weights of Inception-v3 in models/inception"
    if CLIP_SCORE.name not in numbers.flat:
        found[CLIP_SCORE.name] = "the judge is no CLIP model"
    if reader.plan.training is None:
        found["near-copies of training pictures"] = "no training pictures were given"
    for metric in FIDELITY:
        if metric.name not in numbers.flat:
            found[metric.name] = "too few pictures, drawn or held out, to have neighbours"
    for concept in reader.plan.prompts:
        if concept not in reader.judge.concepts and REST not in reader.judge.concepts:
            found[f"concept {concept}"] = "the judge does not know it: what became of it was not measured"
    return found


def _raw(judge: Judge, draws: Sequence[Draw]) -> dict[str, Tensor]:
    """What a judge detects in each picture before any threshold, by ``raw.NAME``, in the order of drawing."""
    names: Sequence[str] = getattr(judge, "raw", ())
    if not names:
        return {}
    features = torch.cat([draw.features for draw in draws])
    return {f"raw.{name}": features[:, number] for number, name in enumerate(names)}


def _instead(draws: Sequence[Draw]) -> dict[str, dict[str, int]]:
    """How many pictures drawn for each forgotten concept the judge reads as what, the most frequent first."""
    found: dict[str, Counter[str]] = {c: Counter() for c in draws[0].known if c in draws[0].forgotten}
    for draw in draws:
        for concept, read in zip(draw.asked, draw.read_as.tolist(), strict=True):
            if concept in found:
                found[concept][draw.known[read]] += 1
    return {concept: dict(counts.most_common()) for concept, counts in found.items()}


def measure_pipeline(
    pipeline: DiffusionPipeline,
    judge: Judge,
    test: pd.DataFrame,
    protocol: Protocol,
    *,
    forgotten: Sequence[str],
    earlier: Sequence[str],
    prompts: Mapping[str, Sequence[str]] | None = None,
    given: Mapping[str, Sequence[Given]] | None = None,
    training: pd.DataFrame | None = None,
    self_checks: bool = False,
    domains: Mapping[str, str] | None = None,
    inception: str | Path | None = None,
    cache: Path | None = None,
    draw_on: bool = True,
    on_progress: Callable[[int, int], None],
    drawing: Callable[[Family], Family] = lambda family: family,
    together: int = 1,
) -> Measurement:
    """:func:`measure` of a pipeline, where there is an accelerator on that.

    Args:
        test: held-out pictures, a table with ``image`` and ``concept``.
        earlier: what the base had forgotten already; what the judge does not know is not looked at.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        given: of a prompt, the seed and the guidance of its rows.
        training: pictures that the model may have copied, a table with ``image``.
        self_checks: planted models are measured too.
        domains: of each concept, where there are several; a judge of several domains has its own.
        inception: file of Inception-v3 as TorchScript, for FID; ``None``: FID is skipped, and that is said.
        cache: folder that keeps the judge's features of held-out pictures for the next time.
        draw_on: of :func:`measure`.
        on_progress: called with the number of pictures drawn, and that of all.
        drawing: makes of the model's family one that draws the same in another way, such as in several processes.
        together: batches that it is asked for at once.

    Raises: DataError: too few held-out pictures. UnknownConcept: the judge does not know what to forget.
        ParamsError: the judge knows nothing else; ``inception`` is no such file.
    """
    network = _inception(inception)
    family, judge = drawing(family_of(pipeline.to(device()), protocol.size)), judge.to(device())
    if unknown := sorted(set(forgotten) - set(judge.concepts)):
        raise UnknownConcept(f"the classifier does not know {', '.join(unknown)}: train it on data with these concepts")
    known = [c for c in earlier if c in judge.concepts]
    require_retained(judge, prompts or {}, [*forgotten, *known])
    held_out = decode(test[~test["concept"].isin([*forgotten, *known])]["image"].tolist(), judge.image_shape)
    if len(held_out) < 2:
        raise DataError(
            f"{len(held_out)} held-out picture(s) of retained concepts: a distance needs 2, give more pictures"
        )
    copied = None
    if training is not None:
        every = -(-len(training) // COPIED_FROM)
        copied = decode(training["image"].tolist()[::every], judge.image_shape)
    of = getattr(judge, "domains", None) or domains or {}
    plan = Plan(held_out, forgotten, known, prompts or {}, given or {}, copied, self_checks, of)
    concepts, drawn = len(asked_concepts(judge, prompts or {})), 0
    total = concepts * protocol.samples_per_concept * (protocol.looks[-1] if draw_on else protocol.draws)
    total += concepts * min(at_random(judge, plan), protocol.samples_per_concept) if self_checks else 0

    def count(n: int) -> None:
        nonlocal drawn
        drawn += n
        on_progress(drawn, total)

    found = measure(
        family,
        judge,
        plan,
        protocol,
        inception=network,
        cache=cache,
        draw_on=draw_on,
        on_progress=count,
        together=together,
    )
    if drawn < total:  # it was told with fewer
        on_progress(total, total)
    return found


def _inception(file: str | Path | None) -> Inception | None:
    try:
        return None if file is None else Inception(Path(file))
    except ValueError as error:
        raise ParamsError(f"models/inception: {error}") from None
