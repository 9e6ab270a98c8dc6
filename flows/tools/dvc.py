"""The only caller of DVC: the order of the stages, a stage run, an experiment, the cache and the remote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from erasediff.artifacts import read_json
from erasediff.errors import PushFailed, StageFailed
from erasediff.registry.lock import read_lock
from flows.tools import processes
from stages import layout

#: How DVC says that a stage executes, and that its command ended with an error.
EXECUTES = "Running stage"
ENDED = re.compile(r"failed to run: .*, exited with (-?\d+)$")
#: DVC's advice for a run by hand, which the flow does or does not need, and what it says of its own work.
HINTS = (
    "> ",  # the command of a stage
    "Stage '",  # is cached, or did not change
    "Generating lock file",
    "Updating lock file",
    "Data and pipelines are up to date",
    "To track the changes with git",
    "git add",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "WARNING: No file hash info found",  # of outs that an experiment is yet to make
    "WARNING: Process '",  # was killed, and held a lock that DVC has removed
    "To apply the results of an experiment",
    "dvc exp apply",
)


def dvc(*arguments: str) -> list[str]:
    """Return the command line of this environment's DVC."""
    return [sys.executable, "-m", "dvc", *arguments]


def _ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC silently."""
    return subprocess.run(
        dvc(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=processes.environment(),
        check=False,
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return what DVC says of its failure, in one line of bounded length."""
    said = done.stderr.rpartition("ERROR: ")[2] or done.stdout
    return " ".join(said.split())[:300] or f"dvc ended with code {done.returncode}"


def _follow(what: str, say: Callable[[str], None], extra: Mapping[str, str], *arguments: str) -> list[str]:
    """Run DVC, its output line by line to ``say``; return all lines.

    Raises: the stated failure that a stage ends with; StageFailed: another one.
    """
    lines, code = processes.follow(dvc(*arguments), say, extra, HINTS)
    if code:
        codes = [int(found[1]) for line in lines if (found := ENDED.search(line))]
        raise processes.failure(what, lines, (codes or [code])[-1])
    return lines


def stage_order() -> dict[str, list[str]]:
    """Return the stages in an order that can be run, each with the stages it waits for. Raises: StageFailed."""
    done = _ask("dag", "--dot")
    if done.returncode:
        raise StageFailed(f"dvc dag failed: {_reason(done)}")
    return parse_dag(done.stdout)


def parse_dag(dot: str) -> dict[str, list[str]]:
    """Turn ``dvc dag --dot`` into ``{stage: stages it waits for}`` in topological order."""
    before: dict[str, set[str]] = {}
    for line in dot.splitlines():
        names = re.findall(r'"([^"]+)"', line)
        if names:
            before.setdefault(names[-1], set()).update(names[:-1])
    return {name: sorted(before.get(name, ())) for name in TopologicalSorter(before).static_order()}


def run_stage(name: str, say: Callable[[str], None], extra: Mapping[str, str], *, force: bool = False) -> bool:
    """Run one stage, its output line by line to ``say``; True if it executed (not cached or unchanged).

    Args:
        extra: environment variables for it.
        force: run it though nothing that it reads has changed.

    Raises: the stated failure that the stage ends with; StageFailed: another one.
    """
    forced = ["-f"] if force else []
    lines = _follow(f"stage {name}", say, extra, "--wait-for-lock", "repro", "-s", *forced, name)
    return any(line.startswith(EXECUTES) for line in lines)


def run_experiment(
    name: str,
    overrides: Mapping[str, object],
    targets: Sequence[str],
    say: Callable[[str], None],
    extra: Mapping[str, str],
) -> None:
    """Run stages as a DVC experiment in a folder of its own, beside others.

    Args:
        overrides: params by their dotted names.

    Raises: the stated failure that a stage ends with; StageFailed: another one.
    """
    changed = [part for key, value in overrides.items() for part in ("-S", f"{key}={as_hydra(value)}")]
    _follow(f"experiment {name}", say, extra, "exp", "run", "--temp", "--name", name, *changed, *targets)


def as_hydra(value: object) -> str:
    """Write a value as ``dvc exp run -S`` reads it: by Hydra's grammar, which fills in ``${…}`` unless escaped."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_hydra, value))}]"
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    quoted = re.sub(r'(\\*)"', r"\1\1\\" + '"', text)  # a backslash stands for itself, but before a quote
    return '"' + re.sub(r"(\\+)$", r"\1\1", quoted) + '"'


def experiment_metrics() -> dict[str, dict[str, Any]]:
    """Return ``{experiment: {"evaluation": …, "erase": …}}`` of this commit's experiments that ended.

    They are the experiments' files ``metrics/*.json``, which DVC's cache holds.

    Raises: StageFailed.
    """
    done = _ask("exp", "show", "--json", "--hide-queued")
    if done.returncode:
        raise StageFailed(f"dvc exp show failed: {_reason(done)}")
    cache = Path(_ask("cache", "dir").stdout.strip())
    found = {}
    for baseline in json.loads(done.stdout):
        for experiment in baseline.get("experiments") or []:
            # Of one whose process was killed DVC says that it runs for ever: it has no result, nor a name to remove.
            if (experiment.get("executor") or {}).get("state") == "running":
                continue
            outs = (experiment["revs"][0].get("data") or {}).get("outs") or {}
            found[experiment["name"]] = {
                Path(path).stem: read_json(file)
                for path, out in outs.items()
                if Path(path).match("metrics/*.json") and (file := _cached(cache, out.get("hash"))) is not None
            }
    return found


def _cached(cache: Path, digest: str | None) -> Path | None:
    """Return where the cache holds a file; ``None`` if it does not."""
    file = cache / "files" / "md5" / digest[:2] / digest[2:] if digest else None
    return file if file and file.is_file() else None


def remove_experiments(names: Sequence[str]) -> None:
    """Let their names be used again; what they made stays in DVC's cache. Raises: StageFailed."""
    if names:
        _follow("removing experiments", lambda line: None, {}, "exp", "remove", *names)


def is_clean() -> bool:
    """Return True if DVC has nothing to run."""
    return _ask("status", "--quiet").returncode == 0


def outs_only_missing() -> bool:
    """Return True if DVC has nothing to run but to check out the outs: ``dvc.lock`` says what they are.

    A dependency may be a file within an out.
    """
    done = _ask("status", "--json")
    if done.returncode or not layout.DVC_LOCK.exists():
        return False
    outs = {Path(out["path"]) for stage in read_lock()["stages"].values() for out in stage.get("outs", [])}

    def only_missing(change: object) -> bool:
        return isinstance(change, dict) and all(
            isinstance(files, dict) and state == "deleted" and not outs.isdisjoint({Path(path), *Path(path).parents})
            for files in change.values()
            for path, state in (files.items() if isinstance(files, dict) else [("", "")])
        )

    return all(only_missing(change) for changes in json.loads(done.stdout or "{}").values() for change in changes)


def fetch_outs(*paths: Path) -> bool:
    """Bring outs of ``dvc.lock`` from the cache; True if they are there."""
    return _ask("checkout", "--quiet", *map(str, paths)).returncode == 0


def share_storage(checkout: Path, place: Path) -> None:
    """Have another checkout use this one's DVC cache and remotes, whatever they are relative to."""
    from dvc.config import Config, merge
    from dvc.config_schema import RelPath

    ours = Config(str(checkout / ".dvc"), validate=False)
    with Config(str(place / ".dvc"), validate=False).edit("local", validate=False) as theirs:
        for level in ("repo", "local"):
            merge(theirs, ours.read(level))
        # Written as a relative path: DVC's file holds ASCII alone, and the checkout's own path may not be that.
        theirs["cache"].setdefault("dir", RelPath(checkout / ".dvc" / "cache"))


def remote() -> str | None:
    """Return the default DVC remote, where one is configured."""
    from dvc.config import Config

    name = Config(".dvc").get("core", {}).get("remote")
    return None if name is None else str(name)


def push() -> None:
    """Send what ``dvc.lock`` names to the DVC remote. Raises: PushFailed."""
    done = _ask("push", "--quiet")
    if done.returncode:
        reason = _reason(done)
        raise PushFailed(f"dvc push failed: {reason}: the results are in the local cache; repair the remote and push")
