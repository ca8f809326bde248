"""Pydantic's validation errors as sentences for the person who wrote the config."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.schema_nodes import Node, describe, locate, options

_WRONG_VALUE = frozenset(
    {
        "bool_type",
        "dict_type",
        "finite_number",
        "float_type",
        "greater_than",
        "greater_than_equal",
        "int_type",
        "less_than",
        "less_than_equal",
        "list_type",
        "literal_error",
        "model_attributes_type",
        "model_type",
        "string_type",
        "tuple_type",
    }
)


def sentences(
    error: ValidationError, model: type[BaseModel], top_keys: Collection[str]
) -> dict[JsonPath, str]:
    """One sentence per place that is wrong, by JSON path below the config.

    top_keys: the keys to suggest from for an unknown key of the config itself.
    """
    found: dict[JsonPath, str] = {}
    for detail in error.errors(include_url=False):
        path, node = locate(model, detail["loc"])
        context = detail.get("ctx", {})
        value = detail["input"]
        match detail["type"]:
            case "extra_forbidden":
                known = top_keys if len(path) == 1 else node["properties"]
                found[path] = _unknown_key(str(path[-1]), known)
            case "union_tag_not_found":
                found[path] = f"expected {describe(node)}"
            case "union_tag_invalid":
                name = node["discriminator"]["propertyName"]
                found[(*path, name)] = _wrong_choice(
                    value.get(name), list(node["discriminator"]["mapping"])
                )
            case "missing":
                found[path] = "this key is required here"
            case "contradictions":
                found |= context["found"]
            case "value_error":
                found[path] = str(context["error"])
            case kind if kind in _WRONG_VALUE:
                found[path] = _wrong_value(value, node)
            case _:
                key = context.get("key")  # a rule over several keys says which one it is about
                found[(*path, key) if key else path] = detail["msg"]
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` for the known name closest to `name`, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower()[:100], by_lower, n=1)
    return f'; did you mean "{by_lower[close[0]]}"?' if close else ""


def _unknown_key(key: str, known: Collection[str]) -> str:
    suggestion = nearest(key, known)
    if not suggestion and len(known) <= 12:
        suggestion = f"; known here are {', '.join(known)}"
    return f"unknown key{suggestion}"


def _wrong_choice(value: Any, choices: list[str]) -> str:
    suggestion = nearest(value, choices) if isinstance(value, str) else ""
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return f"expected one of {listed}, not {show(value)}{suggestion}"


def _wrong_value(value: Any, node: Node) -> str:
    branches = list(options(node))
    kinds = {branch.get("type") for branch in branches}
    hint = ""
    if isinstance(value, str) and kinds & {"integer", "number"} and _is_number(value):
        hint = "; numbers stand without quotes"
    elif isinstance(value, str) and "boolean" in kinds and value.lower() in ("true", "false"):
        hint = f"; write {value.lower()} without quotes"
    elif isinstance(value, float) and "integer" in kinds and value.is_integer():
        hint = f"; write {int(value)}"
    elif isinstance(value, str):
        hint = nearest(value, [choice for branch in branches for choice in branch.get("enum", [])])
    return f"expected {describe(node)}, not {show(value)}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
