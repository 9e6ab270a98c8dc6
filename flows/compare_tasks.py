"""A comparison's cells as Prefect tasks. Imports Prefect: the command imports this late."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff import tracking
from erasediff.comparison.table import Cell, summary, table_rows
from erasediff.errors import EraseDiffError, StageFailed
from flows import pipeline
from flows.compare import CELLS, PAGE, PLOT, Comparison, Experiment, base_of, compared, searched, text, write_cells
from flows.runner import resources
from flows.tasks import failed, show_picture

#: What each cell runs, and what cells of one seed share.
CELL, BASE = ["verdict"], ["pretrain", "classifier"]


@task(task_run_name="{label}")
def experiment(label: str, cell: Experiment, targets: list[str], threads: int, parent: str | None) -> Any:
    """Run one cell through DVC, its output in the run's log."""
    logger = get_run_logger()
    extra = {"OMP_NUM_THREADS": str(threads)} | pipeline.parent_variable(parent)
    try:
        pipeline.run_experiment(cell.name, cell.overrides, targets, lambda line: logger.info("%s", line), extra)
    except StageFailed as error:
        return failed(error)
    return cell.name


@flow(name="compare", task_runner=ThreadPoolTaskRunner(max_workers=1))
def compare_flow(file: str = "comparisons/methods.yaml", threads: int = 1) -> Any:
    """A file of comparisons → reports/comparison.html. Moves no alias, registers nothing.

    Args:
        file: path in the checkout.
        threads: of each cell; they are in its result's last digits.
    """
    try:
        plan = Comparison.read(Path(file))
        with tracking.parent_run("compare", {"file": file}) as parent:
            cells, chosen = measured_cells(plan, threads, parent.run_id)
            write_cells(plan, cells, chosen, file)
            pipeline.run_door("comparison", say=get_run_logger().info, extra=pipeline.parent_variable(parent.run_id))
            publish(plan, cells, chosen)
            missing = [f"{c.variant}, {c.concept}, seed {c.seed}" for c in cells if c.evaluation is None]
            if missing:
                what = f"{len(missing)} of {len(cells)} cells failed: {'; '.join(missing[:5])}"
                raise StageFailed(f"{what}; the page is {PAGE}")
    except EraseDiffError as error:
        return failed(error)
    return chosen


def measured_cells(plan: Comparison, threads: int, parent: str | None) -> tuple[list[Cell], dict[str, str]]:
    """All cells of a comparison, and what was chosen for each variant; what is there already is not run."""

    def run(wanted: list[tuple[str, Experiment, list[str]]]) -> None:
        with resources(threads):
            wait([experiment.submit(label, cell, targets, threads, parent) for label, cell, targets in wanted])

    def measured(wanted: Sequence[Experiment]) -> list[Cell]:
        found = pipeline.experiment_metrics()
        left = list({e.name: e for e in wanted if "evaluation" not in found.get(e.name, {})}.values())
        get_run_logger().info("%d cells, %d to run", len(wanted), len(left))
        # First what cells share, so that two at once do not both train the same base.
        shared = {base.name: base for base in (base_of(e, plan.concepts[0]) for e in left)}
        bases = [base for name, base in shared.items() if BASE[-1] not in found.get(name, {})]
        # DVC keeps an experiment that was interrupted under its name, with what was done until then.
        pipeline.remove_experiments([e.name for e in [*bases, *left] if e.name in found])
        run([(f"base, seed {base.seed}", base, BASE) for base in bases])
        # Neighbours differ in concept where there are several, and so share nothing that is still to be made.
        run([(f"{e.variant}, {e.concept}, seed {e.seed}", e, CELL) for e in left])
        found = pipeline.experiment_metrics()
        return [e.cell(found) for e in wanted]

    chosen = searched(plan, measured)
    return measured(compared(plan, chosen)), {variant: text(choice) for variant, choice in chosen.items()}


def publish(plan: Comparison, cells: Sequence[Cell], chosen: dict[str, str]) -> None:
    """The table and where the page is, as Prefect artifacts."""
    rows = table_rows(summary(cells), chosen, plan.gold)
    create_table_artifact(key="comparison", table=rows, description=f"{plan.title}: mean ± sd over cells")
    files = {"Page": PAGE, "Plot": PLOT, "Numbers": CELLS}
    lines = [f"- {name}: `{path.resolve()}`" for name, path in files.items()]  # a browser follows no link to a file
    lines.append("\nMLflow has them too, in the run of the stage `comparison`.")
    create_markdown_artifact(key="comparison-page", markdown="\n".join(lines), description="Page, plot and numbers")
    show_picture(PLOT.read_bytes(), "comparison-plot", "Unlearning accuracy against distance")
