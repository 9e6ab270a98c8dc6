"""Moving aliases: who becomes champion, on what evidence, and the history that MLflow does not keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from erasediff import checkout
from erasediff.artifacts import sha256_text
from erasediff.errors import GateFailed, ModelError, WouldUnerase
from erasediff.records import Erasures
from erasediff.registry.store import verify_stored
from erasediff.registry.versions import Version, aliases, registry_client, set_tag, valid_name, version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: MLflow experiment with a run for each alias that was moved. Nothing here changes or deletes a finished one.
EXPERIMENT = "erasediff-aliases"
#: Stands in the history in an alias's place, where somebody did not approve a version: nothing was moved.
REFUSED = "refused"


@dataclass(frozen=True)
class Move:
    """One alias that went from a version to another; ``before`` or ``after`` is empty where there was none.

    The alias ``refused`` is none: ``after`` was to become champion and somebody did not approve it.
    """

    at: datetime
    alias: str
    before: str
    after: str
    by: str
    why: str
    evidence: str


def promote_initial(name: str, version: str) -> dict[str, str]:
    """Alias ``challenger`` to a version that passed, and ``champion`` where there never was one; all aliases.

    After a champion was withdrawn the next one is somebody's decision.

    Raises: GateFailed: it did not pass. ModelError: no such version. TrackingError.
    """
    tags = version_of(name, version).tags
    if tags.get("gates_passed") != "true":
        raise GateFailed(f"version {version} of {name} did not pass its gates: no alias is set")
    with _one_at_a_time(name):
        for alias in ("challenger", "champion"):
            before = aliases(name).get(alias, "")
            if before != version and (alias == "challenger" or not (before or _withdrawn(name))):
                _move(name, alias, before, version, "the erase flow", "gates passed", _evidence(tags))
    return aliases(name)


def promote(
    name: str,
    version: str | None = None,
    *,
    why: str,
    by: str | None = None,
    brings_back: Sequence[str] = (),
    check: Callable[[Version, str], str | None] | None = None,
) -> str:
    """Make a version champion; the one before becomes ``previous_champion``.

    Args:
        version: the challenger by default. The previous champion, for a rollback.
        by: the operating system's user by default.
        brings_back: erasures of the champion that may be lost: every one that would be has to be named.
        check: called with the version and the standing champion (empty: none) before anything moves; it raises where
            the version is not to be promoted. What it returns is added to the reason.

    Returns: the new champion.
    Raises: GateFailed: it did not pass its gates, or its last recheck. WouldUnerase: it draws what the champion, or
        the one that was withdrawn, has forgotten. ModelError: no such version, it is champion already, or the champion
        changed meanwhile. IntegrityError: the stored model was altered. TrackingError.
    """
    held = aliases(name)
    found = version_of(name, version or "challenger")
    champion = held.get("champion", "")
    if found.version == champion:
        raise ModelError(f"version {champion} of {name} is champion already")
    if found.tags.get("gates_passed") != "true":
        raise GateFailed(f"version {found.version} of {name} did not pass its gates: it cannot become champion")
    if found.tags.get("recheck_passed") == "false":
        raise GateFailed(f"version {found.version} of {name} failed its recheck: mend it, or recheck it first")
    _refuse_unerasing(found, champion or _withdrawn(name), brings_back)
    verify_stored(found)
    added = check(found, champion) if check is not None else None
    by, note = by or checkout.user_name(), why + (f"; brings back {', '.join(brings_back)}" if brings_back else "")
    note += f"; {added}" if added else ""
    with _one_at_a_time(name):
        now = aliases(name).get("champion", "")
        if now != champion:
            raise ModelError(f"the champion of {name} changed from {champion or 'none'} to {now}: look again")
        if champion:
            before = held.get("previous_champion", "")
            _move(name, "previous_champion", before, champion, by, note, _evidence(version_of(name, champion).tags))
        _move(name, "champion", champion, found.version, by, note, _evidence(found.tags))
    return found.version


def _refuse_unerasing(found: Version, standing: str, brings_back: Sequence[str]) -> None:
    """Raises: WouldUnerase: a version draws what the standing one, empty where there is none, has forgotten."""
    lost = set(_still_drawn(found, standing)) - {*brings_back}
    if lost:
        raise WouldUnerase(
            f"version {found.version} of {found.name} still draws {', '.join(sorted(lost))}, which the champion "
            f"(version {standing}) has forgotten: erase that from it first, or name each with --brings-back"
        )


def still_drawn(name: str, version: str) -> list[str]:
    """What the champion of a model, or the one that was withdrawn last, has forgotten and a version still draws.

    Such a version cannot be promoted as it is. Raises: ModelError: no such version. TrackingError.
    """
    return _still_drawn(version_of(name, version), aliases(name).get("champion", "") or _withdrawn(name))


def _still_drawn(found: Version, standing: str) -> list[str]:
    if not standing:
        return []
    forgotten = Erasures.from_tags(version_of(found.name, standing).tags).all
    return sorted(set(forgotten) - {*Erasures.from_tags(found.tags).all})


def withdraw(name: str, version: str, *, why: str, by: str | None = None) -> None:
    """Take the alias ``champion`` from a version: there is none then, until somebody promotes another.

    Raises: ModelError: the version is not the champion. TrackingError.
    """
    tags = version_of(name, version).tags
    with _one_at_a_time(name):
        if (now := aliases(name).get("champion", "")) != version:
            raise ModelError(f"version {version} of {name} is not the champion, which is {now or 'none'}: look again")
        _move(name, "champion", version, "", by or checkout.user_name(), why, _evidence(tags))


def refuse(found: Version, champion: str, *, by: str, why: str) -> None:
    """Note that somebody did not approve a version, in its tags and in the history. Raises: TrackingError."""
    set_tag(found.name, found.version, "promotion_refused", f"by {by}: {why}")
    with _one_at_a_time(found.name), registry_client() as client:
        run = _note(client, found.name, REFUSED, champion, found.version, by, why, _evidence(found.tags))
        client.set_terminated(run, "FINISHED")


def _withdrawn(name: str) -> str:
    """The version that was champion last, where it was withdrawn and none has followed; else empty."""
    champions = [move for move in history(name) if move.alias == "champion"]
    return champions[-1].before if champions and not champions[-1].after else ""


def history(name: str) -> list[Move]:
    """Every alias that was moved and every refusal, oldest first.

    Raises: ModelError: no name of a model. TrackingError.
    """
    valid_name(name)
    with registry_client() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        found, token = [], None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                f"tags.model = '{name}' and attributes.status = 'FINISHED'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
    moves = [_read(run) for run in found]
    return sorted(moves, key=lambda move: move.at)


def champion_at(name: str, at: datetime) -> str | None:
    """The version that was champion then, or ``None``. Raises: TrackingError."""
    before = [move for move in history(name) if move.alias == "champion" and move.at <= at]
    return before[-1].after or None if before else None


def _read(run: Run) -> Move:
    tags = run.data.tags
    at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return Move(at, tags["alias"], tags["from"], tags["to"], tags["by"], tags["why"], tags["evidence"])


def _evidence(tags: dict[str, str]) -> str:
    """Return one hash of what the gates were measured on: the version's lineage and weights."""
    return sha256_text(json.dumps([tags.get("lineage_digest"), tags.get("erased_sha256")]))


def _one_at_a_time(name: str) -> AbstractContextManager[object]:
    return checkout.exclusive(checkout.project_root() / ".work" / f"aliases-{name}.lock")


def _move(name: str, alias: str, before: str, after: str, by: str, why: str, evidence: str) -> None:
    """Note the move, make it, and finish the note: a kill in between leaves a note that the next move settles."""
    with registry_client() as client:
        run = _note(client, name, alias, before, after, by, why, evidence)
        if after:
            client.set_registered_model_alias(name, alias, after)
        else:
            client.delete_registered_model_alias(name, alias)
        client.set_terminated(run, "FINISHED")


def _note(
    client: MlflowClient, name: str, alias: str, before: str, after: str, by: str, why: str, evidence: str
) -> str:
    """The run of a note that is not finished yet."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    _settle(client, number, name)
    tags = {"model": name, "alias": alias, "from": before, "to": after, "by": by, "why": why, "evidence": evidence}
    label = f"{name} {alias} {before or 'none'} → {after or 'none'}"
    return str(client.create_run(number, tags=tags, run_name=label).info.run_id)


def _settle(client: MlflowClient, experiment: str, name: str) -> None:
    held = aliases(name)
    for run in client.search_runs([experiment], f"tags.model = '{name}' and attributes.status = 'RUNNING'"):
        happened = held.get(run.data.tags["alias"], "") == run.data.tags["to"]
        client.set_terminated(run.info.run_id, "FINISHED" if happened else "FAILED")
