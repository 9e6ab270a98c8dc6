"""The last state of a training, on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, TypedDict, cast

from safetensors.torch import load as state_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from erasediff.artifacts import read_object, sha256_file, sha256_text, write_bytes, write_json
from erasediff.errors import IntegrityError

#: Rooms and files of the library that decide what a training computes.
CODE = ("data", "families", "training", "unlearning", "device.py", "randomness.py")


def code_digest(library: Path) -> str:
    """SHA-256 over the code of :data:`CODE` in a folder of the library."""
    files = [path for path in library.rglob("*.py") if path.relative_to(library).parts[0] in CODE]
    return sha256_text(repr([sha256_file(path) for path in sorted(files)]))


class Run(Protocol):
    """An MLflow run, or whatever else is told about a training."""

    @property
    def run_id(self) -> str | None: ...

    def resumed(self, step: int, rows: list[dict[str, float]]) -> None:
        """The training goes on after ``step``; ``rows`` is what was measured before."""


class About(TypedDict):
    """Facts of a state, known without reading it; ``file`` and ``sha256`` are ``None`` before there is one."""

    key: str
    file: str | None
    sha256: str | None
    run_id: str | None
    rows: list[dict[str, float]]


class FileCheckpoint:
    """The last state of a training in ``.work/checkpoints``, outside DVC's outs, which a re-run would delete.

    Args:
        name: stage.
        key: what the training depends on beside the code of its core; a state made under another is not used.
        rows: what was measured so far, a row a step; kept with the state and put back with it.

    Attributes:
        run_id: the MLflow run of this training; at first that of the process which was killed in it, if one was.
    """

    def __init__(self, name: str, key: object, every: int, rows: list[dict[str, float]]):
        self.every, self.rows = every, rows
        self.key = sha256_text(repr((key, code_digest(Path(__file__).parents[1]))))
        self.facts = Path(".work/checkpoints") / f"{name}.json"
        self._run: Run | None = None
        about = self._about()
        self.run_id: str | None = about["run_id"] if about else None

    def _about(self) -> About | None:
        if not self.facts.exists():
            return None
        about = read_object(self.facts)
        if not set(About.__annotations__) <= set(about):
            raise IntegrityError(f"{self.facts} holds no facts of a training: delete it to start this stage afresh")
        return cast(About, about) if about["key"] == self.key else None

    def begin(self, run: Run) -> None:
        """Note the MLflow run before there is a state, so that a training killed before its first goes on in it too."""
        self._run, self.run_id = run, run.run_id
        if self._about() is None:
            self._note(None, None, [])

    def load(self) -> dict[str, Tensor] | None:
        """The state, verified by its SHA-256. Raises: IntegrityError: truncated or altered."""
        about = self._about()
        if about is None or about["file"] is None:
            return None
        path = self.facts.with_name(about["file"])
        if not path.exists() or sha256_file(path) != about["sha256"]:
            raise IntegrityError(f"{path} is truncated or was altered: delete {self.facts} to start this stage afresh")
        state = state_of(path.read_bytes())
        self.rows[:] = about["rows"]
        if self._run is not None:
            self._run.resumed(int(state["step"]), self.rows)
        return state

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep a state instead of the one before, which stays until the new one is whole."""
        content = bytes_of({k: v.detach().cpu().contiguous() for k, v in state.items()})
        digest = hashlib.sha256(content).hexdigest()
        path = self.facts.with_name(f"{self.facts.stem}.{digest[:12]}.safetensors")
        write_bytes(path, content)
        # JSON has no NaN: what was not measured at a step is left out.
        rows = [{k: v for k, v in row.items() if v == v} for row in self.rows]
        self._note(path.name, digest, rows)
        self._clear_states(but=path)

    def _note(self, file: str | None, digest: str | None, rows: list[dict[str, float]]) -> None:
        about: About = {"key": self.key, "file": file, "sha256": digest, "run_id": self.run_id, "rows": rows}
        write_json(self.facts, about)

    def clear(self) -> None:
        """The training is done."""
        self.facts.unlink(missing_ok=True)
        self._clear_states()

    def _clear_states(self, but: Path | None = None) -> None:
        for path in self.facts.parent.glob(f"{self.facts.stem}.*.safetensors"):
            if path != but:
                path.unlink()
