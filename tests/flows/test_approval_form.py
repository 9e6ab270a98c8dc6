"""What somebody who decides on a promotion is told."""

import pytest

from erasediff.registry.promotion import Standing
from erasediff.registry.versions import Version
from flows.jobs.promotion import Decision, decided_about


def version(erasures):
    return Version("m", "1", {"erasures": erasures}, "", "")


@pytest.mark.unit
def test_the_form_says_what_is_decided():
    told = decided_about(version('["8"]'), Standing("2", "2", ("3", "8")))
    assert told.splitlines() == [
        "- Version 1 has forgotten: **8**",
        "- The champion, version 2, has forgotten: **3, 8**",
        "- **Approving lets this be drawn again: 3**",
    ]
    assert "Nothing that the champion has forgotten" in decided_about(version('["3", "8"]'), Standing("2", "2", ("8",)))
    assert "version 2 (withdrawn or deleted), has" in decided_about(version("[]"), Standing("", "2", ("8",)))
    assert "The champion" not in decided_about(version("[]"), Standing("", "", ()))


@pytest.mark.unit
def test_whoever_leaves_the_switch_alone_refuses():
    assert Decision(by="ann", why="no").approve is False
