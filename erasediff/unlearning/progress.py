"""How far a work is, on a terminal and in a notebook."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Show(Protocol):
    """What a work calls: what is done, what was measured, and of how much, where that was not known before."""

    def __call__(self, done: int, row: Mapping[str, float], total: int | None = None) -> None: ...


@contextmanager
def progress_bar(label: str, total: int | None, unit: str, *, shown: bool) -> Iterator[Show]:
    """Show how far a work is, with its losses; yields what is called with what is done and what was measured.

    In a file, whose lines nobody redraws, there is no bar.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets gets the bar of a terminal
        from tqdm.auto import tqdm

    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    if not (shown and (in_notebook or sys.stderr.isatty())):
        yield lambda done, row, total=None: None
        return
    with tqdm(desc=label, total=total, unit=unit) as bar:

        def on_progress(done: int, row: Mapping[str, float], total: int | None = None) -> None:
            bar.total = bar.total if total is None else total
            losses = {name.removesuffix("_loss"): row[name] for name in ("retain_loss", "forget_loss") if name in row}
            bar.set_postfix(losses, refresh=False)
            bar.update(done - bar.n)

        yield on_progress
