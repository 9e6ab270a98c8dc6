"""A request to forget: what differs from ``params.yaml``, and which model is erased from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from erasediff.checkout import is_changed
from erasediff.errors import ParamsError, did_you_mean, shown
from erasediff.git import git
from erasediff.ranges import RANGES
from erasediff.registry.versions import version_of
from flows.tools.results import model_name
from stages import layout
from stages.params import PARAMS_FILE, Method, changed_params
from stages.presets import PRESETS, preset

#: What is erased from.
BASES = "^(params|champion|[1-9][0-9]*)$"


def _base(given: object) -> str:
    """A version's number may come as one from JSON. It is text, so that a form has one field for all three."""
    text = str(given)
    if type(given) in (int, str) and re.fullmatch(BASES, text):
        return text
    hint = did_you_mean(text, ["params", "champion"])
    raise PydanticCustomError("base", "give params, champion or the number of a version{hint}", {"hint": hint})


Base: TypeAlias = Annotated[str, BeforeValidator(_base), Field(json_schema_extra={"pattern": BASES})]
#: With their bounds in the type: a form shows them.
Eta: TypeAlias = Annotated[float, Field(gt=RANGES["eta"].gt)]
Seed: TypeAlias = Annotated[int, Field(ge=RANGES["seed"].ge, lt=RANGES["seed"].lt)]

#: Of a field that may be left empty. A form does not learn of it: it would ask for the type before the value.
NotGiven: TypeAlias = SkipJsonSchema[None]


def _left_empty(description: str) -> Any:
    """A field without a value; nor has the form a default for it, which would be none of the field's type."""

    def without_default(schema: dict[str, Any]) -> None:
        del schema["default"]

    return Field(default=None, description=description, json_schema_extra=without_default)


class EraseRequest(BaseModel):
    """What to forget, and how. What is left empty is as in params.yaml of the commit."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    concepts: list[str] = Field(default=[], description="What to forget, such as 8")
    base: Base = Field(
        default="params",
        description="The model to erase from: params (as in params.yaml), champion (what it has forgotten stays "
        "forgotten), or the number of a version",
    )
    method: Method | NotGiven = _left_empty("How to forget; README says what they are")
    eta: Eta | NotGiven = _left_empty("Required rate at which the forget loss shrinks")
    seed: Seed | NotGiven = _left_empty("Seed of training and drawing")
    model_name: str = Field(default="", description="Registered model that gets the version")
    preset: str = Field(default="", description="A file of presets/, without .yaml: it goes before params.yaml")
    settings: dict[str, object] = Field(
        default={}, description='Other entries of params.yaml by their full name, such as {"erase.outer_steps": 300}'
    )
    commit: str = Field(default="HEAD", description="Commit, branch or tag of the checkout to run")

    @model_serializer(mode="wrap")
    def _given(self, everything: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what has no value, in a form's defaults too."""
        return {name: value for name, value in everything(self).items() if value is not None}

    def asked(self) -> dict[str, object]:
        """Return the entries of params.yaml that the request itself names."""
        named = {
            "forget_set.concepts": self.concepts or None,
            "erase.method": self.method,
            "erase.eta": self.eta,
            "seed": self.seed,
            "register.model_name": self.model_name or None,
        }
        return {**self.settings, **{key: value for key, value in named.items() if value is not None}}

    def changes(self) -> dict[str, object]:
        """Return the entries that differ from params.yaml of this folder; ``base`` is a version's number by now.

        Raises: ParamsError: no such preset. ModelError: no such version, or no champion. TrackingError.
        """
        asked = {**(preset(self.preset) if self.preset else {}), **self.asked()}
        if self.base == "params":
            return asked
        found = version_of(str(asked.get("register.model_name") or model_name(None)), self.base)
        base = {"pretrain.source": "registry", "pretrain.repo": found.name, "pretrain.revision": found.version}
        return {**asked, **base}

    @property
    def label(self) -> str:
        """Name a run after what is asked for."""
        asked = self.asked()
        concepts = asked.pop("forget_set.concepts", None)
        what = ", ".join(map(str, concepts)) if isinstance(concepts, list) else self.preset or "as in params.yaml"
        start = "" if self.base == "params" else f" from {'version ' * self.base.isdigit()}{self.base}"
        return f"forget {what}{start}{''.join(f', {key} {value}' for key, value in asked.items())}"[:80]


#: What is in params.yaml, and nothing else.
AS_IT_IS = EraseRequest()


def request_of(settings: Iterable[str] = (), **given: Any) -> EraseRequest:
    """Return what a command line asks for, once it is known that params.yaml takes it.

    Args:
        settings: such as ``erase.outer_steps=300``; the values are read as YAML.
        given: fields of :class:`EraseRequest`.

    Raises: ParamsError: every mistake; or a file of the checkout has changes that the run, which works on the commit,
        would not see. UnknownConcept; ModelError, TrackingError.
    """
    try:
        request = EraseRequest(settings=dict(map(_setting, settings)), **given)
    except ValidationError as error:
        told = "; ".join(
            f"--{'.'.join(map(str, item['loc']))} {shown(repr(item['input']))}: {item['msg']}"
            for item in error.errors()
        )
        raise ParamsError(told) from None
    if request == AS_IT_IS:
        return request
    changed_params(request.changes(), PARAMS_FILE)[0].require_known_concepts()
    if request.preset and is_changed(file := PRESETS / f"{request.preset}.yaml"):
        raise ParamsError(f"{file} is not committed as it is, and a request is run on the commit: commit it")
    changed = git("diff", "--name-only", "HEAD", "--", ":/", f":(exclude){layout.DVC_LOCK}").stdout.split("\n")
    if any(changed):
        raise ParamsError(
            f"{changed[0]} has uncommitted changes, and what is asked for on the command line is run on the commit: "
            "commit them, or leave the options out"
        )
    return request


def _setting(given: str) -> tuple[str, object]:
    """Raises: ParamsError: it is no ``SECTION.KEY=VALUE``."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, value = given.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError):
        raise ParamsError(f"--set {given[:100]!r}: give SECTION.KEY=VALUE, such as erase.outer_steps=300") from None
