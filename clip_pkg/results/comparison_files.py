"""A comparison in files: JSON with everything, CSV with numbers, Markdown and LaTeX to publish."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_json, write_text
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.comparison_records import Comparison, PairResult, PretrainingRow, Spread
from clip_pkg.results.comparison_tables import TextTable, tables
from clip_pkg.results.latex import escape
from clip_pkg.results.ranks import write_rank_diagram


def write_comparison(path: Path, comparison: Comparison) -> list[Path]:
    """Write the kind of file that the suffix says, one of `WRITERS`; returns what was written.

    Raises UserError for a diagram without enough data sets and configs, or if it cannot be written.
    """
    try:
        return WRITERS[path.suffix.lower()](path, comparison)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def _write_json(path: Path, comparison: Comparison) -> list[Path]:
    write_json(path, comparison.to_json())
    return [path]


def _write_csv(path: Path, comparison: Comparison) -> list[Path]:
    """Configs in the file, pairs and pre-trainings in further ones beside it; all digits."""
    configs = []
    for one in comparison.data_sets:
        for row in one.rows:
            cells: dict[str, object] = {
                "data_set": one.name,
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
            configs.append(cells)
    write_text(path, _csv(configs))
    found = [
        {"data_set": one.name, **_pair_cells(pair)}
        for one in comparison.data_sets
        for pair in one.pairs
    ]
    losses = [
        {"data_set": one.name, **_pretraining_cells(row)}
        for one in comparison.data_sets
        for row in one.pretraining
    ]
    written = [path]
    for further, rows in (("pairs", found), ("pretraining", losses)):
        if rows:
            written.append(path.with_name(f"{path.stem}_{further}{path.suffix}"))
            write_text(written[-1], _csv(rows))
    return written


def _pretraining_cells(row: PretrainingRow) -> dict[str, object]:
    """All digits; seconds, not minutes."""
    cells: dict[str, object] = {
        "pretraining": row.label,
        "n_seeds": len(row.configs),
        "scores_of": row.scores_of,
    }
    for name in (
        "top_1",
        "top_5",
        "seconds",
        "effective_rank",
        "knn_acc",
        "probe_acc",
        "probe_gain",
    ):
        cells |= _spread_cells(name, getattr(row, name))
    return {**cells, "notes": "; ".join(row.notes)}


def _spread_cells(name: str, spread: Spread) -> dict[str, object]:
    return {f"{name}_mean": spread.mean, f"{name}_sd": spread.sd}


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


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _write_markdown(path: Path, comparison: Comparison) -> list[Path]:
    parts = [f"# Comparison by {comparison.metric_name}", _list(comparison.findings)]
    for table in tables(comparison):
        rule = tuple("--:" if is_number else "---" for is_number in table.of_numbers)
        lines = [table.columns, rule, *table.rows]
        text = "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines)
        parts.append(f"## {_markdown(table.title)}\n\n{text}")
    reasons = all_refusals(comparison)
    if reasons:
        parts.append(f"## Not compared\n\n{_list(reasons)}")
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return [path]


def all_refusals(comparison: Comparison) -> list[str]:
    """Why something was not compared, of all data sets."""
    inside = [refusal for one in comparison.data_sets for refusal in one.refusals]
    return [refusal.reason for refusal in (*comparison.refusals, *inside)]


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_markdown(sentence)}" for sentence in sentences)


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("_", r"\_")


def _write_latex(path: Path, comparison: Comparison) -> list[Path]:
    """Tables in the style of the package booktabs, findings as comments."""
    parts = [
        "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}",
        *(f"% {one}" for one in comparison.findings),
    ]
    parts += [_latex_table(table) for table in tables(comparison)]
    write_text(path, "\n".join(parts) + "\n")
    return [path]


def _latex_table(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(escape, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(table.title)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if one else 'l' for one in table.of_numbers)}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _write_diagram(path: Path, comparison: Comparison) -> list[Path]:
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
