"""Git in surroundings that others have made: hooks, keys, editors, another repository, another owner."""

import os
import time

import pytest

from erasediff.checkout import git_state, is_changed, user_name
from erasediff.git import git
from flows.tools.git import IDENTITY, commit_files, record_lock
from flows.tools.processes import environment


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a commit, and a ``dvc.lock`` that is not committed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    assert commit_files("start", tmp_path / "a") == ""
    (tmp_path / "dvc.lock").write_text("{}")
    return tmp_path


@pytest.mark.unit
def test_hooks_keys_and_editors_of_a_person_are_left_alone(repository):
    hooks = repository / ".git/hooks"
    for name in ("pre-commit", "commit-msg", "post-checkout", "post-commit"):
        (hooks / name).write_text("#!/bin/sh\ntouch ../ran-a-hook ran-a-hook; exit 1\n")
        (hooks / name).chmod(0o755)
    for name in ("commit.gpgsign", "tag.gpgsign", "tag.forceSignAnnotated"):
        git("config", name, "true")
    git("config", "gpg.program", "sleep")
    git("config", "core.editor", "sleep 60 #")
    began = time.monotonic()
    commit, reason = record_lock("lock")
    assert commit is not None, reason
    assert git("tag", "kept", commit).returncode == 0
    assert git("worktree", "add", "--quiet", "--detach", str(repository / "place"), commit).returncode == 0
    asked = git(*IDENTITY, "commit", "--allow-empty")  # for a text, and nobody is there
    assert asked.returncode != 0 and "editor 'false'" in asked.stderr
    assert not list(repository.rglob("ran-a-hook")) and time.monotonic() - began < 20


@pytest.mark.unit
def test_a_lock_that_is_not_committed_yet_is_no_change_of_the_checkout(repository):
    """Running writes it: every version would be marked as made of changed code."""
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_state() == {"git_commit": commit, "git_dirty": "false"}
    (repository / "new").touch()
    assert git_state()["git_dirty"] == "true"


@pytest.mark.unit
def test_a_lock_is_committed_alone_and_not_beside_other_changes(repository):
    before = git("rev-parse", "HEAD").stdout.strip()
    for change in ("a", "new"):
        (repository / change).write_text("2")
        assert record_lock("lock") == (None, f"there are other changes ({change}, …): commit them with dvc.lock")
        git("add", change)
        assert record_lock("lock")[0] is None and git("rev-parse", "HEAD").stdout.strip() == before
        git("reset", "--hard", "--quiet")
    assert record_lock("lock") == (git("rev-parse", "HEAD").stdout.strip(), "")
    assert git("diff", "--name-only", before, "HEAD").stdout.split() == ["dvc.lock"]
    for name in ("a", "dvc.lock"):
        (repository / name).write_text("3")
    assert commit_files("one of two", repository / "dvc.lock") == ""
    assert git("status", "--porcelain").stdout.split() == ["M", "a"]


@pytest.mark.unit
def test_another_gits_variables_lead_nowhere(repository, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    git("init", "-q", at=other)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(other / ".git"))
    assert git("rev-parse", "--show-toplevel").stdout.strip() == str(repository)
    assert record_lock("lock")[0] == git_state()["git_commit"]
    assert not {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"} & set(environment())


@pytest.mark.unit
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_why_git_refuses_is_told_in_its_own_words(repository):
    os.chown(repository / ".git", 54321, 54321)
    os.chown(repository, 54321, 54321)
    commit, reason = record_lock("lock")
    assert commit is None and "dubious ownership" in reason and "safe.directory" in reason
    assert git_state() == {"git_commit": "unknown", "git_dirty": "unknown"} and not is_changed(repository / "a")


@pytest.mark.unit
def test_words_of_git_are_english_and_any_bytes_are_read(repository, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.ISO-8859-1")
    monkeypatch.setenv("LANGUAGE", "de")
    assert git("rev-parse", "nowhere").stderr.startswith("fatal: ")
    surroundings = git("-c", "alias.tell=!env", "tell").stdout.splitlines()  # German may not be installed here
    assert {"LC_ALL=C.UTF-8", "LANGUAGE=C", "GIT_TERMINAL_PROMPT=0", "GIT_PAGER=cat"} <= set(surroundings)
    (repository / "b").write_bytes(b"\xfc\n")
    assert git("diff", "--no-index", "a", "b").stdout.endswith("+\ufffd\n")


@pytest.mark.unit
def test_where_there_is_no_git_it_is_said(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert record_lock("lock") == (None, "git cannot be run: No such file or directory")
    assert git_state()["git_commit"] == "unknown"


@pytest.mark.unit
def test_a_user_without_a_name_is_a_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert user_name() == "54321"
