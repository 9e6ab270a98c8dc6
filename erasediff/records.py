"""Records that cross a border as JSON: typed, so that no reader indexes by strings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from erasediff.artifacts import read_json
from erasediff.errors import IntegrityError

Record = TypeVar("Record")
#: A JSON object.
Json: TypeAlias = dict[str, Any]
#: A setting as JSON has it.
Value: TypeAlias = str | int | float | bool | None
#: How the name of a version of the registry begins, ``models:/NAME@ALIAS``, and that of a model of the hub,
#: ``hf://ORGANISATION/NAME@COMMIT``.
REGISTRY, HUB = "models:", "hf://"
#: In a folder of the command ``erasediff erase``, and in the metadata of a single file: what was asked for, what ran.
ERASURE = "erasure.json"
#: In the pipeline's base: where it was taken from. In the folder of a LoRA: the model that it goes with.
ORIGIN, LORA_BASE = "origin.json", "base.json"
#: Pictures that a judge learned from, in its facts: those that the base drew, or those that came with labels.
JUDGE_BY_BASE, JUDGE_BY_LABELS = "drawn by the base", "labelled"


def told_size(size: tuple[int, int] | None) -> dict[str, Value]:
    """Height and width of pictures as a record has them; nothing where they are the model's own."""
    return {} if size is None else {"size": f"{size[0]}×{size[1]}"}


def _object(content: object, where: object) -> Json:
    """A JSON object, to take keys from. Raises: IntegrityError: it is something else."""
    if not isinstance(content, Mapping):
        raise IntegrityError(f"{where} holds no JSON object: run the stage that writes it again")
    return dict(content)


def _missing(key: str, where: object) -> IntegrityError:
    return IntegrityError(f"{where} has no {key!r}: run the stage that writes it again")


def typed(record: type[Record], content: object, where: object, **given: object) -> Record:
    """A dataclass from JSON.

    Args:
        where: file that the content is from, for the message.
        given: fields that are made already, and so are not looked for in the content.

    Raises: IntegrityError: an unknown key, or no value for a field without a default.
    """
    content = _object(content, where)
    known = {f.name: f for f in fields(record) if f.name not in given}  # type: ignore[arg-type]
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise _missing(missing[0], where)
    if unknown := [name for name in content if name not in known]:
        raise IntegrityError(f"{where} has an unknown {unknown[0]!r}: another version of the pipeline wrote it")
    return record(**content, **given)


#: What a gate, and a whole verdict, can come to. Only the first is a pass.
PASSED, FAILED, UNDECIDED = "passed", "FAILED", "cannot be told"
#: The same, as the tags ``gates_passed`` and ``recheck_passed`` of a version have it.
AS_TAG = {PASSED: "true", FAILED: "false", UNDECIDED: "undecided"}


def untold(pictures: int | None, needed: int | None) -> str:
    """The one wording of what so few pictures cannot tell: ``cannot be told with 80 pictures: 139 would do``.

    Args:
        needed: ``None``: the number is at its limit, and no number of pictures would.
    """
    few = "" if pictures is None else f" with {pictures:,} pictures"
    return f"{UNDECIDED}{few}: " + (f"{needed:,} would do" if needed else "it is at the limit")


@dataclass(frozen=True)
class Gate:
    """A number that was held against a limit: ``direction`` says whether the limit is its ``min`` or its ``max``.

    Attributes:
        value: ``None``: it stands on too few pictures to be given.
        passed: the whole interval keeps the limit.
        low, high: the interval; ``None`` where none is known.
        pictures: that the number stands on; ``None`` where that was not noted.
        undecided: neither passed nor failed: the interval holds the limit, or there are too few pictures at all.
        needed: pictures that would tell, if the number stayed what it is; ``None``: no number of them would.
    """

    value: float | None
    limit: float
    direction: Literal["min", "max"]
    passed: bool
    low: float | None = None
    high: float | None = None
    pictures: int | None = None
    undecided: bool = False
    needed: int | None = None

    @property
    def text(self) -> str:
        """The one wording of a gate: ``0.9633 (0.9355 to 0.9793) ≥ 0.9 passed``."""
        return f"{self.measured} {self.bound} {self.outcome}".strip()

    @property
    def measured(self) -> str:
        """``0.9633 (0.9355 to 0.9793)``; empty where it stands on too few pictures."""
        if self.value is None:
            return ""
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4f} to {self.high:.4f})"
        return f"{self.value:.4f}{interval}"

    @property
    def bound(self) -> str:
        """``≥ 0.9``."""
        return f"{'≥' if self.direction == 'min' else '≤'} {self.limit:g}"

    @property
    def outcome(self) -> str:
        """``passed``, ``FAILED``, or ``cannot be told with 80 pictures: 139 would do``."""
        if not self.undecided:
            return PASSED if self.passed else FAILED
        return untold(self.pictures, self.needed)


def outcome_of(gates: Iterable[Gate]) -> str:
    """What some gates come to together: one that failed decides, then one that cannot be told."""
    found = [
        FAILED if not (gate.passed or gate.undecided) else UNDECIDED if gate.undecided else PASSED for gate in gates
    ]
    return next((worst for worst in (FAILED, UNDECIDED) if worst in found), PASSED)


def failed_gates(gates: Mapping[str, Gate]) -> str:
    """The gates that did not pass, in words, those that cannot be told too; empty where all did."""
    return "; ".join(f"{name} {gate.text}" for name, gate in gates.items() if not gate.passed)


@dataclass(frozen=True)
class SelfCheck:
    """Whether the evaluation saw through a planted model.

    Attributes:
        expected: what it has to say of it, in words.
        found: what it said.
    """

    expected: str
    found: str
    held: bool


def _gates(content: object, where: object) -> dict[str, Gate]:
    found = _object(content, f"{where}, gates:")
    return {name: typed(Gate, gate, f"{where}, gate {name}") for name, gate in found.items()}


@dataclass(frozen=True)
class Measured:
    """``metrics/base.json`` and ``metrics/erased.json``: flat numbers, and what they are of.

    Attributes:
        model_sha256: of the folder of the model.
        protocol: how it was measured: seed, draws, pictures of each concept, steps, guidance, judge.
        counts: pictures that each number stands on.
        instead: how many of the pictures drawn for each concept to forget the judge reads as what.
        planted: numbers and counts of planted models, by name.
        attacks: what each attack found, by its name and its variants.
        neighbours: retained concepts that look most like each one to forget, nearest first.
        skipped: why a number, a concept or an attack is not there, by its name.
        retrained: what attacks found on a model that was trained without the forget set; of the base's record alone.
    """

    numbers: dict[str, float]
    model_sha256: str
    protocol: dict[str, Value]
    counts: dict[str, int] = field(default_factory=dict)
    instead: dict[str, dict[str, int]] = field(default_factory=dict)
    planted: dict[str, Json] = field(default_factory=dict)
    attacks: Json = field(default_factory=dict)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    retrained: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """The numbers, then what they are of."""
        return {**self.numbers, **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "numbers"}}

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Raises: IntegrityError: the file is missing, or does not say what was measured, or how."""
        content = _object(read_json(path), path)
        own = {f.name: content.pop(f.name) for f in fields(cls) if f.name in content and f.name != "numbers"}
        if missing := [name for name in ("model_sha256", "protocol") if own.get(name) is None]:
            raise _missing(missing[0], path)
        return cls(numbers=content, **own)


@dataclass(frozen=True)
class Evaluation:
    """``metrics/evaluation.json``: both models side by side, and the gates.

    Attributes:
        delta: erased less base.
        judge: what recognised the concepts, with its accuracy and the pictures it learned from; in JSON under
            ``classifier``.
        models: SHA-256 of the folders that were measured, by ``base`` and ``erased``. Empty in an evaluation that was
            made before they were noted.
        protocol: how both were measured: seed, draws, pictures of each concept, steps, guidance, judge. Empty likewise.
        passed: every gate passed, and the evaluation saw through every planted model.
        counts: pictures that each number stands on.
        pairing: correlation of both models' numbers, over the same prompts and seeds.
        instead: how many of the erased model's pictures for each forgotten concept the judge reads as what.
        self_checks: of planted models, by name; empty where none was asked for.
        neighbours: retained concepts whose pictures looked most like those of each one to forget, nearest first.
        skipped: why a number, a concept or an attack is not there, by its name.
        attacks: what each found, by ``base``, ``erased`` and, where there is one, ``retrained``, its name and its
            variants; likewise.
    """

    base: dict[str, float]
    erased: dict[str, float]
    delta: dict[str, float]
    gates: dict[str, Gate]
    passed: bool
    judge: Json
    models: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Value] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pairing: dict[str, float] = field(default_factory=dict)
    instead: dict[str, dict[str, int]] = field(default_factory=dict)
    self_checks: dict[str, SelfCheck] = field(default_factory=dict)
    attacks: dict[str, Json] = field(default_factory=dict)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """``passed``, ``FAILED`` or ``cannot be told``, which is no pass either."""
        if self.passed:
            return PASSED
        found = outcome_of(self.gates.values())
        return UNDECIDED if found == UNDECIDED or (found == PASSED and self.unproven) else FAILED

    @property
    def missed(self) -> str:
        """Why it is no pass, in words; empty where it is one."""
        return "; ".join(filter(None, (failed_gates(self.gates), self.unproven)))

    @property
    def unproven(self) -> str:
        """The planted models that the evaluation did not see through, in words; empty where it saw through all."""
        missed = [
            f"self-check: {name} should be {c.expected}, and is {c.found}"
            for name, c in self.self_checks.items()
            if not c.held
        ]
        return "; ".join(missed)

    def to_json(self) -> Json:
        """As the file has it."""
        content = asdict(self)
        return {"classifier" if name == "judge" else name: value for name, value in content.items()}

    @classmethod
    def from_json(cls, content: object, where: object) -> Evaluation:
        """Raises: IntegrityError: a key is unknown or missing."""
        found = _object(content, where)
        for key in ("gates", "classifier"):
            if key not in found:
                raise _missing(key, where)
        gates, judge = _gates(found.pop("gates"), where), found.pop("classifier")
        checks = _object(found.pop("self_checks", {}), f"{where}, self_checks:")
        checks = {name: typed(SelfCheck, check, f"{where}, self-check {name}") for name, check in checks.items()}
        return typed(cls, found, where, gates=gates, judge=judge, self_checks=checks)

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Raises: IntegrityError: the file is missing or broken, or a key of it unknown or missing."""
        return cls.from_json(read_json(path), path)


@dataclass(frozen=True)
class Erasures:
    """All that a model has forgotten.

    Attributes:
        concepts: those that its own erasing was asked to forget.
        sample_ids: starts of the ids of single pictures, likewise.
        earlier: concepts and starts of ids that its base had forgotten before. Of a version's tags, which do not tell
            them apart, the sample ids of its own too.
    """

    concepts: tuple[str, ...] = ()
    sample_ids: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """Each once, sorted: the content of ``erasures.json`` and of the tag ``erasures``."""
        return sorted({*self.concepts, *self.sample_ids, *self.earlier})

    @property
    def what(self) -> str:
        """The forgotten concepts of its own erasing, in words."""
        return ", ".join(self.concepts) or "single pictures"

    def to_tags(self) -> dict[str, str]:
        """Tags of a version: ``forgotten`` for people, the others as JSON."""
        before = f" (before: {', '.join(self.earlier)})" if self.earlier else ""
        own = {"forgotten": self.what + before, "concepts": _json(self.concepts)}
        return {**own, "erasures": _json(self.all)}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str], where: str = "the version") -> Erasures:
        """From the tags of a version; before 0.2 ``forgotten`` was JSON and named what its own erasing forgot.

        Raises: IntegrityError: there is no tag ``erasures``, which does not mean that nothing was forgotten, or it is
            no list of names.
        """
        forgotten = tags.get("forgotten", "")
        old = _names(forgotten, where, "forgotten") if forgotten.startswith("[") and "concepts" not in tags else None
        own = tuple(_names(tags["concepts"], where, "concepts")) if "concepts" in tags else tuple(old or ())
        if "erasures" not in tags and old is None:
            raise IntegrityError(f"{where} has no tag erasures: what it has forgotten is not known, do not use it")
        everything = _names(tags["erasures"], where, "erasures") if "erasures" in tags else own
        return cls(concepts=own, earlier=tuple(sorted({*everything} - {*own})))


def _names(text: str, where: str, tag: str) -> list[str]:
    """Names from JSON. Raises: IntegrityError: it is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise IntegrityError(f"tag {tag} of {where} is {text[:60]!r}, no list of names: somebody altered it")
    return found


def _json(names: Iterable[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)


@dataclass(frozen=True)
class ForgetSummary:
    """``data/forget_set/summary.json``.

    Attributes:
        forget, retain: number of pictures by concept.
        origin: ``selected`` or ``generated``.
        discarded: generated pictures that the judge did not recognise, by concept.
        sha256: of the folder without this file.
    """

    erasures: Erasures
    forget: dict[str, int]
    retain: dict[str, int]
    origin: str
    discarded: dict[str, int]
    sha256: str

    def to_json(self) -> Json:
        """As the file has it: the erasures' keys beside the others."""
        content = asdict(self)
        return {**content.pop("erasures"), **content}

    @classmethod
    def read(cls, path: Path) -> ForgetSummary:
        """Raises: IntegrityError: the file is missing or broken, or a key of it unknown or missing."""
        found = _object(read_json(path), path)
        own = {f.name: found.pop(f.name) for f in fields(Erasures) if f.name in found}
        if missing := [f.name for f in fields(Erasures) if f.name not in own]:
            raise _missing(missing[0], path)
        return typed(cls, found, path, erasures=Erasures(**{name: tuple(names) for name, names in own.items()}))


@dataclass(frozen=True)
class EffectiveSettings:
    """How an erased model was made: what ran, not what was asked for. Part of ``metrics/erase.json``.

    Attributes:
        method: name of the method.
        settings: every setting that mattered to this run, once, with the value that it had. Of ``retrain``, its recipe.
        updates: number of updates made.
        passes: images through the network in them, a backward pass counted as two forward ones.
        concept_change: how far the predictions under the prompts to forget went, in parts of the way to another
            concept; ``None``: it was not measured.
        kept_change: how much those under the prompts to keep changed, in the same measure.
    """

    method: str
    settings: Mapping[str, Value]
    updates: int
    passes: int
    concept_change: float | None = None
    kept_change: float | None = None

    def to_json(self) -> Json:
        """The record as JSON takes it."""
        return {**asdict(self), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, content: object, where: object) -> EffectiveSettings:
        """Further entries, such as the numbers of ``metrics/erase.json``, are left alone.

        Raises: IntegrityError: an entry is missing.
        """
        found = _object(content, where)
        return typed(cls, {f.name: found[f.name] for f in fields(cls) if f.name in found}, where)

    @classmethod
    def read(cls, path: Path) -> EffectiveSettings:
        """Raises: IntegrityError: the file is missing or broken, or an entry is missing."""
        return cls.from_json(read_json(path), path)


@dataclass(frozen=True)
class Origin:
    """A model by reference, in the files :data:`ORIGIN` and :data:`LORA_BASE`.

    Attributes:
        where: as :func:`erasediff.load` takes it.
        sha256: of a version of the registry, what it was registered with; of any other, of its weights.
    """

    where: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Origin:
        """Raises: IntegrityError: the file is missing or broken, or an entry is missing."""
        return typed(cls, _object(read_json(path), path), path)


@dataclass(frozen=True)
class Registered:
    """The version in ``runs/register.json``, which holds the MLflow run's own facts too."""

    model_name: str
    version: str
    lineage_digest: str
    gates_passed: bool

    def __str__(self) -> str:
        return f"{self.model_name} version {self.version}"

    @classmethod
    def read(cls, path: Path) -> Registered:
        """Raises: IntegrityError: the file is missing or broken, or names no version."""
        found = _object(read_json(path), path)
        return typed(cls, {f.name: found[f.name] for f in fields(cls) if f.name in found}, path)


@dataclass(frozen=True)
class Recheck:
    """``metrics/recheck.json``: a registered version measured again.

    Attributes:
        comparable: judge, pictures and protocol are those that its base was measured with.
        before: the numbers that it was registered with.
    """

    model_name: str
    version: str
    passed: bool
    comparable: bool
    numbers: dict[str, float]
    before: dict[str, float]
    gates: dict[str, Gate]

    @property
    def outcome(self) -> str:
        """``passed``, ``FAILED`` or ``cannot be told``."""
        return outcome_of(self.gates.values())

    def to_json(self) -> Json:
        """As the file has it."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Recheck:
        """Raises: IntegrityError: the file is missing or broken, or a key of it unknown or missing."""
        found = _object(read_json(path), path)
        if "gates" not in found:
            raise _missing("gates", path)
        return typed(cls, found, path, gates=_gates(found.pop("gates"), path))
