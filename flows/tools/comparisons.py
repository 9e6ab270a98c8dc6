"""Files of ``comparisons/``."""

from __future__ import annotations

from pathlib import Path

from erasediff.comparison.plan import Comparison, comparison_of
from stages.yaml_files import read_yaml


def read_comparison(file: Path) -> Comparison:
    """Read what is to be compared.

    Raises: ParamsError: no such file, no YAML, an unknown or a missing key, or a gold standard that is no variant.
    """
    return comparison_of(file, read_yaml(file))
