"""What is wrong or worth a word in a list of configs, with the place where it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_pkg.config.jsonc import JsonPath, Place, path_text
from clip_pkg.errors import ConfigErrors, ConfigProblem


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
