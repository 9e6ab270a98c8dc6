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


@pytest.mark.unit
def test_a_long_name_in_the_head_of_a_column_may_be_broken_as_in_its_cells():
    html = page("x", [Section(table=Table([["a_b"]], ["cross_domain_retain_accuracy.object ↑ %"], numbers=True))])
    assert "<th>cross_<wbr>domain_<wbr>retain_<wbr>accuracy.object ↑ %</th>" in html and "a_<wbr>b" in html
