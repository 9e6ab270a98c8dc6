"""Every path that one stage, or a flow, leaves and another reads; relative to the folder it runs in."""

from __future__ import annotations

from pathlib import Path

from erasediff import loading, records

DVC_LOCK = Path("dvc.lock")

CURATED = Path("data/curated")
TABLE = CURATED / "samples.parquet"
CURATED_REPORTS = Path("reports/validation")

BASE = Path("models/base")
#: What the base had forgotten before it came here: concepts, and starts of sample ids.
ERASURES = BASE / loading.ERASURES
#: Where a base that was not trained here was taken from.
ORIGIN = BASE / records.ORIGIN
PRETRAIN_TRACE = Path("plots/pretrain.csv")

CLASSIFIER = Path("models/classifier")
#: Pictures that the base drew for a judge's test, where it learned from the base: what distances are measured to.
HELD_OUT = CLASSIFIER / "held_out.parquet"
CLASSIFIER_METRICS = Path("metrics/classifier.json")

#: Inception-v3 as TorchScript, for FID, where somebody put it there.
INCEPTION = Path("models/inception")
#: What judges read in held-out pictures, by content: no result, and read again by the next evaluation.
FEATURES = Path(".work/features")

SETS = Path("data/forget_set")
FORGET_TABLE, RETAIN_TABLE = SETS / "forget.parquet", SETS / "retain.parquet"
SETS_REPORTS = Path("reports/forget_set")

ERASED = Path("models/erased")
#: Where the erased model is a LoRA alone: the base that it goes with.
LORA_BASE = ERASED / records.LORA_BASE
ERASE_METRICS = Path("metrics/erase.json")
ERASE_TRACE = Path("plots/erase.csv")

EVALUATION, HEADLINE = Path("metrics/evaluation.json"), Path("metrics/headline.json")
BEFORE_AFTER = Path("plots/before_after.png")
RECOGNISED, ATTACKS = Path("plots/recognised.csv"), Path("plots/attacks.csv")
REPORT = Path("reports/report.html")
#: The same, with the version that was registered.
VERSION_REPORT = Path("reports/version/report.html")

RUNS = Path("runs")
REGISTERED = RUNS / "register.json"

RECHECK = Path("metrics/recheck.json")
RECHECK_SAMPLES = Path("plots/samples_recheck.png")

#: Latents of pictures and embeddings of prompts, by content: no result, and read again by the next training on them.
LATENTS = Path(".work/latents")

#: What is compared where nothing else is named.
COMPARISON = Path("comparisons/methods.yaml")
COMPARISON_CELLS, COMPARISON_PAGE = Path("reports/comparison.json"), Path("reports/comparison.html")
COMPARISON_PLOT, COMPARISON_TABLE = Path("reports/pareto.png"), Path("reports/comparison.csv")


def summary(folder: Path) -> Path:
    """What a folder of tables holds, in short."""
    return folder / "summary.json"


def model(which: str) -> Path:
    """The folder of the ``base`` or the ``erased`` model."""
    return {"base": BASE, "erased": ERASED}[which]


def metrics(which: str) -> Path:
    """Numbers of the ``base`` or the ``erased`` model."""
    return Path(f"metrics/{which}.json")


def readings(which: str) -> Path:
    """Readings of single pictures and resamples, in which the ``base`` and the ``erased`` model are paired."""
    return Path(f"metrics/{which}_readings.safetensors")


def samples(which: str) -> Path:
    """Pictures drawn by the ``base`` or the ``erased`` model."""
    return Path(f"plots/samples_{which}.png")


def drawn(stage: str) -> Path:
    """Batches that a stage drew, until it is done: what was killed goes on with them.

    They lie among the checkpoints, which outlive a deployed run's worktree.
    """
    return Path(f".work/checkpoints/drawn-{stage}")


def run_record(stage: str) -> Path:
    """A stage's MLflow run, which tells that of a cached result."""
    return RUNS / f"{stage}.json"
