"""The keys of `cv_summary.json` in Markdown, for docs/cv_summary.md."""

from __future__ import annotations

from collections.abc import Iterator

from clip_pkg.config.schema_nodes import Node, describe, options
from clip_pkg.evaluation.summary_schema import CvSummary

REFERENCE = "#/$defs/"


def summary_reference_markdown() -> str:
    """Write a table for the file, then one per block in the order of the schema."""
    schema = CvSummary.model_json_schema(by_alias=True)
    sections = [_table(schema)]
    for name in _blocks_below(schema, schema, {}):
        block = schema["$defs"][name]
        sections.append(f"### {name}\n\n{block['description']}\n\n{_table(block)}")
    return "\n".join(sections)


def _blocks_below(block: Node, schema: Node, found: dict[str, None]) -> dict[str, None]:
    """Names of all blocks that `block` leads to, each followed by those below it."""
    for child in block["properties"].values():
        for name in _references(child):
            if name not in found:
                found[name] = None
                _blocks_below(schema["$defs"][name], schema, found)
    return found


def _references(node: Node) -> Iterator[str]:
    for option in options(node):
        if "$ref" in option:
            yield option["$ref"].removeprefix(REFERENCE)
        for inner in (option.get("items"), option.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from _references(inner)


def _table(block: Node) -> str:
    rows = ["| key | value | meaning |", "| --- | --- | --- |"]
    for key, node in block["properties"].items():
        meaning = str(node.get("description", "")).replace("|", "\\|")
        rows.append(f"| `{key}` | {_words(node)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _words(node: Node) -> str:
    words = []
    for option in options(node):
        if "$ref" in option:
            name = option["$ref"].removeprefix(REFERENCE)
            words.append(f"[{name}](#{name.lower()})")
        elif option.get("type") == "array":
            items = option["items"]
            words.append(f"list of ({_words(items)})" if items else "list")
        elif isinstance(option.get("additionalProperties"), dict):
            words.append(f"object: name → {_words(option['additionalProperties'])}")
        elif isinstance(option.get("const"), int):
            words.append(str(option["const"]))
        else:
            words.append(describe(option))
    return ", or ".join(words)
