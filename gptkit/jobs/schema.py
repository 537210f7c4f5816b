"""The JSON Schema of a job file, for editors: keys, what they mean, and what plugins there are.

It is the settings' own, made by pydantic, with names and parameters of the installed plugins put
in where the settings take any name. It refuses nothing that a job may say: names of plugins that
are not installed here are legal, and so is `dist/name`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptkit.decoding.request import LIMITS
from gptkit.jobs.spec import JobSettings
from gptkit.plugin_api import OFF
from gptkit.text.template import TemplateSettings
from gptkit.text.turns import ChatTemplateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from gptkit.plugin_api import Param
    from gptkit.plugin_host import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"
_STAGE, _TEMPLATE = {"$ref": "#/$defs/Stage"}, {"$ref": "#/$defs/Template"}


def schema(registry: Registry) -> dict[str, Any]:
    """Return the JSON Schema of a job file, draft 2020-12."""
    made = _of(JobSettings)
    defs = made.setdefault("$defs", {})
    for cls in (TemplateSettings, ChatTemplateSettings):
        inner = _of(cls)
        defs |= inner.pop("$defs", {})
        defs[cls.__name__] = inner
    defs["Template"] = _template(registry)
    defs["Stage"] = _choice(registry, "sampler", "a stage of a chain: a name, or name and values")
    defs["Drafter"] = _choice(registry, "drafter", "a drafter: a name, or a name and its values")
    defs["Strategy"] = _choice(registry, "strategy", "a strategy: a name, or a name and its values")
    sampling, axes = defs["SamplingSettings"]["properties"], defs["MatrixSettings"]["properties"]
    chain = {"type": "array", "items": _STAGE}
    sampling["chain"]["anyOf"] = [chain, {"type": "null"}]
    for key, name in (("speculate", "Drafter"), ("strategy", "Strategy")):
        sampling[key]["anyOf"] = [{"$ref": _REF.format(model=name)}, {"type": "null"}]
    names = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    for axis, value in (
        ("model", {"type": "string"}),
        ("sampler", {"anyOf": [{"type": "string"}, chain]}),
        ("template", _TEMPLATE),
    ):
        mapping = {"type": "object", "additionalProperties": value, "minProperties": 1}
        axes[axis]["anyOf"] = [names, mapping, {"type": "null"}]
    axes["seed"]["anyOf"][0]["minItems"] = 1
    made["properties"]["template"]["anyOf"] = [_TEMPLATE, {"type": "null"}]
    made["properties"]["stop"] |= {"properties": _stops(registry)}
    return {"$schema": DIALECT, **made, "title": "A gptkit job"}


def _of(cls: type[BaseModel]) -> dict[str, Any]:
    return cls.model_json_schema(mode="validation")


def _template(registry: Registry) -> dict[str, Any]:
    return {
        "description": "a name, or a few-shot or a chat template",
        "anyOf": [
            {"type": "string", "examples": registry.names("template")},
            *(_def(cls) for cls in (TemplateSettings, ChatTemplateSettings)),
        ],
    }


def _def(cls: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=cls.__name__)}


def _choice(registry: Registry, kind: Any, description: str) -> dict[str, Any]:
    """Return what chooses a plugin: its name alone, or one name with a value or parameters."""
    offers = registry.offers(kind)
    return {
        "description": description,
        "anyOf": [
            {"type": "string", "examples": sorted({offer.name for offer in offers})},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {
                    offer.name: _values(offer.value.params, offer.summary) for offer in offers
                },
            },
        ],
    }


def _stops(registry: Registry) -> dict[str, Any]:
    limits = {key: _limit(declared) for key, declared in LIMITS.items()}
    offers = registry.offers("stopping")
    return limits | {offer.name: _values(offer.value.params, offer.summary) for offer in offers}


def _limit(declared: Param) -> dict[str, Any]:
    return {"description": declared.help, "anyOf": _value(declared)}


def _values(params: Mapping[str, Param], summary: str) -> dict[str, Any]:
    """Return what may stand behind a plugin's name: nothing, its first value, or a mapping."""
    named = {
        "type": "object",
        "properties": {
            key: {"description": declared.help, "anyOf": _value(declared)}
            for key, declared in params.items()
        },
    }
    first = [one for declared in [*params.values()][:1] for one in _value(declared)]
    return {"description": summary, "anyOf": [*first, named, {"type": "null"}]}


def _value(declared: Param) -> list[dict[str, Any]]:
    """Return the forms that a parameter takes in YAML."""
    forms = [{"const": OFF}] if declared.off is not None else []
    bounds = {
        "minimum": declared.ge,
        "exclusiveMinimum": declared.gt,
        "maximum": declared.le,
        "exclusiveMaximum": declared.lt,
    }
    in_range = {key: bound for key, bound in bounds.items() if bound is not None}
    if declared.kind is bool:
        return [*forms, {"type": "boolean"}, {"type": "null"}]
    if declared.kind is int:
        return [*forms, {"type": "integer", **in_range}]
    if declared.kind is float:
        return [*forms, {"type": "number", **in_range}]
    if declared.kind is dict:
        return [*forms, {"type": "object", "additionalProperties": {"type": "number", **in_range}}]
    if declared.items is not None:
        item = {"type": "integer", "minimum": 0} if declared.items is int else {"type": "string"}
        return [*forms, {"type": "array", "items": item}, item]
    choices = {"enum": list(declared.choices)} if declared.choices else {}
    return [*forms, {"type": "string", **choices}]
