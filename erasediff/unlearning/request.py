"""What ``erase`` is asked for, checked before anything is drawn or trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from erasediff.data.concept_images import ConceptImages
from erasediff.data.given import Pictures, as_images, require_range
from erasediff.data.wordings import warn_of_misspelt
from erasediff.errors import DataError, ParamsError, require_unicode, shown
from erasediff.families import Family
from erasediff.families.reading import is_spelled, require_read, require_told_apart, warn_of_cut
from erasediff.unlearning.words import kept_by_default, takes_words

#: What to do with pictures that do not fit, where nothing is converted.
AS_THEY_ARE = "ConceptImages are taken as they are; a mapping from concept to images is converted"


@dataclass(frozen=True)
class Request:
    """Names to forget and to keep, and the pictures of both where they were given."""

    forget: list[str]
    retain: list[str]
    forget_set: ConceptImages | None
    retain_set: ConceptImages | None


def request(
    family: Family,
    concept: str | Sequence[str],
    *,
    preserve: str | Sequence[str] | None,
    before: Sequence[str],
    anchor: str | Mapping[str, str] | None,
    forget: Pictures | Mapping[str, Pictures] | ConceptImages | None,
    retain: Mapping[str, Pictures] | ConceptImages | None,
    accelerator: Accelerator,
) -> Request:
    """Read what :func:`erasediff.erase` is given.

    Raises: UnknownConcept; ParamsError: no concept, nothing to keep, a concept that is also to be kept, that the model
        cannot tell from what is to be kept, or that it does not read to its end, one to keep that was forgotten before;
        DataError: pictures that cannot be used, or that are of other concepts.
    """
    targets = names_of(concept, "concept", family)
    anchors = _anchors(anchor, targets)
    require_read(family.pipeline, targets)
    named = [] if preserve is None else names_of(preserve, "preserve", family)
    if takes_words(family):
        warn_of_misspelt(name for name in [*targets, *anchors, *named] if is_spelled(family.pipeline, name))
    if preserve is not None and retain is not None:
        raise ParamsError("retain and preserve both say what to keep: give images, or the names of concepts")
    shape = family.image_shape
    forget_set = _forget_set(forget, targets, shape)
    retain_set = _retain_set(retain, shape)
    if forget_set and family.conditional and (empty := sum(not prompt.strip() for prompt in forget_set.prompts)):
        raise DataError(f"forget has {empty} empty prompts: say what each of these pictures is asked for with")
    if retain_set is None:
        if preserve is not None:
            kept = named
        elif takes_words(family):
            kept = _without(before, kept_by_default(family, targets, accelerator))
        else:
            kept = _without(before, [c for c in family.concepts or () if c not in targets])
    else:
        kept = list(dict.fromkeys(retain_set.concepts))
    require_unicode(map(str, kept), "concept to keep")
    if not kept:
        raise ParamsError("nothing to keep: give retain images by concept, or name concepts to preserve")
    if again := [name for name in kept if name not in _without(before, kept)]:
        raise ParamsError(f"{', '.join(map(repr, again))} was forgotten before, and is to be kept: take it out")
    names = [*targets, *anchors]
    if not isinstance(retain, ConceptImages):  # which has prompts of its own, and may keep other pictures of a concept
        _require_apart(family, targets, kept, anchors)
        names += kept
    family.condition(names)  # an unknown concept fails here, before anything is drawn
    require_read(family.pipeline, names)
    asked = [*targets, *(forget_set.prompts if forget_set else ())]
    keep = [*names[len(targets) :], *(retain_set.prompts if retain_set else ())]
    require_told_apart(family.pipeline, asked, keep)
    warn_of_cut(family.pipeline, [*asked, *keep])
    return Request(targets, kept, forget_set, retain_set)


def _without(before: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names without what was forgotten before, in whatever capitals."""
    gone = {name.casefold() for name in before}
    return [name for name in names if name.casefold() not in gone]


def names_of(given: object, what: str, family: Family) -> list[str]:
    """Return a name or several as a list, each once.

    Args:
        what: they are, for messages.
    Raises: ParamsError: none, or one that is empty or no text.
    """
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
    if not names:
        raise ParamsError(f"{what} is empty: name at least one concept")
    for name in names:
        if not isinstance(name, str):
            wanted = shown(repr(str(name)), 40) if isinstance(name, int | float) else "a name, or a list of names"
            raise ParamsError(f"{what} {shown(name)} is no text: give {wanted}")
        if family.conditional and not name.strip():
            raise ParamsError(f"{what} {name!r} is empty: name a concept")
    each = list(dict.fromkeys(map(str, names)))
    require_unicode(each, what)
    return each


def _anchors(given: str | Mapping[str, str] | None, targets: list[str]) -> list[str]:
    """Raises: ParamsError: an anchor that is no valid text, or a mapping that is not one for each concept."""
    if isinstance(given, Mapping) and set(given) != set(targets):
        raise ParamsError(f"anchor names {shown(list(given))}: give one for each of {', '.join(targets)}, or one name")
    names = list(given.values()) if isinstance(given, Mapping) else [] if given is None else [given]
    require_unicode(names, "anchor")
    return names


def _require_apart(family: Family, targets: list[str], kept: list[str], anchors: list[str]) -> None:
    if family.conditional and (both := [name for name in targets if name in kept]):
        raise ParamsError(f"{', '.join(map(repr, both))} is to be forgotten and to be kept: take it out of one")
    for anchor in anchors:
        if anchor in targets:
            raise ParamsError(f"anchor {anchor!r} is to be forgotten itself: name another concept")


def _forget_set(given: object, targets: list[str], shape: tuple[int, int, int]) -> ConceptImages | None:
    if given is None:
        return None
    if isinstance(given, ConceptImages):
        _require_of(given.concepts, targets)
        return _fitting(given, shape, "forget")
    if not isinstance(given, Mapping):
        if len(targets) != 1:
            raise DataError(f"images for {len(targets)} concepts: give them as a mapping from concept to images")
        given = {targets[0]: given}
    _require_of(given, targets)
    return _by_concept(given, shape, "forget")


def _require_of(given: Iterable[str], targets: list[str]) -> None:
    """Raises: DataError: images to forget are not of the concepts to forget, or one has none."""
    there = dict.fromkeys(given)
    for name in [*there, *targets]:
        if name not in targets:
            raise DataError(f"forget has images of {name!r}, which is not to be forgotten: name it as a concept")
        if name not in there:
            raise DataError(f"forget has no images of {name!r}: give some, or none at all and they are drawn")


def _retain_set(given: object, shape: tuple[int, int, int]) -> ConceptImages | None:
    if given is None:
        return None
    if isinstance(given, ConceptImages):
        return _fitting(given, shape, "retain")
    if not isinstance(given, Mapping):
        raise DataError(f"retain is a {type(given).__name__}: give a mapping from concept to images")
    return _by_concept(given, shape, "retain") if given else ConceptImages(torch.empty(0, *shape), [])


def _by_concept(given: Mapping[str, object], shape: tuple[int, int, int], what: str) -> ConceptImages:
    parts = {name: as_images(images, shape, f"{what} images of {name!r}") for name, images in given.items()}
    names = [name for name, images in parts.items() for _ in range(len(images))]
    return ConceptImages(torch.cat(list(parts.values())), names)


def _fitting(given: ConceptImages, shape: tuple[int, int, int], what: str) -> ConceptImages:
    """Return images that are taken as they are. Raises: DataError: the model cannot take them so."""
    images = given.images
    if isinstance(images, Tensor) and len(images):
        if images.shape[1:] != shape:
            raise DataError(
                f"{what} images have shape {tuple(images.shape[1:])}, the model's is {shape}: {AS_THEY_ARE}"
            )
        require_range(images, f"{what} images")
    return given
