"""Problems and notices of a config list, each with the place in the file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from clip_pkg.base.errors import ConfigErrors, ConfigProblem
from clip_pkg.config.jsonc import JsonPath, Place, path_text, show
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


@dataclass(frozen=True)
class Source:
    """Where a list of configs came from.

    places: JSON path → place in `file`; empty for configs that did not come from a file.
    name: how messages write a JSON path (flags are named as flags).
    """

    file: Path | None = None
    places: Mapping[JsonPath, Place] = field(default_factory=dict)
    name: Callable[[JsonPath], str] = path_text

    def line(self, path: JsonPath) -> int | None:
        """Line of `path`, or of the nearest bracket around it."""
        return place.line if (place := self._place(path)) else None

    def where(self, path: JsonPath) -> str:
        """Name a place inside a sentence: `[1].epochs (line 12)`."""
        name, line = self.name(path), self.line(path)
        parts = [name, f"(line {line})" if line and name else f"line {line}" if line else ""]
        return " ".join(part for part in parts if part) or "another config"

    def problem(self, path: JsonPath, message: str) -> ConfigProblem:
        """Put `message` at the place of `path`."""
        return ConfigProblem(message, self.name(path), self.file, self.line(path))

    def order(self, path: JsonPath) -> tuple[int, int]:
        """Sort key: the order of reading."""
        place = self._place(path)
        return (place.line, place.column) if place else (0, 0)

    def _place(self, path: JsonPath) -> Place | None:
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None


class Findings:
    """Collects problems and notices; the same sentence about the same place counts once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._problems: dict[tuple[JsonPath, str], None] = {}
        self._notices: dict[tuple[JsonPath, str], None] = {}

    def problem(self, path: JsonPath, message: str) -> None:
        """Note something that keeps the run from starting."""
        self._problems[path, message] = None

    def notice(self, path: JsonPath, message: str) -> None:
        """Note something that the user should know."""
        self._notices[path, message] = None

    @property
    def problem_count(self) -> int:
        """How many different problems there are so far."""
        return len(self._problems)

    @property
    def notices(self) -> tuple[str, ...]:
        """Every notice with its place, in the order of reading."""
        return tuple(str(notice) for notice in self._in_order(self._notices))

    def raise_problems(self, further: Sequence[ConfigProblem] = ()) -> None:
        """Raise ConfigErrors if there is any problem, `further` ones included."""
        problems = sorted(
            [*further, *self._in_order(self._problems)], key=lambda problem: problem.line or 0
        )
        if problems:
            raise ConfigErrors(problems)

    def _in_order(self, found: Mapping[tuple[JsonPath, str], None]) -> list[ConfigProblem]:
        ordered = sorted(found, key=lambda entry: self.source.order(entry[0]))
        return [self.source.problem(path, message) for path, message in ordered]


@dataclass(frozen=True)
class Draft:
    """One config on its way from the file to `RunConfig`.

    values: key → value as written, then in canonical form.
    root: JSON path of the object in its file.
    moved: path in `values` → JSON path where the user wrote it, if it is not below `root`.
    label: what a sweep adds to the name of this member, empty without a sweep.
    provisional: made only to find further problems, because the sweep itself is wrong.
    """

    values: Mapping[str, Any]
    root: JsonPath
    moved: Mapping[JsonPath, JsonPath] = field(default_factory=dict)
    label: str = ""
    provisional: bool = False

    def written(self, path: JsonPath) -> JsonPath:
        """Where in the file the value at `path` of `values` was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.moved:
                return self.moved[path[:length]] + path[length:]
        return self.root + path
