"""A judge by what a command line calls it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasediff.artifacts import read_object
from erasediff.errors import ModelError, ParamsError, did_you_mean, shown
from erasediff.judges import KINDS, Judge, judge_kind, open_judge
from erasediff.judges.domains import DomainsJudge

#: The exact judge of the embedded world.
SHAPES = "shapes"
#: What a command line may call a judge.
JUDGES = (
    f"{SHAPES} (the embedded world's), nudity, a judge's own folder as models/classifier, a folder of transformers "
    "(CLIP or image classifier); of the hub clip:ORG/NAME@COMMIT or image_classifier:ORG/NAME@COMMIT"
)


def named_judge(name: str, concepts: Sequence[str] = (), labels: Mapping[str, Sequence[str]] | None = None) -> Judge:
    """Open a judge.

    Args:
        name: as :data:`JUDGES` says.
        concepts: what it should tell apart, where it can tell anything (CLIP), or its labels (image classifier).
        labels: of an image classifier or CLIP, which labels or words belong to a concept.

    Raises: ParamsError: there is no such kind. ModelError, IntegrityError: it cannot be opened.
    """
    if name == SHAPES:
        return shapes_judge()
    if name == "nudity":
        nudity: Judge = judge_kind(name).opened()
        return nudity
    kind, colon, where = name.partition(":")
    folder = Path(name)
    if folder.is_dir():
        if (folder / "judge.json").exists() or "kind" in _config(folder):
            return open_judge(folder)
        kind, where = ("clip" if _config(folder).get("model_type") == "clip" else "image_classifier"), name
    elif not colon or kind not in KINDS:
        hint = did_you_mean(kind, [SHAPES, *KINDS])
        raise ParamsError(f"no judge {shown(repr(name))}{hint}; give {JUDGES}")
    repo, _, commit = where.partition("@")
    if kind == "clip" and not (concepts or labels):
        raise ParamsError("CLIP tells anything apart: say what by --concepts")
    opened: Any = judge_kind(kind).opened
    judge: Judge = opened(repo, revision=commit or None, concepts=concepts, labels=labels)
    return judge


def shapes_judge(domains: Sequence[str] = ("object", "style")) -> DomainsJudge:
    """The exact judge of the embedded world, of the domains that UnlearnCanvas has too."""
    from erasediff.examples import open_example
    from erasediff.examples.shapes_judge import NOTHING

    known = open_example("shapes").judge.domains
    return DomainsJudge({domain: known[domain] for domain in domains}, rest=(NOTHING,))


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} is no judge: it has neither judge.json nor config.json; give {JUDGES}")
    return read_object(folder / "config.json")


def read_labels(path: str) -> dict[str, list[str]]:
    """Labels by concept, of a JSON file. Raises: ParamsError: it is no such file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParamsError(f"{path} cannot be read as JSON ({shown(str(error), 100)})") from None
    if not isinstance(found, dict) or not all(
        isinstance(v, list) and all(isinstance(n, str) for n in v) for v in found.values()
    ):
        raise ParamsError(f'{path} is to be like {{"star": ["starfish", "sea star"]}}: lists of labels by concept')
    return found
