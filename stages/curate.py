"""Curate: pictures of a source into one validated table."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door

FOLDER = Path("data/curated")
TABLE = FOLDER / "samples.parquet"
REPORTS = Path("reports/validation")


def main() -> None:
    """params.yaml → ``data/curated/``, ``reports/validation/``."""
    from stages.params import load_params

    params = load_params().curate
    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import new_folder, sha256_file, write_bytes, write_json
    from stages.data import expectations, sources
    from stages.data.table import counts, curate_table

    path = Path(params.path)
    with tracking.stage_run("curate", params.model_dump()) as run:
        raw = {
            "digits": lambda: sources.read_digits(),
            "image_folder": lambda: sources.read_image_folder(path),
            "parquet": lambda: sources.read_parquet(path, params.image_column, params.label_column),
        }[params.source]()
        with tqdm(desc="curate", unit=" pictures", delay=2, mininterval=2) as bar:

            def on_progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            table, duplicates = curate_table(
                raw,
                image_size=params.image_size,
                mode=params.mode,
                test_fraction=params.test_fraction,
                max_per_concept=params.max_per_concept,
                on_progress=on_progress,
            )
        good = table[table["readable"]].iloc[0]
        checks = expectations.curated_expectations(int(good["width"]), good["mode"], params.min_per_concept)
        results = expectations.validate(expectations.with_checks(table), checks, "curated")
        page = REPORTS / "curated.html"
        write_bytes(page, expectations.page(results, "Curated data", counts(table)).encode())
        write_json(REPORTS / "curated.json", results)
        expectations.require(results, "the curated table", str(page))
        with new_folder(FOLDER) as folder:
            table.to_parquet(folder / TABLE.name, index=False)
            summary = {
                "counts": counts(table),
                "test": counts(table[table["split"] == "test"]),
                "image_size": int(good["width"]),
                "mode": good["mode"],
                "duplicates_left_out": duplicates,
                "sha256": sha256_file(folder / TABLE.name),
            }
            write_json(folder / "summary.json", summary)
        run.log_metrics({"samples": len(table), "concepts": len(summary["counts"]), "duplicates": duplicates})
        run.log_artifact(page)
        print(f"curated {len(table)} pictures of {len(summary['counts'])} concepts; {duplicates} duplicates left out")


if __name__ == "__main__":
    run_door("curate", main, __doc__)
