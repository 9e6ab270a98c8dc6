"""What orchestration adds: a deployed run against the bare stages, a run with nothing to do, and every ``--help``.

Both run the demo's stages with the same seed on this machine, one after the other, the second first in every other
round; about ten minutes a round on 2 cores.

    PYTHONPATH=.:tests/pipeline python tests/benchmarks/overhead.py [--rounds 1]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from checkout import REPOSITORY, Project, new_project
from deployments import ended, processes_in, submitted, with_ports

from erasediff.command import quiet_environment

HELPS = 3


class Peak:
    """Most memory that the processes below a folder had at once, shared pages counted in each."""

    bytes = 0

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Iterator[Peak]:
        peak, done = cls(), threading.Event()

        def watch() -> None:
            while not done.wait(1):
                now = 0
                for process in processes_in(folder):
                    try:
                        now += process.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                peak.bytes = max(peak.bytes, now)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield peak
        finally:
            done.set()
            thread.join()


def bare(project: Project, seed: int) -> float:
    """Seconds of ``dvc repro``."""
    project.set_params(seed=seed)
    started = time.monotonic()
    project.run("dvc", "repro", timeout=3600)
    return time.monotonic() - started


def deployed(project: Project, seed: int) -> float:
    """Seconds from the request to the end of its run."""
    started = time.monotonic()
    run = ended(project, submitted(project, {"seed": seed}), 3600)
    assert run.state.is_completed(), run.state.message
    return time.monotonic() - started


def helps() -> Iterator[tuple[str, float]]:
    """Median seconds of each command's ``--help``."""
    files = [*REPOSITORY.glob("flows/*.py"), *REPOSITORY.glob("stages/*.py")]
    for path in sorted(f for f in files if '__name__ == "__main__"' in f.read_text()):
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        seconds = []
        for _ in range(HELPS):
            started = time.monotonic()
            command = [sys.executable, "-m", module, "--help"]
            subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - started)
        yield module, statistics.median(seconds)


def paired(folder: Path, rounds: int) -> None:
    """Print the ratio, what it is made from, and a run with nothing to do."""
    plain = new_project(folder / "plain", {})
    served = with_ports(new_project(folder / "served", {}))
    del served.environment["OMP_NUM_THREADS"]  # as in the other, and as `make up` has it
    both = []
    try:
        served.run("flows.servers", "up")
        for seed in range(rounds):
            seconds, peaks = {}, {}
            for how, project in [(bare, plain), (deployed, served)][:: 1 if seed % 2 == 0 else -1]:
                with Peak.of(project.root) as peak:
                    seconds[how] = how(project, seed)
                peaks[how] = peak.bytes
            both.append((seconds[bare], seconds[deployed]))
            print(
                f"seed {seed}: stages {seconds[bare]:.1f} s, deployed {seconds[deployed]:.1f} s, "
                f"ratio {seconds[deployed] / seconds[bare]:.3f}; peak memory {peaks[bare] / 2**30:.2f} GiB, "
                f"{peaks[deployed] / 2**30:.2f} GiB with servers and worker",
                flush=True,
            )
        idle = [ended(served, submitted(served, {"seed": 0})) for _ in range(3)]
        assert all("nothing to do" in run.state.message for run in idle)
        own = [run.total_run_time.total_seconds() for run in idle]
        print(f"nothing to do: {statistics.median(own):.1f} s (median of {len(own)})")
    finally:
        served.run("flows.servers", "down")
    ratio = sum(d for _, d in both) / sum(b for b, _ in both)
    more = statistics.mean(d - b for b, d in both)
    print(f"ratio {ratio:.3f} over {rounds} round(s) of the demo; {more:.1f} s more a run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="each with a seed of its own")
    arguments = parser.parse_args()
    quiet_environment()
    with tempfile.TemporaryDirectory() as folder:
        paired(Path(folder), arguments.rounds)
    for module, seconds in helps():
        print(f"{module} --help: {seconds:.2f} s (median of {HELPS})", flush=True)


if __name__ == "__main__":
    main()
