"""README.md of an exported model: what it is, what it was trained on, how well, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from clip_pkg.inference.export.description import Member, Scores
from clip_pkg.metrics.units import PERCENT

SHOWN = (
    ("acc", "Accuracy %"),
    ("balanced_acc", "Balanced accuracy %"),
    ("f1", "Macro F1"),
    ("mAP", "mAP %"),
    ("auroc", "AUROC"),
)
TEMPLATE = "model_card.md.jinja"


def model_card(
    description: Mapping[str, Any],
    members: Sequence[Member],
    scores: Scores | None,
    notices: Sequence[str],
) -> str:
    """Write the card of a model; `description` is what its `config.json` holds."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701  Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(TEMPLATE).render(
        model=description,
        parts=[member.part for member in members],
        is_refit=members[0].content.fold == 0,
        columns=[title for _, title in SHOWN],
        rows=[] if scores is None else _rows(scores),
        epoch_choice=None if scores is None else scores.epoch_choice,
        notices=notices,
    )


def _rows(scores: Scores) -> list[tuple[str, list[str]]]:
    """One row per fold, and one of mean ± SD."""
    rows = [
        (part, [_number(name, _value(scores, name, index)) for name, _ in SHOWN])
        for index, part in enumerate(scores.parts)
    ]
    averages = scores.averages
    means = [
        _number(name, averages.get(f"avg_val_{name}"))
        + (
            ""
            if (deviation := averages.get(f"std_val_{name}")) is None
            else f" ± {_number(name, deviation)}"
        )
        for name, _ in SHOWN
    ]
    count = averages["n"]
    return [*rows, (f"mean ± SD of {count}" if count > 1 else "mean", means)]


def _value(scores: Scores, name: str, index: int) -> float | None:
    return scores.columns[f"val_{name}"][index] if f"val_{name}" in scores.columns else None


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if name in PERCENT else f"{value:.3f}"


def _cell(text: object) -> str:
    """One line of text in a table, as it is."""
    line = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in "\\|`*_<>[]" else char for char in line)
