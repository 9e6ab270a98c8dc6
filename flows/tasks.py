"""The stages as Prefect tasks, from DVC's order to the aliases. Imports Prefect: commands import this late."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.futures import wait
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff import tracking
from erasediff.errors import EraseDiffError, GateFailed, StageFailed
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.records import Evaluation, failed_gates
from flows import pipeline
from flows.pipeline import EVALUATION, REGISTERED, REPORT

PICTURES = {"Before": Path("plots/samples_base.png"), "After": Path("plots/samples_erased.png")}


def failed(error: EraseDiffError) -> Any:
    """A stated failure as a state: of an exception Prefect logs a traceback."""
    return Failed(name=type(error).__name__, message=str(error))


@task(task_run_name="{name}")
def stage(name: str, parent: str | None, force: bool = False) -> Any:
    """Run a stage through DVC, its output in the run's log; whether it executed."""
    logger = get_run_logger()
    extra = pipeline.parent_variable(parent)
    try:
        return pipeline.run_stage(name, lambda line: logger.info("%s", line), extra, force=force)
    except StageFailed as error:
        return failed(error)


@flow(name="erase", task_runner=ThreadPoolTaskRunner(max_workers=2))
def erase_here() -> Any:
    """Request to forget in params.yaml → verified, registered model with aliases, in this folder."""
    try:
        return stages_to_aliases()
    except (StageFailed, GateFailed) as error:
        return failed(error)


def stages_to_aliases(record: Callable[[str, str], str] | None = None) -> dict[str, str]:
    """Run every stage in this folder, under an MLflow run; the aliases after it.

    Args:
        record: called with the version's model and number, to keep what was made by a commit, which it returns.

    Raises: StageFailed, GateFailed; what ``record`` raises.
    """
    from erasediff.registry.promotion import promote_initial
    from erasediff.registry.versions import set_tag

    with tracking.parent_run("erase-flow") as parent:
        version, executed = _run_stages(parent)
        for name, did in executed.items():
            parent.link(name.replace("@", "-"), executed=did)
        evaluation = Evaluation.read(EVALUATION)
        for path in (Path("params.yaml"), Path(pipeline.DVC_LOCK), REPORT):
            parent.log_artifact(path)
        if record is not None:
            commit = record(version["model_name"], version["version"])
            parent.set_tag("dvc_lock_commit", commit)
            set_tag(version["model_name"], version["version"], "dvc_lock_commit", commit)
        _show(evaluation, version, parent, here=record is None)
        if missed := failed_gates(evaluation.gates):
            where = str(REPORT) if record is None else f"{REPORT.name} of MLflow run {parent.run_id}"
            raise GateFailed(f"gates failed: {missed}; the report is {where}")
        return promote_initial(version["model_name"], version["version"])


def _run_stages(parent: tracking.ParentRun) -> tuple[dict[str, Any], dict[str, bool]]:
    """The registered version, and which stages executed. Raises: StageFailed."""
    from erasediff.registry.versions import version_exists

    futures: dict[str, Any] = {}
    try:
        for name, before in pipeline.stage_order().items():
            futures[name] = stage.submit(name, parent.run_id, wait_for=[futures[b] for b in before])
        wait(list(futures.values()))
    except BaseException:
        pipeline.end_children()  # cancelled: DVC would go on, and the tasks wait for it
        raise
    states = {name: future.state for name, future in futures.items()}
    # First the stage that failed, not those that waited for it.
    executed = {n: _ran(s) for n, s in sorted(states.items(), key=lambda item: not item[1].is_failed())}
    version = json.loads(REGISTERED.read_text())
    if not version_exists(version["model_name"], version["version"]):
        # DVC knows nothing of a registry that was wiped, or of another one than the cached result's.
        executed["register"] = _ran(stage("register", parent.run_id, force=True, return_state=True))
        version = json.loads(REGISTERED.read_text())
    return version, executed


def _ran(state: Any) -> bool:
    """Whether a stage executed. Raises: StageFailed; what was not foreseen."""
    if state.name == StageFailed.__name__:
        raise StageFailed(state.message)
    return state.result()


def _show(evaluation: Evaluation, version: dict[str, Any], parent: tracking.ParentRun, *, here: bool) -> None:
    """Artifacts of the Prefect run; ``here``: the files stay where they are and can be linked to.

    The pictures are drawn ones: none of the data leaves the checkout.
    """
    create_table_artifact(
        key="verdict",
        table=[dict(zip(HEAD, row, strict=True)) for row in table_rows(evaluation)],
        description="Base and erased model under the same classifier, seeds and draws",
    )
    create_markdown_artifact(
        key="report", markdown=_links(version, parent, here), description="Report, pictures and MLflow run"
    )
    for name, path in PICTURES.items():
        show_picture(path.read_bytes(), f"pictures-{name.lower()}", f"{name} forgetting")


def show_picture(png: bytes, key: str, description: str) -> None:
    """A picture as an artifact of the Prefect run, which holds it itself."""
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    create_image_artifact(image_url=url, key=key, description=description)


def _links(version: dict[str, Any], parent: tracking.ParentRun, here: bool) -> str:
    """Markdown that leads from Prefect to what the run left."""
    uri = tracking.without_credentials(tracking.tracking_uri())
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    run, view = f"{server}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}", "?workflowType=machine_learning"
    label, number = version["model_name"], version["version"]
    lines = [f"- [Report]({run}/artifacts/{REPORT.name}{view})", f"- [MLflow run]({run}{view})"]
    lines.append(f"- [Model {label}, version {number}]({server}/#/models/{label}/versions/{number})")
    if here:  # a browser follows no link from a server's page to a file
        lines += [f"- {name}: `{path.resolve()}`" for name, path in {"Report": REPORT, **PICTURES}.items()]
    if not uri.startswith("http"):
        lines.append(f"\nThe links work once `mlflow ui --backend-store-uri {uri}` runs.")
    return "\n".join(lines)
