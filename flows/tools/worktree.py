"""A deployed run's own place: a git worktree that shares the checkout's DVC cache, its remotes and its MLflow store."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

from erasediff.checkout import ROOT_VARIABLE, exclusive, is_changed, process_start, project_root
from erasediff.errors import WorktreeError, shown
from erasediff.git import complaint, git
from flows.tools import dvc
from flows.tools.git import commit_files, record_lock
from stages import layout
from stages.params import PARAMS_FILE, change_params, load_params

#: In the checkout: a folder a run, and who changes their list.
WORKTREES, WORKTREES_LOCK = Path(".work/worktrees"), Path(".work/worktrees.lock")
#: Where a training keeps its last state (erasediff.training.checkpoint).
CHECKPOINTS = Path(".work/checkpoints")
#: Tags of the commits that hold what deployed runs made.
RECORDS = "refs/tags/erased/"


@contextmanager
def worktree(changes: Callable[[], Mapping[str, object]] = dict, commit: str = "HEAD") -> Iterator[str | None]:
    """Work in a new worktree of this checkout; it is removed afterwards, also after a failure.

    The changed params are committed there: what MLflow notes of a stage is a commit that holds what was run. Until the
    block ends the worktree is the folder of this whole process, and the checkout is named by its environment: a
    deployed run is a process of its own.

    Args:
        changes: returns those of params.yaml, such as ``{"erase.eta": 0.5}``; called there, beside the commit's own.
        commit: what to run.

    Yields: the commit of an earlier run with these params, whose ``dvc.lock`` the run starts from; ``None``: there is
        none, it starts from the commit's own.
    Raises: ParamsError: the params that come of it are not valid. WorktreeError: no such commit, or git refuses, or a
        path of theirs cannot be brought there. What ``changes`` raises.
    """
    checkout = project_root()
    if git("config", "core.worktree", at=checkout).stdout.strip():
        raise WorktreeError(f"{checkout} is a submodule, whose worktrees DVC cannot use: take a clone of its own")
    if git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").returncode:
        raise WorktreeError(f"there is no commit {commit!r} in {checkout}: give one of git log, or HEAD")
    place = _add(checkout, commit)
    folder = place / git("rev-parse", "--show-prefix", at=checkout).stdout.strip()  # of a larger repository
    try:
        if not (folder / PARAMS_FILE).exists():
            raise WorktreeError(f"commit {commit} has no {PARAMS_FILE} in this folder: give a commit of the pipeline's")
        dvc.share_storage(checkout, folder)
        with chdir(folder), _rooted_in(checkout):
            earlier = _prepare(changes())
            _bring(checkout, _given_paths())
            with _checkpoints(checkout):
                yield earlier
    finally:
        _remove(checkout, place)


@contextmanager
def _rooted_in(checkout: Path) -> Iterator[None]:
    """Use a checkout's store and locks, in this process and those below it."""
    before = os.environ.get(ROOT_VARIABLE)
    os.environ[ROOT_VARIABLE] = str(checkout)
    try:
        yield
    finally:
        del os.environ[ROOT_VARIABLE]
        if before is not None:
            os.environ[ROOT_VARIABLE] = before


def _name(pid: int, started: str | None) -> str:
    return f"{socket.gethostname()}-{pid}-{started}"


def _add(checkout: Path, commit: str) -> Path:
    place = checkout / WORKTREES / _name(os.getpid(), process_start(os.getpid()))
    with exclusive(checkout / WORKTREES_LOCK):
        _remove_abandoned(checkout)
        done = git("worktree", "add", "--quiet", "--detach", str(place), commit)
    if done.returncode:
        raise WorktreeError(f"git worktree add failed: {complaint(done)}")
    return place


def _remove_abandoned(checkout: Path) -> None:
    """Remove what killed processes of this host left."""
    for place in (checkout / WORKTREES).glob(f"{socket.gethostname()}-*-*"):
        pid = place.name.split("-")[-2]
        if pid.isdigit() and place.name != _name(int(pid), process_start(int(pid))):
            shutil.rmtree(place, ignore_errors=True)
    git("worktree", "prune", at=checkout)


def _remove(checkout: Path, place: Path) -> None:
    with exclusive(checkout / WORKTREES_LOCK):
        shutil.rmtree(place, ignore_errors=True)
        git("worktree", "prune", at=checkout)


def _prepare(changes: Mapping[str, object]) -> str | None:
    """Write and commit the params, with the ``dvc.lock`` of an earlier run that had the same ones."""
    change_params(changes)
    earlier = _record_of(PARAMS_FILE)
    if earlier is not None:
        git("checkout", "--quiet", earlier, "--", str(layout.DVC_LOCK))
    told = "\n".join(f"{key}: {value}" for key, value in changes.items())
    if refused := commit_files(f"Parameters of a run\n\n{told}", PARAMS_FILE, layout.DVC_LOCK):
        raise WorktreeError(refused)
    return earlier


def _given_paths() -> list[Path]:
    """Return where data and models of a person may lie, which neither a commit nor a stage makes."""
    params = load_params()
    named = params.curate.path, params.pretrain.path, params.classifier.path, params.evaluate.retrained
    return [*map(Path, named), layout.INCEPTION]


def _bring(checkout: Path, paths: Sequence[Path]) -> None:
    """Have the checkout's data and models of a person here, which no commit holds; what the commit has stays.

    They are the same files under a second name: a link would lead out of the folder that is read. Over two disks they
    are copies.

    Raises: WorktreeError: a path that leaves the checkout without being absolute, that cannot be read, or that git
        would take for a change.
    """
    for path in paths:
        if not path.is_absolute() and ".." in path.parts:
            raise WorktreeError(
                f"{path} is outside of the checkout, and a request runs in a folder of its own: give the whole path"
            )
        source, here = checkout / path, Path.cwd() / path
        if path.is_absolute() or here.is_relative_to(source):
            continue
        try:
            if source.is_dir():
                shutil.copytree(source, here, True, _those_of(source, here), _name_again, dirs_exist_ok=True)
            elif source.exists() and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                _name_again(str(source), str(here))
        except OSError as error:
            raise WorktreeError(f"{path} cannot be brought to the run: {shown(str(error), 300)}") from None
        if is_changed(path):
            raise WorktreeError(
                f"{path} is neither in the commit nor ignored by git, so that no commit could hold the result: put it "
                "into data/own or models/own, or name it in .gitignore and commit that"
            )


def _those_of(source: Path, here: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what :func:`shutil.copytree` asks for what to leave out: files and links that the commit has."""

    def there(folder: str, names: list[str]) -> set[str]:
        places = {name: here / Path(folder).relative_to(source) / name for name in names}
        return {name for name, place in places.items() if place.is_symlink() or place.is_file()}

    return there


def _name_again(source: str, here: str) -> str:
    try:
        os.link(source, here)
    except OSError:  # another disk, or a file system without them
        shutil.copy2(source, here)
    return here


@contextmanager
def _checkpoints(checkout: Path) -> Iterator[None]:
    """Keep checkpoints beyond this worktree: a later run of the same code and params goes on from a killed one's.

    Of two such at once only one has them.
    """
    kept = checkout / CHECKPOINTS / git("rev-parse", "HEAD^{tree}").stdout.strip()
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept.with_suffix(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield
            return
        CHECKPOINTS.parent.mkdir(exist_ok=True)
        CHECKPOINTS.symlink_to(kept, target_is_directory=True)
        yield
    with suppress(OSError):  # a failed training's checkpoint is in it
        kept.rmdir()


def _record_of(params: Path) -> str | None:
    """Return the newest recorded commit with these params."""
    wanted = git("hash-object", str(params)).stdout.strip()
    refs = git("for-each-ref", "--sort=-creatordate", "--format=%(objectname)", RECORDS).stdout.split()
    for commit in refs:
        if git("rev-parse", f"{commit}:./{params}").stdout.strip() == wanted:
            return commit
    return None


def record(model: str, version: str, earlier: str | None) -> str:
    """Commit ``dvc.lock`` and keep the commit by a tag; an earlier run's that holds the very same is enough.

    Checking that commit out and ``dvc pull`` bring the version's model back.

    Returns: the commit.
    Raises: WorktreeError: git refuses.
    """
    commit, reason = record_lock(f"dvc.lock of {model} version {version}")
    if commit is None:
        raise WorktreeError(f"dvc.lock of {model} version {version} is not committed: {reason}")
    if earlier is not None and git("diff", "--quiet", earlier, commit).returncode == 0:
        return earlier
    done = git("tag", f"{RECORDS.removeprefix('refs/tags/')}{model}-v{version}-{commit[:10]}", commit)
    if done.returncode and "already exists" not in done.stderr:
        raise WorktreeError(f"git tag failed: {complaint(done)}")
    return commit
