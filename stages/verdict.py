"""Verdict: both models side by side, gates, the report. A failed gate is a result, not an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Evaluate, Verdict


def main(run: StageRun, evaluate: Evaluate, verdict: Verdict) -> None:
    """params.yaml, ``metrics/``, ``plots/`` → ``metrics/evaluation.json``, ``reports/report.html``."""
    from erasediff.artifacts import read_json, write_bytes, write_json
    from erasediff.evaluation.gates import evaluation_of
    from erasediff.evaluation.pictures import trace_png
    from erasediff.evaluation.report import how_measured, report_html
    from erasediff.records import EffectiveSettings, ForgetSummary, Measured
    from stages import layout

    base, erased = Measured.read(layout.metrics("base")), Measured.read(layout.metrics("erased"))
    evaluation = evaluation_of(base, erased, read_json(layout.CLASSIFIER_METRICS), verdict.model_dump())
    write_json(layout.EVALUATION, evaluation.to_json())
    pictures = {f"drawn by the {which} model": layout.samples(which).read_bytes() for which in ("base", "erased")}
    pictures["losses, multiplier and gradient cosine over the updates"] = trace_png(layout.ERASE_TRACE)
    forgotten = ForgetSummary.read(layout.summary(layout.SETS)).erasures.what
    how = how_measured(evaluation, evaluate.model_dump(), EffectiveSettings.read(layout.ERASE_METRICS))
    write_bytes(layout.REPORT, report_html(evaluation, forgotten, how, pictures).encode())
    gates = {f"gate.{name}": gate.value for name, gate in evaluation.gates.items()}
    run.log_metrics(gates | {"passed": float(evaluation.passed)})
    run.log_artifact(layout.EVALUATION)
    run.log_artifact(layout.REPORT)
    print(f"gates {'passed' if evaluation.passed else 'FAILED'}; report: {layout.REPORT}")


if __name__ == "__main__":
    run_door("verdict", main, __doc__)
