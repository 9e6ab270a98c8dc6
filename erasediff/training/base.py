"""A base model: built anew and trained on pictures of named classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from diffusers import DiffusionPipeline

from erasediff.data.concept_images import ConceptImages
from erasediff.families import family_of
from erasediff.families.class_conditional import build_pipeline
from erasediff.training.denoising import Recipe, train_denoiser
from erasediff.training.state import Checkpoint, OnStep

#: Arguments of :func:`erasediff.families.class_conditional.build_pipeline` that say what a network is made of.
ARCHITECTURE = {"block_out_channels", "layers_per_block", "attention", "beta_schedule", "prediction_type"}


def train_base(
    data: ConceptImages,
    image_shape: tuple[int, int, int],
    *,
    architecture: Mapping[str, Any],
    recipe: Recipe,
    seed: int,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> DiffusionPipeline:
    """A class-conditional pipeline whose classes are the concepts of ``data``.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        architecture: arguments of ``build_pipeline``, such as those of :data:`ARCHITECTURE`.
        recipe: how the network is trained.
        seed: of the first weights and of the training.

    Raises: ModelError: the image size does not fit the network. NonFiniteLoss.
    """
    pipeline = build_pipeline(sorted(set(data.concepts)), image_shape, **architecture, seed=seed)
    train_denoiser(
        family_of(pipeline),
        data.images,
        data.prompts,
        recipe,
        seed=seed,
        accelerator=accelerator,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return pipeline
