"""How far a work is, on a terminal, in a notebook and in a file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from erasediff.command import tenths

#: What a bar shows of what was measured.
LOSSES = ("retain_loss", "forget_loss")


class Show(Protocol):
    """What a work calls: what is done, what was measured, and of how much, where that was not known before."""

    def __call__(self, done: int, row: Mapping[str, float], total: int | None = None) -> None: ...


def say(line: str, *, shown: bool) -> None:
    """Tell what a work does next, where no bar tells it."""
    if shown and not _redraws():
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(label: str, total: int | None, unit: str, *, shown: bool) -> Iterator[Show]:
    """Show how far a work is, with its losses; yields what is called with what is done and what was measured.

    On a terminal and in a notebook a bar redraws. In a file, whose lines nobody redraws, the first call is a line, and
    so is each further tenth.
    """
    if not shown:
        yield lambda done, row, total=None: None
    elif not _redraws():
        tell, known = tenths(label, f" {unit}s", begins=True), total
        yield lambda done, row, total=None: tell(done, total or known or done)
    else:
        with _tqdm()(desc=label, total=total, unit=unit) as bar:

            def on_progress(done: int, row: Mapping[str, float], total: int | None = None) -> None:
                bar.total = bar.total if total is None else total
                losses = {name.removesuffix("_loss"): row[name] for name in LOSSES if name in row}
                bar.set_postfix(losses, refresh=False)
                bar.update(done - bar.n)

            yield on_progress


def _redraws() -> bool:
    """True on a terminal and in a notebook."""
    return sys.stderr.isatty() or any(kind.__module__ == "tqdm.notebook" for kind in _tqdm().__mro__)


def _tqdm() -> Any:
    """The bar of a terminal or of a notebook; a notebook without ipywidgets gets that of a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm
