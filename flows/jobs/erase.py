"""The erase flow: every DVC stage as a Prefect task, then the verdict and the aliases."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from erasediff import tracking
from erasediff.errors import GateFailed
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.records import Evaluation, Registered, failed_gates
from erasediff.registry.promotion import promote_initial
from erasediff.registry.versions import version_exists
from flows.jobs.artifacts import show_picture
from flows.jobs.runner import computing, is_deployed
from flows.jobs.states import failures_as_states, require_success
from flows.tools import dvc, processes, results
from flows.tools.worktree import record, worktree
from stages import layout
from stages.params import PARAMS_FILE, Method, Positive, Seed

#: What a person looks at.
FILES = {"Report": layout.VERSION_REPORT, "Before and after": layout.BEFORE_AFTER}


class EraseRequest(BaseModel):
    """What to forget, and how. What is left at None is as in params.yaml of the commit."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    concepts: list[str] | None = Field(default=None, min_length=1, description='What to forget, such as ["8"]')
    method: Method | None = Field(default=None, description="How to forget; README says what they are")
    eta: Positive | None = Field(default=None, description="Required rate at which the forget loss shrinks")
    seed: Seed | None = Field(default=None, description="Seed of training and drawing")
    model_name: str | None = Field(default=None, description="Registered model that gets the version")
    settings: dict[str, object] = Field(
        default={}, description='Other entries of params.yaml by their full name, such as {"erase.outer_steps": 300}'
    )
    commit: str = Field(default="HEAD", description="Commit, branch or tag of the checkout to run")

    def changes(self) -> dict[str, object]:
        """Return the entries of params.yaml that differ from the commit's."""
        named = {
            "forget_set.concepts": self.concepts,
            "erase.method": self.method,
            "erase.eta": self.eta,
            "seed": self.seed,
            "register.model_name": self.model_name,
        }
        return {**self.settings, **{key: value for key, value in named.items() if value is not None}}


#: What is in params.yaml, and nothing else.
AS_IT_IS = EraseRequest()


def _run_name() -> str:
    """Name a run in Prefect's lists."""
    changes = EraseRequest.model_validate(flow_run.parameters.get("request") or {}).changes()
    concepts = changes.pop("forget_set.concepts", None)
    what = ", ".join(map(str, concepts)) if isinstance(concepts, list) else "as in params.yaml"
    return f"forget {what}{''.join(f', {key} {value}' for key, value in changes.items())}"[:80]


@flow(name="erase", flow_run_name=_run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
@failures_as_states
def erase_flow(request: EraseRequest = AS_IT_IS) -> State:
    """Request to forget → verified, registered model with aliases.

    A deployed run, or one that asks for something, works on a commit, in a git worktree of its own. The command
    ``flows.erase`` asks for nothing: it works in its folder as that is.
    """
    if not is_deployed() and request == AS_IT_IS:
        return _told(stages_to_aliases())

    def keep(made: Registered) -> str:
        commit = record(made.model_name, made.version, earlier)
        if dvc.remote():
            dvc.push()  # before an alias moves: a champion's weights are not on this disk alone
        return commit

    with worktree(request.changes(), request.commit) as earlier:
        if dvc.outs_only_missing() and dvc.fetch_outs(layout.REGISTERED) and results.is_registered():
            return Completed(message="nothing to do: everything is up to date")
        with computing():
            return _told(stages_to_aliases(keep))


def _told(aliases: dict[str, str]) -> State:
    held = ", ".join(f"{alias} is version {version}" for alias, version in aliases.items())
    return Completed(message=f"gates passed; {held}")


def stages_to_aliases(keep: Callable[[Registered], str] | None = None) -> dict[str, str]:
    """Run every stage in this folder, under an MLflow run; return all aliases of the model after it.

    Args:
        keep: keeps what was made by a commit, which it returns.

    Raises: the stated failure that a stage ends with; GateFailed, TrackingError; what ``keep`` raises.
    """
    with tracking.parent_run("erase-flow") as parent:
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
        _show(evaluation, made, parent, here=keep is None)
        if missed := failed_gates(evaluation.gates):
            where = (
                str(layout.VERSION_REPORT) if keep is None else f"{layout.REPORT.name} of MLflow run {parent.run_id}"
            )
            raise GateFailed(f"gates failed: {missed}; the report is {where}")
        return promote_initial(made.model_name, made.version)


@task(task_run_name="{name}")
@failures_as_states
def stage(name: str, parent: str | None, force: bool = False) -> bool:
    """Run a stage through DVC, its output in the run's log; True if it executed."""
    logger = get_run_logger()
    return dvc.run_stage(name, lambda line: logger.info("%s", line), processes.settings(parent), force=force)


def _run_stages(parent: str | None) -> tuple[Registered, dict[str, bool]]:
    """Return the registered version, and which stages executed. Raises: the stated failure that one ends with."""
    futures: dict[str, PrefectFuture[bool]] = {}
    with processes.ending_children():
        for name, before in dvc.stage_order().items():
            futures[name] = stage.submit(name, parent, wait_for=[futures[b] for b in before])
        wait(list(futures.values()))
    states = {name: future.state for name, future in futures.items()}
    # First the stage that failed, not those that waited for it.
    executed = {n: _executed(s) for n, s in sorted(states.items(), key=lambda item: not item[1].is_failed())}
    made = results.registered()
    if not version_exists(made.model_name, made.version):
        # DVC knows nothing of a registry that was wiped, or of another one than the cached result's.
        executed["register"] = _executed(stage("register", parent, force=True, return_state=True))
        made = results.registered()
    return made, executed


def _executed(state: State) -> bool:
    require_success(state)
    return bool(state.result())


def _show(evaluation: Evaluation, made: Registered, parent: tracking.ParentRun, *, here: bool) -> None:
    """Make artifacts of the Prefect run; ``here``: the files stay where they are and can be linked to.

    The pictures are drawn ones: none of the data leaves the checkout.
    """
    create_table_artifact(
        key="verdict",
        table=[dict(zip(HEAD, row, strict=True)) for row in table_rows(evaluation)],
        description="Base and erased model under the same classifier, seeds and draws",
    )
    create_markdown_artifact(
        key="report", markdown=_links(made, parent, here), description="Report, pictures and MLflow run"
    )
    show_picture(layout.BEFORE_AFTER.read_bytes(), "before-after", "The same seeds before and after forgetting")


def _links(made: Registered, parent: tracking.ParentRun, here: bool) -> str:
    """Return Markdown that leads from Prefect to what the run left."""
    uri = tracking.without_credentials(tracking.tracking_uri())
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    run, view = f"{server}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}", "?workflowType=machine_learning"
    label, number = made.model_name, made.version
    lines = [f"- [Report]({run}/artifacts/{layout.REPORT.name}{view})", f"- [MLflow run]({run}{view})"]
    lines.append(f"- [Model {label}, version {number}]({server}/#/models/{label}/versions/{number})")
    if here:  # a browser follows no link from a server's page to a file
        lines += [f"- {name}: `{path.resolve()}`" for name, path in FILES.items()]
    if not uri.startswith("http"):
        lines.append(f"\nThe links work once `mlflow ui --backend-store-uri {uri}` runs.")
    return "\n".join(lines)
