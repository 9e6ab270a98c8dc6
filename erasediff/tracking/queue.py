"""The queue of a run: while the server is down calls wait in order, and at the end they go to the outbox."""

from __future__ import annotations

import sys
import time
from collections import deque

from erasediff.tracking import outbox
from erasediff.tracking.calls import WORDS, Call
from erasediff.tracking.remote import RemoteRun
from erasediff.tracking.server import is_refusal, patience, short_reason, tracking_uri, without_credentials

#: Seconds after a failure in which the server is left alone; doubled at each further one.
FIRST_PAUSE, LONGEST_PAUSE, LAST_TRY_AFTER = 60.0, 600.0, 15.0


class CallQueue:
    """Calls of one run, the first of which makes the run.

    While the server cannot be reached they stay here. They are tried again a minute later and at the end, so that a
    restart of the server during a long training loses nothing.

    Args:
        name: of the stage, for messages.
        quiet: nothing is printed: whoever made the queue says what is wrong.

    Attributes:
        missed: what was not logged, by kind; final after :meth:`end`.
        reason: what the server last said, in a few words; empty where nothing was wrong.
    """

    def __init__(self, name: str, remote: RemoteRun, *, quiet: bool):
        self.name, self.remote, self.quiet = name, remote, quiet
        self.missed: dict[str, int] = {}
        self.reason = ""
        self._calls = deque([Call("run", None)])
        self._kept = False
        self._failed_at: float | None = None
        self._pause = FIRST_PAUSE

    def add(self, call: Call) -> None:
        """Let a call wait for the next :meth:`drain`."""
        self._calls.append(call)

    def drain(self, *, last: bool = False) -> None:
        """Make all calls that can be made now.

        Args:
            last: do not wait as long as usual after a failure.
        """
        wait = LAST_TRY_AFTER if last else self._pause
        if self._failed_at is not None and time.monotonic() - self._failed_at < wait:
            return
        with patience(5, 1):
            while self._calls:
                call = self._calls[0]
                try:
                    self.remote.send(call)
                except Exception as error:  # MLflow raises whatever its store's driver does
                    self._warn(error)
                    if call.kind == "run" or not is_refusal(error):
                        self._pause = FIRST_PAUSE if self._failed_at is None else min(2 * self._pause, LONGEST_PAUSE)
                        self._failed_at = time.monotonic()
                        return
                    self._miss(call)
                self._calls.popleft()
        self._failed_at = None

    def end(self, ended: int) -> None:
        """Make the last calls, put by the rest, and say in one line what could not be logged.

        Args:
            ended: in milliseconds.
        """
        self.drain(last=True)
        for call in self._calls:
            self._miss(call)
        if self._calls:
            self._keep(ended)
        if self.missed:
            print(f"warning: {self._what_is_missing()}", file=sys.stderr)

    def _warn(self, error: Exception) -> None:
        first, self.reason = not self.reason, short_reason(error)
        if first and not self.quiet:
            where = without_credentials(tracking_uri())
            print(f"warning: MLflow at {where}: {self.reason}; {self.name} goes on without it", file=sys.stderr)

    def _miss(self, call: Call) -> None:
        word = WORDS.get(call.kind, call.kind if call.kind in ("run", "end") else "tags")
        self.missed[word] = self.missed.get(word, 0) + call.n

    def _keep(self, ended: int) -> None:
        try:
            outbox.keep(self.remote.about, self.remote.run_id, [c for c in self._calls if c.kind != "run"], ended)
            self._kept = True
        except OSError as error:
            print(f"warning: nothing was put by for MLflow ({error.strerror or error})", file=sys.stderr)
        self._calls.clear()

    def _what_is_missing(self) -> str:
        lost = [f"run {self.name}"] if "run" in self.missed else []
        lost += [
            f"{n} {what if n != 1 else what.removesuffix('s')}"
            for what in ("params", "metric values", "artifacts", "tags")
            if (n := self.missed.get(what))
        ]
        lost += [f"the end of run {self.remote.run_id}"] if "end" in self.missed and self.remote.run_id else []
        state = "unreachable" if self._failed_at is not None else "refused a part"
        where = without_credentials(tracking_uri())
        was = "was" if len(lost) == 1 and not lost[0][0].isdigit() else "were"
        then = "the next run sends it, or: python -m stages.outbox" if self._kept else "results are on disk"
        return f"MLflow at {where} {state}: {', '.join(lost)} {was} not logged; {then}"
