"""The comparison flow: a comparison's cells as Prefect tasks, each a DVC experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.futures import wait
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff import tracking
from erasediff.artifacts import write_json
from erasediff.comparison.plan import Comparison, Experiment, base_of, compared, content, searched, text
from erasediff.comparison.table import Cell, summary, table_rows
from erasediff.errors import StageFailed
from flows.jobs.artifacts import show_picture
from flows.jobs.runner import computing, resources
from flows.jobs.states import failures_as_states
from flows.tools import dvc
from flows.tools.comparisons import read_comparison
from flows.tools.doors import start_door
from flows.tools.git import head_commit
from flows.tools.lock import COMPARISON_LOCK, only_run
from flows.tools.names import RAY
from flows.tools.processes import ending_children, settings
from stages import layout

#: What each cell runs, and what cells of one seed share.
CELL, BASE = ["verdict"], ["pretrain", "classifier"]


@flow(name="compare", flow_run_name="{file}", task_runner=ThreadPoolTaskRunner(max_workers=1))
@failures_as_states
def compare_flow(file: str = str(layout.COMPARISON), threads: int = 1) -> State:
    """Compare methods, cell by cell as DVC experiments → reports/comparison.html. Moves no alias, registers nothing.

    A deployed run waits until no other job computes.

    Args:
        file: What to compare: a path in the checkout.
        threads: Processor threads of each cell. Another number may change the last digits.
    """
    plan = read_comparison(Path(file))
    run = tracking.parent_run("compare", {"file": file})
    with only_run(COMPARISON_LOCK), computing(), run as parent, ending_children():
        cells, chosen = measured_cells(plan, threads, parent.run_id)
        write_json(layout.COMPARISON_CELLS, content(plan, cells, chosen, file=file, commit=head_commit()))
        start_door("comparison", say=get_run_logger().info, extra=settings(parent.run_id))
        publish(plan, cells, chosen)
        missing = [f"{c.variant}, {c.concept}, seed {c.seed}" for c in cells if c.evaluation is None]
        if missing:
            what = f"{len(missing)} of {len(cells)} cells failed: {'; '.join(missing[:5])}"
            raise StageFailed(f"{what}; the page is {layout.COMPARISON_PAGE}")
    return Completed(message=f"{plan.title}: {layout.COMPARISON_PAGE}")


def measured_cells(plan: Comparison, threads: int, parent: str | None) -> tuple[list[Cell], dict[str, str]]:
    """Return all cells of a comparison, and what was chosen for each variant; what is there already is not run."""

    def run(wanted: list[tuple[str, Experiment, list[str]]]) -> None:
        with resources(threads):
            wait([experiment.submit(label, cell, targets, threads, parent) for label, cell, targets in wanted])

    def measured(wanted: Sequence[Experiment]) -> list[Cell]:
        found = dvc.experiment_metrics()
        left = list({e.name: e for e in wanted if "evaluation" not in found.get(e.name, {})}.values())
        get_run_logger().info("%d cells, %d to run", len(wanted), len(left))
        # First what cells share, so that two at once do not both train the same base.
        shared = {base.name: base for base in (base_of(e, plan.concepts[0]) for e in left)}
        bases = [base for name, base in shared.items() if BASE[-1] not in found.get(name, {})]
        # DVC keeps an experiment that was interrupted under its name, with what was done until then.
        dvc.remove_experiments([e.name for e in [*bases, *left] if e.name in found])
        run([(f"base, seed {base.seed}", base, BASE) for base in bases])
        # Neighbours differ in concept where there are several, and so share nothing that is still to be made.
        run([(f"{e.variant}, {e.concept}, seed {e.seed}", e, CELL) for e in left])
        found = dvc.experiment_metrics()
        return [e.cell(found) for e in wanted]

    chosen = searched(plan, measured)
    return measured(compared(plan, chosen)), {variant: text(choice) for variant, choice in chosen.items()}


@task(task_run_name="{label}")
@failures_as_states
def experiment(label: str, cell: Experiment, targets: list[str], threads: int, parent: str | None) -> str:
    """Run one cell through DVC, its output in the run's log; return the experiment's name."""
    logger = get_run_logger()
    # A cell holds its share of a Ray cluster already: a stage that asked for more would wait for itself.
    extra = {**settings(parent, threads), RAY: ""}
    dvc.run_experiment(cell.name, cell.overrides, targets, lambda line: logger.info("%s", line), extra)
    return cell.name


def publish(plan: Comparison, cells: Sequence[Cell], chosen: dict[str, str]) -> None:
    """Make the table, and where the page is, Prefect artifacts."""
    rows = table_rows(summary(cells), chosen, plan.gold)
    create_table_artifact(key="comparison", table=rows, description=f"{plan.title}: mean ± sd over cells")
    files = {"Page": layout.COMPARISON_PAGE, "Plot": layout.COMPARISON_PLOT, "Numbers": layout.COMPARISON_CELLS}
    lines = [f"- {name}: `{path.resolve()}`" for name, path in files.items()]  # a browser follows no link to a file
    lines.append("\nMLflow has them too, in the run of the stage `comparison`.")
    create_markdown_artifact(key="comparison-page", markdown="\n".join(lines), description="Page, plot and numbers")
    show_picture(layout.COMPARISON_PLOT.read_bytes(), "comparison-plot", "Unlearning accuracy against distance")
