"""What is seen of a run: on a terminal, in a log, when it is quiet."""

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from erasediff.command import tenths
from flows.tools.screen import Screen, duration, show
from stages.door import progress_bar

SAID = [
    "Running stage 'erase' (5 of 8)",
    "erase: 40 % (56 of 140, 12 s left)",
    "erased model in models/erased",
    "Finished in state Completed()",
]


def seen(lines=SAID, level=logging.INFO, terminal=False, quiet=False):
    """What a screen shows of a task's records."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, soft_wrap=True)
    logger = logging.getLogger("runs")
    logger.setLevel(logging.INFO)
    with Screen(quiet=quiet, console=console):
        for line in lines:
            logger.log(level, "%s", line, extra={"task_run_name": "erase"})
        logger.info("Starting temporary server")
        logger.info("Beginning flow run", extra={"flow_run_name": "forget 8"})
    return console.file.getvalue()


@pytest.mark.unit
def test_in_a_log_each_event_is_a_line_without_prefects_own(caplog):
    lines = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in seen().splitlines()]
    assert lines == [
        "erase            Running stage 'erase' (5 of 8)",
        "erase            40 % (56 of 140, 12 s left)",
        "erase            erased model in models/erased",
    ]


@pytest.mark.unit
def test_on_a_terminal_a_stage_is_one_line_that_redraws_and_stays_as_its_result():
    text = seen(terminal=True)
    assert "stage 'erase' (5 of 8)" in text and " 40 %" in text and "\x1b[2K" in text
    left = text.rpartition("\x1b[2K")[2] or text
    (line,) = [part for part in text.split("\n") if "erased model in models/erased (0 s)" in part]
    assert "%" not in line.rpartition("erase  ")[2] and "Finished" not in left
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is given back


@pytest.mark.unit
def test_a_quiet_run_shows_warnings_alone(caplog):
    assert seen(quiet=True) == ""
    assert "ClassifierTooWeak" in seen(["ClassifierTooWeak: 0.4"], logging.ERROR, quiet=True)


@pytest.mark.unit
def test_a_result_is_coloured_on_a_terminal_alone(capsys, monkeypatch):
    table = "unlearning_accuracy  0.97  0.97 ≥ 0.9 passed\nfd  1.4  ratio 1.4 ≤ 1.25 FAILED"
    show(table)
    assert capsys.readouterr().out == table + "\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(table)
    out = capsys.readouterr().out
    assert "\x1b[32mpassed" in out and re.search(r"\x1b\[1;31mFAILED", out)


@pytest.mark.unit
def test_without_a_terminal_progress_is_a_line_a_tenth(capsys):
    with progress_bar("erase") as on_progress:
        assert not sys.stderr.isatty()
        on_progress(1, 2)
    assert capsys.readouterr().err == ""  # what is done in a moment is not told
    on_progress = tenths("curate", " pictures", seconds=0)
    for done in range(201):
        on_progress(done, 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0] == "curate: 10 % (20 of 200 pictures, 0 s left)"
    assert lines[-1] == "curate: 100 % (200 of 200 pictures)"
    on_progress = tenths("erase", begins=True)
    for done in range(3):
        on_progress(done, 100)
    assert capsys.readouterr().err == "erase: 0 % (0 of 100)\n"


@pytest.mark.unit
def test_times_are_told_in_words():
    assert [duration(s) for s in (0.2, 59.6, 316, 7205)] == ["0 s", "1 min", "5 min 16 s", "2 h 5 s"]
