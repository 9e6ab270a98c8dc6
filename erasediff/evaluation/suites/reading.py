"""Pictures are drawn in batches and read at once: memory does not grow with their number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erasediff.artifacts import read_object, sha256_text, write_bytes, write_json
from erasediff.device import device
from erasediff.errors import ModelError, shown
from erasediff.evaluation.judging import named_judge, read_labels
from erasediff.evaluation.reading import require_pictures, require_readings
from erasediff.evaluation.suites.asking import Asked
from erasediff.evaluation.suites.stand_in import STAND_INS
from erasediff.evaluation.suites.suite import Reader, Setting
from erasediff.families.family import Family
from erasediff.families.sharing import Places, each_at_once
from erasediff.records import Json


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
    kept: Path | None = None,
    places: Places | None = None,
) -> Readings:
    """Draw what is asked, and read it.

    Args:
        kept: folder of what was read in each batch so far, by this model and these readers: that is not drawn again.
        places: where batches are drawn; here by default.
    """
    found = Readings(list(questions))
    judges = {domain: reader for domain, reader in readers.items() if not hasattr(reader, "detections")}
    found.known = {domain: reader.concepts for domain, reader in judges.items()}
    parts: list[dict[str, Tensor]] = []
    places = places or Places()
    drawer = places.drawing(family)

    def file_of(rows: list[Asked]) -> Path | None:
        made = repr((rows, setting.steps, setting.sampler))
        return None if kept is None else kept / f"{sha256_text(made)}.safetensors"

    def read_or_drawn(rows: list[Asked]) -> Batch | Tensor:
        file = file_of(rows)
        return (None if file is None else _read_before(file)) or _drawn(drawer, setting, rows)

    for rows, batch in each_at_once(read_or_drawn, list(_batches(setting, questions)), places.number):
        if isinstance(batch, Tensor):
            batch = _seen(readers, rows, batch)
            if (file := file_of(rows)) is not None:
                write_bytes(file, save(batch[0], {DETECTIONS: json.dumps(batch[1])}))
        parts.append(batch[0])
        found.detections += batch[1]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
    found.scores = {domain: joined[f"{SCORES}{domain}"] for domain in judges if parts}
    found.features, found.alignment = joined.get("features"), joined.get("alignment")
    return found


#: What was read in a batch: tensors by name, and what was detected in each picture.
Batch: TypeAlias = "tuple[dict[str, Tensor], list[list[tuple[str, float]]]]"
#: Names of its entries.
SCORES, DETECTIONS = "scores.", "detections"


def write_detections(file: Path, found: Mapping[str, Readings]) -> None:
    """Keep all that was detected in the pictures of models, by their names, whatever its score."""
    content: Json = {
        which: [
            {"prompt": q.prompt, "seed": q.seed, "groups": list(q.groups), "detections": [list(one) for one in image]}
            for q, image in zip(it.asked, it.detections, strict=True)
        ]
        for which, it in found.items()
    }
    write_json(file, content)


def read_detections(file: Path) -> dict[str, Readings]:
    """What :func:`write_detections` kept, to be counted again (:func:`~.scoring.detections`). Raises: DataError."""
    return {
        which: Readings(
            [Asked(row["prompt"], row["seed"], groups=tuple(row["groups"])) for row in rows],
            detections=[[(str(name), float(score)) for name, score in row["detections"]] for row in rows],
        )
        for which, rows in read_object(file).items()
    }


def _seen(readers: Mapping[str, Any], rows: Sequence[Asked], images: Tensor) -> Batch:
    """What readers see in a batch. Raises: ModelError: pictures, or what is said of one, are no finite numbers."""
    require_pictures(images)
    tensors: dict[str, Tensor] = {}
    detected: list[list[tuple[str, float]]] = []
    prompts = [q.prompt for q in rows]
    for number, (domain, reader) in enumerate(readers.items()):
        if hasattr(reader, "detections"):
            detected += [[(d["class"], float(d["score"])) for d in reader.detections(image)] for image in images]
            continue
        scores, features = reader.to(device()).read(images)
        if not hasattr(reader, "alignment"):
            require_readings(scores, features, prompts, reader.concepts)
        tensors[f"{SCORES}{domain}"] = scores.contiguous()
        if number == 0:
            tensors["features"] = features.contiguous()
        if hasattr(reader, "alignment"):
            tensors["alignment"] = reader.alignment(features, prompts).float().cpu().contiguous()
    said = torch.tensor([score for image in detected for _, score in image])
    for name, values in {**tensors, "detector's scores": said}.items():
        if not values.isfinite().all():
            first = shown(repr(prompts[0]))
            raise ModelError(
                f"the {name} of {len(rows)} pictures, from the one for {first} on, are no finite numbers: "
                "use another judge"
            )
    return tensors, detected


def _read_before(file: Path) -> Batch | None:
    """What was read in a batch; ``None``: it was not, or the file is torn."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - it is no mapping
            detected = json.loads(content.metadata()[DETECTIONS])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return tensors, [[(str(name), float(score)) for name, score in image] for image in detected]


def _batches(setting: Setting, questions: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Neighbours that have one guidance scale."""
    start = 0
    while start < len(questions):
        scale, end = questions[start].guidance_scale, start + 1
        while end < len(questions) and end - start < setting.batch_size and questions[end].guidance_scale == scale:
            end += 1
        yield list(questions[start:end])
        start = end


def _drawn(family: Family, setting: Setting, rows: Sequence[Asked]) -> Tensor:
    how: dict[str, Any] = {"steps": setting.steps, "batch_size": setting.batch_size}
    scale = rows[0].guidance_scale
    how["guidance_scale"] = setting.guidance_scale if scale is None else scale
    if setting.sampler is not None:
        how["sampler"] = setting.sampler
    return family.sample([q.prompt for q in rows], [q.seed for q in rows], **how)
