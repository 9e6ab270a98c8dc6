"""Send MLflow what it could not be told while it was down; it waits in ``.work/mlflow-outbox``, a folder a run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.artifacts import MANIFEST, new_folder, read_json, sha256_text, verify_folder, write_json
from erasediff.checkout import exclusive, project_root
from erasediff.errors import IntegrityError, TrackingError
from erasediff.tracking import calls, server
from erasediff.tracking.calls import About, Call, made_run, not_logged_yet
from erasediff.tracking.server import is_refusal, patience, short_reason, tracking_uri, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient


def box() -> Path:
    """The folder of what waits for this MLflow server; what waits for another one is left alone."""
    server = sha256_text(without_credentials(tracking_uri()))[:12]
    return project_root() / ".work" / "mlflow-outbox" / server


def keep(about: About, run_id: str | None, waiting: Sequence[Call], ended: int) -> None:
    """Put by what a run could not send, with a copy of its files.

    Args:
        about: what the run is made from, should it not be there yet.
        ended: in milliseconds; what ended first is sent first, so that a flow finds the runs of its stages.

    Raises: OSError: the disk is full.
    """
    with new_folder(box() / f"{ended}-{about['key']}") as folder:
        kept = []
        for number, call in enumerate(waiting):
            content = call.content
            if call.kind == "artifact":
                source, target = Path(content[0]), folder / "files" / str(number) / Path(content[0]).name
                if not source.exists():
                    continue  # MLflow would refuse it too
                target.parent.mkdir(parents=True)
                shutil.copyfile(source, target)
                content = [target.relative_to(folder).as_posix(), content[1]]
            kept.append([call.kind, content, call.n])
        write_json(folder / "run.json", {"about": about, "run_id": run_id, "calls": kept})


def deliver() -> int:
    """Send what waits; how many runs. Each call may be repeated, so that a kill in between makes no second one.

    Raises: whatever MLflow's client does, where the server cannot be used; what was not sent goes on waiting.
    """
    if not _waiting():
        return 0
    with exclusive(box() / ".lock"):
        mlflow_client = server.client()
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
            _send(mlflow_client, folder)
            shutil.rmtree(folder)
    return len(waiting)


def _waiting() -> list[Path]:
    return sorted(p for p in box().glob("[0-9]*-*") if p.is_dir())


def _send(mlflow_client: MlflowClient, folder: Path) -> None:
    content = read_json(folder / "run.json")
    run_id = content["run_id"] or made_run(mlflow_client, content["about"])
    for kind, what, n in content["calls"]:
        if kind == "artifact":
            what = [str(folder / what[0]), what[1]]
        elif kind == "metrics" and content["about"]["continues"]:
            what = not_logged_yet(mlflow_client, run_id, what)
        try:
            calls.send(mlflow_client, run_id, Call(kind, what, n))
        except Exception as error:  # MLflow raises whatever its store's driver does
            if not is_refusal(error):
                raise
            print(f"warning: MLflow refused {kind} of run {run_id}: {short_reason(error)}", file=sys.stderr)


def deliver_now() -> int:
    """:func:`deliver` for somebody who waits for it. Raises: TrackingError: the server cannot be used."""
    try:
        with patience(30, 2):
            return deliver()
    except Exception as error:  # MLflow raises whatever its store's driver does
        reason = f"MLflow at {without_credentials(tracking_uri())}: {short_reason(error)}"
        raise TrackingError(f"{reason}; what is in {box()} goes on waiting: try again when it is back") from None
