"""One model measured: drawn, read by the judge, compared with held-out pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erasediff.data.images import decode
from erasediff.data.wordings import in_turns
from erasediff.device import device
from erasediff.errors import DataError, IntegrityError, ModelError, UnknownConcept
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.judges import Judge
from erasediff.metrics.draw import Draw
from erasediff.metrics.table import METRICS, metric_of
from erasediff.randomness import image_seeds
from erasediff.records import Value

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline


#: Pictures of each concept that are kept to be shown.
SHOWN = 8


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


def measure(
    family: Family,
    judge: Judge,
    held_out: Tensor,
    protocol: Protocol,
    *,
    forgotten: Sequence[str],
    earlier: Sequence[str] = (),
    prompts: Mapping[str, Sequence[str]] | None = None,
    on_progress: Callable[[int], None],
) -> tuple[dict[str, float], Tensor]:
    """Flat numbers, and some pictures of each concept, ``(concepts, SHOWN, C, H, W)`` in [-1, 1].

    Numbers are means over draws, with the standard deviation under ``_sd`` for all but those of single concepts.

    Args:
        held_out: real test pictures of the retained concepts, float32 ``(N, C, H, W)`` in [-1, 1].
        forgotten: concepts to forget; may be empty, then only utility is measured.
        earlier: concepts that the base had forgotten already: neither to forget nor retained.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        on_progress: called with the number of images drawn since the last call.

    Raises: ModelError, IntegrityError: pictures, or what was measured of them, are no finite numbers.
    """
    names = [c for c in judge.concepts for _ in range(protocol.samples_per_concept)]
    wordings = {c: (prompts or {}).get(c) or [c] for c in judge.concepts}
    asked = [p for prompts_of_one in wordings.values() for p in in_turns(prompts_of_one, protocol.samples_per_concept)]
    reference = judge.read(held_out)[1]
    rows: list[dict[str, float]] = []
    shown = torch.empty(0)
    for draw in range(protocol.draws):
        images = _drawn(family, asked, image_seeds(protocol.seed, draw, len(names)), protocol, on_progress)
        if not images.isfinite().all():
            raise ModelError(
                "the model draws pictures that are no finite numbers: lower the learning rate of its stage"
            )
        if draw == 0:
            by_concept = images.view(len(judge.concepts), protocol.samples_per_concept, *images.shape[1:])
            shown = by_concept[:, :SHOWN]
        probabilities, features = judge.read(images)
        rows.append(score(Draw(probabilities, features, names, judge.concepts, forgotten, reference, earlier)))
    return over_draws(rows), shown


def _drawn(
    family: Family, prompts: list[str], seeds: list[int], protocol: Protocol, on_progress: Callable[[int], None]
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


def score(draw: Draw) -> dict[str, float]:
    """Every metric of the table that is defined for a draw, by name."""
    found: dict[str, float] = {}
    for metric in METRICS.values():
        if metric.function:
            found |= metric.of(draw)
    return found


def over_draws(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number, and its standard deviation under ``_sd`` for all but those of single concepts.

    Of one draw no spread is known. Raises: ValueError: a number is there in some draws only. IntegrityError: one is not
    finite.
    """
    if differing := {name for row in rows for name in set(row) ^ set(rows[0])}:
        raise ValueError(
            f"{', '.join(sorted(differing))}: measured in some draws only; a metric is undefined in all or none"
        )
    result: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if not all(map(math.isfinite, values)):
            raise IntegrityError(f"{name} is no finite number: the classifier cannot judge this model; train it anew")
        result[name] = statistics.fmean(values)
        metric = metric_of(name)
        if metric is not None and not metric.per_concept and len(rows) > 1:
            result[f"{name}_sd"] = statistics.stdev(values)
    return result


def measure_pipeline(
    pipeline: DiffusionPipeline,
    judge: Judge,
    test: pd.DataFrame,
    protocol: Protocol,
    *,
    forgotten: Sequence[str],
    earlier: Sequence[str],
    prompts: Mapping[str, Sequence[str]] | None = None,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[str, float], Tensor, dict[str, Value]]:
    """:func:`measure` of a pipeline, where there is an accelerator on that; and how it was measured, for the record.

    Args:
        test: held-out pictures, a table with ``image`` and ``concept``.
        earlier: what the base had forgotten already; what the judge does not know is not looked at.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
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
    drawn, total = 0, len(judge.concepts) * protocol.samples_per_concept * protocol.draws

    def count(n: int) -> None:
        nonlocal drawn
        drawn += n
        on_progress(drawn, total)

    numbers, shown = measure(
        family, judge, held_out, protocol, forgotten=forgotten, earlier=known, prompts=prompts, on_progress=count
    )
    return numbers, shown, {**protocol.noted(), "drawn_pictures": total, "held_out_pictures": len(held_out)}
