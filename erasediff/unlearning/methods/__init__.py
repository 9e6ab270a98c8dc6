"""The methods by name; a new one is a class and its mention in the table. Loads no torch: params are checked by it."""

from __future__ import annotations

from typing import Any

from erasediff.errors import did_you_mean
from erasediff.unlearning.methods.composed import EraseDiff, Esd, Finetune, GradDiff, Munba, NegGrad, Retrain, SalUn
from erasediff.unlearning.methods.method import Method
from erasediff.unlearning.methods.selective_amnesia import SelectiveAmnesia
from erasediff.unlearning.methods.sfr_on import SfrOn
from erasediff.unlearning.methods.siss import Siss
from erasediff.unlearning.methods.speed import Speed
from erasediff.unlearning.methods.uce import Uce

__all__ = ["METHODS", "Method", "method_for"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        EraseDiff,
        GradDiff,
        Finetune,
        NegGrad,
        SalUn,
        Munba,
        SfrOn,
        Esd,
        SelectiveAmnesia,
        Siss,
        Uce,
        Speed,
        Retrain,
    )
}


def method_for(name: str, **settings: Any) -> Method:
    """Return a method with its settings, fields of :class:`erasediff.unlearning.settings.Settings`.

    Raises: ValueError: unknown method; or as :meth:`Method.from_settings`.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are: {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
    return METHODS[name].from_settings(settings)
