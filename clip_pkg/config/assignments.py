"""Reads a config from a Python file of assignments, `loss_type = 'combined'`, and runs nothing."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import ConfigErrors, ConfigProblem
from clip_pkg.config.jsonc import Document, JsonPath, TextPlace


def parse_assignments(text: str, file: Path) -> Document:
    """Parse a file that assigns plain values to names: one config.

    Raises ConfigErrors for invalid syntax; anything else than such an assignment is a problem.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        reason = getattr(error, "msg", None) or str(error) or "it is nested too deeply"
        raise ConfigErrors(
            [ConfigProblem(f"is not valid Python: {reason}", "", file, line)]
        ) from None
    values: dict[str, Any] = {}
    places: dict[JsonPath, TextPlace] = {(): TextPlace(1, 1)}
    problems = []
    for statement in statements:
        line = statement.lineno
        try:
            name, value = _assignment(statement)
        except ValueError as error:
            if not _is_text(statement):
                problems.append(ConfigProblem(str(error), "", file, line))
            continue
        if name in values:
            earlier = places[name,].line
            problems.append(
                ConfigProblem(f"is set again; line {earlier} sets it", name, file, line)
            )
        values[name] = value
        places[name,] = TextPlace(line, statement.col_offset + 1)
    return Document(values, places, tuple(problems))


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, which serves as a comment."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _assignment(statement: ast.stmt) -> tuple[str, Any]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            pass
        case _:
            raise ValueError("is not an assignment such as epochs = 10; the file is read, not run")
    try:
        return name, _as_json(ast.literal_eval(value))
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(
            f"{name} is not a plain value (text, number, True, False, None, a list or a dict of "
            "these); the file is read, not run"
        ) from None


def _as_json(value: Any) -> Any:
    """The value as a JSON file would hold it; raises ValueError for what none can hold."""
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as_json(one) for key, one in value.items()}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("not a JSON value")
