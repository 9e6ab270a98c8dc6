"""Git, always called in the same surroundings: whatever a person has configured, or an outer git has set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: They lead to another repository or index than that of the folder: git sets them for its hooks, and so do editors.
ELSEWHERE = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
#: Nothing is run that a person has configured, and nobody is asked for a key or a text.
SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "status.showUntrackedFiles": "normal",
}
#: No pager, no editor, no question; git's own words are read.
PLAIN = {"GIT_PAGER": "cat", "GIT_EDITOR": "false", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", "LANGUAGE": "C"}


def without_elsewhere() -> dict[str, str]:
    """Return the environment variables but for those that lead git to another repository."""
    return {name: value for name, value in os.environ.items() if name not in ELSEWHERE}


def git(*arguments: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run git, in this folder by default; its exit code is 127 where there is no git."""
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = ["git", *settings, *arguments]
    try:
        return subprocess.run(
            command,
            cwd=at,
            env=without_elsewhere() | PLAIN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", f"git cannot be run: {error.strerror}")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return what git says of its failure, in one line of bounded length."""
    return " ".join((done.stderr or done.stdout).split())[:300] or f"git ended with code {done.returncode}"
