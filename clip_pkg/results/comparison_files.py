"""A comparison in files: JSON with everything, CSV with numbers, Markdown and LaTeX to publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_json, write_text
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.comparison_records import (
    Comparison,
    LeaderboardRow,
    PairResult,
    PretrainingRow,
    Spread,
)
from clip_pkg.results.comparison_tables import tables
from clip_pkg.results.tables import (
    LATEX_PREAMBLE,
    csv_text,
    latex_table,
    markdown_escape,
    markdown_table,
)

PRETRAINING_SPREADS = (
    "top_1",
    "top_5",
    "seconds",
    "effective_rank",
    "knn_acc",
    "probe_acc",
    "probe_gain",
)


def write_comparison(path: Path, comparison: Comparison) -> list[Path]:
    """Write the kind of file that the suffix names, one of `WRITERS`; returns all written files.

    Raises UserError for a diagram of too few data sets or configs, or if writing fails.
    """
    try:
        return WRITERS[path.suffix.lower()](path, comparison)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def _write_json(path: Path, comparison: Comparison) -> list[Path]:
    write_json(path, comparison.to_json())
    return [path]


def _write_csv(path: Path, comparison: Comparison) -> list[Path]:
    """Configs in the file itself, pairs and pre-trainings in further files beside it."""
    sets = comparison.data_sets
    kinds = {
        "": [{"data_set": one.name, **_config_cells(row)} for one in sets for row in one.rows],
        "_pairs": [
            {"data_set": one.name, **_pair_cells(pair)} for one in sets for pair in one.pairs
        ],
        "_pretraining": [
            {"data_set": one.name, **_pretraining_cells(row)}
            for one in sets
            for row in one.pretraining
        ],
    }
    written = []
    for kind, rows in kinds.items():
        if rows:
            written.append(path.with_name(f"{path.stem}{kind}{path.suffix}"))
            write_text(written[-1], csv_text(rows))
    return written


def _config_cells(row: LeaderboardRow) -> dict[str, object]:
    cells: dict[str, object] = {
        "config": row.name,
        "folds_done": row.folds_done,
        "n_folds": row.n_folds,
    }
    for epoch, scores in (("best", row.best), ("last", row.last)):
        for name in METRICS:
            cells |= _spread_cells(f"{epoch}_{name}", scores[name])
    for name in METRICS:
        pooled = row.pooled.get(name)
        interval = pooled and pooled.interval
        cells[f"out_of_fold_{name}"] = pooled and pooled.value
        cells[f"out_of_fold_{name}_low"] = interval and interval.low
        cells[f"out_of_fold_{name}_high"] = interval and interval.high
    return cells


def _pair_cells(pair: PairResult) -> dict[str, object]:
    test, interval = pair.test, pair.bootstrap
    return {
        "first": pair.first,
        "second": pair.second,
        "metric": pair.metric,
        "verdict": pair.verdict,
        "difference": pair.difference,
        "low": test and test.low,
        "high": test and test.high,
        "t": test and test.t,
        "p_corrected": test and test.p,
        "p_holm": pair.p_holm,
        "effect": test and test.effect,
        "only_first_correct": pair.mcnemar.only_first_correct,
        "only_second_correct": pair.mcnemar.only_second_correct,
        "mcnemar_p_exact": pair.mcnemar.p_exact,
        "mcnemar_p_mid": pair.mcnemar.p_mid,
        "out_of_fold_difference": pair.pooled_difference,
        "out_of_fold_low": interval and interval.low,
        "out_of_fold_high": interval and interval.high,
    }


def _pretraining_cells(row: PretrainingRow) -> dict[str, object]:
    cells: dict[str, object] = {
        "pretraining": row.label,
        "n_seeds": len(row.configs),
        "scores_of": row.scores_of,
    }
    for name in PRETRAINING_SPREADS:
        cells |= _spread_cells(name, getattr(row, name))
    return {**cells, "notes": "; ".join(row.notes)}


def _spread_cells(name: str, spread: Spread) -> dict[str, object]:
    return {f"{name}_mean": spread.mean, f"{name}_sd": spread.sd}


def _write_markdown(path: Path, comparison: Comparison) -> list[Path]:
    parts = [f"# Comparison by {comparison.metric_name}", _markdown_list(comparison.findings)]
    parts += map(markdown_table, tables(comparison))
    if reasons := all_refusals(comparison):
        parts.append(f"## Not compared\n\n{_markdown_list(reasons)}")
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return [path]


def _markdown_list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_escape(sentence)}" for sentence in sentences)


def all_refusals(comparison: Comparison) -> list[str]:
    """Reasons why something was not compared, of all data sets."""
    inside = [refusal for one in comparison.data_sets for refusal in one.refusals]
    return [refusal.reason for refusal in (*comparison.refusals, *inside)]


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
