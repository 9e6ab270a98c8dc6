"""Erasing concepts from a diffusion model. Loads no torch until something is erased."""

from erasediff.unlearning.erasing import Erased, erase
from erasediff.unlearning.settings import METHODS, PAPER_SETTING, Settings, planned, settings_for

__all__ = ["METHODS", "PAPER_SETTING", "Erased", "Settings", "erase", "planned", "settings_for"]
