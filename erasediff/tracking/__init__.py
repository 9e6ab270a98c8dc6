"""MLflow runs. No result needs MLflow: with the server down a stage finishes, and what was not logged waits."""

from erasediff.tracking.calls import find_run
from erasediff.tracking.run import ParentRun, StageRun, parent_run, stage_run
from erasediff.tracking.server import page, tracking_uri, without_credentials

__all__ = [
    "ParentRun",
    "StageRun",
    "find_run",
    "page",
    "parent_run",
    "stage_run",
    "tracking_uri",
    "without_credentials",
]
