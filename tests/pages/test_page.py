import re

import pytest

from erasediff.pages import Section, Table, Verdict, page


@pytest.mark.unit
def test_every_text_of_a_page_is_escaped_and_nothing_is_loaded_from_elsewhere():
    evil = "<script>'\"&"
    text = page(
        evil,
        [Section(evil, evil, Table([[evil]], [evil]), {evil: b"\x89PNG"}), Section(table=Table([[evil, evil]]))],
        Verdict(False, evil, [evil]),
    )
    assert "<script" not in text and text.count("&lt;script&gt;") == 13
    assert re.findall(r'(?:src|href)="([^"]*)"|url\(|@import', text) == ["data:image/png;base64,iVBORw=="]


@pytest.mark.unit
def test_an_empty_table_says_so():
    assert "<p>none</p>" in page("t", [Section("Nothing", table=Table([]))])


@pytest.mark.unit
def test_a_verdict_has_the_colour_of_what_it_says():
    for passed, name in ((True, "verdict passed"), (False, "verdict failed")):
        assert f'class="{name}"' in page("t", [], Verdict(passed, "so"))
