"""Comparison: the cells of ``flows.compare`` → table, plot and page. No stage of ``dvc.yaml``."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door

CELLS, PAGE = Path("reports/comparison.json"), Path("reports/comparison.html")
PLOT, TABLE = Path("reports/pareto.png"), Path("reports/comparison.csv")


def main() -> None:
    """``reports/comparison.json`` → ``reports/comparison.html``, ``.csv``, ``reports/pareto.png``, an MLflow run."""
    import pandas as pd

    from stages import tracking
    from stages.artifacts import read_json, write_bytes
    from stages.comparison import Cell, page, pareto_png, summary

    found = read_json(CELLS)
    cells = [Cell(**cell) for cell in found["cells"]]
    with tracking.stage_run("comparison", found["how"]) as run:
        table = summary(cells)
        write_bytes(PAGE, page(found["title"], found["how"], cells, found["chosen"], found["gold"]).encode())
        write_bytes(PLOT, pareto_png(table, found["gold"]))
        rows = pd.DataFrame.from_dict(table, orient="index").rename_axis("variant")
        write_bytes(TABLE, rows.to_csv().encode())
        for variant, row in table.items():
            run.log_metrics({f"{variant}.{name}": value for name, value in row.items()})
        for path in (CELLS, PAGE, PLOT, TABLE):
            run.log_artifact(path)
        print(f"{len(cells)} cells; page: {PAGE}")


if __name__ == "__main__":
    run_door("comparison", main, __doc__)
