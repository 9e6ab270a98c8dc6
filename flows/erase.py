"""The main flow: every DVC stage as a Prefect task, then the verdict and the aliases."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

RUNS, EVALUATION, REPORT = Path("runs"), Path("metrics/evaluation.json"), Path("reports/report.html")


def build_flow() -> Any:
    """The Prefect flow; Prefect is imported here, so that ``--help`` is quick."""
    from prefect import flow, get_run_logger, task
    from prefect.artifacts import create_markdown_artifact, create_table_artifact
    from prefect.futures import wait
    from prefect.states import Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows import pipeline
    from stages.errors import GateFailed, StageFailed

    # A stated failure is a returned state, not an exception: Prefect logs a traceback of each of those.
    @task(task_run_name="{name}")
    def stage(name: str, parent: str | None, force: bool = False) -> Any:
        logger = get_run_logger()
        extra = pipeline.parent_variable(parent)
        try:
            return pipeline.run_stage(name, lambda line: logger.info("%s", line), extra, force=force)
        except StageFailed as error:
            return Failed(name=StageFailed.__name__, message=str(error))

    @flow(name="erase", task_runner=ThreadPoolTaskRunner(max_workers=2), validate_parameters=True)
    def erase_flow() -> Any:
        """Request to forget in params.yaml → verified, registered model with aliases."""
        try:
            return stages_to_aliases()
        except (StageFailed, GateFailed) as error:
            return Failed(name=type(error).__name__, message=str(error))

    def ran(state: Any) -> bool:
        """Whether a stage executed. Raises: StageFailed; what was not foreseen."""
        if state.name == StageFailed.__name__:
            raise StageFailed(state.message)
        return state.result()

    def stages_to_aliases() -> dict[str, str]:
        from stages import tracking
        from stages.registry.promotion import promote_initial
        from stages.registry.versions import version_exists

        with tracking.parent_run("erase-flow") as parent:
            futures: dict[str, Any] = {}
            for name, before in pipeline.stage_order().items():
                futures[name] = stage.submit(name, parent.run_id, wait_for=[futures[b] for b in before])
            wait(list(futures.values()))
            states = {name: future.state for name, future in futures.items()}
            # First the stage that failed, not those that waited for it.
            executed = {n: ran(s) for n, s in sorted(states.items(), key=lambda item: not item[1].is_failed())}
            version = json.loads((RUNS / "register.json").read_text())
            if not version_exists(version["model_name"], version["version"]):
                # DVC knows nothing of a registry that was wiped, or of another one than the cached result's.
                executed["register"] = ran(stage("register", parent.run_id, force=True, return_state=True))
                version = json.loads((RUNS / "register.json").read_text())
            for name, did in executed.items():
                parent.link(name.replace("@", "-"), executed=did)
            evaluation = json.loads(EVALUATION.read_text())
            create_table_artifact(
                key="verdict",
                table=[dict(zip(("metric", "base", "erased", "gate"), row, strict=True)) for row in rows(evaluation)],
                description="Base and erased model under the same classifier, seeds and draws",
            )
            create_markdown_artifact(
                key="report", markdown=links(version, parent), description="Report, pictures and MLflow run"
            )
            missed = [
                f"{k} {g['value']:.3f} (limit {g['limit']:g})"
                for k, g in evaluation["gates"].items()
                if not g["passed"]
            ]
            if missed:
                raise GateFailed("gates failed: " + "; ".join(missed) + f"; the report is {REPORT}")
            return promote_initial(version["model_name"], version["version"])

    return erase_flow


def rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of the report."""
    from stages.evaluation.table import table_rows

    return table_rows(evaluation)


def links(version: dict[str, Any], parent: Any) -> str:
    """Markdown that leads from Prefect to what the run left."""
    from stages.tracking import tracking_uri, without_credentials

    uri = without_credentials(tracking_uri())
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    run = f"{server}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}"
    files = {"Report": REPORT, "Before": Path("plots/samples_base.png"), "After": Path("plots/samples_erased.png")}
    lines = [f"- [{name}: {path}]({path.resolve().as_uri()})" for name, path in files.items()]
    started = "" if uri.startswith("http") else f", once `mlflow ui --backend-store-uri {uri}` runs"
    lines += [f"- [MLflow run]({run}){started}", f"- model {version['model_name']} version {version['version']}"]
    return "\n".join(lines)


def summary() -> str:
    """What a person wants to know at the end."""
    from stages.registry.versions import aliases
    from stages.tracking import tracking_uri, without_credentials

    evaluation = json.loads(EVALUATION.read_text())
    version = json.loads((RUNS / "register.json").read_text())
    table = [("metric", "base", "erased", "gate")]
    table += [row for row in rows(evaluation) if not row[0].startswith("accuracy.")]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    held = [a for a, v in aliases(version["model_name"]).items() if v == version["version"]]
    lines += [
        "",
        f"report   {REPORT}",
        f"model    {version['model_name']} version {version['version']}, alias {', '.join(sorted(held)) or 'none'}",
        f"MLflow   .venv/bin/mlflow ui --backend-store-uri {without_credentials(tracking_uri())}",
    ]
    return "\n".join(lines)


def nothing_to_do() -> bool:
    """Whether DVC is up to date and the registry has the version that it says was registered."""
    from flows import pipeline
    from stages.registry.versions import aliases

    record = RUNS / "register.json"
    if not (record.exists() and EVALUATION.exists() and pipeline.is_clean()):
        return False
    version = json.loads(record.read_text())
    # A bare `dvc repro` registers without an alias: then the flow still has one to set.
    return version["version"] in aliases(version["model_name"]).values()


def record() -> str:
    """Commit ``dvc.lock`` where that is sound, tag the version with the commit, and say so in a line."""
    from flows import pipeline
    from stages.registry.versions import set_tag

    version = json.loads((RUNS / "register.json").read_text())
    label = f"{version['model_name']} version {version['version']}"
    commit, reason = pipeline.record_lock(f"dvc.lock of {label}")
    if commit is None:
        return f"git      dvc.lock is not committed: {reason}"
    set_tag(version["model_name"], version["version"], "dvc_lock_commit", commit)
    return f"git      dvc.lock of this model is committed as {commit[:10]}"


def run(commit: bool = True) -> None:
    """Check the parameters, hold the checkout, run the flow unless there is nothing to do."""
    from flows import pipeline
    from stages.errors import GateFailed, StageFailed
    from stages.params import load_params

    load_params()
    with pipeline.only_run():
        if nothing_to_do():
            print("nothing to do: everything is up to date\n\n" + summary())
            return
        pipeline.temporary_server()
        state = build_flow()(return_state=True)
        if state.name == "StageFailed":
            raise StageFailed(state.message)
        if state.name != "GateFailed":  # a result all the same: shown and recorded before it ends the run
            state.result()  # raises what was not foreseen
        print("\n" + summary() + ("\n" + record() if commit else ""))
        if state.name == "GateFailed":
            raise GateFailed(state.message)


def main() -> None:
    """The command ``python -m flows.erase``."""
    parser = argparse.ArgumentParser(prog="python -m flows.erase", description=__doc__)
    parser.add_argument(
        "--no-commit", action="store_true", help="leave dvc.lock uncommitted (default: commit it from a clean checkout)"
    )
    arguments = parser.parse_args()
    from stages.door import fail, quiet_environment
    from stages.errors import EraseDiffError

    quiet_environment()
    try:
        run(commit=not arguments.no_commit)
    except EraseDiffError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
