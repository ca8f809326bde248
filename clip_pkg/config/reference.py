"""The table of all keys in Markdown, for the README."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from clip_pkg.config.jsonc import show
from clip_pkg.config.keys import config_keys
from clip_pkg.config.schema_nodes import Node, describe, options


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
