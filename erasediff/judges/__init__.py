"""Judges recognise a concept in a picture: one file a kind."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from erasediff.artifacts import read_json, verify_folder
from erasediff.errors import IntegrityError
from erasediff.judges.judge import Judge, accuracy

__all__ = ["KINDS", "Judge", "accuracy", "judge_kind", "open_judge"]

#: File of this room by ``classifier.kind`` of params.yaml. It has three functions:
#: ``train(images, concepts, image_shape, *, seed, device, on_step, **settings) -> Judge``,
#: ``save(judge, folder, **facts)``, which writes a ``config.json`` with the ``kind``, and ``load(folder) -> Judge``.
KINDS = {"cnn": "cnn"}


def judge_kind(kind: str) -> ModuleType:
    """The file of a kind of judge, by its name in :data:`KINDS`."""
    return import_module(f"erasediff.judges.{KINDS[kind]}")


def open_judge(folder: Path) -> Judge:
    """Read a judge of any kind, verified against its manifest, on the CPU.

    Raises: IntegrityError: a file is missing, truncated or altered, or the folder is of a kind that is not known here.
    """
    verify_folder(folder)
    if (folder / "judge.json").exists():
        pretrained: Judge = import_module("erasediff.judges.pretrained").load(folder)
        return pretrained
    kind = read_json(folder / "config.json").get("kind")
    if kind not in KINDS:
        raise IntegrityError(f"{folder} is a judge of kind {kind!r}; known are {', '.join(KINDS)}: run its stage again")
    judge: Judge = judge_kind(kind).load(folder)
    return judge
