"""Parses JSON with comments and trailing commas, and records the place of every value.

Published parsers do not report the place of each key or duplicate keys; those for JSON5 also accept
single quotes, bare keys and hexadecimal numbers. The grammar is that of RFC 8259 plus `//` and
`/* */` comments and one trailing comma per list or object.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from clip_pkg.base.errors import ConfigErrors, ConfigProblem

JsonPath: TypeAlias = tuple[str | int, ...]

MAX_DEPTH = 100  # a config needs five; at about a thousand Python's stack overflows

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.+-])")
_WORD = re.compile(r"[^\s,:\[\]{}\"/]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()
_CONSTANTS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
_HINTS: Mapping[str, str] = {
    "True": "; write true",
    "False": "; write false",
    "None": "; write null",
    "nan": "; JSON has no NaN",
    "NaN": "; JSON has no NaN",
    "Infinity": "; JSON has no infinity",
    "-Infinity": "; JSON has no infinity",
}


@dataclass(frozen=True)
class TextPlace:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The values of a text and their places.

    places: JSON path → start of the key for members of an object, start of the value for others.
    problems: duplicate keys; `value` has the later value.
    """

    value: Any
    places: Mapping[JsonPath, TextPlace]
    problems: tuple[ConfigProblem, ...]


def parse(text: str, file: Path | None = None) -> Document:
    """Parse `text`. Raises ConfigErrors with line and column for invalid JSON."""
    parser = _Parser(text, file)
    value = parser.document()
    return Document(value, parser.places, tuple(parser.problems))


def path_text(path: JsonPath) -> str:
    """Write a JSON path for messages: `[2].loss.gamma`."""
    parts = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"\w+", step):
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{show(step)}]")
    return "".join(parts)


def show(value: object, limit: int = 60) -> str:
    """Write a value as JSON for a message, shortened to `limit` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class _Parser:
    """Recursive descent; `position` is the index of the next character to read."""

    def __init__(self, text: str, file: Path | None) -> None:
        self.text = text
        self.file = file
        self.position = 0
        self.line_starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
        self.places: dict[JsonPath, TextPlace] = {}
        self.problems: list[ConfigProblem] = []

    def place(self, position: int) -> TextPlace:
        line = bisect_right(self.line_starts, position)
        return TextPlace(line, position - self.line_starts[line - 1] + 1)

    def document(self) -> Any:
        self.skip_blank()
        if self.position == len(self.text):
            self.fail(self.position, "contains nothing but white space and comments")
        self.places[()] = self.place(self.position)
        value = self.value(())
        self.skip_blank()
        if self.position < len(self.text):
            self.fail(self.position, f"{self.found()} after the end of the JSON value")
        return value

    def value(self, path: JsonPath) -> Any:
        if len(path) > MAX_DEPTH:
            self.fail(self.position, f"more than {MAX_DEPTH} nested brackets")
        match self.peek():
            case "{":
                return self.object(path)
            case "[":
                return self.array(path)
            case '"':
                return self.string()
            case _:
                return self.scalar()

    def object(self, path: JsonPath) -> dict[str, Any]:
        members: dict[str, Any] = {}
        start = self.position
        self.position += 1
        self.skip_blank()
        while self.peek() != "}":
            key_start = self.position
            if self.peek() != '"':
                self.end_check(start, "}")
                self.fail(key_start, f'expected a key in double quotes or "}}", not {self.found()}')
            key = self.string()
            key_path, place = (*path, key), self.place(key_start)
            if key in members:
                first = self.places[key_path].line
                where = "on this line" if first == place.line else f"on line {first}"
                message = f"column {place.column}: duplicate key, first given {where}"
                problem = ConfigProblem(message, path_text(key_path), self.file, place.line)
                self.problems.append(problem)
            self.places[key_path] = place
            self.skip_blank()
            if self.peek() != ":":
                self.end_check(start, "}")
                self.fail(self.position, f'expected ":" after the key, not {self.found()}')
            self.position += 1
            self.skip_blank()
            self.end_check(start, "}")
            members[key] = self.value(key_path)
            self.separator(start, "}")
        self.position += 1
        return members

    def array(self, path: JsonPath) -> list[Any]:
        items: list[Any] = []
        start = self.position
        self.position += 1
        self.skip_blank()
        while self.peek() != "]":
            self.end_check(start, "]")
            item_path = (*path, len(items))
            self.places[item_path] = self.place(self.position)
            items.append(self.value(item_path))
            self.separator(start, "]")
        self.position += 1
        return items

    def separator(self, start: int, closing: str) -> None:
        """Skip the comma after a value; a comma before the closing bracket is allowed."""
        value_end = self.position
        self.skip_blank()
        if self.peek() == ",":
            self.position += 1
            self.skip_blank()
        elif self.peek() != closing:
            self.end_check(start, closing)
            if self.peek() == '"':  # the comma is missing where the value ends, not one line below
                self.fail(value_end, 'expected "," after the value')
            self.fail(self.position, f'expected "," or "{closing}", not {self.found()}')

    def string(self) -> str:
        try:
            value, end = _DECODER.raw_decode(self.text, self.position)
        except json.JSONDecodeError as error:
            char = self.text[error.pos]
            if error.msg.startswith("Unterminated") or char in "\r\n":
                message = "this string is not closed on its line"
            elif char < " ":
                message = f"control character U+{ord(char):04X} in a string"
            else:
                written = show(self.text[error.pos + 1 : error.pos + 2])[1:-1]
                message = f"\\{written} is not a valid escape; write \\\\{written}"
            self.fail(error.pos, message)
        if _SURROGATE.search(value):
            self.fail(self.position, "half of a surrogate pair (\\ud800 to \\udfff) in a string")
        self.position = end
        return str(value)

    def scalar(self) -> bool | float | None:
        start = self.position
        if number := _NUMBER.match(self.text, start):
            self.position = number.end()
            try:
                value: float = json.loads(number[0])
            except ValueError:  # beyond Python's limit on digits
                self.fail(start, f"a number with {len(number[0])} digits is too long")
            if value in (float("inf"), float("-inf")):
                self.fail(start, f"{show(number[0])} is too large for a number")
            return value
        match = _WORD.match(self.text, start)
        word = match[0] if match else ""
        if word not in _CONSTANTS:
            if word[:1] in tuple("0123456789+-.") and word not in _HINTS:
                self.fail(start, f"{show(word)} is not a JSON number")
            self.fail(start, f"expected a value, not {self.found()}{_HINTS.get(word, '')}")
        self.position += len(word)
        return _CONSTANTS[word]

    def skip_blank(self) -> None:
        blank = _BLANK.match(self.text, self.position)
        assert blank is not None
        self.position = blank.end()
        if self.text.startswith("/*", self.position):
            self.fail(self.position, 'this comment is not closed with "*/"')

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def found(self) -> str:
        """Describe the token at the position."""
        char = self.peek()
        if not char:
            return "the end of the input"
        if char == "'":
            return "a single quote (JSON uses double quotes)"
        if char == "#":
            return '"#" (comments begin with "//")'
        if not char.isascii() or not char.isprintable():
            return f"{show(char)} ({unicodedata.name(char, f'U+{ord(char):04X}')})"
        word = _WORD.match(self.text, self.position)
        return show(word[0] if word else char, 30)

    def end_check(self, start: int, closing: str) -> None:
        if self.position == len(self.text):
            line = self.place(start).line
            self.fail(
                self.position,
                f'the input ends without "{closing}" for the bracket on line {line}',
            )

    def fail(self, position: int, message: str) -> NoReturn:
        place = self.place(position)
        message = f"column {place.column}: {message}"
        problem = ConfigProblem(message, file=self.file, line=place.line)
        raise ConfigErrors([*self.problems, problem])
