"""Send MLflow what it could not be told while it was down; it waits in ``.work/mlflow-outbox``."""

from __future__ import annotations

from stages.door import run_door


def main() -> None:
    """``.work/mlflow-outbox`` → MLflow."""
    from erasediff.tracking.outbox import deliver_now
    from erasediff.tracking.server import tracking_uri, without_credentials

    n = deliver_now()
    print(f"{n} run{'s' if n != 1 else ''} sent to MLflow at {without_credentials(tracking_uri())}")


if __name__ == "__main__":
    run_door("outbox", main, __doc__)
