"""What is told of an erasing: by which names its runs are found, its numbers and pictures, where all the rest is."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from erasediff import tracking
from erasediff.artifacts import read_object
from erasediff.evaluation.gates import headline, sentences
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.records import Evaluation, Registered
from flows.jobs.artifacts import show_picture
from flows.tools.results import MLFLOW_UI, version_path
from stages import layout
from stages.params import Params

#: What a person looks at.
FILES = {"Report": layout.VERSION_REPORT, "Before and after": layout.BEFORE_AFTER}
#: MLflow's own tags: the name of a run, and its description.
NAME, DESCRIPTION = "mlflow.runName", "mlflow.note.content"


def tag_run(params: Params) -> None:
    """Tag the Prefect run with each concept that it is to forget, by which lists of runs are searched."""
    tags = {*flow_run.tags, *params.forget_set.concepts}
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted(tags))


def asked(params: Params) -> dict[str, object]:
    """Return what the MLflow run of a whole erasing shows as its params."""
    base = params.pretrain
    return {
        "concepts": ", ".join(params.forget_set.concepts) or "single pictures",
        "base": f"{base.repo} version {base.revision}" if base.source == "registry" else base.source,
        "method": params.erase.method,
        "eta": params.erase.eta,
        "seed": params.seed,
        "model_name": params.register_.model_name,
    }


def tell_mlflow(evaluation: Evaluation, made: Registered, parent: tracking.ParentRun, params: Params) -> None:
    """Give the MLflow run of a whole erasing its name, data, headline numbers, and its verdict in sentences."""
    concepts = str(asked(params)["concepts"])
    parent.set_tag(NAME, f"forget {concepts} · v{made.version}")
    parent.log_metrics({name: float(value) for name, value in headline(evaluation).items()})
    for folder, context in {layout.CURATED: "curated", layout.SETS: "to forget and to retain"}.items():
        parent.log_dataset(str(folder), str(read_object(layout.summary(folder)).get("sha256")), context)
    parent.log_table("numbers.json", HEAD, table_rows(evaluation, each_concept=False, words=True))
    verdict = f"Gates {evaluation.outcome}."
    lines = [f"- {sentence}" for sentence in sentences(evaluation, concepts)]
    parent.set_tag(DESCRIPTION, "\n".join([f"**{made}: {verdict}**", "", *lines]))


def tell_prefect(evaluation: Evaluation, made: Registered, parent: tracking.ParentRun, *, here: bool) -> None:
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
    server = uri if uri.startswith("http") else MLFLOW_UI
    run, version = f"experiments/{parent.experiment_id}/runs/{parent.run_id}", version_path(made)
    pages = {"Report": f"{run}/artifacts/{layout.REPORT.name}", "MLflow run": run, f"Model {made}": version}
    lines = [f"- [{name}]({tracking.page(path, server)})" for name, path in pages.items()]
    if here:  # a browser follows no link from a server's page to a file
        lines += [f"- {name}: `{path.resolve()}`" for name, path in FILES.items()]
    if not uri.startswith("http"):
        lines.append(f"\nThe links work once `.venv/bin/mlflow ui --backend-store-uri {uri}` runs.")
    return "\n".join(lines)
