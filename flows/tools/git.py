"""Git: what is committed of a run, and by which commit it is found again."""

from __future__ import annotations

from pathlib import Path

from erasediff.git import complaint, git
from stages import layout

#: A fresh machine's, which has none of its own.
IDENTITY = ["-c", "user.name=EraseDiff Pipeline", "-c", "user.email=erasediff-pipeline@localhost"]


def head_commit() -> str:
    """Return the checkout's commit, or ``unknown``."""
    return git("rev-parse", "HEAD").stdout.strip() or "unknown"


def commit_files(message: str, *paths: Path) -> str:
    """Commit changes of these files and nothing else; return git's complaint, empty where there is none."""
    changed = [str(p) for p in paths if git("status", "--porcelain", "--", str(p)).stdout.strip()]
    if not changed:
        return ""
    identity = [] if git("config", "user.email").stdout.strip() else IDENTITY
    git("add", "--", *changed)
    done = git(*identity, "commit", "--quiet", "--only", "-m", message, "--", *changed)
    return f"git commit failed: {complaint(done)}" if done.returncode else ""


def record_lock(message: str) -> tuple[str | None, str]:
    """Commit ``dvc.lock`` and nothing else: checking that commit out and ``dvc pull`` bring this very model back.

    Only from a checkout without other changes, so that the commit's code and params are those that made the model.

    Returns: the commit that holds the lock as it is, or ``None`` with the reason.
    """
    changes = git("status", "--porcelain", "--", ":/", f":(exclude){layout.DVC_LOCK}")
    if changes.returncode:
        return None, complaint(changes)
    if changes.stdout.strip():
        return None, f"there are other changes ({changes.stdout.split()[1]}, …): commit them with {layout.DVC_LOCK}"
    if refused := commit_files(message, layout.DVC_LOCK):
        return None, refused
    return git("rev-parse", "HEAD").stdout.strip(), ""
