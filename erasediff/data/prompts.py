"""Prompts in place of pictures: CSV files as people have them, and the table of words."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from erasediff.artifacts import sha256_text
from erasediff.data.names import concept_name
from erasediff.data.sources import visible_files
from erasediff.data.table import Curated
from erasediff.data.wordings import Kind, kind_of, plain_wording, prompts_of
from erasediff.errors import DataError, shown

#: Columns of a table of words. Seed and guidance are those that a file gives, or empty.
COLUMNS = ["sample_id", "prompt", "concept", "split", "origin", "seed", "guidance_scale", "source", "kind"]

#: What published files call a column, in the order in which they are looked for.
CONCEPT_COLUMNS = ("concept", "class", "artist", "categories", "object", "style")
SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")

#: Of these, the columns that hold styles.
STYLE_COLUMNS = ("artist", "style")

#: Characters of a prompt, and bytes of a file.
LONGEST_PROMPT, MOST_BYTES = 4000, 100_000_000


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, and for which concept.

    Attributes:
        seed: to draw it with, where a file gives one; 0 to 2⁶⁴ - 1.
        guidance_scale: likewise.
        split: ``train`` or ``test``, where the wording belongs to one; empty: it is chosen by the text.
        origin: ``real``: somebody wrote it; ``generated``: a template made it.
        source: to tell it by in a message.
        kind: what sort of thing the concept is, such as ``object`` or ``style``.
    """

    text: str
    concept: str
    seed: int | None = None
    guidance_scale: float | None = None
    split: str = ""
    origin: str = "real"
    source: str = ""
    kind: str = "object"


#: Concept, digest of the text, seed: of two prompts that have the same, one is taken.
Key = tuple[str, str, str]


def prompt_files(path: Path) -> list[Path]:
    """A CSV file by itself, or all of a folder, which may have none. Raises: DataError: there is neither."""
    if path.is_dir():
        return [file for file in visible_files(path)[0] if file.suffix.lower() == ".csv"]
    if not path.exists():
        raise DataError(f"{path} does not exist: set curate.path to a CSV file with a column prompt, or to a folder")
    return [path]


def read_prompts(file: Path, concepts: Iterable[str] = ()) -> list[Prompt]:
    """The prompts of a CSV file with the columns that published files have.

    ``prompt`` is needed; one of :data:`CONCEPT_COLUMNS`, of :data:`SEED_COLUMNS` and of :data:`GUIDANCE_COLUMNS` is
    read where it is there. A cell ``violence, self-harm`` of ``categories`` makes a prompt of each.

    Args:
        concepts: what the table is about. Of a file without a column of concepts all prompts are of the only one.

    Raises: DataError: the file is no CSV in UTF-8, lacks its columns, or has a row that cannot be used.
    """
    try:
        content = file.read_bytes()
        if len(content) > MOST_BYTES:
            raise DataError(f"{file} has {len(content)} bytes; {MOST_BYTES} are the most")
        rows = list(_rows(file, content.decode("utf-8-sig")))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file} is not UTF-8 (byte 0x{error.object[error.start]:02x} in line {line})") from None
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as CSV ({error})") from None
    if not rows:
        raise DataError(f"{file} has no prompts: it needs a line of column names and one line a prompt")
    column = _first(CONCEPT_COLUMNS, rows[0][1])
    only = list(concepts)
    if column is None and len(only) != 1:
        raise DataError(
            f"{file} does not say which concept a prompt is of: give it a column {', '.join(CONCEPT_COLUMNS[:4])}, or "
            f"name one concept in curate.concepts, not {len(only)}"
        )
    if not any(row["prompt"].strip() for _, row in rows):
        raise DataError(f"{file}: all {len(rows)} prompts are empty, first in line {rows[0][0]}: fill them in")
    return [prompt for line, row in rows for prompt in _of_row(file, line, row, column, only)]


def _rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column, for each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head = [name.strip() for name in next(reader, [])]
    if "prompt" not in head:
        there = shown(", ".join(filter(None, head)), 200)
        raise DataError(f"{file} has no column prompt; it has {there or 'nothing'}: name the column of prompts so")
    twice = [name for name, n in Counter(head).items() if n > 1 and name]
    if twice:
        raise DataError(f"{file} has the column {shown(twice[0])} more than once")
    line = reader.line_num + 1
    for cells in reader:
        if len(cells) > len(head):
            raise DataError(f"{file}, line {line}: {len(cells)} cells, but {len(head)} columns: quote what has commas")
        if any(cells):
            yield line, dict(zip(head, cells + [""] * (len(head) - len(cells)), strict=True))
        line = reader.line_num + 1


def _first(names: Iterable[str], row: Mapping[str, str]) -> str | None:
    return next((name for name in names if name in row), None)


def _of_row(file: Path, line: int, row: Mapping[str, str], column: str | None, only: list[str]) -> Iterator[Prompt]:
    where, text = f"{file}, line {line}", row["prompt"].strip()
    if len(text) > LONGEST_PROMPT or "\0" in text:
        raise DataError(f"{where}: the prompt has {len(text)} characters or a zero byte; {LONGEST_PROMPT} are the most")
    cell = only[0] if column is None else row[column]
    names = [cell] if column != "categories" else [name for name in cell.split(",") if name.strip()]
    seed = _number(where, row, SEED_COLUMNS, 2**64 - 1)
    if seed is not None and seed != int(seed):
        raise DataError(f"{where}: the seed {seed} is no whole number")
    guidance = _number(where, row, GUIDANCE_COLUMNS, 1000)
    for name in names or [""]:
        concept = concept_name(name, where)
        kind = "style" if column in STYLE_COLUMNS else kind_of(concept)
        source = f"{file.name} line {line}"
        yield Prompt(text, concept, None if seed is None else int(seed), guidance, source=source, kind=kind)


def _number(where: str, row: Mapping[str, str], columns: Iterable[str], most: int) -> float | int | None:
    """A number of 0 to ``most``, or ``None`` of an empty cell. Raises: DataError."""
    column = _first(columns, row)
    text = row[column].strip() if column else ""
    if not text:
        return None
    try:
        value: float | int = int(text) if text.isascii() and text.isdigit() and len(text) < 30 else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise DataError(f"{where}: {column} is {shown(text)}, no number from 0 to {most}")
    return value


def template_prompts(concepts: Mapping[str, Kind]) -> list[Prompt]:
    """Wordings of each concept: some to train on, others to test with."""
    return [
        Prompt(text, concept, split=split, origin="generated", source=f"{kind} template", kind=kind)
        for concept, kind in concepts.items()
        for split in ("train", "test")
        for text in prompts_of(concept, kind, split)
    ]


def words_table(prompts: Iterable[Prompt], test_fraction: float) -> Curated:
    """The table of words, a row a prompt of a concept; repeated and empty ones are left out, and counted.

    A prompt that says no split gets that of a template of the same wording, else one by the hash of its wording,
    whatever the files and their order. A concept that would have none for testing, or none for training, gets the
    nearest; one that is asked for in one wording alone is tested with templates. A concept is of the kind that its
    first prompt says.

    Raises: DataError: there is no prompt, or two concepts are written alike.
    """
    kept: dict[Key, Prompt] = {}
    left_out = Counter[str]()
    for prompt in prompts:
        if not prompt.text:
            left_out["empty prompts"] += 1
        elif kept.setdefault((prompt.concept, sha256_text(prompt.text), f"{prompt.seed}"), prompt) is not prompt:
            left_out["duplicates"] += 1
    if not kept:
        raise DataError("no prompts: name concepts in curate.concepts, or set curate.path to a CSV file of prompts")
    _refuse_look_alikes({concept for concept, *_ in kept})
    for prompt in _tests_of_single_wordings(list(kept.values())):
        kept[prompt.concept, sha256_text(prompt.text), f"{prompt.seed}"] = prompt
    splits = _splits(list(kept.values()), test_fraction)
    kinds: dict[str, str] = {}
    for prompt in kept.values():
        kinds.setdefault(prompt.concept, prompt.kind)
    rows = [
        (
            sha256_text("\n".join((concept, p.text, seed))),
            p.text,
            concept,
            p.split or splits[plain_wording(p.text)],
            *(p.origin, p.seed, p.guidance_scale, p.source, kinds[concept]),
        )
        for (concept, _, seed), p in sorted(kept.items(), key=lambda item: item[0])
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["seed"] = pd.array([row[COLUMNS.index("seed")] for row in rows], dtype="UInt64")  # floats hold no 64 bits
    return Curated(table.astype({"guidance_scale": "Float64"}), dict(left_out), {})


def _tests_of_single_wordings(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Templates for testing of each concept that has but one wording, as files have that differ in seeds alone."""
    wordings: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        wordings[prompt.concept].add(plain_wording(prompt.text))
    single = {concept: kind_of(concept) for concept, known in wordings.items() if len(known) == 1}
    return [
        prompt
        for prompt in template_prompts(single)
        if prompt.split == "test" and plain_wording(prompt.text) not in wordings[prompt.concept]
    ]


def _splits(prompts: Iterable[Prompt], test_fraction: float) -> dict[str, str]:
    """The split of each wording."""
    fixed: dict[str, str] = {}
    by_concept: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        by_concept[prompt.concept].add(plain_wording(prompt.text))
        if prompt.split:
            fixed[plain_wording(prompt.text)] = prompt.split
    digests = {wording: sha256_text(wording) for known in by_concept.values() for wording in known - set(fixed)}
    test = {wording for wording, digest in digests.items() if int(digest[:8], 16) < test_fraction * 2**32}
    moved: set[str] = set()
    for _, known in sorted(by_concept.items(), key=lambda item: (len(item[1]), item[0])):  # first who has no choice
        said = {fixed[wording] for wording in known if wording in fixed}
        own = sorted(known - set(fixed), key=digests.__getitem__)
        free = [wording for wording in own if wording not in moved]
        if "train" not in said and own and test.issuperset(own) and free:
            test.discard(free[-1])
            moved.add(free[-1])
        elif "test" not in said and len(own) > 1 and test.isdisjoint(own) and free:
            test.add(free[0])
            moved.add(free[0])
        elif len(own) == 1:
            moved.update(own)
    return {**{wording: "test" if wording in test else "train" for wording in digests}, **fixed}


def _refuse_look_alikes(concepts: Iterable[str]) -> None:
    """Raises: DataError: two names differ in capitals alone: one might be kept while the other is forgotten."""
    seen: dict[str, str] = {}
    for concept in sorted(concepts):
        if (other := seen.setdefault(concept.casefold(), concept)) != concept:
            raise DataError(f"the concepts '{other}' and '{concept}' differ in capitals alone: write both the same way")
