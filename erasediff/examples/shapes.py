"""The example of text-to-image: a working Stable Diffusion pipeline of a few MB, its world, and an exact judge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from erasediff.artifacts import read_json, verify_folder
from erasediff.examples.captions import SYNONYMS, TEST_WORDINGS, TRAIN_WORDINGS, captions
from erasediff.examples.world import COLOURS, OBJECTS, STYLES, Drawn, draw_world

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from erasediff.examples.shapes_judge import ShapesJudge

#: A diffusers folder: any program that reads one can open it.
FOLDER = Path(__file__).parent / "shapes_model"
#: In it: how it was made, and what it reaches.
MADE = "made.json"


class World:
    """What the pictures of the example can show, and a pencil that draws them.

    Attributes:
        objects: names of what can be drawn.
        styles: in which ways.
        colours: in which colours.
        train_wordings: captions that the model was trained on, with places for ``object``, ``style`` and ``colour``.
        test_wordings: captions that it never saw, with places for ``object`` and ``style``.
        synonyms: other words that it was sometimes given.
    """

    objects, styles, colours = OBJECTS, STYLES, COLOURS
    train_wordings, test_wordings, synonyms = TRAIN_WORDINGS, TEST_WORDINGS, SYNONYMS

    def draw(
        self,
        n: int,
        seed: int = 0,
        *,
        objects: Sequence[str] = OBJECTS,
        styles: Sequence[str] = STYLES,
        colours: Sequence[str] = COLOURS,
    ) -> Drawn:
        """``n`` pictures with their truth, of random objects, styles and colours out of those given."""
        return draw_world(n, seed, objects=objects, styles=styles, colours=colours)

    def captions(self, drawn: Drawn, seed: int = 0, wordings: Sequence[str] = TRAIN_WORDINGS) -> list[str]:
        """A caption a picture, as the model was trained on them."""
        return captions(drawn, np.random.default_rng(seed), wordings)


class Shapes:
    """The example ``shapes``.

    Attributes:
        world: draws pictures with their truth, and knows the words for them.
        folder: where the model is, as a diffusers folder.
    """

    world = World()
    folder = FOLDER

    @cached_property
    def pipeline(self) -> StableDiffusionPipeline:
        """The model in float32 on the CPU, verified; plain ``StableDiffusionPipeline.from_pretrained`` opens it too.

        Raises: IntegrityError: a file is missing or altered. ModelError: transformers is missing.
        """
        from torch import nn

        from erasediff.families import open_pipeline

        pipeline = open_pipeline(self.folder)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            nn.Module.float(part)  # that of diffusers warns of layers to keep in float32, also where there are none
        return pipeline

    @cached_property
    def judge(self) -> ShapesJudge:
        """What recognises objects, styles and colours in a picture.

        Raises: IntegrityError: a file is missing or altered.
        """
        from erasediff.examples.shapes_judge import open_shapes_judge

        verify_folder(self.folder)
        return open_shapes_judge(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """How the model was made, and its measured accuracy."""
        return read_json(self.folder / MADE)
