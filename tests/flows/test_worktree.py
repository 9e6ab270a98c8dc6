"""A deployed run's own worktree, on real git and DVC."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erasediff.checkout import ROOT_VARIABLE, git_state, project_root
from erasediff.errors import ParamsError, WorktreeError
from erasediff.git import git
from flows.tools.worktree import WORKTREES, record, worktree
from stages import layout
from stages.params import load_params

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys, time
from erasediff.git import git
from flows.tools.worktree import worktree
with worktree():
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git and DVC repository with the project's params and a remote whose address is relative."""
    root = tmp_path / "chat noir é"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("DVC_ROOT", ROOT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    shutil.copy(REPOSITORY / "params.yaml", root)
    (root / ".gitignore").write_text("/.work/\n")
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    git("init", "-q")
    for command in (["init", "-q"], ["remote", "add", "-d", "store", "../store"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    git("add", "-A")
    git("-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "start")
    return root


def left():
    return sorted(p.name for p in WORKTREES.glob("*")), git("worktree", "list").stdout.count("\n") - 1


@pytest.mark.pipeline
def test_params_cache_remote_and_store(checkout):
    from dvc.config import Config

    before = git("rev-parse", "HEAD").stdout
    with worktree(lambda: {"erase.eta": 0.5, "forget_set.concepts": ["3", "no"]}) as earlier:
        place = Path.cwd()
        assert place != checkout and place.is_relative_to(checkout / WORKTREES) and earlier is None
        params = load_params()
        assert params.erase.eta == 0.5 and params.forget_set.concepts == ["3", "no"]
        assert "# what to forget" in Path("params.yaml").read_text()
        assert project_root() == checkout
        config = Config(str(place / ".dvc"))
        assert Path(config["cache"]["dir"]) == checkout / ".dvc/cache"
        assert Path(config["remote"]["store"]["url"]) == checkout.parent / "store"
        assert git_state()["git_dirty"] == "false"
    assert Path.cwd() == checkout and left() == ([], 0)
    assert git("rev-parse", "HEAD").stdout == before and git("status", "--porcelain").stdout == ""
    assert ROOT_VARIABLE not in os.environ


@pytest.mark.pipeline
def test_data_and_models_of_a_person_are_there_as_the_files_that_they_are(checkout):
    """Git ignores them, so that no commit has them: a request would find an empty folder."""
    for file, content in {
        "data/own/cat/1.png": "cat",
        "data/own/README.md": "old",
        "pets/model_index.json": "{}",
    }.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(content)
    Path(".gitignore").write_text("/.work/\n/data/own/*\n!/data/own/README.md\n/pets/\n")
    Path("data/own/link").symlink_to("nowhere")
    git("add", "--force", "-A", "data/own/link", "data/own/README.md", ".gitignore")
    git("-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "own")
    Path("data/own/README.md").write_text("new")
    with worktree(lambda: {"pretrain.source": "folder", "pretrain.path": "pets"}):
        assert not Path("data/own/cat").is_symlink()  # a link to a folder would be refused
        assert Path("data/own/cat/1.png").samefile(checkout / "data/own/cat/1.png")
        assert Path("pets/model_index.json").samefile(checkout / "pets/model_index.json")
        assert Path("data/own/README.md").read_text() == "old" and Path("data/own/link").is_symlink()  # the commit's
        assert git_state()["git_dirty"] == "false"
    assert Path("data/own/cat/1.png").read_text() == "cat" and left() == ([], 0)


@pytest.mark.pipeline
def test_on_another_disk_they_are_copied(checkout, monkeypatch):
    Path("pets").mkdir()
    Path("pets/weights").write_text("1")
    told = "^pets is neither in the commit nor ignored by git"
    with pytest.raises(WorktreeError, match=told), worktree(lambda: {"pretrain.path": "pets"}):
        pytest.fail("it must not run")
    Path("pets/.gitignore").write_text("*\n")
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    with worktree(lambda: {"pretrain.path": "pets"}):
        assert Path("pets/weights").read_text() == "1" and not Path("pets/weights").samefile(checkout / "pets/weights")


@pytest.mark.pipeline
def test_a_path_that_leaves_the_checkout_is_to_be_given_whole(checkout):
    asked = {"curate.path": "../pictures"}
    with pytest.raises(WorktreeError, match=r"^\.\./pictures is outside of the checkout"), worktree(lambda: asked):
        pytest.fail("it must not run")
    with worktree(lambda: {"curate.path": str(checkout.parent / "pictures")}):
        assert left()[1] == 1
    with worktree(lambda: {"curate.path": "."}):  # the checkout itself, which this folder lies in
        assert sorted(p.name for p in Path.cwd().iterdir() if not p.name.startswith(".")) == ["dvc.lock", "params.yaml"]


@pytest.mark.pipeline
def test_what_cannot_be_run_leaves_nothing(checkout):
    with pytest.raises(ParamsError, match="did you mean eta"), worktree(lambda: {"erase.etaa": 1}):
        pytest.fail("it must not run")
    with pytest.raises(WorktreeError, match="there is no commit 'nowhere'"), worktree(dict, "nowhere"):
        pytest.fail("it must not run")
    with pytest.raises(ZeroDivisionError), worktree():
        raise ZeroDivisionError
    assert left() == ([], 0)


@pytest.mark.pipeline
def test_a_killed_runs_worktree_is_removed_and_a_living_ones_is_not(checkout):
    def start():
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "in\n"
        return process

    killed, living = start(), start()
    try:
        assert left()[1] == 2
        killed.kill()
        killed.wait()
        elsewhere = checkout / WORKTREES / "another-host-1-1"  # on a shared disk: its process is not known here
        elsewhere.mkdir()
        with worktree():
            assert elsewhere.exists()
            assert not list((checkout / WORKTREES).glob(f"*-{killed.pid}-*"))
            assert len(list((checkout / WORKTREES).glob(f"*-{living.pid}-*"))) == 1
    finally:
        living.terminate()
        living.wait()


@pytest.mark.pipeline
def test_a_record_is_kept_once_and_found_again(checkout):
    with worktree(lambda: {"erase.eta": 0.5}) as earlier:
        Path("dvc.lock").write_text("schema: '2.0'\nstages: {a: {cmd: x}}\n")
        commit = record("digits", "1", earlier)
    assert git("tag", "--list").stdout.split() == [f"erased/digits-v1-{commit[:10]}"]
    assert "eta: 0.5" in git("show", f"{commit}:params.yaml").stdout
    with worktree(lambda: {"erase.eta": 0.5}) as earlier:
        assert earlier == commit and "cmd: x" in Path("dvc.lock").read_text()
        assert record("digits", "1", earlier) == commit
    with worktree(lambda: {"erase.eta": 0.25}) as earlier:
        assert earlier is None
    assert len(git("tag", "--list").stdout.split()) == 1


@pytest.mark.pipeline
def test_of_several_records_of_the_same_params_the_newest_is_gone_on_from(checkout, monkeypatch):
    made = []
    for year in (2031, 2030):  # the one that was made last bears the earlier date: tags of one second have no order
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{year}-01-01T00:00:00Z")
        with worktree(lambda: {"erase.eta": 0.5}):
            Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{a: {{cmd: '{year}'}}}}\n")
            made.append(record("digits", str(year), None))
    with worktree(lambda: {"erase.eta": 0.5}) as earlier:
        assert earlier == made[0] != made[1]


@pytest.mark.pipeline
def test_a_checkpoint_outlives_its_worktree_for_the_same_params(checkout):
    kept = Path(".work/checkpoints/erase.json")
    assert layout.drawn("forget_set").parent == kept.parent  # so do pictures that a stage drew
    with pytest.raises(ZeroDivisionError), worktree(lambda: {"erase.eta": 0.5}):
        kept.write_text("half way")
        raise ZeroDivisionError
    with worktree(lambda: {"erase.eta": 0.25}):
        assert not kept.exists()
    with worktree(lambda: {"erase.eta": 0.5}):
        assert kept.read_text() == "half way"
        kept.unlink()
    with worktree():
        kept.write_text("half way")
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with worktree():
            assert not kept.exists()
        other.kill()


@pytest.mark.pipeline
def test_the_checkout_may_be_a_folder_of_a_larger_repository(checkout, tmp_path, monkeypatch):
    outer = tmp_path / "outer"
    shutil.copytree(checkout, outer / "inner")
    shutil.rmtree(outer / "inner/.git")
    (outer / "inner/dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(outer / "inner")
    git("init", "-q", at=outer)
    git("add", "-A", at=outer)
    git("-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "start", at=outer)
    for again in (False, True):
        with worktree(lambda: {"erase.eta": 0.5}) as earlier:
            assert load_params().erase.eta == 0.5 and bool(earlier) == again
            assert git_state()["git_dirty"] == "false"
            Path("dvc.lock").write_text("schema: '2.0'\nstages: {a: {cmd: x}}\n")
            assert git_state()["git_dirty"] == "false"
            record("digits", "1", earlier)
    assert git("status", "--porcelain").stdout == "" and left() == ([], 0)


@pytest.mark.pipeline
def test_a_checkout_that_is_a_submodule_is_refused_in_one_line(checkout, tmp_path, monkeypatch):
    outer = tmp_path / "outer"
    outer.mkdir()
    git("init", "-q", at=outer)
    added = git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(checkout), "inner", at=outer)
    assert added.returncode == 0, added.stderr
    monkeypatch.chdir(outer / "inner")
    with pytest.raises(WorktreeError, match="inner is a submodule, .* take a clone of its own"), worktree():
        pytest.fail("it must not run")


@pytest.mark.pipeline
def test_a_persons_own_hooks_and_keys_stop_no_job(checkout, monkeypatch):
    subprocess.run([sys.executable, "-m", "dvc", "install"], check=True)  # DVC's post-checkout would run dvc checkout
    for name in ("tag.gpgsign", "commit.gpgsign"):
        git("config", name, "true")
    git("config", "gpg.program", "false")
    with worktree(lambda: {"erase.eta": 0.5}) as earlier:
        Path("dvc.lock").write_text("schema: '2.0'\nstages: {a: {cmd: x}}\n")
        assert record("digits", "1", earlier) in git("for-each-ref", "refs/tags/erased").stdout
