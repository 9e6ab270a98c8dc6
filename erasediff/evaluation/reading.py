"""Drawn pictures to what every metric gets: read by the judge as they come, and not kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from erasediff.artifacts import write_bytes
from erasediff.data.images import as_shape
from erasediff.data.rows import rows_on_disk
from erasediff.errors import ModelError
from erasediff.evaluation.protocol import Plan
from erasediff.judges import Judge
from erasediff.metrics.distance import Moments
from erasediff.metrics.draw import Draw
from erasediff.metrics.inception import BATCH, Inception
from erasediff.metrics.pictures import Yardstick

#: Longest side in pixels at which copies are looked for.
LOOKED_AT = 32
#: Pictures that are held at once, of large ones as many as have so many bytes.
READ, BYTES = 500, 2**28


class Reader:
    """Reads pictures as a judge does, and marks what is wrong with them whatever a judge sees.

    Args:
        inception: reads them too, for FID.
        cache: folder that keeps the features of held-out pictures for the next time, under a name made of their
            content and of the judge.
    """

    def __init__(self, judge: Judge, plan: Plan, inception: Inception | None = None, cache: Path | None = None):
        self.judge, self.plan, self.inception = judge, plan, inception
        self.reference = kept_features(judge, plan.held_out, cache)
        self.yardstick = Yardstick.of(_small(plan.held_out), None if plan.training is None else _small(plan.training))
        self.inception_reference = None
        if inception is not None:
            self.inception_reference = Moments.of_parts(map(inception.features, plan.held_out.split(BATCH)))

    def read(self, images: Tensor, names: Sequence[str], prompts: Sequence[str] = ()) -> Draw:
        """:meth:`read_all` of pictures ``(N, C, H, W)`` that are there already."""
        return self.read_all([images], names, prompts)

    def read_all(self, batches: Iterable[Tensor], names: Sequence[str], prompts: Sequence[str] = ()) -> Draw:
        """Pictures ``(B, C, H, W)`` in [-1, 1] that come in batches, read and let go: memory has one batch of them.

        What was read of them lies in files without a name, in the folder for temporary files (``TMPDIR``).

        Args:
            names: concepts that the pictures of all batches were drawn for, ``N`` in all.
            prompts: likewise what the model was asked; empty: nothing is said of words.

        Raises: ModelError: pictures, or what the judge says of them, are no finite numbers. OSError: the disk is full.
        """
        rows = rows_on_disk(self._read_in_parts(batches, names), len(names))
        features = rows["features"]
        words = getattr(self.judge, "alignment", None)
        return Draw(
            rows["probabilities"],
            features,
            names,
            self.judge.concepts,
            self.plan.forgotten,
            self.reference,
            self.plan.earlier,
            self.yardstick.marked(rows["blank"].bool(), rows["smooth"], rows["small"]),
            self.plan.domains,
            words(features, prompts) if words is not None and prompts else None,
            rows.get("inception"),
            self.inception_reference,
        )

    def _read_in_parts(self, batches: Iterable[Tensor], names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        start = 0
        for images in _in_parts(batches):
            yield self._read(images, names[start : start + len(images)])
            start += len(images)

    def _read(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        require_pictures(images)
        probabilities, features = self.judge.read(images)
        require_readings(probabilities, features, names, self.judge.concepts)
        smooth, blank = self.yardstick.roughness(images)
        small = as_shape(images, self.yardstick.image_shape)
        found = {"probabilities": probabilities, "features": features, "smooth": smooth, "blank": blank, "small": small}
        return found if self.inception is None else {**found, "inception": self.inception.features(images)}


def require_pictures(images: Tensor) -> None:
    """Raises: ModelError: pictures, of any shape, are no finite numbers."""
    if not images.isfinite().all():
        raise ModelError("the model draws pictures that are no finite numbers: lower the learning rate of its stage")


def require_readings(probabilities: Tensor, features: Tensor, names: Sequence[str], concepts: Sequence[str]) -> None:
    """Raises: ModelError: a judge says of a picture what is no probability of each of its concepts, or no numbers.

    Nothing may be counted of it then: as seen or not seen, it would be a guess.
    """
    if probabilities.shape != (len(names), len(concepts)) or len(features) != len(names):
        raise ModelError(
            f"the judge reads {len(names)} pictures of {len(concepts)} concepts as scores {tuple(probabilities.shape)} "
            f"and features {tuple(features.shape)}: use another judge"
        )
    wrong = ~(probabilities.isfinite().all(1) & features.isfinite().all(1))
    wrong |= (probabilities.double().sum(1) - 1).abs() > 0.01
    if wrong.any():
        first = names[int(wrong.nonzero()[0, 0])]
        raise ModelError(
            f"the judge fails on {int(wrong.sum())} of {len(names)} pictures, the first drawn for {first!r}: its "
            "scores are no finite numbers that add up to 1; train it anew, or use another judge"
        )


def kept_features(judge: Judge, images: Tensor, cache: Path | None) -> Tensor:
    """A judge's features of pictures ``(N, C, H, W)``, from the cache where they are there."""
    if cache is None:
        return judge.read(images)[1]
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    what = json.dumps([judge.fingerprint, list(images.shape), str(images.dtype)]).encode()
    digest = hashlib.sha256(what)
    digest.update(images.contiguous().numpy())
    file = cache / f"{digest.hexdigest()}.safetensors"
    if file.exists():
        try:
            return load_file(file)["features"]
        except (OSError, SafetensorError, KeyError):
            pass  # torn or altered: it is read, and written, again
    features = judge.read(images)[1]
    write_bytes(file, save({"features": features.contiguous()}))
    return features


def _in_parts(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same pictures in parts of :data:`READ`, the last of what is left, however large the batches are."""
    held: list[Tensor] = []
    for batch in batches:
        size = min(READ, max(1, BYTES // (batch[:1].nbytes or 1)))
        for some in batch.split(size):
            held.append(some)
            if sum(map(len, held)) >= size:
                together = torch.cat(held)
                yield together[:size]
                held = [together[size:]] if len(together) > size else []
    if held:
        yield torch.cat(held)


def _small(images: Tensor) -> Tensor:
    channels, height, width = images.shape[1:]
    return as_shape(images, (channels, min(height, LOOKED_AT), min(width, LOOKED_AT)))
