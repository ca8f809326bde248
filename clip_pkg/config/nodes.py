"""Nodes of a model's JSON Schema: what they allow, in words, and what is wrong with a value.

Error messages, `--help`, the table in docs/config.md and the exported JSON Schema all describe
values from these nodes, so that they agree with the checks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.synonyms import ANSWERS, SYNONYMS

Node: TypeAlias = dict[str, Any]

NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]*\.[0-9]+|[0-9]+\.)([eE][+-]?[0-9]+)?")  # in a text

_WORDS: Mapping[str, str] = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "an object in braces",
    "array": "a list in brackets",
    "null": "null",
}
# Pydantic's error types for a value out of range or not a choice; wrong types end in `_type`.
_WRONG_VALUE = frozenset(
    {
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "literal_error",
    }
)


@cache
def model_schema(model: type[BaseModel]) -> Node:
    """JSON Schema of a model with references resolved in place and without titles.

    A `oneOf` is a union of blocks that their `type` tells apart: each requires its `type`.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:  # the schema has no cycles
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if reference := node.get("$ref"):
            definition = definitions[reference.removeprefix("#/$defs/")]
            return resolve({**definition, **{k: v for k, v in node.items() if k != "$ref"}})
        resolved = {
            key: value if key in ("default", "enum", "const") else resolve(value)
            for key, value in node.items()
            # `discriminator` is a keyword of OpenAPI; a property may be named `title`
            if key != "discriminator" and not (key == "title" and isinstance(value, str))
        }
        for block in resolved.get("oneOf", ()):
            block["required"] = [*block.get("required", []), "type"]
        return resolved

    resolved = resolve(schema)
    assert isinstance(resolved, dict)
    return resolved


def kinds(node: Node) -> dict[str, Node]:
    """Blocks of a `oneOf` by their `type`; empty for other nodes."""
    return {block["properties"]["type"]["const"]: block for block in node.get("oneOf", ())}


def options(node: Node) -> Iterator[Node]:
    """Alternatives that a node allows, nested ones flattened."""
    alternatives = node.get("anyOf") or node.get("oneOf")
    if not alternatives:
        yield node
    else:
        for alternative in alternatives:
            yield from options(alternative)


def allowed(node: Node) -> str:
    """Describe what a node allows: `a whole number from 1 to 256, or null`."""
    if "oneOf" in node:
        return f'an object in braces whose "type" is one of {_quoted(kinds(node))}'
    choices: list[str] = []
    words: list[str] = []
    for option in options(node):
        if "const" in option or "enum" in option:
            choices.extend(option.get("enum", [option.get("const")]))
        else:
            words.append(_WORDS[option["type"]] + _range(option))
    if choices:
        words.insert(0, ("one of " if len(choices) > 1 else "") + _quoted(choices))
    return ", or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _range(node: Node) -> str:
    lower = max((node[key] for key in ("minimum", "exclusiveMinimum") if key in node), default=None)
    upper = min((node[key] for key in ("maximum", "exclusiveMaximum") if key in node), default=None)
    above = lower is not None and lower == node.get("exclusiveMinimum")
    below = upper is not None and upper == node.get("exclusiveMaximum")
    if lower is not None and upper is not None and not above and not below:
        return f" from {lower} to {upper}"
    bounds = []
    if lower is not None:
        bounds.append(f"above {lower}" if above else f"of at least {lower}")
    if upper is not None:
        bounds.append(f"below {upper}" if below else f"up to {upper}")
    return " " + ", ".join(bounds) if bounds else ""


def locate(model: type[BaseModel], location: tuple[str | int, ...]) -> tuple[JsonPath, Node]:
    """Turn a pydantic error location into a JSON path and the schema node at that path.

    Pydantic's locations name union members (`loss.superclip.focal`, `gpu_id.int`); JSON paths do
    not. For an unknown key, the path ends with the key and the node is the object around it.
    """
    node = model_schema(model)
    path: list[str | int] = []
    for position, step in enumerate(location):
        branches = list(options(node))
        is_last = position == len(location) - 1
        blocks = kinds(node)
        holder = next((branch for branch in branches if step in branch.get("properties", {})), None)
        if step in blocks:
            node = blocks[str(step)]
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


def sentences(
    error: ValidationError, model: type[BaseModel], top_keys: Collection[str]
) -> dict[JsonPath, str]:
    """One sentence per invalid place: JSON path below the config → sentence.

    top_keys: keys to suggest for an unknown key at the top level of the config.
    """
    found: dict[JsonPath, str] = {}
    for detail in error.errors(include_url=False):
        path, node = locate(model, detail["loc"])
        context = detail.get("ctx", {})
        value = detail["input"]
        match detail["type"]:
            case "extra_forbidden":
                known = top_keys if len(path) == 1 else node["properties"]
                suggestion = known_key(str(path[-1]), known)
                if not suggestion and len(known) <= 12:
                    suggestion = f"; known here are {', '.join(known)}"
                found[path] = f"unknown key{suggestion}"
            case "union_tag_not_found":
                found[path] = f"expected {allowed(node)}"
            case "union_tag_invalid":
                kind, known = value.get("type"), kinds(node)
                suggestion = nearest(kind, known) if isinstance(kind, str) else ""
                found[(*path, "type")] = (
                    f"expected one of {_quoted(known)}, not {show(kind)}{suggestion}"
                )
            case "contradictions":
                found |= context["found"]
            case "value_error":
                found[path] = str(context["error"])
            case kind if kind.endswith("_type") or kind in _WRONG_VALUE:
                found[path] = _wrong_value(value, node)
            case _:
                key = context.get("key")  # which key a rule over several keys is about
                found[(*path, key) if key else path] = detail["msg"]
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` with the known name closest to `name`, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower()[:100], by_lower, n=1)
    return f'; did you mean "{by_lower[close[0]]}"?' if close else ""


def known_key(name: str, known: Collection[str]) -> str:
    """What an unknown key or flag stands for: by meaning, else by letters; can be empty."""
    plain = name.lower().lstrip("-").replace("-", "_")
    if plain in ANSWERS:
        return f"; {ANSWERS[plain]}"
    meant = SYNONYMS.get(plain)
    return f'; did you mean "{meant}"?' if meant in known else nearest(name, known)


def _wrong_value(value: Any, node: Node) -> str:
    branches = list(options(node))
    types = {branch.get("type") for branch in branches}
    hint = ""
    if isinstance(value, str) and types & {"integer", "number"} and NUMBER.fullmatch(value):
        hint = "; write numbers without quotes"
    elif isinstance(value, str) and "boolean" in types and value.lower() in ("true", "false"):
        hint = f"; write {value.lower()} without quotes"
    elif isinstance(value, float) and "integer" in types and value.is_integer():
        hint = f"; write {int(value)}"
    elif isinstance(value, str):
        hint = nearest(value, [choice for branch in branches for choice in branch.get("enum", [])])
    return f"expected {allowed(node)}, not {show(value)}{hint}"
