"""The checkout that work is done in: its root, its locks, its processes, its commit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def project_root() -> Path:
    """The real checkout, also from a worktree, or an experiment's temporary copy (DVC sets ``DVC_ROOT``)."""
    if root := os.environ.get(ROOT_VARIABLE) or os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "dvc.yaml").exists() or (p / ".git").exists()), here)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def git_state() -> dict[str, str]:
    """Commit, and whether there are uncommitted changes. ``dvc.lock`` does not count: running writes it.

    Read in the working folder: a DVC experiment's temporary copy has a commit of its own.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ":/", ":(exclude,top)dvc.lock")
    return {
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def process_start(pid: int) -> str | None:
    """When a process of this host started (kernel ticks), so that a reused id is not taken for it; ``None``: dead."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] == "Z" else after_name[19]
    except OSError:
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


#: The checkout whose store and locks a run in another folder (a worktree) uses.
ROOT_VARIABLE = "ERASEDIFF_ROOT"
