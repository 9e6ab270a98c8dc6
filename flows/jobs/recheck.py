"""The recheck flow: the champion measured again; a failed gate is an alert."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from erasediff.errors import GateFailed, IntegrityError
from erasediff.records import FAILED, Gate, Recheck, failed_gates
from erasediff.registry.promotion import withdraw as take_away
from erasediff.registry.store import verify_stored
from erasediff.registry.versions import Version, set_tag, version_of
from flows.jobs.artifacts import markdown_table
from flows.jobs.runner import computing, is_deployed
from flows.jobs.states import failures_as_states
from flows.tools import dvc, results
from flows.tools.doors import start_door
from flows.tools.lock import only_run
from flows.tools.processes import ending_children
from flows.tools.worktree import worktree
from stages import layout

#: Stages whose results a recheck measures with: of the commit, from DVC's cache where they were made before.
JUDGE = ("curate", "classifier")


@flow(name="recheck", flow_run_name="champion")
@failures_as_states
def recheck_flow(model_name: str = "", withdraw: bool = False) -> State:
    """Measure the champion again, under today's classifier and protocol; a failed gate is an alert.

    A deployed run measures in a git worktree, once no other job computes; it first brings what it measures with. The
    command measures in its folder with what is there.

    Args:
        model_name: Registered model. Empty: register.model_name of params.yaml.
        withdraw: Take the alias from a champion that fails. There is no champion then until one is promoted.
    """
    with ExitStack() as place:
        if is_deployed():
            place.enter_context(computing())
            place.enter_context(worktree())
        place.enter_context(ending_children())
        champion = version_of(results.model_name(model_name), "champion")
        _require_sound_files(champion, withdraw)
        with only_run():  # nobody replaces the classifier or the data meanwhile
            for stage in JUDGE if is_deployed() else ():
                dvc.run_stage(stage, _log, {})
            start_door("recheck", champion.uri, say=_log)
            found = Recheck.read(layout.RECHECK)
        if not found.passed:
            failed = found.outcome == FAILED
            failure = f"{'failed' if failed else 'is not known to pass'} its recheck: {failed_gates(found.gates)}"
            raise GateFailed(_alert(champion, failure, withdraw and failed, _gates_table(found.gates)))
    return Completed(message=f"version {champion.version} of {champion.name} is sound: every gate passed again")


def _log(line: str) -> None:
    get_run_logger().info("%s", line)


def _require_sound_files(champion: Version, withdraw: bool) -> None:
    """Raises: IntegrityError: the champion's files were altered or are gone, which is an alert too."""
    try:
        verify_stored(champion)
    except IntegrityError as error:
        tags = {"recheck_at": datetime.now(UTC).isoformat(timespec="seconds"), "recheck_passed": "false"}
        for key, value in tags.items():
            set_tag(champion.name, champion.version, key, value)
        raise IntegrityError(_alert(champion, f"cannot be loaded: {error}", withdraw)) from None


def _gates_table(gates: dict[str, Gate]) -> str:
    """Show gates in Markdown."""
    rows = [(name, gate.measured, gate.bound, gate.outcome) for name, gate in gates.items()]
    return markdown_table(("gate", "value", "limit", ""), rows)


def _alert(champion: Version, failure: str, withdraw: bool, table: str = "") -> str:
    """Say what failed, in the log and as an artifact, and take the alias away where that is wanted."""
    message = f"champion of {champion.name}, version {champion.version}, {failure}"
    if withdraw:
        take_away(champion.name, champion.version, why=failure)
        message += "; the alias is withdrawn, there is no champion now: promote another version"
    else:
        message += "; it is champion still: roll back, or recheck with withdraw (--withdraw)"
    get_run_logger().error("%s", message)
    markdown = f"**{message}**\n\n{table}".strip()
    create_markdown_artifact(key="recheck-alert", markdown=markdown, description="The champion failed its recheck")
    return message
