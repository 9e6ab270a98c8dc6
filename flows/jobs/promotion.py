"""The promotion flow: a version becomes champion once it is checked, and somebody approved where that is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Completed, Running, State
from pydantic import Field

from erasediff.errors import ApprovalTimeout, ParamsError, PromotionRefused
from erasediff.evaluation.gates import sentences
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.registry.promotion import Standing, plain, promote, refuse, would_bring_back
from erasediff.registry.versions import Version, attached, erasures_of, evaluation_of_version
from erasediff.tracking import page
from flows.jobs.artifacts import markdown_table, show_picture
from flows.jobs.states import cancelled, failures_as_states, require_success
from flows.tools import results
from flows.tools.doors import require_drawing
from stages import layout

T = TypeVar("T")
#: A form shows a field of it at once; one that may be None asks for its type first.
NOTHING: list[str] = []
#: Seconds.
DAY = 24 * 60 * 60


class Decision(RunInput):
    """The form that somebody fills in."""

    approve: bool = Field(default=False, description="On: this version becomes the champion. Off: it is refused")
    by: str = Field(min_length=1, max_length=200, description="Who decides")
    why: str = Field(min_length=1, max_length=2000, description="Kept in the history of the aliases")


def _run_name() -> str:
    """Name a run in Prefect's lists."""
    asked = flow_run.parameters
    return f"{asked.get('version', 'challenger')}: {asked.get('why', '')}"[:80]


@flow(name="promote", flow_run_name=_run_name)
@failures_as_states
def promote_flow(
    why: str,
    version: str = "challenger",
    model_name: str = "",
    brings_back: list[str] = NOTHING,
    approve: bool = False,
    wait_seconds: int = DAY,
) -> State:
    """Make a version champion, once its gates, hash and a picture are checked, and somebody approved.

    Args:
        why: Kept in the history of the aliases.
        version: A number, or an alias such as challenger or previous_champion.
        model_name: Registered model. Empty: register.model_name of params.yaml.
        brings_back: What the champion has forgotten and may be drawn again. Empty: nothing may.
        approve: Pause until somebody decides: the run then has a form, numbers and pictures.
        wait_seconds: With approve: nobody has decided after so many seconds, the run fails.
    """

    def check(asked: Version, before: Standing) -> str | None:
        as_task("draw a picture", lambda: require_drawing(asked))
        return approval(asked, before, why, wait_seconds) if approve else None

    name = results.model_name(model_name)
    try:
        promoted = promote(name, version, why=why, brings_back=brings_back, check=check, step=as_task)
    except PromotionRefused as error:  # somebody's decision, no failure
        return cancelled(error)
    return Completed(message=f"champion of {name} is version {promoted}")


@task(task_run_name="{name}", cache_policy=NO_CACHE)
@failures_as_states
def _step(name: str, work: Callable[[], object]) -> object:
    return work()


def as_task(name: str, work: Callable[[], T]) -> T:
    """Do a step of the promotion as a task of the run. Raises: what the step raises."""
    state = _step(name, work, return_state=True)
    require_success(state)
    return cast("T", state.result())


def approval(asked: Version, before: Standing, why: str, seconds: int) -> str:
    """Show what a version has forgotten, its numbers and pictures, and pause until somebody decides; who did, and why.

    Raises: PromotionRefused, ApprovalTimeout.
    """
    label = f"version {asked.version} of {asked.name}"
    question = f"Make {label} the champion, in place of {before.alias or 'none'}? Asked because: {why}"
    told = f"{question}\n\n{decided_about(asked, before)}\n\n{_measured(asked)}"
    whole = f"{told}\n\n{_numbers(asked)}\n\n{_report_of(asked)}"
    artifact = as_task("show what is decided", lambda: _shown(asked, whole))
    link = f"[All numbers of {label}]({PREFECT_UI_URL.value()}/artifacts/artifact/{artifact})"
    get_run_logger().info("waiting for a decision on %s", label)
    try:
        form = Decision.with_initial_data(description=f"{told}\n\n{link}. The pictures are among this run's artifacts.")
        decision = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=5)
    except FlowPauseTimeout:
        _leave_the_pause()
        raise ApprovalTimeout(f"nobody decided on {label} within {seconds} s: nothing was moved, ask again") from None
    by, because = plain(decision.by), plain(decision.why)
    if not decision.approve:
        as_task("note the refusal", lambda: refuse(asked, before.version, by=by, why=because))
        raise PromotionRefused(f"{label} was refused by {by}: {because}; nothing was moved")
    return f"approved by {by}: {because}"


def _leave_the_pause() -> None:
    """Have the run go on: of one whose pause is over Prefect takes no end but "Failed", without our name and reason."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Running(), force=True)


def decided_about(asked: Version, before: Standing) -> str:
    """Say in Markdown what both versions have forgotten, and what would be drawn again: that is what is decided."""
    forgotten, back = erasures_of(asked).all, would_bring_back(asked, before)
    lines = [f"- Version {asked.version} has forgotten: **{_names(forgotten)}**"]
    if before.version:
        gone = "" if before.alias else " (withdrawn or deleted)"
        lines.append(f"- The champion, version {before.version}{gone}, has forgotten: **{_names(before.forgotten)}**")
    if back:
        lines.append(f"- **Approving lets this be drawn again: {_names(back)}**")
    else:
        lines.append("- Nothing that the champion has forgotten would be drawn again")
    return "\n".join(lines)


def _names(concepts: Sequence[str]) -> str:
    return ", ".join(plain(concept) for concept in concepts) or "nothing"


def _measured(asked: Version) -> str:
    """Return the sentences of the report, a gate each."""
    told = sentences(evaluation_of_version(asked), plain(erasures_of(asked).what))
    return "\n".join(["As it was measured:", "", *(f"- {sentence}" for sentence in told)])


def _numbers(asked: Version) -> str:
    return markdown_table(HEAD, table_rows(evaluation_of_version(asked)))


def _report_of(asked: Version) -> str:
    url = page(f"models/{asked.name}/versions/{asked.version}")
    return f"The report is report.html of run {asked.run_id} in {f'[MLflow]({url})' if url else 'MLflow'}."


def _shown(asked: Version, markdown: str) -> UUID:
    """Show what is decided, and the grids of drawn pictures where their runs were logged; the text's artifact."""
    label = f"version {asked.version} of {asked.name}"
    artifact = create_markdown_artifact(key="approval", markdown=markdown, description=f"To be decided: {label}")
    for model in ("base", "erased"):
        run_id = asked.tags.get(f"run.evaluate-{model}")
        png = attached(run_id, layout.samples(model).name) if run_id else None
        if png is not None:
            show_picture(png, f"approval-{model}", f"Drawn by the {model} model")
    return artifact


def require_server() -> None:
    """Raises: ParamsError: there is no server on which somebody could be asked."""
    if not PREFECT_API_URL.value():
        raise ParamsError("--approve asks in Prefect's UI: name its server, PREFECT_API_URL=http://127.0.0.1:4200/api")
