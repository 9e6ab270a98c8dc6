"""The forms of Prefect's pages: what somebody fills in, and what one who decides on a promotion is told."""

import json
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from ruamel.yaml import YAML

from erasediff.registry.promotion import Standing
from erasediff.registry.versions import Version
from flows.jobs.promotion import Decision, decided_about

CHECKOUT = Path(__file__).parents[2]


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


@pytest.mark.unit
@pytest.mark.parametrize(
    "deployment", YAML(typ="safe").load(CHECKOUT / "prefect.yaml")["deployments"], ids=lambda d: d["name"]
)
def test_no_form_asks_for_the_type_of_a_field(deployment):
    """A union, and so whatever may be ``null``, is shown as a choice of types before the field itself."""
    schema = parameter_schema(import_object(deployment["entrypoint"]).fn).model_dump_for_openapi()
    assert schema["properties"] and "anyOf" not in json.dumps(schema)
    assert "null" not in json.dumps(schema["properties"])
