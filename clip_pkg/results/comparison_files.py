"""A comparison in files: JSON with everything, CSV with numbers, Markdown and LaTeX to publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_json, write_text
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.comparison_records import Comparison
from clip_pkg.results.comparison_tables import tables
from clip_pkg.results.tables import (
    LATEX_PREAMBLE,
    cells,
    csv_text,
    latex_table,
    markdown_escape,
    markdown_table,
)

# Heading → path of the field in `LeaderboardRow`, `PairResult` and `PretrainingRow`.
CONFIG_CSV = {
    "config": "name",
    "folds_done": "folds_done",
    "n_folds": "n_folds",
    "n_repeats": "n_repeats",
    "budget": "budget",
    **{
        f"{epoch}_{name}_{part}": f"{epoch}.{name}.{part}"
        for epoch in ("best", "last")
        for name in METRICS
        for part in ("mean", "sd")
    },
    **{
        f"out_of_fold_{name}{suffix}": f"pooled.{name}.{part}"
        for name in METRICS
        for suffix, part in (("", "value"), ("_low", "interval.low"), ("_high", "interval.high"))
    },
}
PAIR_CSV = {
    **{name: name for name in ("first", "second", "metric", "verdict", "difference")},
    "low": "test.low",
    "high": "test.high",
    "t": "test.t",
    "p_corrected": "test.p",
    "p_holm": "p_holm",
    "effect": "test.effect",
    "detectable": "detectable",
    "only_first_correct": "mcnemar.only_first_correct",
    "only_second_correct": "mcnemar.only_second_correct",
    "mcnemar_p_exact": "mcnemar.p_exact",
    "mcnemar_p_mid": "mcnemar.p_mid",
    "out_of_fold_difference": "pooled_difference",
    "out_of_fold_low": "bootstrap.low",
    "out_of_fold_high": "bootstrap.high",
}
PRETRAINING_CSV = {
    "pretraining": "label",
    "n_seeds": "n_seeds",
    "scores_of": "scores_of",
    **{
        f"{name}_{part}": f"{name}.{part}"
        for name in (
            *("top_1", "top_5", "seconds", "effective_rank"),
            *("knn_acc", "probe_acc", "probe_gain"),
        )
        for part in ("mean", "sd")
    },
}


def write_comparison(path: Path, comparison: Comparison) -> list[Path]:
    """Write the kind of file that the suffix names, one of `WRITERS`; returns all written files.

    Raises UserError for a diagram of too few data sets or configs, or if writing fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return WRITERS[path.suffix.lower()](path, comparison)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def _write_json(path: Path, comparison: Comparison) -> list[Path]:
    write_json(path, comparison.to_json())
    return [path]


def _write_csv(path: Path, comparison: Comparison) -> list[Path]:
    """Configs in the file itself, pairs and pre-trainings in further files beside it."""
    kinds: dict[str, list[dict[str, object]]] = {"": [], "_pairs": [], "_pretraining": []}
    for one in comparison.data_sets:
        name = {"data_set": one.name}
        kinds[""] += [{**name, **cells(row, CONFIG_CSV)} for row in one.rows]
        kinds["_pairs"] += [{**name, **cells(pair, PAIR_CSV)} for pair in one.pairs]
        kinds["_pretraining"] += [
            {
                **name,
                **cells(row, PRETRAINING_CSV),
                "notes": "; ".join(row.notes),
            }
            for row in one.pretraining
        ]
    written = []
    for kind, rows in kinds.items():
        if rows:
            written.append(path.with_name(f"{path.stem}{kind}{path.suffix}"))
            write_text(written[-1], csv_text(rows))
    return written


def _write_markdown(path: Path, comparison: Comparison) -> list[Path]:
    parts = [f"# Comparison by {comparison.metric_name}", _markdown_list(comparison.findings)]
    parts += map(markdown_table, tables(comparison))
    if reasons := comparison.reasons:
        parts.append(f"## Not compared\n\n{_markdown_list(reasons)}")
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return [path]


def _markdown_list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_escape(sentence)}" for sentence in sentences)


def _write_latex(path: Path, comparison: Comparison) -> list[Path]:
    """All tables, with the findings as comments."""
    findings = (f"% {one}" for one in comparison.findings)
    write_text(path, "\n".join([LATEX_PREAMBLE, *findings, *map(latex_table, tables(comparison))]))
    return [path]


def _write_diagram(path: Path, comparison: Comparison) -> list[Path]:
    from clip_pkg.results.rank_diagram import write_rank_diagram  # noqa: PLC0415  matplotlib is slow

    if comparison.across is None or comparison.across.critical_difference is None:
        raise UserError(
            f"{shown(path)}: a critical-difference diagram needs three configs of the same names "
            "on each of two or more data sets"
        )
    write_rank_diagram(path, comparison.across)
    return [path]


WRITERS: Mapping[str, Callable[[Path, Comparison], list[Path]]] = {
    ".json": _write_json,
    ".csv": _write_csv,
    ".md": _write_markdown,
    ".tex": _write_latex,
    ".svg": _write_diagram,
    ".pdf": _write_diagram,
}
