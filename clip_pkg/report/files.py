"""The files beside the page: figures, texts, tables, and the numbers behind them as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clip_pkg.base.files import write_bytes, write_text
from clip_pkg.metrics.table import METRICS
from clip_pkg.report.page import PlacedFigure
from clip_pkg.report.pictures import worst_mistakes
from clip_pkg.report.results import ConfigOutcome, ReportedRun
from clip_pkg.results.comparison_records import Comparison, LeaderboardRow, Spread
from clip_pkg.results.suspects import CSV_COLUMNS, Suspects
from clip_pkg.results.tables import cells, csv_text

SUFFIXES = (".svg", ".pdf")
FILES = {
    "leaderboard.csv": "every config: mean, SD, n and interval of every score",
    "folds.csv": "every fold: epoch, images and every score",
    "pairs.csv": "differences between configs, with all tests",
    "per_class.csv": "every class of every config, out of fold",
    "confusion.csv": "confusion matrix of every config; an image counts once per repeat",
    "learning_curves.csv": "every epoch of every fold",
    "mistakes.csv": "every wrong out-of-fold prediction, the most confident first",
    "suspects.csv": "images whose label is probably wrong, with a column for the correct one",
    "methods.txt": "the methods paragraph",
    "results.tex": "the table for LaTeX",
    "figures/": "every figure as SVG and PDF, a folder per config",
}
# Heading → path of the field in `PairResult`.
PAIR_FIELDS = {
    "first": "first",
    "second": "second",
    "score": "metric",
    "difference": "difference",
    **{n: f"test.{n}" for n in ("low", "high", "t", "p", "effect", "n_folds", "test_to_train")},
    "p_holm": "p_holm",
    "detectable": "detectable",
    "p_mcnemar_mid": "mcnemar.p_mid",
    "pooled_difference": "pooled_difference",
    "pooled_low": "bootstrap.low",
    "pooled_high": "bootstrap.high",
    "verdict": "verdict",
}
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
    run: ReportedRun,
    page: str,
    *,
    figures: Sequence[PlacedFigure],
    methods: Sequence[str],
    latex: Sequence[str],
    suspects: Sequence[Suspects],
) -> None:
    """Write everything, the page last, and delete figures that an earlier report left.

    methods, latex, suspects: one per data set.
    """
    paths = run.paths
    written = set()
    for one in figures:
        base = paths.figures / one.folder / one.drawing.caption.slug
        base.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in zip(SUFFIXES, (one.drawing.svg, one.drawing.pdf), strict=True):
            path = base.with_name(base.name + suffix)
            write_bytes(path, content, durable=False)
            written.add(path)
    for path in paths.figures.rglob("*"):
        if path.suffix in SUFFIXES and path not in written:
            path.unlink()
    write_text(paths.methods, "\n\n".join(methods) + "\n")
    write_text(paths.latex, "\n".join(latex))
    comparison = run.comparison
    rows = [row for one in comparison.data_sets for row in one.rows]
    pairs = [cells(pair, PAIR_FIELDS) for one in comparison.data_sets for pair in one.pairs]
    for name, text in {
        "leaderboard": csv_text(line for row in rows for line in _score_rows(comparison, row)),
        "pairs": csv_text(pairs, list(PAIR_FIELDS)),
        "folds": csv_text(
            {
                "config": one.name,
                **{name.removeprefix("fold_"): values[fold] for name, values in columns.items()},
            }
            for one in run.ranked
            for columns in [one.summary["fold_results"]]
            for fold in range(len(columns["fold"]))
        ),
        "per_class": csv_text(
            {"config": one.name, "class": label, **scores}
            for one in run.ranked
            for label, scores in one.summary["per_class"].items()
        ),
        "confusion": csv_text(
            {
                "config": one.name,
                "true_class": one.out_of_fold.classes[true],
                "answer": one.out_of_fold.classes[predicted],
                "images": count,
            }
            for one in run.ranked
            for (true, predicted), count in np.ndenumerate(one.confusion)
        ),
        "learning_curves": csv_text(
            {"config": one.name, "fold": fold.number, "epoch": e, "column": column, "value": value}
            for one in run.ranked
            for fold in one.done
            for column, values in fold.history.items()
            for e, value in enumerate(values, start=1)
        ),
        "mistakes": csv_text(
            (row for one in run.ranked for row in _mistake_rows(one)), MISTAKE_COLUMNS
        ),
        "suspects": csv_text(
            (
                {"data_set": data_set.name, **row}
                for data_set, found in zip(comparison.data_sets, suspects, strict=True)
                for row in found.csv_rows()
            ),
            ("data_set", *CSV_COLUMNS),
        ),
    }.items():
        write_text(paths.numbers(name), text)
    write_text(paths.page, page)


def _score_rows(comparison: Comparison, row: LeaderboardRow) -> Iterator[Row]:
    headline = {} if row.headline is None else row.headline.scores
    for epoch, spreads in (("headline", None), ("best", row.best), ("last", row.last)):
        for score in METRICS:
            spread = Spread(None, None, row.folds_done) if spreads is None else spreads[score]
            pooled = headline.get(score) if epoch == "headline" else None
            if epoch == comparison.epoch:
                pooled = row.pooled.get(score)
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


def _mistake_rows(outcome: ConfigOutcome) -> Iterator[Row]:
    classes = outcome.out_of_fold.classes
    for wrong in worst_mistakes(outcome.done):
        values = (
            outcome.name,
            wrong.fold,
            wrong.path,
            classes[wrong.label],
            classes[wrong.prediction],
            wrong.confidence,
            wrong.true_probability,
        )
        yield dict(zip(MISTAKE_COLUMNS, values, strict=True))
