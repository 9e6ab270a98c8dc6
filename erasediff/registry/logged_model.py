"""A model as MLflow keeps it: its pipeline, the code that serves it, and where a LoRA's base is."""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.artifacts import read_json
from erasediff.records import LORA_BASE, Origin
from erasediff.tracking import server

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

HUB = "hf://"
REQUIREMENTS = ["torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow", "pandas", "mlflow"]
#: Of a LoRA by itself: its base is opened, from wherever it is.
FOR_LORA = ["transformers", "peft", "pydantic-settings", "filelock"]


class WithLora:
    """A flavor beside our own: ``mlflow.diffusers.load_model`` gets the LoRA, and what it goes with.

    Args:
        weights: folder of the LoRA, within the stored model.
    """

    def __init__(self, base: Origin, weights: str):
        self.base, self.weights = base, weights

    def save_model(self, path: str, mlflow_model: Model, **options: Any) -> None:
        """As MLflow's flavors do."""
        import mlflow

        from erasediff.unlearning.adapters import LORA_FILE

        where, _, revision = self.base.where.removeprefix(HUB).partition("@")
        on_hub = self.base.where.startswith(HUB)
        mlflow_model.add_flavor(
            "diffusers",
            base_model=where if on_hub else self.base.where,
            base_sha256=self.base.sha256,
            adapter_type="lora",
            adapter_weights=self.weights,
            weight_name=LORA_FILE,
            diffusers_version=installed("diffusers"),
            **({"base_model_revision": revision} if on_hub and revision else {}),
        )
        mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, **options)


def log_model(name: str, run_id: str, folder: Path, example_concept: str) -> ModelInfo:
    """Log a diffusers folder, or that of a LoRA, to a run.

    It is served by :mod:`erasediff.registry.served_model`, its code beside it.

    Args:
        name: of the registered model.
        example_concept: for the model's input example.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    from erasediff.unlearning.adapters import LORA_FOLDER

    # MLflow draws the example once to see that it can be served: two steps, since it may be a big model on a CPU.
    example = (pd.DataFrame({"concept": [example_concept], "seed": [0]}), {"num_inference_steps": 2})
    quiet = server.mlflow_settings({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})  # of files that are here
    with ExitStack() as opened:
        opened.enter_context(mlflow.start_run(run_id=run_id))
        opened.enter_context(quiet)
        opened.enter_context(_no_bytecode())
        real, code = opened.enter_context(_real_files(folder)), opened.enter_context(_library())
        opened.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # MLflow's own deprecated calls of pandas
        flavor: Any = mlflow.pyfunc
        for lora in (real / LORA_FOLDER, real):
            if (lora / LORA_BASE).exists():
                within = lora.relative_to(real.parent).as_posix()
                flavor = WithLora(Origin.read(lora / LORA_BASE), f"artifacts/{within}")
        return Model.log(
            artifact_path=None,  # its former name of the next
            name=name.replace(".", "-"),  # MLflow takes no dot here
            flavor=flavor,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"pipeline": str(real)},
            code_paths=[str(code)],
            signature=_signature(),
            input_example=example,
            pip_requirements=requirements(folder),
        )


def requirements(folder: Path) -> list[str]:
    """Packages that the served model needs, pinned to what is installed; those of text and LoRA only where used."""
    from erasediff.families.lora import base_file

    index = folder / "model_index.json"
    parts = read_json(index).values() if index.exists() else []
    text = any(isinstance(part, list) and part and part[0] == "transformers" for part in parts)
    more = FOR_LORA if base_file(folder) else ["transformers"] if text else []
    # A CPU build of torch calls itself 2.13.0+cpu, which no index has.
    return [f"{p}=={installed(p).split('+')[0]}" for p in REQUIREMENTS + more]


@contextmanager
def _library() -> Iterator[Path]:
    """A copy of the code that a server runs: without the weights of the examples, several MB that it never opens."""
    with tempfile.TemporaryDirectory() as temporary:
        code, unused = Path(__file__).parents[1], shutil.ignore_patterns("__pycache__", "*.safetensors")
        yield shutil.copytree(code, Path(temporary) / code.name, ignore=unused)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Nothing compiled is written: MLflow imports the model's code from where it has just stored it."""
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = was


def _signature() -> ModelSignature:
    """Outputs and params of the served model.

    No inputs: MLflow would drop columns that it does not know without a word, and refuse a request in which only some
    rows have a seed. The model reads the rows itself (:mod:`erasediff.registry.served_request`).
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from erasediff.registry.served_request import OPTIONS

    return ModelSignature(
        outputs=Schema([ColSpec("string", "concept"), ColSpec("string", "png_base64")]),
        params=ParamSchema([ParamSpec(name, "double", None) for name in OPTIONS]),
    )


@contextmanager
def _real_files(folder: Path) -> Iterator[Path]:
    """The folder, or a copy where its files are links, as DVC's cache may have them: MLflow follows none out of it."""
    if not folder.is_symlink() and not any(path.is_symlink() for path in folder.rglob("*")):
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(shutil.copytree(folder, Path(temporary) / folder.name))
