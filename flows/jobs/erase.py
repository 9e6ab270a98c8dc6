"""The erase flow: every DVC stage as a Prefect task, then the verdict and the aliases."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow, get_run_logger, task
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from erasediff import tracking
from erasediff.errors import GateFailed
from erasediff.records import FAILED, Evaluation, Registered
from erasediff.registry.promotion import promote_initial, still_drawn
from erasediff.registry.versions import version_exists
from flows.jobs import outcome
from flows.jobs.runner import computing, is_deployed
from flows.jobs.states import failures_as_states, require_success
from flows.tools import dvc, processes, results
from flows.tools.request import AS_IT_IS, EraseRequest
from flows.tools.screen import show
from flows.tools.worktree import record, worktree
from stages import layout
from stages.params import PARAMS_FILE, load_params


def _run_name() -> str:
    """Name a run in Prefect's lists."""
    return EraseRequest.model_validate(flow_run.parameters.get("request") or {}).label


@flow(name="erase", flow_run_name=_run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
@failures_as_states
def erase_flow(request: EraseRequest = AS_IT_IS) -> State:
    """Request to forget → verified, registered model with aliases.

    A deployed run, or one that asks for something, works on a commit, in a git worktree of its own. A command that
    asks for nothing works in its folder as that is.
    """
    if not is_deployed() and request == AS_IT_IS:
        return _told(stages_to_aliases())

    def keep(made: Registered) -> str:
        commit = record(made.model_name, made.version, earlier)
        if dvc.remote():
            dvc.push()  # before an alias moves: a champion's weights are not on this disk alone
        return commit

    with worktree(request.changes, request.commit) as earlier:
        shown = layout.REGISTERED, layout.EVALUATION, layout.VERSION_REPORT
        if dvc.outs_only_missing() and dvc.fetch_outs(*shown) and results.is_registered():
            if not is_deployed():
                show("\n" + results.summary(results.keep_report(results.registered())))
            return Completed(message="nothing to do: everything is up to date")
        with computing():
            return _told(stages_to_aliases(keep))


def _told(aliases: dict[str, str]) -> State:
    """Say which aliases there are now, and whether the challenger can become champion at all."""
    held = ", ".join(f"{alias} is version {version}" for alias, version in aliases.items())
    made = results.registered()
    lost = ", ".join(still_drawn(made.model_name, made.version))
    but = f"; it still draws {lost}, which the champion has forgotten: it cannot be promoted as it is" if lost else ""
    return Completed(message=f"gates passed; {held}{but}")


def stages_to_aliases(keep: Callable[[Registered], str] | None = None) -> dict[str, str]:
    """Run every stage in this folder, under an MLflow run; return all aliases of the model after it.

    Args:
        keep: keeps what was made by a commit, which it returns.

    Raises: the stated failure that a stage ends with; GateFailed, TrackingError; what ``keep`` raises.
    """
    params = load_params()
    outcome.tag_run(params)
    with tracking.parent_run("erase-flow", outcome.asked(params)) as parent:
        made, executed = _run_stages(parent.run_id)
        for name, did in executed.items():
            parent.link(name.replace("@", "-"), executed=did)
        for path in (PARAMS_FILE, layout.DVC_LOCK, layout.VERSION_REPORT):
            parent.log_artifact(path)
        if keep is not None:
            commit = keep(made)
            parent.set_tag(results.LOCK_COMMIT, commit)
            results.tag_commit(made, commit)
        evaluation = Evaluation.read(layout.EVALUATION)
        outcome.tell_mlflow(evaluation, made, parent, params)
        outcome.tell_prefect(evaluation, made, parent, here=keep is None)
        held = promote_initial(made.model_name, made.version) if evaluation.passed else {}
        where = f"{layout.REPORT.name} of MLflow run {parent.run_id}"
        if not is_deployed():
            where = str(layout.VERSION_REPORT if keep is None else results.keep_report(made))
            show("\n" + results.summary(where))
        if not evaluation.passed:
            said = "gates failed" if evaluation.outcome == FAILED else "whether the gates pass cannot be told"
            raise GateFailed(f"{said}: {evaluation.missed}; the report is {where}")
        return held


@task(task_run_name="{name}")
@failures_as_states
def stage(name: str, parent: str | None, place: str, force: bool = False) -> bool:
    """Run a stage through DVC, its output in the run's log; True if it executed.

    Args:
        place: in the order of the stages, such as "5 of 8".
    """
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info("%s", f"{line.rstrip(':')} ({place})" if line.startswith(dvc.EXECUTES) else line)

    executed = dvc.run_stage(name, say, processes.settings(parent), force=force)
    if not executed:
        logger.info("nothing to do (%s)", place)
    return executed


def _run_stages(parent: str | None) -> tuple[Registered, dict[str, bool]]:
    """Return the registered version, and which stages executed. Raises: the stated failure that one ends with."""
    futures: dict[str, PrefectFuture[bool]] = {}
    with processes.ending_children():
        order = dvc.stage_order()
        for number, (name, before) in enumerate(order.items(), 1):
            place = f"{number} of {len(order)}"
            futures[name] = stage.submit(name, parent, place, wait_for=[futures[b] for b in before])
        wait(list(futures.values()))
    states = {name: future.state for name, future in futures.items()}
    # First the stage that failed, not those that waited for it.
    executed = {n: _executed(s) for n, s in sorted(states.items(), key=lambda item: not item[1].is_failed())}
    made = results.registered()
    if not version_exists(made.model_name, made.version):
        # DVC knows nothing of a registry that was wiped, or of another one than the cached result's.
        executed["register"] = _executed(stage("register", parent, "again", force=True, return_state=True))
        made = results.registered()
    return made, executed


def _executed(state: State) -> bool:
    require_success(state)
    return bool(state.result())
