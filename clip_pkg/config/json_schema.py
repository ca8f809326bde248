"""JSON Schema of the config file, for editors: what it accepts, the loader accepts."""

from __future__ import annotations

import copy
from typing import Any

from clip_pkg.config.aux_losses import aux_classes
from clip_pkg.config.keys import config_keys
from clip_pkg.config.schema_nodes import Node

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def config_list_schema() -> dict[str, Any]:
    """Describe the list of configs, flat keys and `sweep` included, as JSON Schema 2020-12.

    Rules over several keys (an `img_size` that fits the encoder, different folders) and the names
    of encoders are left to the loader.
    """
    properties: dict[str, Any] = {}
    for key in config_keys():
        node = _plain(key.node)
        if key.default != "":
            node["default"] = copy.deepcopy(key.default)
        properties[key.key] = node
    aux = properties["aux_losses"]
    aux["items"] = {"anyOf": [aux["items"], {"enum": list(aux_classes())}]}
    config = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**properties, "sweep": {"$ref": "#/$defs/sweep"}},
    }
    sweep = {
        "type": "object",
        "description": "Lists of values by key; stands for one config per combination.",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            key: {
                "type": "array",
                "items": {"$ref": f"#/$defs/config/properties/{key}"},
                "minItems": 1,
                "uniqueItems": True,
            }
            for key in properties
            if key != "name"
        },
    }
    return {
        "$schema": DRAFT,
        "title": "Training configs",
        "description": "A list of configs, or a single one. Comments and trailing commas are fine.",
        "anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/config"}, "minItems": 1},
            {"$ref": "#/$defs/config"},
        ],
        "$defs": {"config": config, "sweep": sweep},
    }


def _plain(node: Node) -> Node:
    """Drop what only OpenAPI knows, and require the `type` that tells loss blocks apart."""
    plain: Node = {}
    for key, value in node.items():
        if key == "discriminator":
            continue
        if isinstance(value, dict) and key != "default":
            plain[key] = _plain(value)
        elif isinstance(value, list):
            plain[key] = [_plain(item) if isinstance(item, dict) else item for item in value]
        else:
            plain[key] = copy.deepcopy(value)
    if "discriminator" in node:
        tag = node["discriminator"]["propertyName"]
        for member in plain["oneOf"]:
            member["required"] = [*member.get("required", []), tag]
    return plain
