"""Flows about the champion: promotion with somebody's approval, and recheck. Imports Prefect: commands do so late."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Cancelled, Completed
from pydantic import Field

from erasediff import errors
from erasediff.errors import ApprovalTimeout, EraseDiffError, GateFailed, IntegrityError, ParamsError, PromotionRefused
from erasediff.evaluation.table import table_rows
from erasediff.records import Gate, Recheck, failed_gates
from flows import pipeline
from flows.promote import DAY, draws
from flows.tasks import failed, show_picture

RECHECK = Path("metrics/recheck.json")


class Decision(RunInput):
    """The form that somebody fills in."""

    approve: bool = Field(description="Whether this version becomes the champion")
    by: str = Field(min_length=1, max_length=200, description="Who decides")
    why: str = Field(min_length=1, max_length=2000, description="Kept in the history of the aliases")


def _promotion_name() -> str:
    """Of a run, in Prefect's lists."""
    from prefect.runtime import flow_run

    asked = flow_run.parameters
    return f"{asked.get('version') or 'challenger'}: {asked.get('why', '')}"[:80]


@flow(name="promote", flow_run_name=_promotion_name)
def promote_flow(
    why: str,
    version: str | None = None,
    model_name: str | None = None,
    brings_back: list[str] | None = None,
    approve: bool = False,
    wait_seconds: int = DAY,
) -> Any:
    """Make a version champion, once its gates, hash and a picture are checked, and somebody approved.

    Args:
        why: Kept in the history of the aliases.
        version: A number, or an alias such as previous_champion. None: the challenger.
        model_name: Registered model. None: register.model_name of params.yaml.
        brings_back: What the champion has forgotten and may be drawn again. None: nothing may.
        approve: Pause until somebody decides: the run then has a form, numbers and pictures.
        wait_seconds: With approve: nobody has decided after so many seconds, the run fails.
    """
    from erasediff.registry.promotion import promote

    def check(found: Any, champion: str) -> str | None:
        draws(found)
        return approval(found, champion, why, wait_seconds) if approve else None

    try:
        name = _model(model_name)
        promoted = promote(name, version, why=why, brings_back=brings_back or [], check=check)
    except PromotionRefused as error:
        return Cancelled(name=type(error).__name__, message=str(error))
    except EraseDiffError as error:
        return failed(error)
    return Completed(message=f"champion of {name} is version {promoted}")


@flow(name="recheck", flow_run_name="champion")
def recheck_flow(model_name: str | None = None, withdraw: bool = False) -> Any:
    """Measure the champion again, under today's classifier and protocol; a failed gate is an alert.

    Args:
        model_name: Registered model. None: register.model_name of params.yaml.
        withdraw: Take the alias from a champion that fails. There is no champion then until one is promoted.
    """
    return rechecked(model_name, withdraw)


def rechecked(model_name: str | None, withdraw: bool, prepare: Callable[[], None] = lambda: None) -> Any:
    """How a recheck ends.

    Args:
        prepare: makes what is measured with, where that is not here; it raises a stated failure.
    """
    from erasediff.registry.versions import version_of

    try:
        name = _model(model_name)
        found = version_of(name, "champion")
        _require_sound_files(found, withdraw)
        with pipeline.only_run():  # nobody replaces the classifier or the data meanwhile
            prepare()
            pipeline.run_door("recheck", found.uri, say=lambda line: get_run_logger().info("%s", line))
            result = Recheck.read(RECHECK)
        if not result.passed:
            raise GateFailed(_gates_alert(found, result.gates, withdraw))
    except EraseDiffError as error:
        return failed(error)
    return Completed(message=f"version {found.version} of {name} is sound: every gate passed again")


def approval(found: Any, champion: str, why: str, seconds: int) -> str:
    """Show a version's numbers and pictures, and pause until somebody decides; who approved and why.

    Raises: PromotionRefused, ApprovalTimeout.
    """
    from erasediff.registry.promotion import refuse

    label = f"version {found.version} of {found.name}"
    question = f"Make {label} the champion, in place of {champion or 'none'}? Asked because: {why}"
    numbers, gates, report = _numbers(found)
    whole = f"{question}\n\n{numbers}\n\n{report}"
    artifact = create_markdown_artifact(key="approval", markdown=whole, description=f"To be decided: {label}")
    _pictures(found)
    numbers_at = f"{PREFECT_UI_URL.value()}/artifacts/artifact/{artifact}"
    link = f"[All numbers]({numbers_at}). The pictures are among this run's artifacts."
    get_run_logger().info("waiting for a decision on %s", label)
    try:
        form = Decision.with_initial_data(description=f"{question}\n\n{gates}\n\n{link}")
        decision = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=5)
    except FlowPauseTimeout:
        raise ApprovalTimeout(f"nobody decided on {label} within {seconds} s: nothing was moved, ask again") from None
    said = f"by {decision.by}: {decision.why}"
    if not decision.approve:
        refuse(found, champion, by=decision.by, why=decision.why)
        raise PromotionRefused(f"{label} was refused {said}; nothing was moved")
    return f"approved {said}"


def _numbers(found: Any) -> tuple[str, str, str]:
    """In Markdown: the verdict's table; its gates alone, for a form too narrow for a table; where the report is."""
    from erasediff.registry.versions import evaluation_of_version
    from erasediff.tracking import tracking_uri, without_credentials

    rows = table_rows(evaluation_of_version(found))
    head = [("metric", "base", "erased", "gate"), ("---",) * 4]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [*head, *rows])
    gates = "\n".join(f"- {name}: {base} → {erased}; gate: {gate}" for name, base, erased, gate in rows if gate)
    uri = without_credentials(tracking_uri())
    page = f"[MLflow]({uri}/#/models/{found.name}/versions/{found.version})" if uri.startswith("http") else "MLflow"
    return table, gates, f"The report is report.html of run {found.run_id} in {page}."


def _pictures(found: Any) -> None:
    """The grids of generated pictures, before and after, where their runs were logged."""
    from erasediff.registry.versions import attached

    for model in ("base", "erased"):
        run_id = found.tags.get(f"run.evaluate-{model}")
        png = attached(run_id, f"samples_{model}.png") if run_id else None
        if png is not None:
            show_picture(png, f"approval-{model}", f"Drawn by the {model} model")


def _require_sound_files(found: Any, withdraw: bool) -> None:
    """Raises: IntegrityError: the champion's files were altered or are gone, which is an alert too."""
    from erasediff.registry.store import verify_stored
    from erasediff.registry.versions import set_tag

    try:
        verify_stored(found)
    except IntegrityError as error:
        tags = {"recheck_at": datetime.now(UTC).isoformat(timespec="seconds"), "recheck_passed": "false"}
        for key, value in tags.items():
            set_tag(found.name, found.version, key, value)
        raise IntegrityError(_alert(found, f"cannot be loaded: {error}", withdraw)) from None


def _gates_alert(found: Any, gates: dict[str, Gate], withdraw: bool) -> str:
    lines = [f"| {name} | {gate.text} |" for name, gate in gates.items()]
    table = "\n".join(["| gate | |", "| --- | --- |", *lines])
    return _alert(found, f"failed its recheck: {failed_gates(gates)}", withdraw, table)


def _alert(found: Any, failure: str, withdraw: bool, table: str = "") -> str:
    """Say what failed, in the log and as an artifact, and take the alias away where that is wanted."""
    from erasediff.registry.promotion import withdraw as take_away

    message = f"champion of {found.name}, version {found.version}, {failure}"
    if withdraw:
        take_away(found.name, found.version, why=failure)
        message += "; the alias is withdrawn, there is no champion now: promote another version"
    else:
        message += "; it is champion still: roll back, or recheck with --withdraw"
    get_run_logger().error("%s", message)
    markdown = f"**{message}**\n\n{table}".strip()
    create_markdown_artifact(key="recheck-alert", markdown=markdown, description="The champion failed its recheck")
    return message


def _model(name: str | None) -> str:
    from stages.params import load_params

    return name or load_params().register_.model_name


def finished(state: Any) -> str:
    """What a flow's end says. Raises: the stated failure that it ended with; what was not foreseen."""
    if state.is_completed():
        return state.message
    kind = getattr(errors, state.name, None)
    if kind is not None:
        raise kind(state.message)
    return state.result()


def require_server() -> None:
    """Raises: ParamsError: there is no server on which somebody could be asked."""
    if not PREFECT_API_URL.value():
        raise ParamsError("--approve asks in Prefect's UI: name its server, PREFECT_API_URL=http://127.0.0.1:4200/api")
