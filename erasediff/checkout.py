"""The checkout that work is done in: its root, its locks, its processes, its commit."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.git import git

if TYPE_CHECKING:
    from filelock import FileLock

#: The checkout whose store and locks a run in another folder (a worktree) uses.
ROOT_VARIABLE = "ERASEDIFF_ROOT"


def project_root() -> Path:
    """The real checkout, also from a worktree, or an experiment's temporary copy (DVC sets ``DVC_ROOT``)."""
    from erasediff.environment import environment  # not before a command has said how it is used

    given = environment()
    if root := given.erasediff_root or given.dvc_root:
        return root.resolve()
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "dvc.yaml").exists() or (p / ".git").exists()), here)


def exclusive(path: Path) -> FileLock:
    """A lock file to hold with ``with``, by one process at a time; others wait."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def git_state() -> dict[str, str]:
    """Commit, and ``true`` where there are uncommitted changes. ``dvc.lock`` does not count: running writes it.

    Read in the working folder: a DVC experiment's temporary copy has a commit of its own.
    """

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ":/", ":(exclude)dvc.lock")
    return {
        "git_commit": commit.stdout.strip() if commit.returncode == 0 else "unknown",
        "git_dirty": "unknown" if changes.returncode else str(bool(changes.stdout.strip())).lower(),
    }


def is_changed(path: Path) -> bool:
    """True if git sees uncommitted changes of a file; false where git knows nothing of it."""
    done = git("status", "--porcelain", "--", str(path))
    return done.returncode == 0 and bool(done.stdout.strip())


def user_name() -> str:
    """The operating system's user; the number of one that has no name, as in a pod."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def process_start(pid: int) -> str | None:
    """Start of a process of this host (kernel ticks), so that a reused id is not taken for it; ``None``: dead."""
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
