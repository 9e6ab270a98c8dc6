"""Names that flows, servers and a person share: environment variables, and Prefect's work pool."""

from __future__ import annotations

#: Prefect's and MLflow's own: which servers are used, and where ours listen.
PREFECT_API, PREFECT_HOME, MLFLOW_TRACKING = "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"
PREFECT_PORT, MLFLOW_PORT = "PREFECT_SERVER_API_PORT", "MLFLOW_PORT"
#: Ray's own: the cluster to spread tasks over, an address or ``local``.
RAY = "RAY_ADDRESS"
#: OpenMP's own, which torch obeys.
THREADS = "OMP_NUM_THREADS"
#: Of deployed jobs; prefect.yaml and the worker name it.
WORK_POOL = "erasediff"
