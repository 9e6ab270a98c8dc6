"""A word and nothing else, at the defaults, on the embedded model: what is promised, read by its exact judge."""

import importlib.util
import sys
from pathlib import Path

import pytest

WORDS = Path(__file__).parents[1] / "benchmarks" / "words.py"


def benchmark(monkeypatch):
    """The script that measures the tables of docs/benchmarks.md."""
    spec = importlib.util.spec_from_file_location("benchmark_of_words", WORDS)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.unit
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("method", "word"), [("erasediff", "star"), ("erasediff+lora", "star"), ("erasediff", "hatched")]
)
def test_a_word_alone_is_forgotten_in_words_that_were_never_trained_and_nothing_else_is(method, word, monkeypatch):
    words = benchmark(monkeypatch)
    pipeline, seconds = words.erased(method, word, 0, None)
    cell = words.measured(pipeline, word, 0, method, None, seconds)
    assert cell.unlearning_trained >= 0.97 and cell.unlearning_other >= 0.93 and cell.unlearning_word >= 0.93, cell
    assert cell.same_domain >= cell.base_same_domain - 0.02 and cell.other_domain >= cell.base_other_domain - 0.02, cell
    assert cell.replaced_right >= cell.base_other_domain - 0.02, cell
    assert cell.neighbour_loss <= 0.05 and cell.distance <= 1.2, cell
