"""The history of aliases, which MLflow does not keep: one chain of MLflow runs for a model, and what decides a move.

Each run of the chain names its follower in a param. MLflow never changes a param that is there, so of two machines
that move an alias at once one is first, and the other sees it. No clock and no lock takes part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from erasediff.errors import TrackingError
from erasediff.registry.versions import aliases, registry_client, valid_name, version_exists
from erasediff.tracking.server import KIND, require_active

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: MLflow experiment with a run for each alias that was moved. Nothing here changes or deletes a finished one.
EXPERIMENT = "erasediff-aliases"
ABOUT = (
    "Who moved which alias of a registered model, when and why: a run a move, whose tags hold it. "
    "`python -m flows.promote history` prints them in order. Nothing may be deleted here: it is the evidence."
)
#: Stands in the history in an alias's place, where somebody did not approve a version: nothing was moved.
REFUSED = "refused"
#: Param of a move: the run of the one that follows.
NEXT = "next_move"
#: What a tag of a run holds.
TAG_LENGTH = 5000


@dataclass(frozen=True)
class Move:
    """One alias that went from a version to another; ``before`` or ``after`` is empty where there was none.

    The alias ``refused`` is none: ``after`` was to become champion and somebody did not approve it. A champion that
    is followed by another becomes ``previous_champion`` with the same move.

    Attributes:
        erasures: what ``after`` had forgotten; ``None`` in a note of an earlier release.
    """

    at: datetime
    alias: str
    before: str
    after: str
    by: str
    why: str
    evidence: str
    erasures: tuple[str, ...] | None = None


def history(name: str) -> list[Move]:
    """Every alias that was moved and every refusal, in the order in which they happened; deleted notes too.

    Raises: ModelError: no name of a model. TrackingError.
    """
    valid_name(name)
    held = aliases(name)
    with registry_client() as client:
        runs = _chain(client, name)
    return [_move(run) for run in runs if _is_finished(run) or held.get(run.data.tags["alias"], "") == _to(run)]


def champion_at(name: str, at: datetime) -> str | None:
    """The version that was champion then, or ``None``. Raises: TrackingError."""
    before = [move for move in history(name) if move.alias == "champion" and move.at <= at]
    return before[-1].after or None if before else None


def settle(name: str) -> None:
    """Carry out a move that was decided, whose process was killed before it was done. Raises: TrackingError."""
    with registry_client() as client:
        _settled(client, name)


def append(move: Move, name: str, require_unchanged: Callable[[], None]) -> None:
    """Note a move as the next of the chain, and carry it out.

    Args:
        require_unchanged: raises where something that the move was decided by is not so any more. It is called each
            time before the move tries to become the next, so that nothing can come in between.

    Raises: what ``require_unchanged`` raises; then nothing was moved. TrackingError.
    """
    with registry_client() as client:
        run = _note(client, name, move)
        try:
            while True:
                chain = _settled(client, name)
                require_unchanged()
                if _claim(client, name, chain, run):
                    break
        except BaseException:
            client.set_terminated(run, "FAILED")
            raise
        made = client.get_run(run)
        if not _is_finished(made):  # else another machine has carried it out meanwhile
            _carry_out(client, name, made)
        _catch_up(client, name, move.alias)


def _chain(client: MlflowClient, name: str) -> list[Run]:
    """The runs of all moves in their order: each after the one that names it; notes of an earlier release by time."""
    runs = {run.info.run_id: run for run in _runs(client, name)}
    following = {run_id: run.data.params[NEXT] for run_id, run in runs.items() if NEXT in run.data.params}
    claimed = set(following.values())
    first = _first(client, name)
    happened = {i for i, run in runs.items() if _is_finished(run) or i in following or i in claimed or i == first}
    heads = sorted(happened - claimed, key=lambda i: (i in following or i == first, runs[i].info.start_time, i))
    ordered: list[Run] = []
    for head in heads:
        run_id: str | None = head
        while run_id in runs:
            ordered.append(runs[run_id])
            run_id = following.get(run_id)
    return ordered


def _runs(client: MlflowClient, name: str) -> list[Run]:
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    found: list[Run] = []
    token = None
    while experiment is not None:
        page = client.search_runs(
            [experiment.experiment_id],
            f"tags.model = '{valid_name(name)}'",
            run_view_type=ViewType.ALL,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    return found


def _is_finished(run: Run) -> bool:
    return bool(run.info.status == "FINISHED")


def _to(run: Run) -> str:
    return str(run.data.tags["to"])


def _move(run: Run) -> Move:
    tags = run.data.tags
    at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    noted = tuple(json.loads(tags["erasures"])) if "erasures" in tags else None
    return Move(at, tags["alias"], tags["from"], tags["to"], tags["by"], tags["why"], tags["evidence"], noted)


def _note(client: MlflowClient, name: str, move: Move) -> str:
    """The run of a move that is not decided yet."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            client.create_experiment(EXPERIMENT, tags={"mlflow.note.content": ABOUT, **KIND})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was faster
                raise
        experiment = client.get_experiment_by_name(EXPERIMENT)
    require_active(experiment)
    tags = {"model": name, "alias": move.alias, "from": move.before, "to": move.after, "by": move.by, "why": move.why}
    tags |= {"evidence": move.evidence, "mlflow.user": move.by, "mlflow.source.name": "erasediff promotion"}
    tags["mlflow.note.content"] = f"{move.by}: {move.why}"
    noted = json.dumps(move.erasures or [], ensure_ascii=False)
    if move.erasures is not None and len(noted) <= TAG_LENGTH:
        tags["erasures"] = noted
    label = f"{move.alias} {move.before or 'none'} → {move.after or 'none'} ({name})"
    made = client.create_run(experiment.experiment_id, tags=tags, run_name=label, start_time=_milliseconds(move.at))
    return str(made.info.run_id)


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _claim(client: MlflowClient, name: str, chain: Sequence[Run], run: str) -> bool:
    """True if the run is now the one that follows the chain; false where another was faster."""
    from mlflow.exceptions import MlflowException

    last = chain[-1].info.run_id if chain else _anchor(client, name)
    key = NEXT if chain else _first_key(name)
    try:
        client.log_param(last, key, run)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
    there = client.get_run(last)
    if there.info.lifecycle_stage != "active" and key not in there.data.params:
        raise TrackingError(
            f"the history of {name} was deleted in MLflow: restore it first, mlflow runs restore --run-id {last}"
        )
    return bool(there.data.params.get(key) == run)


def _first_key(name: str) -> str:
    return f"first_move {name}"


def _anchor(client: MlflowClient, name: str) -> str:
    """The run that the first move of all is claimed at: that of the oldest version that has one."""
    if (found := _anchored(client, name)) is None:
        raise TrackingError(f"no version of {name} has its MLflow run any more: restore one, or register it anew")
    return str(found.info.run_id)


def _anchored(client: MlflowClient, name: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    for version in sorted(
        client.search_model_versions(f"name = '{valid_name(name)}'"), key=lambda found: int(found.version)
    ):
        try:
            run = client.get_run(version.run_id)
        except MlflowException:  # it is gone
            continue
        if run.info.lifecycle_stage == "active":
            return run
    return None


def _first(client: MlflowClient, name: str) -> str | None:
    anchor = _anchored(client, name)
    return anchor.data.params.get(_first_key(name)) if anchor is not None else None


def _settled(client: MlflowClient, name: str) -> list[Run]:
    """The chain, once its last move is carried out: whoever decided it may have been killed since."""
    chain = _chain(client, name)
    for run in chain[-1:]:
        if not _is_finished(run):
            _carry_out(client, name, run)
    return chain


def _carry_out(client: MlflowClient, name: str, run: Run) -> None:
    """Set the aliases as a move says, and finish its note. Done twice it has the effect of one."""
    tags = run.data.tags
    if tags["alias"] != REFUSED:
        _set(client, name, tags["alias"], tags["to"])
    if tags["alias"] == "champion" and tags["from"] and tags["to"]:
        _set(client, name, "previous_champion", tags["from"])
    client.set_terminated(run.info.run_id, "FINISHED")


def _catch_up(client: MlflowClient, name: str, alias: str) -> None:
    """Set an alias as the last move of it says: a slow process may have set it after another had moved it on."""
    while alias != REFUSED:
        last = [run for run in _chain(client, name) if run.data.tags["alias"] == alias][-1]
        wanted = _to(last)
        if aliases(name).get(alias, "") == wanted or (wanted and not version_exists(name, wanted)):
            return
        _carry_out(client, name, last)


def _set(client: MlflowClient, name: str, alias: str, version: str) -> None:
    if not version:
        client.delete_registered_model_alias(name, alias)
    elif version_exists(name, version):  # one that was deleted has been champion all the same
        from mlflow.exceptions import MlflowException

        try:
            client.set_registered_model_alias(name, alias, version)
        except MlflowException:  # another process made the alias in the same moment: now there is one to change
            client.set_registered_model_alias(name, alias, version)
