"""Nodes of a model's JSON Schema: what they allow, in words, and how an error location leads there.

Error messages, flags, the reference table and the exported JSON Schema all take kinds, ranges,
choices, defaults and descriptions from here, so that none of them can differ from the checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

from pydantic import BaseModel

from clip_pkg.config.jsonc import JsonPath

Node: TypeAlias = dict[str, Any]

_WORDS: Mapping[str, str] = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "an object in braces",
    "array": "a list in brackets",
    "null": "null",
}


@cache
def model_schema(model: type[BaseModel]) -> Node:
    """JSON Schema of a model, references resolved in place."""
    schema = model.model_json_schema()
    resolved = _resolve(schema, schema.get("$defs", {}))
    assert isinstance(resolved, dict)
    resolved.pop("$defs", None)
    return resolved


def options(node: Node) -> Iterator[Node]:
    """Alternatives that a node allows, nested ones flattened."""
    for option in node.get("anyOf") or node.get("oneOf") or (node,):
        if option is node:
            yield node
        else:
            yield from options(option)


def describe(node: Node) -> str:
    """Say what a node allows: `a whole number from 1 to 256, or null`."""
    discriminator = node.get("discriminator")
    if discriminator:
        kinds = ", ".join(f'"{kind}"' for kind in discriminator["mapping"])
        return f'an object in braces whose "{discriminator["propertyName"]}" is one of {kinds}'
    choices: list[str] = []
    words: list[str] = []
    for option in options(node):
        if "const" in option or "enum" in option:
            choices.extend(f'"{value}"' for value in option.get("enum", [option.get("const")]))
        else:
            words.append(_WORDS[option["type"]] + _range(option))
    if choices:
        words.insert(0, ("one of " if len(choices) > 1 else "") + ", ".join(choices))
    return ", or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def locate(model: type[BaseModel], location: tuple[str | int, ...]) -> tuple[JsonPath, Node]:
    """Turn a pydantic error location into a JSON path and the schema node it leads to.

    Pydantic names union members on the way (`loss.superclip.focal`, `gpu_id.int`); a JSON path does
    not. For a key that the schema does not have, the path ends with it and the node is the object
    around it.
    """
    node = model_schema(model)
    path: list[str | int] = []
    for position, step in enumerate(location):
        branches = list(options(node))
        is_last = position == len(location) - 1
        mapping = node.get("discriminator", {}).get("mapping", {})
        holder = next((branch for branch in branches if step in branch.get("properties", {})), None)
        if step in mapping:
            node = mapping[step]
        elif holder is not None:
            node = holder["properties"][step]
            path.append(step)
        elif isinstance(step, int):
            node = next(branch["items"] for branch in branches if "items" in branch)
            path.append(step)
        elif is_last and any("properties" in branch for branch in branches):
            node = next(branch for branch in branches if "properties" in branch)
            path.append(step)
    return tuple(path), node


def _range(node: Node) -> str:
    lower = max((node[key] for key in ("minimum", "exclusiveMinimum") if key in node), default=None)
    upper = min((node[key] for key in ("maximum", "exclusiveMaximum") if key in node), default=None)
    above = lower is not None and lower == node.get("exclusiveMinimum")
    below = upper is not None and upper == node.get("exclusiveMaximum")
    if lower is None and upper is None:
        return ""
    if lower is not None and upper is not None and not above and not below:
        return f" from {lower} to {upper}"
    parts = []
    if lower is not None:
        parts.append(f"above {lower}" if above else f"of at least {lower}")
    if upper is not None:
        parts.append(f"below {upper}" if below else f"up to {upper}")
    return " " + ", ".join(parts)


def _resolve(node: Any, definitions: Mapping[str, Node]) -> Any:
    """Replace every reference by what it refers to (the schema has no cycles)."""
    if isinstance(node, list):
        return [_resolve(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    merged = {
        key: value
        for key, value in node.items()
        if key != "$ref" and not (key == "title" and isinstance(value, str))
    }
    if "$ref" in node:
        merged = {**definitions[_definition(node["$ref"])], **merged}
        return _resolve(merged, definitions)
    if "discriminator" in merged:
        mapping = merged["discriminator"]["mapping"]
        merged["discriminator"] = {
            **merged["discriminator"],
            "mapping": {kind: {"$ref": reference} for kind, reference in mapping.items()},
        }
    return {
        key: value if key in ("default", "enum", "const") else _resolve(value, definitions)
        for key, value in merged.items()
    }


def _definition(reference: str) -> str:
    return reference.removeprefix("#/$defs/")
