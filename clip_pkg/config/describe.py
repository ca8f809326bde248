"""Every config key described: the table in the docs, the JSON Schema for editors."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from clip_pkg.config.jsonc import show
from clip_pkg.config.legacy import DIALECTS, AuxWeights, PretrainLoss
from clip_pkg.config.losses import aux_classes
from clip_pkg.config.schema import RunConfig
from clip_pkg.config.schema_nodes import Node, describe, model_schema, options

Kind: TypeAlias = Literal["boolean", "integer", "number", "string", "object", "array"]

# Each section of the schema begins with this key.
SECTIONS: Mapping[str, str] = {
    "name": "Name and model",
    "img_size": "Images",
    "class_texts_file": "Class texts",
    "batch_size": "Optimisation",
    "pretrain": "Before the folds",
    "use_weighted_sampling": "Imbalance",
    "use_cv": "Folds and choice of the epoch",
}
FLAT_SECTION = "Flat spellings of losses"


@dataclass(frozen=True)
class ConfigKey:
    """One key that a config may have.

    node: its JSON Schema, references resolved.
    default: value, as JSON, when the key is left out.
    flat: whether only the dialects know it.
    """

    key: str
    section: str
    node: Node
    default: Any
    flat: bool

    @property
    def description(self) -> str:
        """What the key means."""
        return str(self.node.get("description", ""))

    @property
    def kinds(self) -> frozenset[Kind]:
        """Types of JSON value that it takes, null aside."""
        return frozenset(
            "object" if "properties" in option else option["type"]
            for option in options(self.node)
            if option.get("type") != "null"
        )

    @property
    def has_choices(self) -> bool:
        """Whether only listed values are allowed."""
        return any("enum" in option for option in options(self.node))

    @property
    def nullable(self) -> bool:
        """Whether null is allowed."""
        return any(option.get("type") == "null" for option in options(self.node))


@cache
def config_keys() -> tuple[ConfigKey, ...]:
    """Every key of a config in the schema's order, then the flat ones; without `sweep`."""
    keys = []
    section = ""
    for key, node in model_schema(RunConfig)["properties"].items():
        section = SECTIONS.get(key, section)
        keys.append(ConfigKey(key, section, node, _default(RunConfig, key), flat=False))
    flat_models: tuple[type[BaseModel], ...] = (*DIALECTS, AuxWeights, PretrainLoss)
    for model in flat_models:
        for key, node in model_schema(model)["properties"].items():
            keys.append(ConfigKey(key, FLAT_SECTION, node, _default(model, key), flat=True))
    return tuple(keys)


@cache
def key_names() -> tuple[str, ...]:
    """Names of all keys, `sweep` included."""
    return (*(key.key for key in config_keys()), "sweep")


def _default(model: type[BaseModel], key: str) -> Any:
    return to_jsonable_python(model.model_fields[key].get_default(call_default_factory=True))


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


def config_table_markdown() -> str:
    """Write a table of key, default, values and meaning; blocks of a loss below their key."""
    rows = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key in config_keys():
        rows.append(_row(f"`{key.key}`", key.default, key.node))
        rows += _block_rows(key.key, key.node)
    rows.append(
        "| `sweep` | | an object of key and list | One config per combination of the listed "
        'values, as in `{"learning_rate": [1e-4, 1e-3]}`; each gets a name of its own. |'
    )
    return "\n".join(rows) + "\n"


def _block_rows(name: str, node: Node) -> Iterator[str]:
    """Write one row per parameter of the blocks that a key can hold."""
    if "items" in node:
        yield from _block_rows(f"{name}[]", node["items"])
    tag = node.get("discriminator", {}).get("propertyName")
    # Blocks that share a parameter to the letter share a row.
    kinds: dict[tuple[str, str], list[str]] = {}
    inner_nodes: dict[tuple[str, str], Node] = {}
    for block in options(node):
        properties: Mapping[str, Node] = block.get("properties", {})
        for key, inner in properties.items():
            if key != tag:
                same = (key, json.dumps(inner, sort_keys=True))
                kinds.setdefault(same, []).append(properties[tag]["const"] if tag else "")
                inner_nodes[same] = inner
    for same, of_kinds in kinds.items():
        inside, inner = f"{name}.{same[0]}", inner_nodes[same]
        listed = ", ".join(f"`{kind}`" for kind in of_kinds if kind)
        title = f"`{inside}`" + (f" ({listed})" if listed else "")
        yield _row(title, inner.get("default"), inner)
        yield from _block_rows(inside, inner)


def _row(title: str, default: Any, node: Node) -> str:
    cells = [
        title,
        "" if default == "" else f"`{show(default, 200)}`",
        describe(node),
        str(node.get("description", "")),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
