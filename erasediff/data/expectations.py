"""Great Expectations on the tables, and a page of the results that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pandas as pd

from erasediff.artifacts import write_bytes, write_json
from erasediff.data.table import COLUMNS, counts
from erasediff.errors import ExpectationFailed
from erasediff.pages import Section, Table, Verdict
from erasediff.pages import page as html_page

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations import Expectation


class Result(TypedDict):
    """The outcome of a check. ``first`` are the first few of the ``failed_rows``, or what was seen instead."""

    expectation: str
    column: str
    wanted: str
    success: bool
    failed_rows: int
    first: list[str]


def curated_expectations(size: int, mode: str, min_per_concept: int) -> list[Expectation]:
    """The checks of a curated table; see :func:`with_checks` for the columns it adds."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=[*COLUMNS, *CHECKS], exact_match=True),
        gxe.ExpectColumnValuesToBeInSet(column="readable", value_set=[True]),
        *(gxe.ExpectColumnValuesToNotBeNull(column=c) for c in COLUMNS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="concept", min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "test"]),
        gxe.ExpectColumnValuesToBeInSet(column="origin", value_set=["real"]),
        gxe.ExpectColumnValuesToBeInSet(column="width", value_set=[size]),
        gxe.ExpectColumnValuesToBeInSet(column="height", value_set=[size]),
        gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=[mode]),
        gxe.ExpectColumnValuesToBeBetween(column="concept_count", min_value=min_per_concept),
        gxe.ExpectColumnValuesToBeInSet(column="concepts_of_picture", value_set=[1]),
        gxe.ExpectColumnValuesToBeInSet(column="splits_of_picture", value_set=[1]),
        gxe.ExpectColumnValuesToBeUnique(column="sample_id"),
    ]


#: Columns that exist for the checks alone: pictures of the concept; concepts and splits that a picture is in.
CHECKS = ["concept_count", "concepts_of_picture", "splits_of_picture"]


def with_checks(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that group-wise checks need."""
    return table.assign(
        concept_count=table.groupby("concept")["sample_id"].transform("size"),
        concepts_of_picture=table.groupby("sample_id")["concept"].transform("nunique"),
        splits_of_picture=table.groupby("sample_id")["split"].transform("nunique"),
    )


def forget_expectations(targets: Sequence[str], by_id: bool) -> list[Expectation]:
    """D_f and D_r in one table with the column ``set``: disjoint, none empty, only the target in D_f, none in D_r."""
    import great_expectations.expectations as gxe

    checks = [
        gxe.ExpectColumnDistinctValuesToEqualSet(column="set", value_set=["forget", "retain"]),
        gxe.ExpectColumnValuesToBeInSet(column="sets_of_picture", value_set=[1]),
    ]
    if not by_id:
        names = list(targets)
        checks += [
            gxe.ExpectColumnValuesToBeInSet(column="forget_concept", value_set=names),
            gxe.ExpectColumnValuesToNotBeInSet(column="retain_concept", value_set=names),
        ]
    return checks


def validate(table: pd.DataFrame, expectations: list[Expectation], name: str) -> list[Result]:
    """Run expectations on a table with ``sample_id``, ``source``, ``concept``. One result a check, in their order."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    for number, expectation in enumerate(expectations):
        expectation.meta = {"order": number}  # the outcomes come in another order than the suite's
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
    outcome = gx.ValidationDefinition(data=batch, suite=suite, name=name).run(
        batch_parameters={"dataframe": table.assign(image=table["image"].str.len())},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["sample_id", "source", "concept"],
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
        "expectation": config.type,
        "column": config.kwargs.get("column", "table"),
        "wanted": ", ".join(f"{k} {v}" for k, v in wanted.items()),
        "success": bool(item.success),
        "failed_rows": int(found.get("unexpected_count") or 0),
        "first": first or errors[:1] or [str(found.get("observed_value", ""))],
    }


def _offender(column: str | None, row: dict[str, object]) -> str:
    """The name for a message: the concept where it is at fault as a whole, else the picture."""
    if column == "concept_count":
        return f"{row['concept']!r} has {row['concept_count']}"
    return f"{row['source']} ({str(row['sample_id'])[:12]}, {row['concept']!r})"


def require_valid(
    table: pd.DataFrame,
    expectations: list[Expectation],
    what: str,
    title: str,
    report: Path,
    sizes: dict[str, int] | None = None,
) -> None:
    """Check a table and write the results, as a page and as JSON beside it.

    Args:
        sizes: what the page shows of pictures by concept; those of the table by default.

    Raises: ExpectationFailed: after the report is written.
    """
    results = validate(table, expectations, report.stem)
    write_bytes(report, page(results, title, counts(table) if sizes is None else sizes).encode())
    write_json(report.with_suffix(".json"), results)
    require(results, what, str(report))


def require(results: list[Result], what: str, page: str) -> None:
    """Raises: ExpectationFailed: naming the first expectation that failed, how many rows, and the first of them."""
    failed = [r for r in results if not r["success"]]
    if failed:
        r = failed[0]
        more = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
        raise ExpectationFailed(
            f"{what}: {r['expectation']} on {r['column']} ({r['wanted']}) failed for {r['failed_rows']} row(s), first: "
            f"{'; '.join(r['first'])}{more}. See {page}; mend or remove these samples and run again"
        )


def page(results: list[Result], title: str, sizes: dict[str, int]) -> str:
    """A self-contained HTML page: verdict first, then each check, then counts."""
    failed = [f"{_name(r)} on {r['column']}: {_found(r)}" for r in results if not r["success"]]
    text = f"{len(results) - len(failed)} of {len(results)} expectations hold."
    checks = [(_found(r), _name(r), r["column"], r["wanted"]) for r in results]
    counted = [(concept, str(count)) for concept, count in sizes.items()]
    return html_page(
        f"{title}: {'FAILED' if failed else 'passed'}",
        [
            Section("Checks", table=Table(checks, ("result", "expectation", "column", "wanted"))),
            Section("Pictures", table=Table(counted, ("concept", "pictures"), numbers=True)),
        ],
        Verdict(not failed, text, failed),
    )


def _name(r: Result) -> str:
    return str(r["expectation"]).removeprefix("expect_").replace("_", " ")


def _found(r: Result) -> str:
    return "✓" if r["success"] else f"✗ {r['failed_rows']} rows: {'; '.join(r['first'])}"
