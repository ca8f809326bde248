"""The files beside the page: figures, texts, tables, and the numbers behind them as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clip_pkg.base.files import write_bytes, write_text
from clip_pkg.report.page import DataSetSection, PlacedFigure
from clip_pkg.report.pictures import worst_mistakes
from clip_pkg.report.results import ConfigOutcome, Run
from clip_pkg.results.comparison_records import Comparison, LeaderboardRow, PairResult
from clip_pkg.results.tables import csv_text

SUFFIXES = (".svg", ".pdf")
FILES = {
    "leaderboard.csv": "every config: mean, SD, n and interval of every score",
    "folds.csv": "every fold: epoch, images and every score",
    "pairs.csv": "differences between configs, with all tests",
    "per_class.csv": "every class of every config, out of fold",
    "confusion.csv": "confusion matrix of every config, out of fold",
    "learning_curves.csv": "every epoch of every fold",
    "mistakes.csv": "every wrong out-of-fold prediction, the most confident first",
    "methods.txt": "the methods paragraph",
    "results.tex": "the table for LaTeX",
    "figures/": "every figure as SVG and PDF, a folder per config",
}
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
MISTAKE_COLUMNS = (
    "config",
    "fold",
    "path",
    "true_class",
    "answer",
    "probability_of_answer",
    "probability_of_true_class",
)
Row = Mapping[str, object]


def write_files(
    run: Run, page: str, *, placed: Sequence[PlacedFigure], sets: Sequence[DataSetSection]
) -> None:
    """Write everything, the page last, and delete figures that an earlier report left."""
    paths = run.paths
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
    comparison = run.comparison
    rows = [row for one in comparison.data_sets for row in one.rows]
    pairs = [_pair_row(pair) for one in comparison.data_sets for pair in one.pairs]
    for name, text in {
        "leaderboard": csv_text(line for row in rows for line in _score_rows(comparison, row)),
        "pairs": csv_text(pairs, PAIR_COLUMNS),
        "folds": csv_text(row for one in run.ranked for row in _fold_rows(one)),
        "per_class": csv_text(
            {"config": one.config.name, "class": label, **scores}
            for one in run.ranked
            for label, scores in one.summary["per_class"].items()
        ),
        "confusion": csv_text(row for one in run.ranked for row in _confusion_rows(one)),
        "learning_curves": csv_text(
            {"config": one.config.name, "fold": n, "epoch": e, "column": column, "value": value}
            for one in run.ranked
            for n, history in zip((f.number for f in one.folds), one.histories, strict=True)
            for column, values in history.items()
            for e, value in enumerate(values, start=1)
        ),
        "mistakes": csv_text(
            (row for one in run.ranked for row in _mistake_rows(one)), MISTAKE_COLUMNS
        ),
    }.items():
        write_text(paths.numbers(name), text)
    write_text(paths.page, page)


def _score_rows(comparison: Comparison, row: LeaderboardRow) -> Iterator[Row]:
    for epoch, spreads in (("best", row.best), ("last", row.last)):
        for score, spread in spreads.items():
            pooled = row.pooled.get(score) if epoch == comparison.epoch else None
            interval = pooled and pooled.interval
            yield {
                "config": row.name,
                "epoch": epoch,
                "score": score,
                "mean": spread.mean,
                "sd": spread.sd,
                "n_folds": spread.n,
                "pooled": pooled and pooled.value,
                "ci_low": interval and interval.low,
                "ci_high": interval and interval.high,
            }


def _pair_row(pair: PairResult) -> Row:
    test, interval = pair.test, pair.bootstrap
    return {
        "first": pair.first,
        "second": pair.second,
        "score": pair.metric,
        "difference": pair.difference,
        **{name: test and getattr(test, name) for name in TEST_COLUMNS},
        "p_holm": pair.p_holm,
        "p_mcnemar_mid": pair.mcnemar.p_mid,
        "pooled_difference": pair.pooled_difference,
        "pooled_low": interval and interval.low,
        "pooled_high": interval and interval.high,
        "verdict": pair.verdict,
    }


def _fold_rows(outcome: ConfigOutcome) -> Iterator[Row]:
    columns = outcome.summary["fold_results"]
    for values in zip(*columns.values(), strict=True):
        cells = zip((name.removeprefix("fold_") for name in columns), values, strict=True)
        yield {"config": outcome.config.name, **dict(cells)}


def _confusion_rows(outcome: ConfigOutcome) -> Iterator[Row]:
    classes = outcome.pooled.classes
    for (true, predicted), count in np.ndenumerate(outcome.confusion):
        yield {
            "config": outcome.config.name,
            "true_class": classes[true],
            "answer": classes[predicted],
            "images": count,
        }


def _mistake_rows(outcome: ConfigOutcome) -> Iterator[Row]:
    classes = outcome.pooled.classes
    for wrong in worst_mistakes(outcome.folds):
        values = (
            outcome.config.name,
            wrong.fold,
            wrong.path,
            classes[wrong.label],
            classes[wrong.prediction],
            wrong.confidence,
            wrong.true_probability,
        )
        yield dict(zip(MISTAKE_COLUMNS, values, strict=True))
