"""Schema nodes in words."""

from __future__ import annotations

import pytest

from clip_pkg.config.nodes import allowed, model_schema
from clip_pkg.config.schema import RunConfig


def test_references_are_resolved_and_titles_are_gone():
    schema = model_schema(RunConfig)
    assert "$ref" not in str(schema)
    assert "Loss Temperature" not in str(schema)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 3}, "a whole number from 1 to 3"),
        ({"type": "number", "exclusiveMinimum": 0, "minimum": 0.01}, "a number of at least 0.01"),
        ({"type": "number", "maximum": 2}, "a number up to 2"),
        ({"type": "number", "exclusiveMaximum": 1}, "a number below 1"),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, 'one of "a", "b", or null'),
        (
            {"anyOf": [{"type": "boolean"}, {"type": "string"}, {"type": "null"}]},
            "true or false, text, or null",
        ),
    ],
)
def test_nodes_in_words(node, words):
    assert allowed(node) == words
