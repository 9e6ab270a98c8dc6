"""The example of a model of named classes: handwritten digits."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from erasediff.data.concept_images import ConceptImages


class Digits:
    """The example ``digits``.

    Attributes:
        folder: where ``make demo`` leaves the model, in a checkout.
    """

    folder = Path("models/base")

    @cached_property
    def images(self) -> ConceptImages:
        """The 1,797 pictures with the names of what they show; needs scikit-learn."""
        from erasediff.data.concept_images import ConceptImages
        from erasediff.data.images import decode
        from erasediff.data.sources import read_digits

        _, concepts, pngs = zip(*read_digits(), strict=True)
        return ConceptImages(decode(pngs, (1, 8, 8)), list(concepts))

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        """The model that ``make demo`` trains; it is too quickly made to be shipped.

        Raises: ModelError: it was not trained here yet.
        """
        from erasediff.families import open_pipeline

        if not self.folder.exists():
            raise ModelError(
                f"there is no {self.folder} here: run `make demo` in a checkout, which trains the model of the digits, "
                "and open the example there; erasediff.open_example('shapes') brings its model along"
            )
        return open_pipeline(self.folder)
