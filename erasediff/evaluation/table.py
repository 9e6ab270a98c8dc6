"""Base and erased side by side, as text."""

from __future__ import annotations

from typing import Any


def table_rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """``(metric, base, erased, gate)`` as text, for the report and the terminal."""
    base, erased = evaluation["base"], evaluation["erased"]
    gates = {
        "unlearning_accuracy": "unlearning_accuracy",
        "earlier_unlearning_accuracy": "earlier_unlearning_accuracy",
        "in_domain_retain_accuracy": "in_domain_retain_accuracy_drop",
    }
    gates["fd_classifier"] = "fd_classifier_ratio"
    rows = []
    for name in base:
        # All concepts, the forgotten too: of the base it is a quality, of the erased model it is none.
        # Seconds of stages that ran side by side with others do not compare.
        if name.endswith("_sd") or name in ("recognised", "seconds") or name not in erased:
            continue
        gate = evaluation["gates"].get(gates.get(name, ""))
        text = ""
        if gate:
            sign = "≥" if gate["direction"] == "min" else "≤"
            what = {"in_domain_retain_accuracy": "drop ", "fd_classifier": "ratio "}.get(name, "")
            text = f"{what}{gate['value']:.3f} {sign} {gate['limit']:g} {'passed' if gate['passed'] else 'FAILED'}"
        cells = (f"{m[name]:.3f}" + (f" ± {m[name + '_sd']:.3f}" if f"{name}_sd" in m else "") for m in (base, erased))
        rows.append((name, *cells, text))
    return rows
