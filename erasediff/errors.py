"""Every failure that the product states in one line: what was wrong, the value seen, what to do next."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable


def did_you_mean(
    word: str, known: Iterable[str], written: Callable[[str], str | None] = str, *, alike: float = 0.6
) -> str:
    """``; did you mean NAME?`` with the nearest of the known names, or nothing: the end of a message.

    Args:
        written: how a name is written, such as with the dashes of an option, which make all options alike.
        alike: in [0, 1]: how alike two names are at least, as difflib counts it.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f"; did you mean {written(near[0])}?" if near else ""


class _Short(reprlib.Repr):
    """``repr`` of bounded length and cost, whatever a value holds, or repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 200, 200

    def repr1(self, x: object, level: int) -> str:
        if isinstance(x, dict):
            return self.repr_dict(x, level)
        if isinstance(x, list | tuple | set | frozenset):
            return self.repr_list(list(x), level)
        if isinstance(x, int) and x.bit_length() > 256:
            return f"a whole number of {x.bit_length()} bits"
        return super().repr1(x, level)


def shown(value: object, limit: int = 100) -> str:
    """A value as a message shows it: on one line, printable, at most ``limit`` characters."""
    text = " ".join((value if isinstance(value, str) else _Short().repr(value)).split())
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def require_unicode(texts: Iterable[str], what: str) -> None:
    """Tell half of a surrogate pair: no file takes it, no tokenizer, no server.

    Bytes of a command line that are no UTF-8 become such, and so does ``"\\ud83d"`` in JSON.

    Raises: ParamsError.
    """
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ParamsError(f"{what} {shown(ascii(text), 60)} is no valid text: give it in UTF-8")


class EraseDiffError(Exception):
    """Base of all stated failures. ``exit_code`` is what a door or a flow exits with."""

    exit_code = 1


class ParamsError(EraseDiffError, ValueError):
    """``params.yaml``, a command line or a call asks for something that cannot be."""

    exit_code = 2


class DataError(EraseDiffError):
    """Pictures, tables or labels that cannot be read or used."""


class ExpectationFailed(DataError):
    """A Great Expectations check did not hold."""


class UnknownConcept(EraseDiffError, ValueError):
    """A concept that the model or the data does not have."""


#: What to do where a table of words lacks a concept.
NAME_IT = "; add it to curate.concepts"


def require_concepts(asked: Iterable[str], known: Iterable[str], advice: str = "") -> None:
    """Tell what is to be forgotten and is not in the data.

    Args: advice: what to do where no name is near.
    Raises: UnknownConcept.
    """
    names = sorted(known)
    for concept in asked:
        if concept not in names:
            raise UnknownConcept(
                f"forget_set.concepts: no concept {concept!r} in the data, which has {', '.join(names)}"
                f"{did_you_mean(concept, names) or advice}"
            )


class OutOfSeeds(EraseDiffError, ValueError):
    """More pictures are to be drawn than a run has seeds for."""


class ModelError(EraseDiffError):
    """A model folder that cannot be loaded or does not fit the data."""


class IntegrityError(EraseDiffError):
    """A file whose content is not what its manifest says: truncated or altered."""


class NonFiniteLoss(EraseDiffError):
    """A loss or gradient became NaN or infinite."""


class ClassifierTooWeak(EraseDiffError):
    """The classifier reads too badly to judge anything."""


class OutOfMemory(EraseDiffError):
    """The device has too little memory for the batch asked for."""


class CannotWrite(EraseDiffError):
    """A file cannot be written: the disk is full, or the checkout read-only."""


class TrackingError(EraseDiffError):
    """The MLflow server or registry cannot be reached, or refuses."""


class CheckoutBusy(EraseDiffError):
    """Another run works in this checkout."""


class StageFailed(EraseDiffError):
    """A DVC stage ended with an error."""


class WorktreeError(EraseDiffError):
    """A deployed run's worktree cannot be made, or its result not be kept."""


class PushFailed(EraseDiffError):
    """Results could not be sent to the DVC remote."""


class ServerFailed(EraseDiffError):
    """A server of the pipeline does not start, or is not running."""


class WouldUnerase(EraseDiffError):
    """A promotion would bring back what the champion has forgotten."""


class PromotionRefused(EraseDiffError):
    """Somebody who was asked did not approve a promotion."""


class ApprovalTimeout(EraseDiffError):
    """Nobody decided on a promotion in time."""


class GateFailed(EraseDiffError):
    """The erased model did not pass its gates."""
