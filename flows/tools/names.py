"""Names that flows, servers and a person share: environment variables, and Prefect's work pool."""

from __future__ import annotations

#: Prefect's and MLflow's own: which servers are used, and where ours listen.
PREFECT_API, PREFECT_HOME, MLFLOW_TRACKING = "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"
PREFECT_PORT, MLFLOW_PORT = "PREFECT_SERVER_API_PORT", "MLFLOW_PORT"
#: Prefect's own: the seconds between two signs of life of a run. By default there are 180, and a run that is silent for
#: longer than flows.jobs.registration.SILENCE counts as crashed, whoever started it.
HEARTBEAT, BEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", 30
#: Process id and start of the command that Prefect's temporary server was started for.
STARTED_FOR = "ERASEDIFF_STARTED_FOR"
#: Ray's own: the cluster to spread tasks over, an address or ``local``.
RAY = "RAY_ADDRESS"
#: OpenMP's own, which torch obeys.
THREADS = "OMP_NUM_THREADS"
#: Of deployed jobs; prefect.yaml and the worker name it.
WORK_POOL = "erasediff"
