"""What is drawn for a table of words, and what is kept beside it."""

import pytest
from accelerate import Accelerator
from tiny_stable_diffusion import tiny_stable_diffusion

from erasediff.data.wordings import general_prompts, prompts_of
from erasediff.families import family_of
from erasediff.unlearning import METHODS, method_for
from erasediff.unlearning.table_sets import EXAMPLES, counts_to_draw, kept_beside

PROMPTS = {"star": [f"star {i}" for i in range(3)], "moon": [f"moon {i}" for i in range(40)], "": ["a street"]}


@pytest.mark.unit
def test_as_many_pictures_are_drawn_as_are_read_and_a_few_where_none_is():
    both = counts_to_draw(PROMPTS, 50, ["star", "moon"], {"forget", "retain"})
    assert both == {"star": 50, "moon": 50, "": 100}
    retained = counts_to_draw(PROMPTS, 50, ["star", "moon"], {"retain"})
    assert retained == {"star": EXAMPLES, "moon": 40, "": 100}  # every prompt of what is forgotten is there
    assert counts_to_draw(PROMPTS, 50, ["star"], set()) == {"star": EXAMPLES, "moon": 40, "": 2 * EXAMPLES}
    assert counts_to_draw(PROMPTS, 8, ["star"], set())["star"] == 8


@pytest.mark.unit
def test_the_default_method_reads_no_picture_of_what_is_forgotten_and_closed_forms_read_none():
    assert method_for("erasediff").reads() == {"retain"}
    assert method_for("erasediff", forget_source="forget").reads() == {"forget", "retain"}
    assert {name for name in METHODS if method_for(name).reads() == set()} == {"uce", "speed"}


@pytest.mark.unit
def test_words_are_kept_beside_a_table_as_erase_keeps_them():
    family = family_of(tiny_stable_diffusion())
    found = kept_beside(family, ["star"], ["Square", "circle"], 16, Accelerator(), {"square"})
    assert list(found) == ["circle", ""]  # a word of the table is asked for by the table
    assert found["circle"][:8] == prompts_of("circle")[:8]
    assert len(found["circle"]) == 16 and any(" in " in prompt for prompt in found["circle"])  # with companions
    assert len(found[""]) == 32 and set(found[""]) <= set(general_prompts())


@pytest.mark.unit
def test_the_nearest_words_are_kept_but_none_of_the_table():
    family = family_of(tiny_stable_diffusion())
    found = kept_beside(family, ["star"], "nearest", 4, Accelerator(), {"star"})
    words = [word for word in found if word]
    assert words and "star" not in words and all(len(found[word]) == 4 for word in words)
    again = kept_beside(family, ["star"], "nearest", 4, Accelerator(), {"star", words[0]})
    assert words[0] not in again and set(words[1:]) <= set(again)
