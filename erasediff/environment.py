"""The one list of the environment variables that the product reads, and of those it sets.

``python -m erasediff.environment`` prints it as ``docs/environment.md``. It needs pydantic-settings, which the library
alone does not: only what works in a checkout imports this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from erasediff.errors import ParamsError

Port = Annotated[int, Field(ge=1, le=65535)]


class Environment(BaseSettings):
    """Variables that are read. An empty one counts as not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True)

    mlflow_tracking_uri: str | None = None
    """The MLflow server. Not set: a SQLite file in the checkout."""
    ray_address: str | None = None
    """A Ray cluster, or `local`, for comparisons, evaluations and many pictures. Not set: this machine's processes."""
    omp_num_threads: str | None = None
    """Threads of a process. Another number may change the last digits of a result; each MLflow run has it as a tag."""
    erasediff_launch: str | None = None
    """Options of torchrun for stages that train, draw a forget set or evaluate: `--standalone --nproc_per_node 4`."""
    erasediff_jobs: Annotated[int, Field(ge=1, le=1000)] = 1
    """For `make up`: how many jobs may compute at once."""
    erasediff_alert_url: str | None = None
    """For `make up`: the address that failed runs are posted to."""
    prefect_server_api_port: Port = 4200
    """For `make up`: the port of the Prefect server."""
    mlflow_port: Port = 5000
    """For `make up`: the port of the MLflow server."""
    mlflow_artifacts_destination: str | None = None
    """For `make up`: where the MLflow server puts files. Not set: they go past it, into `mlartifacts` here."""
    prefect_api_url: str | None = None
    """The Prefect server. Not set: a flow starts one, which ends with it."""
    prefect_home: Path | None = None
    """Prefect's own files. Not set: in `.work` of the checkout."""
    virtual_env: Path | None = None
    """The activated environment, whose Python runs the stages. Not set: `.venv` of the checkout."""
    erasediff_root: Path | None = None
    """The checkout whose store and locks are used from another folder. Flows set it in a worktree."""
    erasediff_parent_run_id: str | None = None
    """The MLflow run that a stage's run hangs under. Flows set it."""
    dvc_root: Path | None = None
    """The real checkout. DVC sets it for a stage, also in an experiment's temporary copy."""
    dvc_stage: str | None = None
    """DVC sets it for a stage, which then ends when DVC does."""
    dvc_exp_name: str | None = None
    """The experiment. DVC sets it; the MLflow run has it as a tag."""
    rank: str | None = None
    """The number of this process. torchrun sets it, and no stage starts torchrun again."""


class Given(BaseModel):
    """Variables that are set, or taken out, for libraries and for processes that are started."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    no_proxy: str
    """Where a proxy is set: this machine's own servers are added to those that it is not asked for."""
    do_not_track: str
    """No telemetry."""
    mlflow_disable_telemetry: str
    """No telemetry."""
    prefect_server_analytics_enabled: str
    """No telemetry."""
    dvc_no_analytics: str
    """No telemetry."""
    gx_analytics_enabled: str
    """No telemetry."""
    hf_hub_disable_telemetry: str
    """No telemetry."""
    cublas_workspace_config: str
    """What cuBLAS needs to give the same bits at every run."""
    gomp_spincount: str
    """Waiting threads spin for a short time, so that two stages at once do not slow each other down."""
    transformers_verbosity: str
    """Errors only."""
    diffusers_verbosity: str
    """Errors only."""
    hf_hub_disable_progress_bars: str
    """No bars in a log; transformers heeds it too."""
    mlflow_http_request_timeout: str
    """Short while a stage logs: no result waits for MLflow."""
    mlflow_http_request_max_retries: str
    """Few while a stage logs."""
    mlflow_suppress_printing_url_to_stdout: str
    """MLflow would print passwords too."""
    mlflow_enable_artifacts_progress_bar: str
    """Off for files that are on this machine."""
    mlflow_run_id: str
    """Taken out: a caller's run is not written into."""
    mlflow_backend_store_uri: str
    """For `make up`: the database of the MLflow server, a SQLite file in the checkout."""
    mlflow_workers: str
    """For `make up`: one process for the MLflow server."""
    mlflow_server_enable_job_execution: str
    """For `make up`: off, nothing here asks for it."""
    mlflow_serve_artifacts: str
    """For `make up`: off, files lie at a path that both sides see."""
    mlflow_default_artifact_root: str
    """For `make up`: that path."""
    prefect_server_ephemeral_startup_timeout_seconds: str
    """How long a flow waits for the Prefect server it starts."""
    erasediff_started_for: str
    """The command whose temporary Prefect server a process is: where that was killed, the next command ends it."""
    prefect_server_concurrency_lease_storage: str
    """For `make up`: leases in files, so that a restart of the server frees a killed job's place."""
    prefect_server_ui_v2_enabled: str
    """For `make up`: off, since those pages ask a third party for its settings."""
    prefect_server_ui_show_promotional_content: str
    """For `make up`: no advertisements."""
    prefect_flows_heartbeat_frequency: str
    """Seconds between two heartbeats of a run: 30."""


def environment() -> Environment:
    """The variables as they are now. Raises: ParamsError: one has a value that it cannot have."""
    try:
        return Environment()
    except ValidationError as error:
        raise ParamsError("; ".join(_told(str(item["loc"][0]), item["input"]) for item in error.errors())) from None


def _told(name: str, value: object) -> str:
    low, high = Environment.model_fields[name].metadata  # only a number can be wrong, and each has both limits
    return f"{name.upper()} is {value!r}: give a number from {low.ge} to {high.le}"


def page() -> str:
    """The list as the content of ``docs/environment.md``."""
    lines = ["# Environment variables", "", "Made by `python -m erasediff.environment > docs/environment.md`."]
    for title, kind in (("Read", Environment), ("Set", Given)):
        lines += ["", f"## {title}", "", str(kind.__doc__), "", "| variable | meaning |", "|---|---|"]
        for name, field in kind.model_fields.items():
            default = f" Default: {field.default}." if isinstance(field.default, int) else ""
            lines.append(f"| `{name.upper()}` | {field.description}{default} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page(), end="")
