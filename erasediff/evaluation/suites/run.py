"""A suite is run: models or methods in, one cell a model, each kept, so that a run that was stopped goes on.

Within a cell it goes on at the batch that it was drawing; what erases, attacks or trains is done again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import erasediff
from erasediff.artifacts import DRAWN, read_object, sha256_text, write_bytes, write_json
from erasediff.errors import ParamsError, shown
from erasediff.evaluation.suites.erasing import Erasing, eraser
from erasediff.evaluation.suites.measuring import Context, fingerprint, measure
from erasediff.evaluation.suites.reading import open_readers, write_detections
from erasediff.evaluation.suites.suite import Setting, Suite, load_suite, require
from erasediff.evaluation.suites.tables import INTERVALS, cells_table, protocol_of, tables
from erasediff.families import family_of
from erasediff.families.sharing import Places
from erasediff.families.weights import weights_sha256
from erasediff.pages import Section, Table, page
from erasediff.records import Json
from erasediff.unlearning.progress import progress_bar
from erasediff.unlearning.words import neighbours, takes_words

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: Opens a model of any form, over its base where it is a LoRA.
OpenModel = Callable[..., "DiffusionPipeline"]


@dataclass(frozen=True)
class Request:
    """What is asked of a suite: the options of the command line.

    Attributes:
        suite: its name.
        output: folder for the result; the cells that it holds are not measured again.
        models: measured as they are; of a suite of requests, in their order.
        methods: erase each concept first, with ``base`` for none at all.
        ray: a Ray cluster whose workers draw.
        quiet: nothing tells how far it is.
    """

    suite: str
    output: Path
    models: Sequence[str] = ()
    base: str | None = None
    forgotten: Sequence[str] = ()
    judge: str | None = None
    labels: str | None = None
    data: Path | None = None
    stand_in: bool = False
    methods: Sequence[str] = ()
    quick: bool = False
    seed: int = 0
    ray: str | None = None
    quiet: bool = False


def run_suite(wanted: Request, open_model: OpenModel) -> str:
    """Run a suite and return its result as text; ``suite.json``, ``suite.md`` and ``report.html`` are written.

    Raises: ParamsError: no such suite, or a wrong combination. DataError: what is needed is not at hand, all of it.
    """
    suite = load_suite(wanted.suite)
    setting = suite.stand_in if wanted.stand_in else suite.real
    wanted, setting = _checked(wanted, suite, setting.quick() if wanted.quick else setting)
    base = _base(wanted, setting, open_model)
    readers: dict[str, object] = {}
    cells, drawn = [], wanted.output / DRAWN
    places = Places(cluster=wanted.ray)
    of_base = Context(
        suite, setting, (), readers, base, wanted.data, wanted.seed, wanted.stand_in, kept=drawn, places=places
    )
    plan = list(_plan(wanted, suite, setting, base, open_model))
    with progress_bar(f"suite {suite.name}", len(plan), "model", shown=not wanted.quiet) as bar:
        for number, (label, forgotten, erased) in enumerate(plan, 1):
            near = _near(suite, setting, forgotten, base)
            known = {next(iter(setting.readers)): (*forgotten, *near)}
            asked = setting if setting.concepts else setting.model_copy(update={"concepts": known})
            if not readers or not setting.concepts:
                readers.update(open_readers(asked, wanted.data, wanted.judge, wanted.labels))
            it = replace(of_base, setting=asked, forgotten=forgotten, neighbours=near)
            cells.append(_cell(wanted, it, label, erased))
            bar(number, {})
    text = _written(wanted, suite, cells)
    shutil.rmtree(drawn, ignore_errors=True)
    return text


def _checked(wanted: Request, suite: Suite, setting: Setting) -> tuple[Request, Setting]:
    """The request with what it leaves open. Raises: ParamsError, DataError: before anything is opened."""
    if not wanted.stand_in:
        require(suite, wanted.data, wanted.judge)
        if not wanted.base or not (wanted.models or wanted.methods):
            raise ParamsError("give MODEL, or --methods, and --base: the model before; --stand-in needs neither")
    if wanted.models and wanted.methods:
        raise ParamsError("give either MODEL or --methods: those erase from --base")
    forgotten = tuple(wanted.forgotten) or setting.forget
    if not forgotten:
        raise ParamsError(f"say by --forgotten what the suite {suite.name} should find forgotten")
    known = [c for names in setting.concepts.values() for c in names]
    if setting.concepts and (unknown := [c for c in forgotten if c not in known]):
        raise ParamsError(f"{shown(unknown[0])} is none of the suite's concepts: {', '.join(known)}")
    if suite.sequential and wanted.models and len(wanted.models) != len(forgotten):
        raise ParamsError(f"{len(wanted.models)} models, and {len(forgotten)} requests: give one after each request")
    methods = wanted.methods or (() if wanted.models else setting.methods)
    return replace(wanted, forgotten=forgotten, methods=methods), setting


def _base(wanted: Request, setting: Setting, open_model: OpenModel) -> DiffusionPipeline:
    if wanted.base is None and any(reader.kind == "digits" for reader in setting.readers.values()):
        from erasediff.evaluation.suites.stand_in import digits_model

        return digits_model()
    return open_model(wanted.base or "shapes")


def _plan(
    wanted: Request, suite: Suite, setting: Setting, base: DiffusionPipeline, open_model: OpenModel
) -> Iterator[tuple[str, tuple[str, ...], Erasing]]:
    """A label, what is forgotten, and what gives the model, for each cell."""
    forgotten = tuple(wanted.forgotten)
    for number, model in enumerate(wanted.models, 1):
        own = forgotten[:number] if suite.sequential else forgotten
        yield Path(model).name, own, lambda model=model: open_model(model, wanted.base)  # type: ignore[misc]
    for method in wanted.methods:
        erase = eraser(method, setting, wanted.seed, wanted.data, wanted.output / "models")
        for number, concept in enumerate(forgotten, 1):
            own = forgotten[:number] if suite.sequential else (concept,)
            yield method, own, lambda own=own, erase=erase: erase(base, own)  # type: ignore[misc]


def _near(suite: Suite, setting: Setting, forgotten: tuple[str, ...], base: DiffusionPipeline) -> tuple[str, ...]:
    """The words nearest to what is forgotten, by the base's own text encoder."""
    family = family_of(base)
    if suite.scoring != "neighbours" or not takes_words(family):
        return ()
    known = [c for c in setting.concepts.get(setting.domain_of(forgotten[0]), ()) if c not in forgotten]
    return tuple(neighbours(family, list(forgotten), known or None, setting.counts["neighbours"]))


def _cell(wanted: Request, it: Context, label: str, erased: Erasing) -> Json:
    """One model measured; read, if it was measured before in the same way. Raw detections are kept beside it."""
    asked = it.setting.model_dump(mode="json"), it.forgotten, label, wanted.seed, wanted.stand_in, it.neighbours
    how = [fingerprint(reader) for reader in it.readers.values()]
    given = erased() if wanted.models else None  # opened at once: its weights tell whether it was measured before
    weights = [weights_sha256(model) for model in (it.base, given) if model is not None]
    key = sha256_text(json.dumps([asked, how, weights, erasediff.__version__]))
    file = wanted.output / "cells" / f"{label}-{'+'.join(it.forgotten)}-{key[:12]}.json".replace("/", "_")
    if file.exists():
        return read_object(file)
    began = time.perf_counter()
    pipeline = given or erased()
    figures, read_ = measure(pipeline, it)
    if any(found.detections for found in read_.values()):
        write_detections(file.with_suffix(".detections.json"), read_)
    cell = {
        "method": label,
        "forgotten": list(it.forgotten),
        "domain": it.domain,
        **figures,
        "model_sha256": weights_sha256(pipeline),
        "pictures": len(it.questions()),
        "readers": how,
        "seed": wanted.seed,
        "seconds": time.perf_counter() - began,
    }
    write_json(file, cell)
    return cell


def _written(wanted: Request, suite: Suite, cells: Sequence[Json]) -> str:
    own = protocol_of(suite, stand_in=wanted.stand_in, quick=wanted.quick, judge=wanted.judge is not None)
    found = tables(suite, cells, own)
    texts = [f"## {suite.title}\n\n{suite.told}", *(table.markdown() for table in found)]
    text = "\n\n".join([*texts, f"### Each model\n\n{cells_table(cells)}", INTERVALS])
    result = {"suite": suite.name, "stand_in": wanted.stand_in, "protocol": own, "cells": list(cells)}
    write_json(wanted.output / "suite.json", result | {"published": [it.model_dump() for it in suite.published]})
    write_bytes(wanted.output / "suite.md", f"{text}\n".encode())
    sections = [Section("How it runs", f"{suite.told} {INTERVALS}", items=suite.sources)]
    sections += [
        Section(_capital(table.protocol), table=Table(table.rows, table.head, numbers=True)) for table in found
    ]
    write_bytes(wanted.output / "report.html", page(suite.title, sections).encode())
    return f"{text}\n\nwritten to {wanted.output}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
