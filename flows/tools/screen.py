"""What a command shows while its flow runs: on a terminal a line a stage that redraws, elsewhere a line an event."""

from __future__ import annotations

import logging
import re
import sys
import time
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

#: How a stage tells how far it is (stages.door), and how a task tells that its stage runs.
FAR = re.compile(r"(?P<label>[^:]+): +(?P<percent>\d+) % \((?P<note>.*)\)$")
RUNS = re.compile(r"Running (?P<what>stage '[^']+' \(\d+ of \d+\))$")
#: Prefect's own words, which the result says better.
BOILERPLATE = (
    "Beginning flow run",
    "Finished in state",
    "Created task run",
    "Created flow run",
    "View at",
    "Executing",
)


class Row(NamedTuple):
    """A task that runs: its line on a terminal."""

    number: TaskID
    began: float
    last: str


class Screen(logging.Handler):
    """Shows the log records of Prefect's runs; every library's warnings too.

    Args:
        quiet: shows warnings and errors alone.
        console: standard error by default.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None):
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._rows: dict[str, Row] = {}
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._redraws = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet

    def __enter__(self) -> Screen:
        self._before, logging.root.handlers = logging.root.handlers, [self]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        logging.root.handlers = self._before
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was found."""
        if self._live.live.is_started:
            self._live.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        text, task = record.getMessage(), getattr(record, "task_run_name", None)
        ours = task is not None or hasattr(record, "flow_run_name")
        if not ours and record.levelno < logging.WARNING:
            return
        if self._redraws and task is not None and record.levelno < logging.WARNING:
            self._redraw(task, text)
        elif not text.startswith(BOILERPLATE):
            self._print(task or "", text, error=record.levelno >= logging.ERROR)

    def _redraw(self, task: str, text: str) -> None:
        if text.startswith("Finished in state"):
            if (row := self._rows.pop(task, None)) is not None:
                self._live.remove_task(row.number)
                self._print(task, f"{row.last} ({duration(time.monotonic() - row.began)})")
            if not self._rows:
                self.stop()
            return
        if task not in self._rows:
            self._live.start()
            number = self._live.add_task(task, total=100, note="")
            self._rows[task] = Row(number, time.monotonic(), "")
        row = self._rows[task]
        if found := FAR.match(text):
            self._live.update(row.number, completed=int(found["percent"]), note=found["note"], refresh=True)
        elif found := RUNS.match(text):
            self._live.update(row.number, description=found["what"], refresh=True)
        else:
            self._rows[task] = row._replace(last=text)
            self._live.update(row.number, note=text[:60], refresh=True)

    def _print(self, task: str, text: str, *, error: bool = False) -> None:
        # What is told again, as a tool's progress, names its task twice.
        text = text.removeprefix(f"{task}: ")
        line = f"{time.strftime('%H:%M:%S')}  {task:16} {text}"
        self.console.print(Text(line, style="red" if error else ""))


def show(text: str) -> None:
    """Print a result; on a terminal what passed is green and what failed red."""
    result = Text(text)
    result.highlight_regex(r"(?m)\bpassed$", "green")
    result.highlight_regex(r"(?m)\bFAILED$", "bold red")
    result.highlight_regex(r"(?m)\bcannot be told\b.*$", "bold yellow")
    Console(highlight=False, soft_wrap=True, markup=False, file=sys.stdout).print(result)


def duration(seconds: float) -> str:
    """Return a time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = {"h": hours, "min": minutes, "s": rest}
    return " ".join(f"{value} {unit}" for unit, value in parts.items() if value) or "0 s"
