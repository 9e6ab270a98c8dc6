"""Base and erased side by side, as text."""

from __future__ import annotations

from typing import Any


def table_rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """``(metric, base, erased, gate)`` as text, for the report and the terminal."""
    base, erased = evaluation["base"], evaluation["erased"]
    gates = {
        "unlearning_accuracy": "unlearning_accuracy",
        "in_domain_retain_accuracy": "in_domain_retain_accuracy_drop",
    }
    gates["fd_classifier"] = "fd_classifier_ratio"
    rows = []
    for name in base:
        if name.endswith("_sd") or name not in erased:
            continue
        gate = evaluation["gates"].get(gates.get(name, ""))
        text = ""
        if gate:
            sign = "≥" if gate["direction"] == "min" else "≤"
            what = {"in_domain_retain_accuracy": "drop ", "fd_classifier": "ratio "}.get(name, "")
            text = f"{what}{gate['value']:.3f} {sign} {gate['limit']:g} {'passed' if gate['passed'] else 'FAILED'}"
        rows.append((name, *(f"{m[name]:.3f} ± {m.get(name + '_sd', 0):.3f}" for m in (base, erased)), text))
    return rows
