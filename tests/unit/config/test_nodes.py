"""Error sentences for shapes that losses may take: lists of blocks, required keys, rules."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from clip_pkg.config.nodes import allowed, locate, model_schema, sentences


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Pull(Strict):
    type: Literal["pull"] = "pull"
    weight: Annotated[float, Field(gt=0)] = Field(description="How much.")


class Push(Strict):
    type: Literal["push"] = "push"
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self):
        if self.high < self.low:
            raise PydanticCustomError("order", "is below {low}", {"key": "high", "low": self.low})
        return self


class Model(Strict):
    terms: list[Annotated[Pull | Push, Field(discriminator="type")]] = Field([])
    title: str = Field("", description="A key that JSON Schema has a word for, too.", max_length=3)


def found(value):
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(value)
    return sentences(caught.value, Model, ["terms", "title"])


@pytest.mark.parametrize(
    ("value", "path", "sentence"),
    [
        ({"terms": 3}, ("terms",), "expected a list in brackets, not 3"),
        ({"terms": [3]}, ("terms", 0), 'expected an object in braces whose "type" is one of "pull'),
        ({"terms": [{"type": "pul"}]}, ("terms", 0, "type"), 'did you mean "pull"?'),
        ({"terms": [{"type": "pull"}]}, ("terms", 0, "weight"), "this key is required here"),
        (
            {"terms": [{"type": "push"}, {"type": "pull", "weight": 0}]},
            ("terms", 1, "weight"),
            "expected a number above 0, not 0",
        ),
        (
            {"terms": [{"type": "pull", "weight": 1, "wieght": 2}]},
            ("terms", 0, "wieght"),
            'unknown key; did you mean "weight"?',
        ),
        (
            {"terms": [{"type": "push", "low": 3, "high": 2}]},
            ("terms", 0, "high"),
            "is below 3",
        ),
        ({"term": []}, ("term",), 'did you mean "terms"?'),
        ({"title": "long"}, ("title",), "at most 3"),
    ],
)
def test_lists_of_blocks(value, path, sentence):
    ((place, text),) = found(value).items()
    assert place == path
    assert sentence in text


def test_a_block_with_a_key_named_like_its_type():
    path, node = locate(Model, ("terms", 0, "pull", "pull"))
    assert path == ("terms", 0, "pull")
    assert "weight" in node["properties"]


def test_references_are_resolved_and_titles_are_gone():
    schema = model_schema(Model)
    assert "$ref" not in str(schema)
    assert schema["properties"]["title"]["type"] == "string"
    assert "title" not in schema


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
