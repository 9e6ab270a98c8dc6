"""How many updates a run makes, and what they cost, before it begins."""

from __future__ import annotations

import dataclasses

from erasediff.errors import ParamsError
from erasediff.records import EffectiveSettings
from erasediff.training.denoising import Recipe
from erasediff.unlearning.methods import Method
from erasediff.unlearning.methods.closed_form import ClosedForm
from erasediff.unlearning.methods.method import TRAINED


def planned(
    method: Method,
    forget_images: int,
    retain_images: int,
    *,
    passes: int | None = None,
    recipe: Recipe | None = None,
    mixed_precision: str = "no",
) -> EffectiveSettings:
    """Return the record of a run that goes as planned; only a constraint gap that is reached ends one earlier.

    Args:
        passes: as many updates as this many images through the network allow, at least one; ``None``: ``outer_steps``.
            It does not bind ``retrain``.
        recipe: of ``retrain``.
    Raises: ParamsError: ``retrain`` without a recipe.
    """
    precision = {"mixed_precision": mixed_precision}
    if method.name == "retrain":
        if recipe is None:
            raise ParamsError("method retrain needs a recipe: the one that the base was trained with")
        settings = {**dataclasses.asdict(recipe), **precision}
        return EffectiveSettings(method.name, settings, recipe.steps, TRAINED * recipe.steps * recipe.batch_size)
    if isinstance(method, ClosedForm):
        return EffectiveSettings(method.name, method.effective(), 0, 0)
    updates = method.settings.outer_steps
    if passes is not None:
        updates = updates_within(method, forget_images, retain_images, passes)
        method = method.with_updates(updates)
    spent = passes_of(method, updates, forget_images, retain_images)
    return EffectiveSettings(method.name, {**method.effective(), **precision}, updates, spent)


def passes_of(method: Method, updates: int, forget_images: int, retain_images: int) -> int:
    """Return the images through the network in so many updates and in what is measured before the first."""
    return method.passes_before(forget_images, retain_images) + sum(map(method.passes_of_update, range(updates)))


def updates_within(method: Method, forget_images: int, retain_images: int, passes: int) -> int:
    """Return the most updates that a budget of images through the network allows, at least one."""
    spent, updates = passes_of(method, 1, forget_images, retain_images), 1
    while (more := method.passes_of_update(updates)) and spent + more <= passes:
        spent, updates = spent + more, updates + 1
    return updates
