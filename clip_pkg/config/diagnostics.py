"""Problems and notices of a list of configs, each with its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import ConfigErrors, ConfigProblem
from clip_pkg.config.jsonc import JsonPath, TextPlace, path_text


@dataclass(frozen=True)
class Source:
    """Where a list of configs comes from.

    places: JSON path → place in `file`; empty for configs that do not come from a file.
    name: writes a JSON path for a message (flags are written as flags).
    """

    file: Path | None = None
    places: Mapping[JsonPath, TextPlace] = field(default_factory=dict)
    name: Callable[[JsonPath], str] = path_text

    def where(self, path: JsonPath) -> str:
        """Name a place inside a sentence: `[1].epochs (line 12)`."""
        name, place = self.name(path), self._place(path)
        if place is None:
            return name or "another config"
        return f"{name} (line {place.line})" if name else f"line {place.line}"

    def problem(self, path: JsonPath, message: str) -> ConfigProblem:
        """Attach the place of `path` to a message."""
        place = self._place(path)
        return ConfigProblem(message, self.name(path), self.file, place.line if place else None)

    def order(self, path: JsonPath) -> tuple[int, int]:
        """Sort key: position in the file."""
        place = self._place(path)
        return (place.line, place.column) if place else (0, 0)

    def _place(self, path: JsonPath) -> TextPlace | None:
        """TextPlace of `path`, or of the nearest enclosing bracket."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None


class Findings:
    """Collects problems, which keep the run from starting, and notices; duplicates count once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._problems: dict[tuple[JsonPath, str], None] = {}
        self._notices: dict[tuple[JsonPath, str], None] = {}

    def problem(self, path: JsonPath, message: str) -> None:
        """Add a problem."""
        self._problems[path, message] = None

    def notice(self, path: JsonPath, message: str) -> None:
        """Add a notice."""
        self._notices[path, message] = None

    @property
    def problem_count(self) -> int:
        """Number of different problems so far."""
        return len(self._problems)

    @property
    def notices(self) -> tuple[str, ...]:
        """All notices with their places, in the order of the file."""
        return tuple(str(notice) for notice in self._in_order(self._notices))

    def raise_problems(self, further: Sequence[ConfigProblem] = ()) -> None:
        """Raise ConfigErrors if there is any problem, here or in `further`."""
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
    """One config between the file and `RunConfig`.

    values: key → value as written, later in canonical form.
    root: JSON path of the object in its file.
    moved: path in `values` → JSON path where the user wrote it, if that is not below `root`.
    label: what a sweep appends to the name of this member; empty without a sweep.
    provisional: made only to find further problems, because the sweep itself is invalid.
    """

    values: Mapping[str, Any]
    root: JsonPath
    moved: Mapping[JsonPath, JsonPath] = field(default_factory=dict)
    label: str = ""
    provisional: bool = False

    def written(self, path: JsonPath) -> JsonPath:
        """JSON path in the file of the value at `path` of `values`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.moved:
                return self.moved[path[:length]] + path[length:]
        return self.root + path
