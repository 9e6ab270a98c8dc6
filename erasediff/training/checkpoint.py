"""The last state of a training, on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.tracking import StageRun


class FileCheckpoint:
    """The last state of a training in ``.work/checkpoints``, outside DVC's outs, which a re-run would delete.

    Args:
        name: stage.
        key: what the training depends on beside the code of its core; a state made under another is not used.
        rows: what was measured so far, a row a step; kept with the state and put back with it.

    Attributes:
        run_id: the MLflow run of this training; at first that of the process which was killed in it, if one was.
    """

    def __init__(self, name: str, key: Any, every: int, rows: list[dict[str, float]]):
        from erasediff.artifacts import sha256_file, sha256_text

        here = Path(__file__).parents[1]
        rooms = ("training", "families", "unlearning")
        code = [sha256_file(path) for room in rooms for path in sorted((here / room).rglob("*.py"))]
        self.every, self.rows = every, rows
        self.key = sha256_text(repr((key, code)))
        self.facts = Path(".work/checkpoints") / f"{name}.json"
        self._run: StageRun | None = None
        self.run_id: str | None = (self._about() or {}).get("run_id")

    def _about(self) -> dict[str, Any] | None:
        from erasediff.artifacts import read_json

        about = read_json(self.facts) if self.facts.exists() else {}
        return about if about.get("key") == self.key else None

    def begin(self, run: StageRun) -> None:
        """Note the MLflow run before there is a state, so that a training killed before its first goes on in it too."""
        from erasediff.artifacts import write_json

        self._run, self.run_id = run, run.run_id
        if self._about() is None:
            write_json(self.facts, {"key": self.key, "file": None, "run_id": self.run_id, "rows": []})

    def load(self) -> dict[str, Tensor] | None:
        """The state, verified by its SHA-256. Raises: IntegrityError: truncated or altered."""
        from safetensors.torch import load

        from erasediff.artifacts import sha256_file
        from erasediff.errors import IntegrityError

        about = self._about()
        if about is None or about["file"] is None:
            return None
        path = self.facts.with_name(about["file"])
        if not path.exists() or sha256_file(path) != about["sha256"]:
            raise IntegrityError(f"{path} is truncated or was altered: delete {self.facts} to start this stage afresh")
        state = load(path.read_bytes())
        self.rows[:] = about["rows"]
        if self._run is not None:  # the last seconds before a kill were measured, but not sent
            self._run.log_steps((int(row["step"]), {k: v for k, v in row.items() if k != "step"}) for row in self.rows)
        print(f"going on from step {int(state['step'])}", file=sys.stderr)
        return state

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep a state instead of the one before, which stays until the new one is whole."""
        import hashlib

        from safetensors.torch import save

        from erasediff.artifacts import write_bytes, write_json

        content = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
        digest = hashlib.sha256(content).hexdigest()
        path = self.facts.with_name(f"{self.facts.stem}.{digest[:12]}.safetensors")
        write_bytes(path, content)
        # JSON has no NaN: what was not measured at a step is left out.
        rows = [{k: v for k, v in row.items() if v == v} for row in self.rows]
        about = {"key": self.key, "file": path.name, "sha256": digest, "run_id": self.run_id, "rows": rows}
        write_json(self.facts, about)
        self._clear_states(but=path)

    def clear(self) -> None:
        """The training is done."""
        self.facts.unlink(missing_ok=True)
        self._clear_states()

    def _clear_states(self, but: Path | None = None) -> None:
        for path in self.facts.parent.glob(f"{self.facts.stem}.*.safetensors"):
            if path != but:
                path.unlink()
