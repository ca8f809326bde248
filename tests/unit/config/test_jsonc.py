from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.jsonc import TextPlace, parse, path_text

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def equal(left, right):
    """Equality that tells 1 from true and 1.0, and 0.0 from -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@settings(deadline=None)
@given(values, st.booleans(), st.sampled_from([None, 0, 2]))
def test_reads_what_json_reads(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert equal(parse(text).value, json.loads(text))


def refuse(name):
    raise ValueError(f"{name} is no JSON")


@settings(deadline=None)
@given(
    st.text(alphabet='[]{}",:0123456789.eE+-truefalsn \n\\u/', max_size=30)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(lambda content: content.decode("latin-1"))
)
def test_agrees_with_json_about_what_is_json(text):
    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        try:
            parse(text)
        except ConfigErrors:
            return
        # Beyond JSON there are comments and trailing commas only.
        assert "/" in text or "," in text
    else:
        try:
            assert equal(parse(text).value, expected)
        except ConfigErrors as errors:  # accepted by json: overflow, halves of pairs, duplicates
            message = str(errors)
            assert "too large" in message or "surrogate" in message


def with_comments(text: str, seed: int) -> str:
    """Put comments, blanks and trailing commas between the tokens of a JSON text."""
    choose = random.Random(seed)
    tokens, decoder, position = [], json.JSONDecoder(), 0
    while position < len(text):
        if text[position] in "[]{},:" or text[position].isspace():
            tokens.append(text[position])
            position += 1
        else:
            _, end = decoder.raw_decode(text, position)
            tokens.append(text[position:end])
            position = end
    fillers = ["", " ", "\n", "\r\n\t", '// , " } [\n', '/* "x": 1, } \n // */', "/**/"]
    written = []
    for before, token in zip(["", *tokens], [*tokens, ""], strict=True):
        if token in ("]", "}") and before not in ("[", "{") and choose.random() < 0.5:
            written.append(",")
        written += [choose.choice(fillers), token]
    return "".join(written)


@settings(deadline=None)
@given(values, st.integers(0, 2**32))
def test_comments_and_trailing_commas_change_nothing(value, seed):
    text = json.dumps(value)
    assert equal(parse(with_comments(text, seed)).value, json.loads(text))


@settings(deadline=None)
@given(values.filter(lambda value: isinstance(value, list | dict)), st.data())
def test_truncated_text_is_a_problem_with_a_line(value, data):
    text = json.dumps(value, indent=1)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(ConfigErrors) as caught:
        parse(cut)
    assert all(problem.line for problem in caught.value.problems)


def test_places_are_those_of_keys_and_items():
    document = parse('// top\n[\n  {"a": 1,\n   "b": [true,\n    {"c":\n 2}]}\n]')
    assert document.places == {
        (): TextPlace(2, 1),
        (0,): TextPlace(3, 3),
        (0, "a"): TextPlace(3, 4),
        (0, "b"): TextPlace(4, 4),
        (0, "b", 0): TextPlace(4, 10),
        (0, "b", 1): TextPlace(5, 5),
        (0, "b", 1, "c"): TextPlace(5, 6),
    }


def test_every_duplicate_key_is_named_with_both_lines():
    document = parse('{"a": 1,\n"b": {"x": 1, "x": 2},\n"a": 3}')
    assert [str(problem) for problem in document.problems] == [
        "b.x: column 15: duplicate key, first given on this line",
        "a: column 1: duplicate key, first given on line 1",
    ]


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "nothing but white space"),
        ("// only\n/* this */", 2, "nothing but white space"),
        ("[1,\n2", 2, 'without "]" for the bracket on line 1'),
        ('{"a": 1\n "b": 2}', 1, 'expected "," after the value'),
        ("[1\n2]", 2, 'expected "," or "]", not "2"'),
        ("[1,\n,2]", 2, "expected a value"),
        ("[,]", 1, "expected a value"),
        ("[1]\n]", 2, "after the end"),
        ("{'a': 1}", 1, "single quote"),
        ("{a: 1}", 1, "a key in double quotes"),
        ('{"a" 1}', 1, 'expected ":"'),
        ('{"a":\n}', 2, "expected a value"),
        ("[\nNaN]", 2, "JSON has no NaN"),
        ("[\n-Infinity]", 2, "JSON has no infinity"),
        ("[True]", 1, "write true"),
        ("[None]", 1, "write null"),
        ("[01]", 1, "not a JSON number"),
        ("[1.]", 1, "not a JSON number"),
        ("[0x10]", 1, "not a JSON number"),
        ("[1_000]", 1, "not a JSON number"),
        ("[1e999]", 1, "too large"),
        (f"[{'9' * 5000}]", 1, "5000 digits"),
        ("[" * 50_000, 1, "more than 100 nested brackets"),
        ('["a\nb"]', 1, "not closed on its line"),
        ('["a\tb"]', 1, "control character U+0009"),
        (r'["a\xb"]', 1, r"\x is not a valid escape; write \\x"),
        (r'["\ud800"]', 1, "surrogate"),
        ("[1] /* open", 1, 'not closed with "*/"'),
        ("# python\n[]", 1, 'comments begin with "//"'),
        ("[“a”]", 1, "LEFT DOUBLE QUOTATION MARK"),
        ("[1，2]", 1, "FULLWIDTH COMMA"),
        ("\u00a0[]", 1, "NO-BREAK SPACE"),
    ],
)
def test_syntax_problems_name_line_and_cause(text, line, part):
    with pytest.raises(ConfigErrors) as caught:
        parse(text)
    (problem,) = caught.value.problems
    assert problem.line == line
    assert part in problem.message
    assert len(problem.message) < 200


def test_paths_are_written_like_code():
    assert path_text((2, "loss", "gamma")) == "[2].loss.gamma"
    assert path_text(("a b", 0)) == '["a b"][0]'
