"""Embedded examples: models and data to try everything on, offline and with exact truth."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from erasediff.examples.digits import Digits
    from erasediff.examples.shapes import Shapes

#: Module and class of an example by its name.
EXAMPLES = {"digits": ("digits", "Digits"), "shapes": ("shapes", "Shapes")}


@overload
def open_example(name: Literal["digits"]) -> Digits: ...
@overload
def open_example(name: Literal["shapes"]) -> Shapes: ...


def open_example(name: str) -> Digits | Shapes:
    """Open an embedded example; nothing is fetched.

    Args:
        name: ``"shapes"``, a small text-to-image model with its world and an exact judge; ``"digits"``, scikit-learn's
            handwritten digits, and the model that ``make demo`` trains on them.

    Raises: ValueError: there is no such example.
    """
    if name not in EXAMPLES:
        raise ValueError(f"there is no example {name!r}; there are: {', '.join(EXAMPLES)}")
    module, example = EXAMPLES[name]
    return getattr(import_module(f"erasediff.examples.{module}"), example)()
