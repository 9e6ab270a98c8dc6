"""Curate: pictures of a source, or words alone, into one validated table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.door import progress_bar, run_door

if TYPE_CHECKING:
    from erasediff.data.curation import Curation
    from erasediff.tracking import StageRun
    from stages.params import Curate


def main(run: StageRun, curate: Curate) -> None:
    """params.yaml → ``data/curated/``, ``reports/validation/``."""
    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data.expectations import require_valid
    from erasediff.data.overview import left_out_words
    from erasediff.data.table import counts
    from stages import layout

    kind = "prompts" if curate.source == "prompts" else "pictures"
    work = _words(curate) if kind == "prompts" else _pictures(curate)
    by_concept = counts(work.table)
    page = layout.CURATED_REPORTS / "curated.html"
    require_valid(work.checked, work.checks, "the curated table", "Curated data", page, work.overview)
    with new_folder(layout.CURATED) as folder:
        work.table.to_parquet(folder / layout.TABLE.name, index=False)
        summary = {
            "counts": by_concept,
            "test": counts(work.table[work.table["split"] == "test"]),
            **work.facts,
            "left_out": work.left_out,
            "sha256": sha256_file(folder / layout.TABLE.name),
        }
        write_json(layout.summary(folder), summary)
    concepts, duplicates = len(by_concept), work.left_out.get("duplicates", 0)
    run.log_metrics({"samples": len(work.table), "concepts": concepts, "duplicates": duplicates})
    run.log_artifact(page)
    print(f"curated {len(work.table)} {kind} of {concepts} concepts; {left_out_words(work.left_out)}")


def _pictures(curate: Curate) -> Curation:
    from erasediff.data.curation import curated_pictures
    from erasediff.data.parquet import read_parquet
    from erasediff.data.sources import read_digits, read_image_folder

    path = Path(curate.path)
    source = {
        "digits": lambda: read_digits(),
        "image_folder": lambda: read_image_folder(path),
        "parquet": lambda: read_parquet(path, curate.image_column, curate.label_column),
    }[curate.source]()
    with progress_bar("curate", unit=" pictures", delay=2) as on_progress:
        return curated_pictures(
            source,
            told=curate.source if curate.source == "digits" else f"{curate.source} {path}",
            min_per_concept=curate.min_per_concept,
            image_size=curate.image_size,
            mode=curate.mode,
            test_fraction=curate.test_fraction,
            max_per_concept=curate.max_per_concept,
            on_progress=on_progress,
        )


def _words(curate: Curate) -> Curation:
    from erasediff.data.curation import curated_words

    return curated_words(Path(curate.path), curate.concepts, curate.test_fraction)


if __name__ == "__main__":
    run_door("curate", main, __doc__)
