"""Judges recognise a concept in a picture: one file a kind."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from erasediff.artifacts import read_object, verify_folder
from erasediff.errors import IntegrityError, shown
from erasediff.judges.judge import REST, Judge, accuracy, asked_concepts, read_as

__all__ = ["KINDS", "REST", "Judge", "accuracy", "asked_concepts", "judge_kind", "open_judge", "read_as", "weights_of"]

#: Kinds of ``classifier.kind`` of params.yaml; each is a file of this room, with
#: ``save(judge, folder, **facts)``, which writes what the judge knows, its ``kind`` included, and its weights;
#: ``load(folder) -> Judge``; and how it comes about:
#: ``train(images, concepts, image_shape, *, seed, device, on_step, **settings) -> Judge``, or, where others trained
#: it, ``opened(model, *, revision, concepts, labels) -> Judge``.
KINDS = ("cnn", "clip", "image_classifier", "nudity")
#: Of a judge's folder: what it knows, beside a model's own files. The ``cnn`` has it in ``config.json``.
FACTS, OWN_FACTS = "judge.json", "config.json"


def judge_kind(kind: str) -> ModuleType:
    """The file of a kind of judge, by its name in :data:`KINDS`."""
    return import_module(f"erasediff.judges.{kind}")


def open_judge(folder: Path) -> Judge:
    """Read a judge of any kind, verified against its manifest, on the CPU.

    Raises: IntegrityError: a file is missing, truncated or altered, or the folder is of a kind that is not known here.
    """
    verify_folder(folder)
    kind = read_object(folder / (FACTS if (folder / FACTS).exists() else OWN_FACTS)).get("kind")
    if kind not in KINDS:
        raise IntegrityError(
            f"{folder} is a judge of kind {shown(repr(kind))}; known are {', '.join(KINDS)}: run its stage again"
        )
    judge: Judge = judge_kind(kind).load(folder)
    return judge


def weights_of(folder: Path) -> Path:
    """The file with the weights in a judge's folder."""
    onnx = folder / "model.onnx"
    return onnx if onnx.exists() else folder / "model.safetensors"
