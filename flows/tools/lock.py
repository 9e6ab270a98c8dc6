"""One run a checkout: who comes second is told who was first."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from erasediff.checkout import user_name
from erasediff.command import cannot_write
from erasediff.errors import CheckoutBusy

#: Held by what writes the stages' outs, and by a comparison, which writes one page.
CHECKOUT_LOCK, COMPARISON_LOCK = Path(".work/flow.lock"), Path(".work/compare.lock")


@contextmanager
def only_run(path: Path = CHECKOUT_LOCK) -> Iterator[None]:
    """Hold this checkout.

    Raises: CheckoutBusy: another run has it; the message says who. CannotWrite: it is read-only, or the disk full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise cannot_write("the flow", error) or error from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = json.loads(file.read() or "{}")
            who = ", ".join(f"{k} {v}" for k, v in holder.items()) or "an unknown process"
            raise CheckoutBusy(f"another run works in this checkout ({who}): wait for it or stop it") from None
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "user": user_name(), "host": socket.gethostname(), "since": now}
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
