"""The files beside the page: figures, words, tables, and the numbers behind them as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from clip_pkg.base.files import write_bytes, write_text
from clip_pkg.base.paths import ReportPaths
from clip_pkg.report.page import DataSetSection, PlacedFigure
from clip_pkg.report.pictures import worst_mistakes
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.report.tables import csv_text
from clip_pkg.results.comparison_records import Comparison, LeaderboardRow, PairResult

SUFFIXES = (".svg", ".pdf")
TEST_COLUMNS = ("low", "high", "t", "p", "effect", "n_folds", "test_to_train")
PAIR_COLUMNS = (
    "first",
    "second",
    "score",
    "difference",
    *TEST_COLUMNS,
    "p_holm",
    "p_mcnemar_mid",
    "pooled_difference",
    "pooled_low",
    "pooled_high",
    "verdict",
)


def number_files() -> list[tuple[str, str]]:
    """Names and contents of the files that are written, for readers."""
    return [
        ("leaderboard.csv", "every config: mean, SD, n and interval of every score"),
        ("folds.csv", "every fold: epoch, images and every score"),
        ("pairs.csv", "differences between configs, with all tests"),
        ("per_class.csv", "every class of every config, out of fold"),
        ("confusion.csv", "how often each class was given which answer"),
        ("learning_curves.csv", "every epoch of every fold"),
        ("mistakes.csv", "every wrong out-of-fold answer, the surest first"),
        ("methods.txt", "the methods paragraph"),
        ("results.tex", "the table for LaTeX"),
        ("figures/", "every figure as SVG and PDF, a folder per config"),
    ]


def write_files(
    paths: ReportPaths,
    page: str,
    *,
    placed: Sequence[PlacedFigure],
    sets: Sequence[DataSetSection],
    comparison: Comparison,
    outcomes: Sequence[ConfigOutcome],
) -> None:
    """Write everything, the page last; figures of an earlier report that are no more go."""
    written = set()
    for one in placed:
        base = paths.figures / one.folder / one.drawing.caption.slug
        for suffix, content in zip(SUFFIXES, (one.drawing.svg, one.drawing.pdf), strict=True):
            path = base.with_name(base.name + suffix)
            write_bytes(path, content, durable=False)
            written.add(path)
    for path in paths.figures.rglob("*"):
        if path.suffix in SUFFIXES and path not in written:
            path.unlink()
    write_text(paths.methods, "\n\n".join(one.methods for one in sets) + "\n")
    write_text(paths.latex, "\n".join(one.latex for one in sets))
    for name, text in _numbers(comparison, outcomes):
        write_text(paths.numbers(name), text)
    write_text(paths.page, page)


def _numbers(
    comparison: Comparison, outcomes: Sequence[ConfigOutcome]
) -> Iterator[tuple[str, str]]:
    rows = [row for one in comparison.data_sets for row in one.rows]
    yield (
        "leaderboard",
        csv_text(
            ("config", "epoch", "score", "mean", "sd", "n_folds", "pooled", "ci_low", "ci_high"),
            (line for row in rows for line in _scores(comparison, row)),
        ),
    )
    pairs = (pair for one in comparison.data_sets for pair in one.pairs)
    yield "pairs", csv_text(PAIR_COLUMNS, map(_pair, pairs))
    yield "folds", csv_text(*_folds(outcomes))
    yield (
        "per_class",
        csv_text(
            ("config", "class", *next(iter(outcomes[0].summary["per_class"].values()))),
            (
                (one.config.name, name, *scores.values())
                for one in outcomes
                for name, scores in one.summary["per_class"].items()
            ),
        ),
    )
    yield (
        "confusion",
        csv_text(
            ("config", "true_class", "answer", "images"),
            (
                (one.config.name, one.pooled.classes[true], one.pooled.classes[answer], count)
                for one in outcomes
                for (true, answer), count in np.ndenumerate(one.confusion)
            ),
        ),
    )
    yield (
        "learning_curves",
        csv_text(
            ("config", "fold", "epoch", "column", "value"),
            (
                (one.config.name, fold.number, epoch, column, value)
                for one in outcomes
                for fold in one.folds
                for column, values in fold.history.items()
                for epoch, value in enumerate(values, start=1)
            ),
        ),
    )
    yield (
        "mistakes",
        csv_text(
            (
                "config",
                "fold",
                "path",
                "true_class",
                "answer",
                "probability_of_answer",
                "probability_of_true_class",
            ),
            (
                (
                    one.config.name,
                    wrong.fold,
                    wrong.path,
                    one.pooled.classes[wrong.label],
                    one.pooled.classes[wrong.answer],
                    wrong.confidence,
                    wrong.true_probability,
                )
                for one in outcomes
                for wrong in worst_mistakes(one.folds)
            ),
        ),
    )


def _scores(comparison: Comparison, row: LeaderboardRow) -> Iterator[tuple[object, ...]]:
    for epoch, spreads in (("best", row.best), ("last", row.last)):
        for score, spread in spreads.items():
            pooled = row.pooled.get(score) if epoch == comparison.epoch else None
            interval = None if pooled is None else pooled.interval
            yield (
                row.name,
                epoch,
                score,
                spread.mean,
                spread.sd,
                spread.n,
                None if pooled is None else pooled.value,
                None if interval is None else interval.low,
                None if interval is None else interval.high,
            )


def _pair(pair: PairResult) -> tuple[object, ...]:
    test, drawn = pair.test, pair.bootstrap
    return (
        pair.first,
        pair.second,
        pair.metric,
        pair.difference,
        *(None if test is None else getattr(test, name) for name in TEST_COLUMNS),
        pair.p_holm,
        pair.mcnemar.p_mid,
        pair.pooled_difference,
        None if drawn is None else drawn.low,
        None if drawn is None else drawn.high,
        pair.verdict,
    )


def _folds(
    outcomes: Sequence[ConfigOutcome],
) -> tuple[list[str], Iterator[tuple[object, ...]]]:
    """Columns that any config has; those of others stay empty."""
    columns = list(dict.fromkeys(name for one in outcomes for name in one.summary["fold_results"]))

    def rows() -> Iterator[tuple[object, ...]]:
        for one in outcomes:
            results = one.summary["fold_results"]
            for place in range(len(results["fold"])):
                values = (results[name][place] if name in results else None for name in columns)
                yield (one.config.name, *values)

    return ["config", *(name.removeprefix("fold_") for name in columns)], rows()
