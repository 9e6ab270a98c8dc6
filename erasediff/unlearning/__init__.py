"""Erasing concepts from a diffusion model: methods, their settings, the loop. This file loads no torch."""

from erasediff.unlearning.methods import METHODS, Method, method_for
from erasediff.unlearning.settings import PAPER_SETTING, Settings, deviations_from_paper

__all__ = ["METHODS", "PAPER_SETTING", "Method", "Settings", "deviations_from_paper", "method_for"]
