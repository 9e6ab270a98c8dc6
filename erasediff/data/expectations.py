"""Great Expectations on the tables: each check with its words, and the results as JSON and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pandas as pd

from erasediff.artifacts import write_bytes, write_json
from erasediff.data.table import COLUMNS, Curated
from erasediff.data.wordings import plain_wording
from erasediff.errors import ExpectationFailed
from erasediff.pages import Section, Table, Verdict
from erasediff.pages import page as html_page

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations import Expectation


class Result(TypedDict):
    """The outcome of a check. ``first`` are the first few of the ``failed_rows``, or what was seen instead."""

    words: str
    expectation: str
    column: str
    wanted: str
    success: bool
    failed_rows: int
    first: list[str]


def curated_expectations(size: int, mode: str, min_per_concept: int) -> list[Expectation]:
    """The checks of a curated table; see :func:`with_checks` for the columns it adds."""
    import great_expectations.expectations as gxe

    within, colour = gxe.ExpectColumnValuesToBeInSet, "grey" if mode == "L" else "RGB"
    enough = f"every concept has at least {min_per_concept} pictures"
    return [
        _check("every picture can be read", within, column="readable", value_set=[True]),
        _check(enough, gxe.ExpectColumnValuesToBeBetween, column="concept_count", min_value=min_per_concept),
        _check("no picture has two concepts", within, column="concepts_of_picture", value_set=[1]),
        _check("no picture is both for training and for testing", within, column="splits_of_picture", value_set=[1]),
        _check("no picture is there twice", gxe.ExpectColumnValuesToBeUnique, column="sample_id"),
        _check("every picture has a concept", gxe.ExpectColumnValueLengthsToBeBetween, column="concept", min_value=1),
        _check("every picture is for training or for testing", within, column="split", value_set=["train", "test"]),
        _check("every picture is a real one, none is drawn", within, column="origin", value_set=["real"]),
        _check(f"every picture is {size} × {size} pixels", within, column="width", value_set=[size]),
        _check(f"every picture is {size} × {size} pixels", within, column="height", value_set=[size]),
        _check(f"every picture is {colour}", within, column="mode", value_set=[mode]),
        *(_check("no cell of the table is empty", gxe.ExpectColumnValuesToNotBeNull, column=c) for c in COLUMNS),
        _check(
            "the table has the agreed columns",
            gxe.ExpectTableColumnsToMatchSet,
            column_set=[*COLUMNS, *CHECKS],
            exact_match=True,
        ),
    ]


def _check(words: str, kind: type[Expectation], **what: object) -> Expectation:
    return kind(**what, meta={"words": words})


#: Columns that exist for the checks alone: pictures of the concept; concepts and splits that a picture is in; why it
#: cannot be read.
CHECKS = ["concept_count", "concepts_of_picture", "splits_of_picture", "problem"]


def with_checks(curated: Curated) -> pd.DataFrame:
    """The table with the columns that group-wise checks need, and what is wrong with a picture."""
    table = curated.table
    return table.assign(
        concept_count=table.groupby("concept")["sample_id"].transform("size"),
        concepts_of_picture=table.groupby("sample_id")["concept"].transform("nunique"),
        splits_of_picture=table.groupby("sample_id")["split"].transform("nunique"),
        problem=[curated.problems.get(name, "") for name in table["source"]],
    )


def words_expectations() -> list[Expectation]:
    """The checks of a table of words; see :func:`with_word_checks` for the columns it adds."""
    import great_expectations.expectations as gxe

    within, between = gxe.ExpectColumnValuesToBeInSet, gxe.ExpectColumnValuesToBeBetween
    apart = "no wording is both trained on and tested with"
    return [
        _check("every concept has a prompt for training", between, column="train_prompts", min_value=1),
        _check("every concept has a prompt for testing", between, column="test_prompts", min_value=1),
        _check(apart, within, column="splits_of_wording", value_set=[1]),
        _check("no prompt of a concept is there twice", gxe.ExpectColumnValuesToBeUnique, column="sample_id"),
        _check("every row has a prompt", gxe.ExpectColumnValueLengthsToBeBetween, column="prompt", min_value=1),
        _check("every row has a concept", gxe.ExpectColumnValueLengthsToBeBetween, column="concept", min_value=1),
        _check("every prompt is for training or for testing", within, column="split", value_set=["train", "test"]),
        _check("every prompt is of a file or of a template", within, column="origin", value_set=["real", "generated"]),
    ]


def with_word_checks(words: pd.DataFrame) -> pd.DataFrame:
    """A table of words with the columns that group-wise checks need."""
    plain = words["prompt"].map(plain_wording)
    of_concept = words.groupby("concept")["split"]
    return words.drop(columns=["seed", "guidance_scale"]).assign(
        train_prompts=of_concept.transform(lambda splits: (splits == "train").sum()),
        test_prompts=of_concept.transform(lambda splits: (splits == "test").sum()),
        splits_of_wording=words["split"].groupby(plain).transform("nunique"),
    )


def forget_expectations(targets: Sequence[str], by_id: bool) -> list[Expectation]:
    """D_f and D_r in one table with the column ``set``: disjoint, none empty, only the target in D_f, none in D_r."""
    import great_expectations.expectations as gxe

    within, names = gxe.ExpectColumnValuesToBeInSet, list(targets)
    both = "there are pictures to forget and pictures to retain"
    checks = [
        _check(both, gxe.ExpectColumnDistinctValuesToEqualSet, column="set", value_set=["forget", "retain"]),
        _check("no picture is both to forget and to retain", within, column="sets_of_picture", value_set=[1]),
    ]
    if by_id:
        return checks
    none = "no picture to retain has a concept to forget"
    return [
        *checks,
        _check("every picture to forget has a concept to forget", within, column="forget_concept", value_set=names),
        _check(none, gxe.ExpectColumnValuesToNotBeInSet, column="retain_concept", value_set=names),
    ]


def validate(table: pd.DataFrame, expectations: list[Expectation], name: str) -> list[Result]:
    """Run expectations on a table with ``sample_id``, ``source``, ``concept``. One result a check, in their order."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    for number, expectation in enumerate(expectations):
        expectation.meta = {**(expectation.meta or {}), "order": number}  # the outcomes come in another order
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
    outcome = gx.ValidationDefinition(data=batch, suite=suite, name=name).run(
        batch_parameters={"dataframe": table.assign(image=table["image"].str.len()) if "image" in table else table},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": [c for c in ("sample_id", "source", "concept", "problem") if c in table],
        },
    )
    return [_result(item) for item in sorted(outcome.results, key=lambda r: r.expectation_config.meta["order"])]


def _result(item: ExpectationValidationResult) -> Result:
    config, found = item.expectation_config, item.result
    rows = found.get("unexpected_index_list") or []
    first = list(dict.fromkeys(_offender(config.kwargs.get("column"), row) for row in rows))[:5]
    errors = [str(e.get("exception_message")) for e in item.exception_info.values() if isinstance(e, dict)]
    wanted = {k: v for k, v in config.kwargs.items() if k not in ("column", "batch_id", "condition_parser")}
    return {
        "words": config.meta["words"],
        "expectation": config.type,
        "column": config.kwargs.get("column", "table"),
        "wanted": ", ".join(f"{k} {v}" for k, v in wanted.items()),
        "success": bool(item.success),
        "failed_rows": int(found.get("unexpected_count") or 0),
        "first": first or errors[:1] or [str(found.get("observed_value", ""))],
    }


def _offender(column: str | None, row: dict[str, object]) -> str:
    """The name for a message: the concept where it is at fault as a whole, else the picture."""
    if column in ("concept_count", "train_prompts", "test_prompts"):
        return f"{row['concept']!r} has {row[column]}"
    source = str(row["source"])
    source = source if len(source) <= 200 else f"…{source[-199:]}"
    if column == "readable":
        return f"{source} ({row['problem']})"
    return f"{source} ({str(row['sample_id'])[:12]}, {row['concept']!r})"


def require_valid(
    table: pd.DataFrame,
    expectations: list[Expectation],
    what: str,
    title: str,
    report: Path,
    sections: Sequence[Section],
) -> None:
    """Check a table and write the results, as a page and as JSON beside it.

    Args:
        sections: what the page says of the table, before the checks.

    Raises: ExpectationFailed: after the report is written.
    """
    results = validate(table, expectations, report.stem)
    write_bytes(report, page(results, title, sections).encode())
    write_json(report.with_suffix(".json"), results)
    require(results, what, str(report))


def require(results: list[Result], what: str, page: str) -> None:
    """Raises: ExpectationFailed: naming the first expectation that failed, how many rows, and the first of them."""
    failed = [r for r in results if not r["success"]]
    if failed:
        r = failed[0]
        more = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
        raise ExpectationFailed(
            f"{what} fails the check '{r['words']}' in {r['failed_rows']} row(s), first: {'; '.join(r['first'])}"
            f"{more}. See {page}; correct or remove these samples and run again"
        )


#: Said on each page, since people look for the pictures there.
NO_PICTURES = (
    "This page shows no picture of the data. Pages are copied to MLflow, and what is to be forgotten may be private: "
    "the pictures stay in this checkout."
)


def page(results: list[Result], title: str, sections: Sequence[Section]) -> str:
    """A self-contained HTML page: verdict first, then what the table holds, then the checks in plain words."""
    checks: dict[str, list[str]] = {}  # several checks of the same words are one line
    for r in results:
        checks.setdefault(r["words"], []).extend([] if r["success"] else [_found(r)])
    failed = [f"{words}: {'; '.join(found)}" for words, found in checks.items() if found]
    rows = [(f"{'✗' if found else '✓'} {words}",) for words, found in checks.items()]
    rows.sort(key=lambda row: row[0].startswith("✓"))  # what failed comes first
    return html_page(
        f"{title}: {'FAILED' if failed else 'passed'}",
        [*sections, Section("Checks", NO_PICTURES, Table(rows, ("check",), numbers=True))],
        Verdict(not failed, f"{len(checks) - len(failed)} of {len(checks)} checks hold.", failed),
    )


def _found(r: Result) -> str:
    return f"{r['failed_rows']} rows, first: {'; '.join(r['first'])}"
