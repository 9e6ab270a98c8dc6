"""Doors of ``stages/`` that are no stage of DVC's, each started in a process of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.errors import EraseDiffError, ModelError
from flows.tools import processes

if TYPE_CHECKING:
    from erasediff.registry.versions import Version


def start_door(name: str, *arguments: str, say: Callable[[str], None], extra: Mapping[str, str] | None = None) -> None:
    """Run ``python -m stages.NAME`` and pass its output line by line to ``say``.

    Raises: the stated failure that the door ends with; StageFailed: another one.
    """
    lines, code = processes.follow([sys.executable, "-m", f"stages.{name}", *arguments], say, extra or {})
    if code:
        raise processes.failure(name, lines, code)


def require_drawing(version: Version) -> None:
    """Have a version draw a picture. Raises: ModelError: it does not."""
    # One argument each: a concept may start with a dash.
    wanted = [f"--model={version.uri}", f"--concept={version.tags.get('example_concept', '')}", "--n=1", "--steps=2"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_door("sample", *wanted, f"--out={Path(folder) / 'picture.png'}", say=lambda line: None)
        except EraseDiffError as error:
            raise ModelError(f"{version.uri} does not draw: {error}") from None
