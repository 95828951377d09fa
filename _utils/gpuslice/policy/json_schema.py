"""
The pillar's table in the terms of JSON Schema.
"""

from gpuslice.policy import document
from gpuslice.policy import fields


def json_schema():
    """
    The pillar's schema in JSON Schema's terms (draft 2020-12), for editors and for tests of pillar files.

    :return: a dict that can be printed as JSON. It says no more than the table can: contradictions between keys and what a host
        has are found by :func:`gpuslice.policy.parse` and :func:`gpuslice.policy.targets`.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "GPU slicing pillar",
        "description": "The four pillar keys of GPU slicing. Other pillar keys are allowed beside them.",
        "type": "object",
        "properties": {name: _json(each) for name, each in document.top().items()},
        # A key that looks like one of ours but is none is a spelling mistake.
        "propertyNames": {"if": {"pattern": "^containers?_gpu"}, "then": {"enum": list(document.top())}},
    }


def _json(each):
    made = _SHAPES[each.kind](each)
    if each.doc:
        made["description"] = each.doc
    if each.default is not None and each.kind not in ("map", "options", "numbered", "named"):
        made["default"] = each.default
    return made


def _json_map(each):
    properties = {name: _json(sub) for name, sub in each.fields.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _json_rules(each):
    rule = _json(each.item)
    rule["required"] = ["match"]
    return {"type": "array", "items": rule}


def _json_text(pattern):
    return {"type": "string", "pattern": pattern} if pattern else {"type": "string"}


_SHAPES = {
    "map": _json_map,
    "options": _json_map,
    "match": lambda each: {**_json_map(each), "minProperties": 1},
    "list": lambda each: {"type": "array", "items": _json(each.item)},
    "numbered": lambda each: {
        "type": "object",
        "propertyNames": {"pattern": "^[1-9][0-9]*$"},
        "additionalProperties": _json(each.item),
    },
    "named": lambda each: {
        "type": "object",
        "propertyNames": {"pattern": f"^{each.pattern}$"},
        "additionalProperties": _json(each.item),
    },
    "rules": _json_rules,
    "boards": lambda each: {
        "anyOf": [_json_text(fields.BOARD), {"type": "array", "items": _json_text(fields.BOARD), "minItems": 1}]
    },
    "own": lambda each: each.schema(),
    "counts": lambda each: {
        "type": "object",
        "propertyNames": {"minLength": 1},
        "additionalProperties": {"type": "integer", "minimum": each.low, "maximum": each.high},
    },
    "uuid": lambda each: _json_text(fields.UUID),
    "glob": lambda each: {"type": "string", "minLength": 1},
    "bool": lambda each: {"type": "boolean"},
    "int": lambda each: {"type": "integer", "minimum": each.low, "maximum": each.high},
    "text": lambda each: _json_text(""),
    "secret": lambda each: {**_json_text(fields.TOKEN), "writeOnly": True},
    "server": lambda each: _json_text(fields.SERVER),
    "choice": lambda each: {"enum": list(each.choices)},
    "mode": lambda each: {"enum": [*each.choices, *((True, False) if fields.ON in each.choices else ())]},
    "pattern": lambda each: _json_text(each.pattern),
    "address": lambda each: _json_text(f"^$|{fields.ADDRESS}" if each.default == "" else fields.ADDRESS),
    "device": lambda each: {"anyOf": [_json_text(fields.ADDRESS), _json_text(fields.UUID)]},
}
