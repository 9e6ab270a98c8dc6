"""Curate: pictures of a source into one validated table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.door import progress_bar, run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Curate


def main(run: StageRun, curate: Curate) -> None:
    """params.yaml → ``data/curated/``, ``reports/validation/``."""
    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data import expectations
    from erasediff.data.names import class_order
    from erasediff.data.overview import curated_overview, left_out_words
    from erasediff.data.parquet import read_parquet
    from erasediff.data.sources import read_digits, read_image_folder
    from erasediff.data.table import counts, curate_table
    from stages import layout

    path = Path(curate.path)
    source = {
        "digits": lambda: read_digits(),
        "image_folder": lambda: read_image_folder(path),
        "parquet": lambda: read_parquet(path, curate.image_column, curate.label_column),
    }[curate.source]()
    with progress_bar("curate", unit=" pictures", delay=2) as on_progress:
        curated = curate_table(
            source,
            image_size=curate.image_size,
            mode=curate.mode,
            test_fraction=curate.test_fraction,
            max_per_concept=curate.max_per_concept,
            on_progress=on_progress,
        )
    table, left_out = curated.table, {**source.left_out, **curated.left_out}
    good = table[table["readable"]].iloc[0]
    checks = expectations.curated_expectations(int(good["width"]), good["mode"], curate.min_per_concept)
    page = layout.CURATED_REPORTS / "curated.html"
    told = curate.source if curate.source == "digits" else f"{curate.source} {path}"
    classes = list(source.classes) or class_order(table["concept"])
    overview = curated_overview(curated, told, left_out, classes)
    expectations.require_valid(
        expectations.with_checks(curated), checks, "the curated table", "Curated data", page, overview
    )
    with new_folder(layout.CURATED) as folder:
        table.to_parquet(folder / layout.TABLE.name, index=False)
        summary = {
            "counts": counts(table),
            "test": counts(table[table["split"] == "test"]),
            "classes": classes,
            "image_size": int(good["width"]),
            "mode": good["mode"],
            "left_out": left_out,
            "sha256": sha256_file(folder / layout.TABLE.name),
        }
        write_json(layout.summary(folder), summary)
    duplicates = left_out.get("duplicates", 0)
    run.log_metrics({"samples": len(table), "concepts": len(summary["counts"]), "duplicates": duplicates})
    run.log_artifact(page)
    print(f"curated {len(table)} pictures of {len(summary['counts'])} concepts; {left_out_words(left_out)}")


if __name__ == "__main__":
    run_door("curate", main, __doc__)
