"""One model measured: drawn, read by the classifier, compared with held-out pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erasediff.data.images import decode
from erasediff.device import device
from erasediff.errors import DataError, UnknownConcept
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.judges import Judge
from erasediff.metrics.distance import frechet_distance
from erasediff.randomness import image_seeds

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline
    from tqdm import tqdm


def measure(
    family: Family,
    classifier: Judge,
    concepts: Sequence[str],
    forgotten: Sequence[str],
    held_out: Any,
    *,
    earlier: Sequence[str] = (),
    samples_per_concept: int,
    draws: int,
    steps: int | None,
    guidance_scale: float | None,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int], None],
) -> tuple[dict[str, float], Tensor]:
    """Flat numbers and eight images a concept: means over draws, with the standard deviation under ``_sd`` for all
    but the accuracy of single concepts.

    Args:
        concepts: all concepts of the data.
        forgotten: those to forget; may be empty, then only utility is measured.
        held_out: real test pictures of the retained concepts, float32 ``(N, C, H, W)`` in [-1, 1].
        earlier: concepts that the base had forgotten already: neither to forget nor retained.
        on_progress: called with the number of images drawn since the last call.
    """
    names = [c for c in concepts for _ in range(samples_per_concept)]
    reference = classifier.read(held_out)[1]
    per_draw: list[dict[str, float]] = []
    shown = torch.empty(0)
    for draw in range(draws):
        seeds = image_seeds(seed, draw, len(names))  # the same for every model that is measured
        parts = []
        for start in range(0, len(names), batch_size):
            chunk = slice(start, start + batch_size)
            parts.append(
                family.sample(
                    names[chunk], seeds[chunk], steps=steps, guidance_scale=guidance_scale, batch_size=batch_size
                )
            )
            on_progress(len(parts[-1]))
        images = torch.cat(parts)
        if draw == 0:
            shown = images.view(len(concepts), samples_per_concept, *images.shape[1:])[:, :8]
        probabilities, features = classifier.read(images)
        per_draw.append(score(probabilities, features, names, classifier.concepts, forgotten, reference, earlier))
    result: dict[str, float] = {}
    for name in per_draw[0]:
        values = [row[name] for row in per_draw]
        result[name] = statistics.fmean(values)
        if not name.startswith("accuracy."):
            result[f"{name}_sd"] = statistics.stdev(values) if draws > 1 else 0.0
    return result, shown


def measure_pipeline(
    pipeline: DiffusionPipeline,
    classifier: Judge,
    test: pd.DataFrame,
    forgotten: Sequence[str],
    earlier: Sequence[str],
    *,
    samples_per_concept: int,
    draws: int,
    inference_steps: int | None,
    guidance_scale: float | None,
    batch_size: int,
    seed: int,
    bar: tqdm,
) -> tuple[dict[str, float], Tensor, tuple[str, ...]]:
    """Numbers of a pipeline, eight pictures a concept, and the concepts.

    Args:
        test: held-out pictures, a table with ``image`` and ``concept``.
        earlier: what the base had forgotten already; what the classifier does not know is not looked at.
        bar: shows how many pictures are drawn.

    Raises: DataError: too few held-out pictures. UnknownConcept: the classifier does not know what to forget.
    """
    family, classifier = family_of(pipeline.to(device())), classifier.to(device())
    if unknown := sorted(set(forgotten) - set(classifier.concepts)):
        raise UnknownConcept(f"the classifier does not know {', '.join(unknown)}: train it on data with these concepts")
    known = [c for c in earlier if c in classifier.concepts]
    held_out = decode(test[~test["concept"].isin([*forgotten, *known])]["image"].tolist(), classifier.image_shape)
    if len(held_out) < 2:
        raise DataError(
            f"{len(held_out)} held-out picture(s) of retained concepts: a distance needs 2, give more pictures"
        )
    bar.total = len(classifier.concepts) * samples_per_concept * draws
    numbers, shown = measure(
        family,
        classifier,
        classifier.concepts,
        forgotten,
        held_out,
        earlier=known,
        samples_per_concept=samples_per_concept,
        draws=draws,
        steps=inference_steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        seed=seed,
        on_progress=bar.update,
    )
    return numbers, shown, classifier.concepts


def score(
    probabilities: Tensor,
    features: Tensor,
    asked: Sequence[str],
    known: Sequence[str],
    forgotten: Sequence[str],
    reference: Tensor,
    earlier: Sequence[str] = (),
) -> dict[str, float]:
    """The metrics of one draw.

    Args:
        probabilities: classifier's, ``(N, number of known concepts)``.
        features: classifier's, ``(N, D)``.
        asked: the concept each sample was drawn for.
        known: concepts in the order of ``probabilities``.
        reference: features of held-out real pictures of the retained concepts, ``(M, D)``.
        earlier: concepts that the base had forgotten already.
    """
    index = {c: i for i, c in enumerate(known)}
    labels = torch.tensor([index[c] for c in asked])
    right = (probabilities.argmax(1) == labels).float()
    targets = torch.tensor([c in forgotten for c in asked])
    gone = torch.tensor([c in earlier for c in asked])
    retained = ~(targets | gone)
    result = {"recognised": right[~gone].mean().item()}
    if targets.any():
        columns = torch.tensor([index[c] for c in forgotten])
        drawn = probabilities[targets]
        result["unlearning_accuracy"] = 1 - torch.isin(drawn.argmax(1), columns).float().mean().item()
        result["forget_class_probability"] = drawn[:, columns].sum(1).mean().item()
        result["forget_class_entropy_nats"] = torch.special.entr(drawn).sum(1).mean().item()
    if gone.any():
        columns = torch.tensor([index[c] for c in earlier])
        seen = torch.isin(probabilities[gone].argmax(1), columns)
        result["earlier_unlearning_accuracy"] = 1 - seen.float().mean().item()
    result["in_domain_retain_accuracy"] = right[retained].mean().item()
    result["fd_classifier"] = frechet_distance(features[retained], reference)
    for concept in known:
        rows = labels == index[concept]
        if rows.any():
            result[f"accuracy.{concept}"] = right[rows].mean().item()
    return result
