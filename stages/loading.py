"""Reading what earlier stages left, for the doors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from stages.diffusion.family import ConceptImages


def read_table(path: Path, split: str | None = None) -> pd.DataFrame:
    """A parquet table of samples. Raises: IntegrityError: its folder was altered or is missing."""
    import pandas as pd

    from stages.artifacts import verify_folder

    verify_folder(path.parent)
    table = pd.read_parquet(path)
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def table_shape(table: pd.DataFrame) -> tuple[int, int, int]:
    """``(channels, height, width)`` of a table's pictures."""
    first = table.iloc[0]
    return (1 if first["mode"] == "L" else 3, int(first["height"]), int(first["width"]))


def load_images(table: pd.DataFrame, image_shape: tuple[int, int, int]) -> ConceptImages:
    """A table's pictures as tensors of a model's shape, with their concepts."""
    from stages.data.images import decode
    from stages.diffusion.family import ConceptImages

    return ConceptImages(decode(table["image"].tolist(), image_shape), table["concept"].tolist())


class FileCheckpoint:
    """The last state of a training in ``.work/checkpoints``, outside DVC's outs, which a re-run would delete.

    Args:
        name: stage.
        key: everything that the training depends on; a state made under another key is not used.
        rows: what was measured so far, a row a step; kept with the state and put back with it.
    """

    def __init__(self, name: str, key: Any, every: int, rows: list[dict[str, float]]):
        from stages.artifacts import sha256_text

        self.every, self.rows = every, rows
        self.key = sha256_text(repr(key))
        self.path = Path(".work/checkpoints") / f"{name}.safetensors"

    def load(self) -> dict[str, Tensor] | None:
        """The state, verified by its SHA-256. Raises: IntegrityError: truncated or altered."""
        from safetensors.torch import load

        from stages.artifacts import read_json, sha256_file
        from stages.errors import IntegrityError

        facts = self.path.with_suffix(".json")
        if not (self.path.exists() and facts.exists()):
            return None
        about = read_json(facts)
        if about["key"] != self.key:
            return None
        if sha256_file(self.path) != about["sha256"]:
            raise IntegrityError(f"{self.path} is truncated or was altered: delete it to start this stage afresh")
        state = load(self.path.read_bytes())
        self.rows[:] = about["rows"]
        print(f"going on from step {int(state['step'])}", file=sys.stderr)
        return state

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep a state instead of the one before; killed in between, the pair does not match and is told so."""
        import hashlib

        from safetensors.torch import save

        from stages.artifacts import write_bytes, write_json

        content = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
        facts = self.path.with_suffix(".json")
        facts.unlink(missing_ok=True)
        write_bytes(self.path, content)
        # JSON has no NaN: what was not measured at a step is left out.
        rows = [{k: v for k, v in row.items() if v == v} for row in self.rows]
        write_json(facts, {"key": self.key, "sha256": hashlib.sha256(content).hexdigest(), "rows": rows})

    def clear(self) -> None:
        """The training is done."""
        self.path.with_suffix(".json").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
