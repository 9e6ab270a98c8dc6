"""Results of the stages in this folder: the evaluation, its gates in words, the registered version."""

from __future__ import annotations

from pathlib import Path

from erasediff.artifacts import write_bytes
from erasediff.checkout import project_root
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.records import Evaluation, Registered
from erasediff.registry.promotion import still_drawn
from erasediff.registry.versions import aliases, set_tag
from erasediff.tracking import page, tracking_uri, without_credentials
from flows.tools import dvc, git
from stages import layout
from stages.params import load_params

#: Where ``mlflow ui`` shows a store that has no server.
MLFLOW_UI = "http://127.0.0.1:5000"
#: Tag of a version and of its MLflow run: the commit whose ``dvc.lock`` brings the model back.
LOCK_COMMIT = "dvc_lock_commit"


def registered() -> Registered:
    """Read ``runs/register.json``. Raises: IntegrityError."""
    return Registered.read(layout.REGISTERED)


def tag_commit(made: Registered, commit: str) -> None:
    """Note the commit that holds a version's ``dvc.lock``. Raises: TrackingError."""
    set_tag(made.model_name, made.version, LOCK_COMMIT, commit)


def model_name(given: str | None) -> str:
    """Return a registered model's name: the given one, or that of params.yaml. Raises: ParamsError."""
    return given or load_params().register_.model_name


def is_registered() -> bool:
    """Return True if the version of ``runs/register.json`` holds an alias. Raises: TrackingError.

    After a bare ``dvc repro`` it does not, or where the registry was wiped: then the flow still has one to set.
    """
    made = registered()
    return made.version in aliases(made.model_name).values()


def nothing_to_do() -> bool:
    """Return True if DVC is up to date and the registry has the version that was registered. Raises: TrackingError."""
    return layout.REGISTERED.exists() and layout.EVALUATION.exists() and dvc.is_clean() and is_registered()


def keep_report(made: Registered) -> Path:
    """Copy a worktree's report to where it outlives it; return the path."""
    kept = project_root() / ".work/reports" / f"{made.model_name}-v{made.version}.html"
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(kept, layout.VERSION_REPORT.read_bytes())
    return kept


def summary(report: Path | str = layout.VERSION_REPORT) -> str:
    """Tell what a person wants to know at the end. Raises: TrackingError.

    Args:
        report: where it is.
    """
    made = registered()
    table = [
        HEAD,
        *(row for row in table_rows(Evaluation.read(layout.EVALUATION)) if not row[0].startswith("accuracy.")),
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    held = [alias for alias, version in aliases(made.model_name).items() if version == made.version]
    lines += [
        "",
        f"report   {report}",
        f"model    {made}, alias {', '.join(sorted(held)) or 'none'}",
        f"MLflow   {mlflow_page(made, without_credentials(tracking_uri()))}",
    ]
    if "challenger" in held and "champion" not in held and not still_drawn(made.model_name, made.version):
        lines.append('next     .venv/bin/python -m flows.promote challenger --why "…"')
    return "\n".join(lines)


def mlflow_page(made: Registered, uri: str) -> str:
    """Return where a person sees a version: its page on a server, or the command that starts one."""
    if uri.startswith("http"):
        return page(version_path(made), uri)
    return f".venv/bin/mlflow ui --backend-store-uri {uri}   # {page(version_path(made), MLFLOW_UI)}"


def version_path(made: Registered) -> str:
    """Return a version's place among MLflow's pages."""
    return f"models/{made.model_name}/versions/{made.version}"


def record_commit() -> str:
    """Commit ``dvc.lock`` where that is sound, tag the version with the commit; say so in a line."""
    made = registered()
    commit, reason = git.record_lock(f"dvc.lock of {made}")
    if commit is None:
        return f"git      dvc.lock is not committed: {reason}"
    tag_commit(made, commit)
    return f"git      dvc.lock of this model is committed as {commit[:10]}"
