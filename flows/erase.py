"""The main flow: every DVC stage as a Prefect task, then the verdict and the aliases."""

from __future__ import annotations

import argparse
import json
import sys

from flows import pipeline
from flows.pipeline import EVALUATION, REGISTERED, REPORT


def summary() -> str:
    """What a person wants to know at the end."""
    from erasediff.evaluation.table import HEAD, table_rows
    from erasediff.records import Evaluation
    from erasediff.registry.versions import aliases
    from erasediff.tracking import tracking_uri, without_credentials

    version = json.loads(REGISTERED.read_text())
    table = [HEAD, *table_rows(Evaluation.read(EVALUATION), each_concept=False)]
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
    return REGISTERED.exists() and EVALUATION.exists() and pipeline.is_clean() and is_registered()


def is_registered() -> bool:
    """Whether the version of ``runs/register.json`` holds an alias.

    After a bare ``dvc repro`` it does not, or where the registry was wiped: then the flow still has one to set.
    """
    from erasediff.registry.versions import aliases

    version = json.loads(REGISTERED.read_text())
    return version["version"] in aliases(version["model_name"]).values()


def record() -> str:
    """Commit ``dvc.lock`` where that is sound, tag the version with the commit, and say so in a line."""
    from erasediff.registry.versions import set_tag

    version = json.loads(REGISTERED.read_text())
    label = f"{version['model_name']} version {version['version']}"
    commit, reason = pipeline.record_lock(f"dvc.lock of {label}")
    if commit is None:
        return f"git      dvc.lock is not committed: {reason}"
    set_tag(version["model_name"], version["version"], "dvc_lock_commit", commit)
    return f"git      dvc.lock of this model is committed as {commit[:10]}"


def run(commit: bool = True) -> None:
    """Check the parameters, hold the checkout, run the flow unless there is nothing to do."""
    from erasediff.errors import GateFailed, StageFailed
    from stages.params import load_params

    load_params()
    with pipeline.only_run():
        if nothing_to_do():
            print("nothing to do: everything is up to date\n\n" + summary())
            return
        pipeline.temporary_server()
        from flows.tasks import erase_here  # now that Prefect's settings stand

        state = erase_here(return_state=True)
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
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError

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
