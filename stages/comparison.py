"""Comparison: the cells of ``flows.compare`` → table, plot and page. No stage of ``dvc.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun


def main(run: StageRun) -> None:
    """``reports/comparison.json`` → ``reports/comparison.html``, ``.csv``, ``reports/pareto.png``, an MLflow run."""
    import pandas as pd

    from erasediff.artifacts import read_json, write_bytes
    from erasediff.comparison.page import page, pareto_png
    from erasediff.comparison.table import Cell, require_one_judge, summary
    from stages import layout

    found = read_json(layout.COMPARISON_CELLS)
    run.log_params(found["how"])
    cells = [Cell.from_json(cell) for cell in found["cells"]]
    require_one_judge(cells)
    table = summary(cells)
    text = page(found["title"], found["how"], cells, found["chosen"], found["gold"])
    write_bytes(layout.COMPARISON_PAGE, text.encode())
    write_bytes(layout.COMPARISON_PLOT, pareto_png(table, found["gold"]))
    rows = pd.DataFrame.from_dict(table, orient="index").rename_axis("variant")
    write_bytes(layout.COMPARISON_TABLE, rows.to_csv().encode())
    for variant, row in table.items():
        run.log_metrics({f"{variant}.{name}": value for name, value in row.items()})
    for path in (
        layout.COMPARISON_CELLS,
        layout.COMPARISON_PAGE,
        layout.COMPARISON_PLOT,
        layout.COMPARISON_TABLE,
    ):
        run.log_artifact(path)
    print(f"{len(cells)} cells; page: {layout.COMPARISON_PAGE}")


if __name__ == "__main__":
    run_door("comparison", main, __doc__)
