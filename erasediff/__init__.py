"""Erase concepts from diffusion models, and say with evidence what was forgotten and what was kept.

>>> import erasediff
>>> pipeline = erasediff.open_example("shapes").pipeline  # doctest: +SKIP
>>> result = erasediff.erase(pipeline, "star", preserve=["circle", "square"])  # doctest: +SKIP
>>> result.pipeline.save_pretrained("erased")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

#: Where each verb is: torch and diffusers are imported once one is used, so that ``import erasediff`` takes no time.
_VERBS = {
    "attack": "erasediff.evaluation.attacking",
    "draw": "erasediff.families.drawing",
    "erase": "erasediff.unlearning.erasing",
    "evaluate": "erasediff.evaluation.evaluating",
    "load": "erasediff.loading",
    "open_example": "erasediff.examples",
}

if TYPE_CHECKING:
    from erasediff.evaluation.attacking import attack
    from erasediff.evaluation.evaluating import evaluate
    from erasediff.examples import open_example
    from erasediff.families.drawing import draw
    from erasediff.loading import load
    from erasediff.unlearning.erasing import erase

__all__ = ["__version__", "attack", "draw", "erase", "evaluate", "load", "open_example"]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'erasediff' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
