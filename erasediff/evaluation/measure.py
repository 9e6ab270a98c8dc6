"""One model measured: drawn, read by the judge, compared with held-out pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erasediff.data.images import as_shape, decode
from erasediff.data.wordings import in_turns
from erasediff.device import device
from erasediff.errors import DataError, ModelError, UnknownConcept
from erasediff.evaluation import planted
from erasediff.evaluation.attacks import attacked, to_json
from erasediff.evaluation.attacks.target import Target
from erasediff.evaluation.numbers import Numbers, numbers_of
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.judges import Judge, asked_concepts, read_as
from erasediff.metrics.draw import Draw
from erasediff.metrics.pictures import Yardstick
from erasediff.randomness import image_seeds
from erasediff.records import Json, Measured, Value

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline


#: Pictures of each concept that are kept to be shown.
SHOWN = 8
#: Longest side in pixels at which copies are looked for.
LOOKED_AT = 32
#: Training pictures that drawn ones are compared with, at most: every second, third, … of more.
COPIED_FROM = 5000


@dataclass(frozen=True)
class Protocol:
    """How a model is measured: the section ``evaluate`` of params.yaml, and the seed. It is noted with the numbers.

    Attributes:
        samples_per_concept: pictures of a draw.
        draws: how often all of them are drawn, from other noise.
        batch_size: pictures drawn at once.
    """

    samples_per_concept: int
    draws: int
    inference_steps: int
    guidance_scale: float
    batch_size: int
    seed: int

    def noted(self) -> dict[str, Value]:
        """What is noted with the numbers: all but how many pictures are drawn at once, which changes none."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}


@dataclass(frozen=True)
class Plan:
    """What a model is asked for, and what its pictures are held against.

    Attributes:
        held_out: real test pictures of the retained concepts, float32 ``(N, C, H, W)`` in [-1, 1].
        forgotten: concepts to forget; may be empty, then only utility is measured.
        earlier: concepts that the base had forgotten already: neither to forget nor retained.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        training: pictures that the model may have copied, likewise; ``None``: nothing is said of copies.
        self_checks: planted models are measured too, made of this one.
        domains: of each concept, such as ``object`` or ``style``; empty: all are of one.
    """

    held_out: Tensor
    forgotten: Sequence[str]
    earlier: Sequence[str] = ()
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Tensor | None = None
    self_checks: bool = False
    domains: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        shown: some pictures of each concept, ``(concepts, SHOWN, C, H, W)`` in [-1, 1].
        instead: how many of the pictures drawn for each concept to forget the judge reads as what.
        protocol: how it was measured.
        planted: numbers of planted models, by name; empty where these were not asked for.
    """

    numbers: Numbers
    shown: Tensor
    instead: dict[str, dict[str, int]]
    protocol: dict[str, Value]
    planted: dict[str, Numbers] = field(default_factory=dict)

    def noted(self, numbers: dict[str, float], model_sha256: str, attacks: Json | None = None) -> Measured:
        """The record of it, with these numbers."""
        planted = {name: {"numbers": found.flat, "counts": found.counts} for name, found in self.planted.items()}
        return Measured(numbers, model_sha256, self.protocol, self.numbers.counts, self.instead, planted, attacks or {})


class Reader:
    """Reads pictures as a judge does, and marks what is wrong with them whatever a judge sees."""

    def __init__(self, judge: Judge, plan: Plan):
        self.judge, self.plan = judge, plan
        self.reference = judge.read(plan.held_out)[1]
        real = plan.held_out if plan.training is None else plan.training
        self.yardstick = Yardstick.of(_small(real), None if plan.training is None else _small(plan.training))

    def read(self, images: Tensor, names: Sequence[str]) -> Draw:
        """Pictures ``(N, C, H, W)`` in [-1, 1] that were drawn for these concepts. Raises: ModelError: no numbers."""
        if not images.isfinite().all():
            raise ModelError(
                "the model draws pictures that are no finite numbers: lower the learning rate of its stage"
            )
        probabilities, features = self.judge.read(images)
        known, plan = self.judge.concepts, self.plan
        marks = self.yardstick.marks(images, as_shape(images, self.yardstick.image_shape))
        read = probabilities, features, names, known, plan.forgotten, self.reference, plan.earlier, marks
        return Draw(*read, plan.domains)


def _small(images: Tensor) -> Tensor:
    channels, height, width = images.shape[1:]
    return as_shape(images, (channels, min(height, LOOKED_AT), min(width, LOOKED_AT)))


def measure(
    family: Family, judge: Judge, plan: Plan, protocol: Protocol, *, on_progress: Callable[[int], None]
) -> Measurement:
    """Measure a model.

    Args:
        on_progress: called with the number of images drawn since the last call.

    Raises: ModelError, IntegrityError: pictures, or what was measured of them, are no finite numbers.
    """
    each, reader = protocol.samples_per_concept, Reader(judge, plan)
    wordings = {c: plan.prompts.get(c) or [c] for c in asked_concepts(judge, plan.prompts)}
    names = [read_as(judge, c) for c in wordings for _ in range(each)]
    asked = [p for prompts_of_one in wordings.values() for p in in_turns(prompts_of_one, each)]
    first, draws = torch.empty(0), []
    for number in range(protocol.draws):
        images = _drawn(family, asked, image_seeds(protocol.seed, number, len(names)), protocol, on_progress)
        draws.append(reader.read(images, names))
        first = images if number == 0 else first
    found = {}
    if plan.self_checks:
        few = [i for i in range(len(names)) if i % each < planted.PICTURES]
        seeds = image_seeds(protocol.seed, 0, len(names))
        random = planted.with_random_weights(family, protocol.seed)
        of_random = _drawn(random, [asked[i] for i in few], [seeds[i] for i in few], protocol, on_progress)
        drawn = planted.pictures(first[few], of_random, [names[i] for i in few], plan.forgotten, protocol.seed)
        found = {
            name: numbers_of([reader.read(images, [names[i] for i in few])], protocol.seed, planted.RESAMPLES)
            for name, images in drawn.items()
        }
    shown = first.view(len(wordings), each, *first.shape[1:])[:, :SHOWN]
    counts = {"drawn_pictures": len(names) * protocol.draws, "held_out_pictures": len(plan.held_out)}
    counts |= {} if plan.training is None else {"training_pictures": len(plan.training)}
    how = {**protocol.noted(), **counts, "judge": judge.fingerprint}
    numbers = numbers_of(draws, protocol.seed)
    numbers.readings.update(_raw(judge, draws))
    return Measurement(numbers, shown, _instead(draws), how, found)


def _raw(judge: Judge, draws: Sequence[Draw]) -> dict[str, Tensor]:
    """What a judge detects in each picture before any threshold, by ``raw.NAME``, in the order of drawing."""
    names: Sequence[str] = getattr(judge, "raw", ())
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


def _drawn(
    family: Family, prompts: Sequence[str], seeds: Sequence[int], protocol: Protocol, on_progress: Callable[[int], None]
) -> Tensor:
    """A picture a prompt and seed, ``(N, C, H, W)`` in [-1, 1]."""
    parts = []
    for start in range(0, len(prompts), protocol.batch_size):
        chunk = slice(start, start + protocol.batch_size)
        parts.append(
            family.sample(
                prompts[chunk],
                seeds[chunk],
                steps=protocol.inference_steps,
                guidance_scale=protocol.guidance_scale,
                batch_size=protocol.batch_size,
            )
        )
        on_progress(len(parts[-1]))
    return torch.cat(parts)


def measure_pipeline(
    pipeline: DiffusionPipeline,
    judge: Judge,
    test: pd.DataFrame,
    protocol: Protocol,
    *,
    forgotten: Sequence[str],
    earlier: Sequence[str],
    prompts: Mapping[str, Sequence[str]] | None = None,
    training: pd.DataFrame | None = None,
    self_checks: bool = False,
    domains: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None],
) -> Measurement:
    """:func:`measure` of a pipeline, where there is an accelerator on that.

    Args:
        test: held-out pictures, a table with ``image`` and ``concept``.
        earlier: what the base had forgotten already; what the judge does not know is not looked at.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        training: pictures that the model may have copied, a table with ``image``.
        self_checks: planted models are measured too.
        domains: of each concept, where there are several; a judge of several domains has its own.
        on_progress: called with the number of pictures drawn, and that of all.

    Raises: DataError: too few held-out pictures. UnknownConcept: the judge does not know what to forget.
    """
    family, judge = family_of(pipeline.to(device())), judge.to(device())
    if unknown := sorted(set(forgotten) - set(judge.concepts)):
        raise UnknownConcept(f"the classifier does not know {', '.join(unknown)}: train it on data with these concepts")
    known = [c for c in earlier if c in judge.concepts]
    held_out = decode(test[~test["concept"].isin([*forgotten, *known])]["image"].tolist(), judge.image_shape)
    if len(held_out) < 2:
        raise DataError(
            f"{len(held_out)} held-out picture(s) of retained concepts: a distance needs 2, give more pictures"
        )
    copied = None
    if training is not None:
        every = -(-len(training) // COPIED_FROM)
        copied = decode(training["image"].tolist()[::every], judge.image_shape)
    concepts, drawn = len(asked_concepts(judge, prompts or {})), 0
    total = concepts * protocol.samples_per_concept * protocol.draws
    total += concepts * min(planted.PICTURES, protocol.samples_per_concept) if self_checks else 0

    def count(n: int) -> None:
        nonlocal drawn
        drawn += n
        on_progress(drawn, total)

    of = getattr(judge, "domains", None) or domains or {}
    plan = Plan(held_out, forgotten, known, prompts or {}, copied, self_checks, of)
    return measure(family, judge, plan, protocol, on_progress=count)


def attack_pipeline(
    pipeline: DiffusionPipeline,
    judge: Judge,
    protocol: Protocol,
    names: Sequence[str],
    forgotten: Sequence[str],
    prompts: Mapping[str, Sequence[str]],
    training: pd.DataFrame | None,
    test: pd.DataFrame,
) -> Json:
    """What each attack found on a pipeline, by its name and its variants; nothing where no concept was forgotten.

    Args:
        names: of :data:`erasediff.evaluation.attacks.ATTACKS`.
        training: pictures that the model may have been trained on; ``None``: there are none at hand.
        test: pictures that it was not.
    """
    if not forgotten or not names:
        return {}
    family = family_of(pipeline.to(device()))

    def pictures(table: pd.DataFrame) -> tuple[Tensor, list[str]] | None:
        rows = table[table["concept"].isin(forgotten)]
        return (decode(rows["image"].tolist(), family.image_shape), rows["concept"].tolist()) if len(rows) else None

    target = Target(
        family,
        judge.to(device()),
        forgotten,
        protocol.inference_steps,
        protocol.guidance_scale,
        protocol.seed,
        protocol.batch_size,
        prompts,
        members=None if training is None else pictures(training),
        others=None if training is None else pictures(test),
    )
    return to_json(attacked(target, names))
