"""All config keys, from one walk over the models; the JSON Schema and the table in the docs."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic_core import to_jsonable_python

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.jsonc import show
from clip_pkg.config.keys import ConfigKeys, Section
from clip_pkg.config.legacy import FlatKeys
from clip_pkg.config.nodes import Node, allowed, kinds, model_schema, options

Kind: TypeAlias = Literal["boolean", "integer", "number", "string", "object", "array"]

FLAT_SECTION = "Flat spellings of losses"
_TABLE_BEGIN = "<!-- config table: begin -->\n"
_TABLE_END = "<!-- config table: end -->\n"


@dataclass(frozen=True)
class ConfigKey:
    """One key that a config may have.

    node: its JSON Schema, references resolved.
    default: JSON value when the key is left out.
    """

    key: str
    section: str
    node: Node
    default: Any

    @property
    def description(self) -> str:
        """Meaning of the key."""
        return str(self.node.get("description", ""))

    @property
    def kinds(self) -> frozenset[Kind]:
        """Types of JSON value that it accepts, except null."""
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
    """Every key of a config except `sweep`: those of `RunConfig`, then the older spellings."""
    keys = []
    section = ""
    for model in (ConfigKeys, FlatKeys):
        for key, node in model_schema(model)["properties"].items():
            field = model.model_fields[key]
            titles = [mark.title for mark in field.metadata if isinstance(mark, Section)]
            section = titles[0] if titles else section if model is ConfigKeys else FLAT_SECTION
            default = to_jsonable_python(field.get_default(call_default_factory=True))
            keys.append(ConfigKey(key, section, node, default))
    return tuple(keys)


@cache
def key_names() -> tuple[str, ...]:
    """Names of all keys, including `sweep`."""
    return (*(key.key for key in config_keys()), "sweep")


def config_list_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a list of configs, including flat keys and `sweep`.

    Rules over several keys (an `img_size` that fits the encoder, different folders) and the names
    of encoders are checked by the loader only.
    """
    properties: dict[str, Any] = {}
    for key in config_keys():
        node = copy.deepcopy(key.node)
        if key.default != "":
            node["default"] = copy.deepcopy(key.default)
        properties[key.key] = node
    aux = properties["aux_losses"]
    aux["items"] = {"anyOf": [aux["items"], {"enum": list(AUXILIARY_LOSSES)}]}
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
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Training configs",
        "description": "A list of configs, or a single one. Comments and trailing commas are fine.",
        "anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/config"}, "minItems": 1},
            {"$ref": "#/$defs/config"},
        ],
        "$defs": {"config": config, "sweep": sweep},
    }


def config_table_markdown() -> str:
    """Table of key, default, values and meaning; parameters of a block follow the block's key."""
    rows = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key in config_keys():
        rows.append(_row(f"`{key.key}`", key.default, key.node))
        rows += _block_rows(key.key, key.node)
    rows.append(
        "| `sweep` | | an object of key and list | One config per combination of the listed "
        'values, as in `{"learning_rate": [1e-4, 1e-3]}`; each gets a name of its own. |'
    )
    return "\n".join(rows) + "\n"


def with_config_table(page: str) -> str:
    """A documentation page with the table between its two markers written again."""
    before, _, rest = page.partition(_TABLE_BEGIN)
    _, _, after = rest.partition(_TABLE_END)
    return f"{before}{_TABLE_BEGIN}{config_table_markdown()}{_TABLE_END}{after}"


def _block_rows(name: str, node: Node) -> Iterator[str]:
    """One row per parameter of the blocks that a key accepts."""
    if "items" in node:
        yield from _block_rows(f"{name}[]", node["items"])
    # Blocks with the same parameter, described in the same words, share a row.
    rows: dict[tuple[str, str], list[str]] = {}
    for kind, block in kinds(node).items() or (("", option) for option in options(node)):
        for key, inner in block.get("properties", {}).items():
            if not kind or key != "type":
                rows.setdefault((key, json.dumps(inner)), []).append(kind)
    for (key, text), of_kinds in rows.items():
        inside, inner = f"{name}.{key}", json.loads(text)
        listed = ", ".join(f"`{kind}`" for kind in of_kinds if kind)
        title = f"`{inside}`" + (f" ({listed})" if listed else "")
        yield _row(title, inner.get("default"), inner)
        yield from _block_rows(inside, inner)


def _row(title: str, default: Any, node: Node) -> str:
    cells = [
        title,
        "" if default == "" else f"`{show(default, 200)}`",
        allowed(node),
        str(node.get("description", "")),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    docs_page = Path(sys.argv[1])
    docs_page.write_text(with_config_table(docs_page.read_text("utf-8")), "utf-8")
