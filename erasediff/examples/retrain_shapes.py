"""Train the shapes' model again without a concept: what an erased model is compared with.

``python -m erasediff.examples.retrain_shapes star --output DIR/retrained`` takes a quarter of an hour of one core.
A training that was stopped goes on. ``erasediff evaluate --methods retrained --data DIR`` reads the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline

from erasediff.artifacts import new_folder
from erasediff.examples import open_example
from erasediff.examples.captions import captions
from erasediff.examples.shapes_networks import build_shapes_pipeline
from erasediff.examples.train_shapes import SEED, StateFile
from erasediff.examples.world import OBJECTS, STYLES, draw_world
from erasediff.families import family_of
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.encoding import prepared
from erasediff.training.state import OnStep

if TYPE_CHECKING:
    pass

#: Fewer updates than the 7,000 of the embedded model; it draws what it is asked for in 0.99 of the pictures after them.
RECIPE = Recipe(3000, batch_size=32, learning_rate=1.5e-3, warmup_steps=60, ema_decay=0.99)
#: How many pictures it is trained on, each with one caption.
PICTURES = 8000
#: Updates between two states that a training can go on from.
CHECKPOINT_EVERY = 200


def retrained_without(
    concept: str, work: Path, recipe: Recipe = RECIPE, *, pictures: int = PICTURES, on_step: OnStep | None = None
) -> StableDiffusionPipeline:
    """The embedded model with a denoiser of new weights that never sees ``concept``, an object or a style of the world.

    Text encoder and autoencoder are those of the embedded model.

    Args:
        work: keeps what the training needs to go on.

    Raises: ValueError: the world has no such concept.
    """
    if concept not in (*OBJECTS, *STYLES):
        raise ValueError(f"the world has no {concept!r}; it has: {', '.join((*OBJECTS, *STYLES))}")
    base = open_example("shapes").pipeline
    pipeline = build_shapes_pipeline(base.vae, SEED)
    pipeline.text_encoder, pipeline.tokenizer = base.text_encoder, base.tokenizer
    drawn = draw_world(
        pictures,
        SEED + 10**6,
        objects=[name for name in OBJECTS if name != concept],
        styles=[name for name in STYLES if name != concept],
    )
    said = captions(drawn, np.random.default_rng(SEED))
    family = family_of(pipeline)
    train_denoiser(
        prepared(family, said, torch.device("cpu")),
        torch.cat([family.encode(part) for part in drawn.images.split(500)]),
        said,
        recipe,
        seed=SEED,
        accelerator=Accelerator(cpu=True),
        checkpoint=StateFile(work / "checkpoint.safetensors", every=CHECKPOINT_EVERY),
        on_step=on_step,
    )
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m erasediff.examples.retrain_shapes", description=__doc__)
    known = (*OBJECTS, *STYLES)
    parser.add_argument("concepts", nargs="*", metavar="CONCEPT", help=f"of {', '.join(known)} (default: each)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the models; each has its concept's name")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.concepts} - {*known}):
        parser.error(f"the world has no {unknown[0]!r}; it has: {', '.join(known)}")

    def told(step: int, row: dict[str, float]) -> None:
        if step % 50 == 0:
            print(step, {name: round(value, 4) for name, value in row.items()}, flush=True)

    for concept in arguments.concepts or known:
        folder = arguments.output / concept
        if not folder.exists():
            pipeline = retrained_without(concept, arguments.output / f"{concept}.training", on_step=told)
            with new_folder(folder) as place:
                pipeline.save_pretrained(place)
        print(f"{concept}: {folder}", flush=True)


if __name__ == "__main__":
    main()
