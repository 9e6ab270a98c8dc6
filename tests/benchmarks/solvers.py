"""Few-step solvers beside ancestral sampling with 1,000 steps, on the two embedded models: do they come to the same?

For each sampler the judge reads the base's and the erased model's pictures. The distance is the Fréchet distance of the
judge's features between a sampler's pictures and ancestral ones of the same model under other seeds, over that of two
halves of ancestral pictures: 1 says that a sampler's pictures cannot be told from ancestral ones.

    python tests/benchmarks/solvers.py digits models/base models/erased
    python tests/benchmarks/solvers.py shapes shapes erased/star
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from erasediff.examples import open_example
from erasediff.examples.world import OBJECTS, STYLES
from erasediff.families import Family, family_of
from erasediff.loading import load
from erasediff.metrics.distance import frechet_distance
from erasediff.metrics.intervals import wilson
from erasediff.randomness import image_seeds

ANCESTRAL = ("DDPMScheduler", 1000)
SAMPLERS = (
    ("UniPCMultistepScheduler", 12),
    ("UniPCMultistepScheduler", 25),
    ("DPMSolverMultistepScheduler", 12),
    ("DPMSolverMultistepScheduler", 25),
    ("DDIMScheduler", 25),
    ("DDIMScheduler", 100),
)
#: What is forgotten of each model, and the guidance that its evaluation draws at.
FORGOTTEN = {"digits": ("8", 1.0), "shapes": ("star", 3.0)}


def asked_of(world: str) -> tuple[list[str], list[str]]:
    """``(prompts, concepts)``, each concept equally often."""
    if world == "digits":
        return list("0123456789") * 10, list("0123456789") * 10
    pairs = [(thing, style) for thing in OBJECTS for style in STYLES]
    return [f"a {thing} in {style} style" for thing, style in pairs], [thing for thing, _ in pairs]


def judge_of(world: str, base: str):
    """Reads pictures: ``(probabilities, features)``; its ``concepts`` are the columns."""
    if world == "shapes":
        return open_example("shapes").judge.object
    from evaluation import prepared

    return prepared(Path(base))[1]


def draw(family: Family, world: str, sampler: tuple[str, int], seed: int, times: int) -> torch.Tensor:
    """``times`` pictures for each prompt, ``(N, C, H, W)`` in [-1, 1]."""
    prompts, _ = asked_of(world)
    name, steps = sampler
    seeds = image_seeds(seed, 11, len(prompts) * times)
    guidance = FORGOTTEN[world][1]
    return family.sample(prompts * times, seeds, steps=steps, guidance_scale=guidance, batch_size=100, sampler=name)


def shares(judge, images: torch.Tensor, concepts: Sequence[str], forgotten: str) -> tuple[str, str]:
    """The share of the forgotten concept's pictures that do not show it, and of the others that show theirs."""
    chosen = judge.read(images)[0].argmax(1).tolist()
    seen = [judge.concepts[i] for i in chosen]
    gone = [name != forgotten for name, asked in zip(seen, concepts, strict=True) if asked == forgotten]
    kept = [name == asked for name, asked in zip(seen, concepts, strict=True) if asked != forgotten]
    return told(gone), told(kept)


def told(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits) / len(hits):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=sorted(FORGOTTEN))
    parser.add_argument("base", help="the model, as erasediff takes it")
    parser.add_argument("erased", help="the model without the 8 or the star")
    parser.add_argument("--times", type=int, default=2, help="pictures of each prompt (default: %(default)s)")
    given = parser.parse_args()
    judge, forgotten = judge_of(given.world, given.base), FORGOTTEN[given.world][0]
    concepts = asked_of(given.world)[1] * given.times
    for which in ("base", "erased"):
        family = family_of(load(getattr(given, which)))
        reference, again = (draw(family, given.world, ANCESTRAL, seed, given.times) for seed in (101, 102))
        features = [judge.read(images)[1].double() for images in (reference, again)]
        floor = frechet_distance(*features)
        for sampler in (ANCESTRAL, *SAMPLERS):
            started = time.process_time()
            images = again if sampler == ANCESTRAL else draw(family, given.world, sampler, 102, given.times)
            seconds = time.process_time() - started
            gone, kept = shares(judge, images, concepts, forgotten)
            distance = frechet_distance(features[0], judge.read(images)[1].double()) / floor
            took = "" if sampler == ANCESTRAL else f"{seconds:.1f}"
            print(f"| {which} | {sampler[0]}, {sampler[1]} | {gone} | {kept} | {distance:.2f} | {took} |", flush=True)


if __name__ == "__main__":
    main()
