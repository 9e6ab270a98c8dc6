"""Verdict: both models side by side, gates, the report. A failed gate is a result, not an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Verdict


def main(run: StageRun, verdict: Verdict) -> None:
    """params.yaml, ``metrics/``, ``plots/`` → ``metrics/evaluation.json``, ``headline.json``, report, one picture."""
    from erasediff.artifacts import read_json, write_bytes, write_json
    from erasediff.evaluation.attack_table import ATTACK_HEAD, attack_rows, attacks_csv, curve_points
    from erasediff.evaluation.charts import charts_of
    from erasediff.evaluation.gates import evaluation_of, headline, read_readings
    from erasediff.evaluation.pictures import in_order, side_by_side
    from erasediff.evaluation.report import report_html
    from erasediff.evaluation.table import (
        CONCEPT_HEAD,
        HEAD,
        concept_rows,
        concepts_by_harm,
        recognised_csv,
        table_rows,
    )
    from erasediff.records import EffectiveSettings, ForgetSummary, Measured
    from stages import layout

    base, erased = Measured.read(layout.metrics("base")), Measured.read(layout.metrics("erased"))
    readings = read_readings(layout.readings("base")), read_readings(layout.readings("erased"))
    judge = read_json(layout.CLASSIFIER_METRICS)
    evaluation = evaluation_of(base, erased, judge, verdict.model_dump(), readings)
    write_json(layout.EVALUATION, evaluation.to_json())
    write_json(layout.HEADLINE, headline(evaluation))
    write_bytes(layout.RECOGNISED, recognised_csv(evaluation).encode())
    write_bytes(layout.ATTACKS, attacks_csv(evaluation.attacks).encode())
    sets, ran = ForgetSummary.read(layout.summary(layout.SETS)), EffectiveSettings.read(layout.ERASE_METRICS)
    order = list(concepts_by_harm(evaluation, [*sets.erasures.concepts, *sets.erasures.earlier]))
    grids = {which: in_order(layout.samples(which).read_bytes(), order) for which in ("base", "erased")}
    pictures = {f"drawn by the {which} model": grid for which, grid in grids.items()}
    write_bytes(layout.BEFORE_AFTER, side_by_side(*pictures.values()))
    report = report_html(evaluation, sets, ran, pictures, charts_of(layout.ERASE_TRACE, ran))
    write_bytes(layout.REPORT, report.encode())
    gates = {f"gate.{name}": gate.value for name, gate in evaluation.gates.items() if gate.value is not None}
    run.log_metrics(gates | {"passed": float(evaluation.passed)})
    run.log_table("numbers.json", HEAD, table_rows(evaluation, each_concept=False, words=True))
    run.log_table("recognised.json", CONCEPT_HEAD, concept_rows(evaluation, sets.erasures.concepts))
    run.log_table("attacks.json", ATTACK_HEAD, attack_rows(evaluation.attacks))
    for step, found in curve_points(evaluation.attacks).items():
        run.log_metrics(found, step)
    for path in (layout.EVALUATION, layout.BEFORE_AFTER, layout.REPORT):
        run.log_artifact(path)
    unchecked = "" if evaluation.self_checks else " (no planted model was measured)"
    print(f"gates {evaluation.outcome}{unchecked}; report: {layout.REPORT}")


if __name__ == "__main__":
    run_door("verdict", main, __doc__)
