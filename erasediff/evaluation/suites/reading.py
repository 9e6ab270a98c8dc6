"""Pictures are drawn in batches and read at once: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from erasediff.artifacts import read_object
from erasediff.device import device
from erasediff.evaluation.judging import named_judge, read_labels
from erasediff.evaluation.suites.asking import Asked
from erasediff.evaluation.suites.stand_in import STAND_INS
from erasediff.evaluation.suites.suite import Reader, Setting
from erasediff.families.family import Family


class Detector(Protocol):
    """Something that finds things in a picture."""

    def detections(self, image: Tensor) -> list[dict[str, Any]]:
        """``class`` and ``score`` of each thing found in ``(C, H, W)`` in [-1, 1], whatever the score."""


@dataclass
class Readings:
    """What the readers of a suite saw in pictures.

    Attributes:
        known: what each domain's judge can tell apart.
        scores: by domain, ``(N, number of known)``.
        detections: of each picture, label and score.
        alignment: cosine of picture and prompt, ``(N,)``.
        features: of the first domain's judge, ``(N, D)``.
    """

    asked: list[Asked]
    known: dict[str, Sequence[str]] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    detections: list[list[tuple[str, float]]] = field(default_factory=list)
    alignment: Tensor | None = None
    features: Tensor | None = None

    def seen(self, domain: str) -> list[str]:
        """What is read in each picture."""
        return [self.known[domain][i] for i in self.scores[domain].argmax(1).tolist()]


def open_readers(
    setting: Setting, data: Path | None, judge: str | None = None, labels: str | None = None
) -> dict[str, Any]:
    """The readers by domain: judges, a detector, or what aligns pictures with words.

    Args:
        judge, labels: given instead of the only reader's.
    """
    return {domain: _open(reader, setting, domain, data, judge, labels) for domain, reader in setting.readers.items()}


def _open(
    reader: Reader, setting: Setting, domain: str, data: Path | None, judge: str | None, labels: str | None
) -> Any:
    if reader.kind in STAND_INS:
        return STAND_INS[reader.kind](domain)
    if reader.kind == "nudity":
        return named_judge("nudity")
    name = judge or f"{'' if reader.kind == 'judge' else reader.kind + ':'}{data and data / reader.folder}"
    known = read_labels(labels) if labels else {c: list(names) for c, names in reader.labels.items()}
    if reader.all_labels and data:
        taken = {name for names in known.values() for name in names}
        every = read_object(data / reader.folder / "config.json").get("id2label", {}).values()
        known |= {str(name): [str(name)] for name in every if name not in taken}
    return named_judge(name, setting.concepts.get(domain, ("a picture",)), known or None)


def read(
    family: Family,
    readers: Mapping[str, Any],
    setting: Setting,
    questions: Sequence[Asked],
    on_progress: Callable[[int], None] = lambda n: None,
) -> Readings:
    """Draw what is asked, and read it."""
    found = Readings(list(questions))
    scores: dict[str, list[Tensor]] = {}
    features: list[Tensor] = []
    aligned: list[Tensor] = []
    for rows, images in _drawn(family, setting, questions):
        for number, (domain, reader) in enumerate(readers.items()):
            if hasattr(reader, "detections"):
                found.detections += [[(d["class"], float(d["score"])) for d in reader.detections(i)] for i in images]
                continue
            read_scores, read_features = reader.to(device()).read(images)
            scores.setdefault(domain, []).append(read_scores)
            found.known[domain] = reader.concepts
            if number == 0:
                features.append(read_features)
            if hasattr(reader, "alignment"):
                aligned.append(reader.alignment(read_features, [q.prompt for q in rows]).float().cpu())
        on_progress(len(rows))
    found.scores = {domain: torch.cat(parts) for domain, parts in scores.items()}
    found.features = torch.cat(features) if features else None
    found.alignment = torch.cat(aligned) if aligned else None
    return found


def _drawn(family: Family, setting: Setting, questions: Sequence[Asked]) -> Iterator[tuple[Sequence[Asked], Tensor]]:
    """Batches of neighbours that have one guidance scale."""
    start = 0
    while start < len(questions):
        scale, end = questions[start].guidance_scale, start + 1
        while end < len(questions) and end - start < setting.batch_size and questions[end].guidance_scale == scale:
            end += 1
        rows, start = questions[start:end], end
        how: dict[str, Any] = {"steps": setting.steps, "batch_size": setting.batch_size}
        how["guidance_scale"] = setting.guidance_scale if scale is None else scale
        if setting.sampler is not None:
            how["sampler"] = setting.sampler
        yield rows, family.sample([q.prompt for q in rows], [q.seed for q in rows], **how)
