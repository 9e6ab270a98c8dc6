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
    from erasediff.data import expectations, sources
    from erasediff.data.table import counts, curate_table
    from stages import layout

    path = Path(curate.path)
    raw = {
        "digits": lambda: sources.read_digits(),
        "image_folder": lambda: sources.read_image_folder(path),
        "parquet": lambda: sources.read_parquet(path, curate.image_column, curate.label_column),
    }[curate.source]()
    with progress_bar("curate", unit=" pictures", delay=2) as on_progress:
        table, duplicates = curate_table(
            raw,
            image_size=curate.image_size,
            mode=curate.mode,
            test_fraction=curate.test_fraction,
            max_per_concept=curate.max_per_concept,
            on_progress=on_progress,
        )
    good = table[table["readable"]].iloc[0]
    checks = expectations.curated_expectations(int(good["width"]), good["mode"], curate.min_per_concept)
    page = layout.CURATED_REPORTS / "curated.html"
    expectations.require_valid(expectations.with_checks(table), checks, "the curated table", "Curated data", page)
    with new_folder(layout.CURATED) as folder:
        table.to_parquet(folder / layout.TABLE.name, index=False)
        summary = {
            "counts": counts(table),
            "test": counts(table[table["split"] == "test"]),
            "image_size": int(good["width"]),
            "mode": good["mode"],
            "duplicates_left_out": duplicates,
            "sha256": sha256_file(folder / layout.TABLE.name),
        }
        write_json(layout.summary(folder), summary)
    run.log_metrics({"samples": len(table), "concepts": len(summary["counts"]), "duplicates": duplicates})
    run.log_artifact(page)
    print(f"curated {len(table)} pictures of {len(summary['counts'])} concepts; {duplicates} duplicates left out")


if __name__ == "__main__":
    run_door("curate", main, __doc__)
