"""Verdict: both models side by side, gates, the report. A failed gate is a result, not an error."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door

EVALUATION = Path("metrics/evaluation.json")
REPORT = Path("reports/report.html")


def main() -> None:
    """params.yaml, ``metrics/``, ``plots/`` → ``metrics/evaluation.json``, ``reports/report.html``."""
    from stages.params import load_params

    whole = load_params()
    from stages import tracking
    from stages.artifacts import read_json, write_bytes, write_json
    from stages.evaluation.gates import gates
    from stages.evaluation.report import report_html, trace_png
    from stages.forget_set import FOLDER as SETS

    base, erased = (read_json(Path(f"metrics/{model}.json")) for model in ("base", "erased"))
    judge = read_json(Path("metrics/classifier.json"))
    with tracking.stage_run("verdict", whole.verdict.model_dump()) as run:
        found = gates(base, erased, **whole.verdict.model_dump())
        evaluation = {
            "base": base,
            "erased": erased,
            "delta": {
                k: erased[k] - base[k]
                for k in base
                if k in erased and not k.startswith("accuracy.") and not k.endswith("_sd")
            },
            "gates": found,
            "passed": all(g["passed"] for g in found.values()),
            "classifier": judge,
        }
        write_json(EVALUATION, evaluation)
        e, s = whole.evaluate, whole.erase
        how = {
            "samples": f"{e.samples_per_concept} a concept × {e.draws} noise draws, the same seeds for both models",
            "sampling": f"{e.inference_steps} steps, guidance scale {e.guidance_scale:g}",
            "base model": f"{base['recognised']:.3f} of its pictures recognised, all concepts",
            "classifier": f"accuracy {judge['accuracy']:.4f} on {judge['test_samples']} held-out pictures",
            "distance": "Fréchet distance of classifier features, retained concepts, to held-out real pictures",
            "method": f"{s.method}, {s.outer_steps} updates",
        }
        if s.method == "erasediff":
            how["method"] += f", η {s.eta:g}, multiplier {s.multiplier}"
            if (s.forget_source, s.retain_target) != ("forget", "noise"):
                how["deviation from the paper"] = (
                    f"forget source {s.forget_source} (paper: forget), retain target {s.retain_target} (paper: noise); "
                    "the evidence is in stages/PAPERS.md"
                )
        names = {"base": Path("plots/samples_base.png"), "erased": Path("plots/samples_erased.png")}
        pictures = {name: path.read_bytes() for name, path in names.items()}
        pictures["losses, multiplier and gradient cosine over the updates"] = trace_png(Path("plots/erase.csv"))
        forgotten = read_json(SETS / "summary.json")["concepts"]
        write_bytes(REPORT, report_html(evaluation, forgotten, how, pictures).encode())
        run.log_metrics({f"gate.{k}": g["value"] for k, g in found.items()} | {"passed": float(evaluation["passed"])})
        run.log_artifact(EVALUATION)
        run.log_artifact(REPORT)
        print(f"gates {'passed' if evaluation['passed'] else 'FAILED'}; report: {REPORT}")


if __name__ == "__main__":
    run_door("verdict", main, __doc__)
