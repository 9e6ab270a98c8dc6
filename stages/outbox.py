"""Send MLflow what it could not be told while it was down; it waits in ``.work/mlflow-outbox``, a folder a run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages import tracking
from stages.artifacts import MANIFEST, new_folder, read_json, sha256_text, verify_folder, write_json
from stages.door import run_door
from stages.errors import IntegrityError, TrackingError


def box() -> Path:
    """What waits for this MLflow server; what waits for another one is left alone."""
    server = sha256_text(tracking.without_credentials(tracking.tracking_uri()))[:12]
    return tracking.project_root() / ".work" / "mlflow-outbox" / server


def keep(about: dict[str, Any], run_id: str | None, calls: Sequence[tracking.Call], ended: int) -> None:
    """Put by what a run could not send, with a copy of its files.

    Args:
        about: what the run is made from, should it not be there yet.
        ended: in milliseconds; what ended first is sent first, so that a flow finds the runs of its stages.

    Raises: OSError: the disk is full.
    """
    with new_folder(box() / f"{ended}-{about['key']}") as folder:
        kept = []
        for number, call in enumerate(calls):
            content = call.content
            if call.kind in ("artifact", "artifacts"):
                source, target = Path(content[0]), folder / "files" / str(number) / Path(content[0]).name
                if not source.exists():
                    continue  # MLflow would refuse it too
                target.parent.mkdir(parents=True)
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
                content = [target.relative_to(folder).as_posix(), content[1]]
            kept.append([call.kind, content, call.n])
        write_json(folder / "run.json", {"about": about, "run_id": run_id, "calls": kept})


def deliver() -> int:
    """Send what waits; how many runs. Each call may be repeated, so that a kill in between makes no second one.

    Raises: whatever MLflow's client does, where the server cannot be used; what was not sent goes on waiting.
    """
    if not _waiting():
        return 0
    with tracking.exclusive(box() / ".lock"):
        client = tracking.client()
        waiting = _waiting()
        for folder in waiting:
            try:
                verify_folder(folder)
                if not (folder / MANIFEST).exists():
                    raise IntegrityError(f"{folder} has no {MANIFEST}")
            except IntegrityError as error:
                print(f"warning: {error}; it is not sent to MLflow", file=sys.stderr)
                folder.rename(folder.with_name(f".broken-{folder.name}"))
                continue
            _send(client, folder)
            shutil.rmtree(folder)
    return len(waiting)


def _waiting() -> list[Path]:
    return sorted(p for p in box().glob("[0-9]*-*") if p.is_dir())


def _send(client: Any, folder: Path) -> None:
    content = read_json(folder / "run.json")
    run_id = content["run_id"] or tracking.made_run(client, content["about"])
    for kind, what, n in content["calls"]:
        if kind in ("artifact", "artifacts"):
            what = [str(folder / what[0]), what[1]]
        elif kind == "metrics" and content["about"]["continues"]:
            what = tracking.not_logged_yet(client, run_id, what)
        try:
            tracking.send(client, run_id, tracking.Call(kind, what, n))
        except Exception as error:  # MLflow raises whatever its store's driver does
            if not tracking.is_refusal(error):
                raise
            print(f"warning: MLflow refused {kind} of run {run_id}: {tracking.short_reason(error)}", file=sys.stderr)


def main() -> None:
    """``.work/mlflow-outbox`` → MLflow."""
    where = tracking.without_credentials(tracking.tracking_uri())
    try:
        with tracking.patience(30, 2):
            n = deliver()
    except Exception as error:  # MLflow raises whatever its store's driver does
        reason = f"MLflow at {where}: {tracking.short_reason(error)}"
        raise TrackingError(f"{reason}; what is in {box()} goes on waiting: try again when it is back") from None
    print(f"{n} run{'s' if n != 1 else ''} sent to MLflow at {where}")


if __name__ == "__main__":
    run_door("outbox", main, __doc__)
