"""Moving aliases: who becomes champion, and on what evidence."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from erasediff.artifacts import sha256_text
from erasediff.checkout import user_name
from erasediff.errors import GateFailed, ModelError, ParamsError, WouldUnerase
from erasediff.records import UNDECIDED
from erasediff.registry.history import REFUSED, Move, append, history, settle
from erasediff.registry.store import verify_stored
from erasediff.registry.versions import Version, aliases, erasures_of, set_tag, version_exists, version_of

T = TypeVar("T")
#: Longest reason that the history keeps.
REASON_LENGTH = 2000


@dataclass(frozen=True)
class Standing:
    """The champion, or the one that was withdrawn or deleted last: what a later one must still forget.

    Attributes:
        alias: the version that holds the alias ``champion``; empty where none does.
        version: that, or the last one of the history; empty where there never was one.
        forgotten: all that it has forgotten.
    """

    alias: str
    version: str
    forgotten: tuple[str, ...]


def standing(name: str) -> Standing:
    """The champion as MLflow and as the history know it; where they differ, what either has forgotten counts.

    Raises: WouldUnerase: the last champion was deleted, and nothing tells what it had forgotten. IntegrityError: a
        version does not say what it has forgotten. ModelError, TrackingError.
    """
    alias = aliases(name).get("champion", "")
    noted = next((move for move in reversed(history(name)) if move.alias == "champion"), None)
    last = (noted.after or noted.before) if noted is not None else ""
    forgotten = set(erasures_of(version_of(name, alias)).all) if alias else set()
    if last and last != alias:
        forgotten |= set(_forgotten_by(name, last))
    return Standing(alias, alias or last, tuple(sorted(forgotten)))


def _forgotten_by(name: str, version: str) -> Sequence[str]:
    """What a champion of the history had forgotten, also one that was deleted."""
    if version_exists(name, version):
        return erasures_of(version_of(name, version)).all
    notes = [move.erasures for move in history(name) if move.alias == "champion" and move.after == version]
    known = [noted for noted in notes if noted is not None]
    if not known:
        raise WouldUnerase(
            f"version {version} of {name}, the last champion, was deleted, and the history does not say what it had "
            "forgotten: bring it back from a backup of the registry"
        )
    return known[-1]


def promote_initial(name: str, version: str) -> dict[str, str]:
    """Alias ``challenger`` to a version that passed, and ``champion`` where there never was one; all aliases.

    After a champion was withdrawn, or deleted, the next one is somebody's decision.

    Raises: GateFailed: it did not pass. ModelError: no such version. TrackingError.
    """
    found = version_of(name, version)
    if found.tags.get("gates_passed") != "true":
        raise GateFailed(f"version {version} of {name} {_not_passed(found)}: no alias is set")
    by = f"{user_name()}, by the erase flow"
    settle(name)
    for alias in ("challenger", "champion"):
        before = aliases(name).get(alias, "")
        if before == version or (alias == "champion" and _ever_had_champion(name)):
            continue
        try:
            append(_noted(found, alias, before, by, "gates passed"), name, _unless_first(name, alias))
        except _Overtaken:
            continue
    return aliases(name)


def _not_passed(found: Version) -> str:
    """Why a version cannot be promoted, in words."""
    if found.tags.get("gates_passed") != "undecided":
        return "did not pass its gates"
    gates = [
        f"{k.removeprefix('gate.')} {v}" for k, v in found.tags.items() if k.startswith("gate.") and UNDECIDED in v
    ]
    why = "; ".join([*gates, *filter(None, [found.tags.get("not_proven")])])
    return f"is not known to pass its gates ({why}), draw more pictures (evaluate.samples_per_concept)"


class _Overtaken(Exception):
    """Another machine made a first champion meanwhile."""


def _unless_first(name: str, alias: str) -> Callable[[], None]:
    def require_unchanged() -> None:
        if alias == "champion" and _ever_had_champion(name):
            raise _Overtaken

    return require_unchanged


def _ever_had_champion(name: str) -> bool:
    return "champion" in aliases(name) or any(move.alias == "champion" for move in history(name))


class Step(Protocol):
    """How a part of a promotion is done: it returns and raises what the part does."""

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Do the part of this name."""


def at_once(name: str, work: Callable[[], T]) -> T:
    """A step that nobody watches."""
    return work()


def promote(
    name: str,
    version: str | None = None,
    *,
    why: str,
    by: str | None = None,
    brings_back: Sequence[str] = (),
    check: Callable[[Version, Standing], str | None] | None = None,
    step: Step = at_once,
) -> str:
    """Make a version champion; the one before becomes ``previous_champion``.

    Args:
        version: the challenger by default. The previous champion, for a rollback.
        by: the operating system's user by default.
        brings_back: erasures of the champion that may be lost: every one that would be has to be named.
        check: called with the version and the standing champion before anything moves; it raises where the version is
            not to be promoted. What it returns is added to the reason.
        step: does each step of it, and shows it where that is wanted.

    Returns: the new champion.
    Raises: GateFailed: it did not pass its gates, or its last recheck. WouldUnerase: it draws what the champion, or
        the one that was withdrawn or deleted, has forgotten. ModelError: no such version, it is champion already, or
        the champion changed meanwhile. IntegrityError: the stored model was altered, or does not say what it has
        forgotten. ParamsError: no reason. TrackingError.
    """
    why, by = reason(why), reason(by or user_name(), "by")
    found, before = step("find the version", lambda: _found(name, version or "challenger"))
    step("check its gates", lambda: _require_passed(found, before))
    step("check what it has forgotten", lambda: _refuse_unerasing(found, before, brings_back))
    step("check its files", lambda: verify_stored(found))
    added = check(found, before) if check is not None else None
    why += f"; brings back {', '.join(brings_back)}" if brings_back else ""
    why += f"; {added}" if added else ""

    def require_unchanged() -> None:
        now = aliases(name).get("champion", "")
        if now != before.alias:
            was = before.alias or "none"
            raise ModelError(f"the champion of {name} changed from {was} to {now or 'none'}: look again")

    move = _noted(found, "champion", before.version, by, why)
    step("move the alias", lambda: append(move, name, require_unchanged))
    return found.version


def _found(name: str, version: str) -> tuple[Version, Standing]:
    settle(name)
    return version_of(name, version), standing(name)


def _require_passed(found: Version, before: Standing) -> None:
    """Raises: GateFailed: it did not pass its gates, or its last recheck. ModelError: it is champion already."""
    if found.version == before.alias:
        raise ModelError(f"version {before.alias} of {found.name} is champion already")
    if found.tags.get("gates_passed") != "true":
        raise GateFailed(f"version {found.version} of {found.name} {_not_passed(found)}: it cannot become champion")
    if found.tags.get("recheck_passed") == "false":
        raise GateFailed(
            f"version {found.version} of {found.name} failed its recheck: recheck it once that is corrected"
        )


def still_drawn(name: str, version: str) -> list[str]:
    """What the champion, or the one that was withdrawn or deleted last, has forgotten and a version still draws.

    Such a version cannot be promoted as it is. Raises: as :func:`standing`.
    """
    return would_bring_back(version_of(name, version), standing(name))


def would_bring_back(found: Version, before: Standing) -> list[str]:
    """What the standing champion has forgotten and a version still draws. Raises: IntegrityError."""
    return sorted(set(before.forgotten) - set(erasures_of(found).all))


def _refuse_unerasing(found: Version, before: Standing, brings_back: Sequence[str]) -> None:
    """Raises: WouldUnerase: a version draws what the standing champion has forgotten, unless that was named."""
    lost = [concept for concept in would_bring_back(found, before) if concept not in brings_back]
    if lost:
        raise WouldUnerase(
            f"version {found.version} of {found.name} still draws {', '.join(lost)}, which the champion (version "
            f"{before.version}) has forgotten: erase that from it first, or name each in brings_back (--brings-back)"
        )


def withdraw(name: str, version: str, *, why: str, by: str | None = None) -> None:
    """Take the alias ``champion`` from a version: there is none then, until somebody promotes another.

    Raises: ModelError: the version is not the champion. ParamsError: no reason. TrackingError.
    """
    why, by = reason(why), reason(by or user_name(), "by")
    settle(name)
    found = version_of(name, version)

    def require_champion() -> None:
        if (now := aliases(name).get("champion", "")) != version:
            raise ModelError(f"version {version} of {name} is not the champion, which is {now or 'none'}: look again")

    require_champion()
    move = Move(datetime.now(UTC), "champion", version, "", by, why, _evidence(found.tags))
    append(move, name, require_champion)


def refuse(found: Version, champion: str, *, by: str, why: str) -> None:
    """Note that somebody did not approve a version, in its tags and in the history. Raises: TrackingError."""
    set_tag(found.name, found.version, "promotion_refused", f"by {by}: {why}")
    append(_noted(found, REFUSED, champion, by, why), found.name, lambda: None)


def reason(text: str, what: str = "why") -> str:
    """A line of the history: not empty, and nothing in it can look like another line.

    Raises: ParamsError.
    """
    text = text.strip()
    if not text:
        raise ParamsError(f"{what} is empty: the history of the aliases keeps it, say it in a few words")
    if odd := next((c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")), None):
        raise ParamsError(f"{what} has the control character {ascii(odd)}: give one line of plain text")
    if len(text) > REASON_LENGTH:
        raise ParamsError(f"{what} has {len(text)} characters: give at most {REASON_LENGTH}")
    return text


def plain(text: str) -> str:
    """A text that somebody typed into a form, as :func:`reason` takes it: one line, no control characters."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join("".join(c for c in kept if unicodedata.category(c) not in ("Cf", "Cs")).split()) or "-"


def _noted(found: Version, alias: str, before: str, by: str, why: str) -> Move:
    forgotten = tuple(erasures_of(found).all)
    return Move(datetime.now(UTC), alias, before, found.version, by, why, _evidence(found.tags), forgotten)


def _evidence(tags: dict[str, str]) -> str:
    """Return one hash of what the gates were measured on: the version's lineage and weights."""
    return sha256_text(json.dumps([tags.get("lineage_digest"), tags.get("erased_sha256")]))
