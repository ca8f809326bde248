"""Every score of a config's cv_summary.json once more, from the predictions alone.

    python tests/independent_metrics.py RESULTS_OF_A_CONFIG ...

Nothing of clip_pkg is used: files are read with the csv module, scores come from scikit-learn, or
from their formula where scikit-learn has none or answers 0 for an undefined one. Prints the largest
deviation of each folder and exits with 1 where it is above 1e-12.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

LARGEST = 1e-12
TOP_K = 3
BINS = 15
Table = tuple[list[str], np.ndarray, np.ndarray]  # classes, labels [N], probabilities [N, C]
Comparison = tuple[str, Any, Any]  # what, as stored, as computed here


def read(path: Path) -> Table:
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    classes = [name.removeprefix("prob_") for name in header[3:]]
    labels = np.array([classes.index(row[1]) for row in rows])
    scores = np.array([[float(cell) for cell in row[3:]] for row in rows])
    chosen = [classes[int(np.argmax(row))] for row in scores]
    assert chosen == [row[2] for row in rows], f"{path}: predictions are not the largest"
    return classes, labels, scores


def one_against_rest(labels: np.ndarray, scores: np.ndarray, label: int) -> dict[str, Any]:
    own = labels == label
    chosen = scores.argmax(axis=1) == label
    support, negatives, predicted = int(own.sum()), int((~own).sum()), int(chosen.sum())
    hits, missed = int((own & chosen).sum()), int((~own & chosen).sum())
    both = support and negatives
    return {
        "support": support,
        "predicted": predicted,
        "precision": metrics.precision_score(own, chosen, zero_division=0) if support else None,
        "recall": metrics.recall_score(own, chosen) if support else None,
        "f1": 2 * hits / (support + predicted) if support else None,
        "specificity": (negatives - missed) / negatives if negatives else None,
        "average_precision": metrics.average_precision_score(own, scores[:, label])
        if both
        else None,
        "auroc": metrics.roc_auc_score(own, scores[:, label]) if both else None,
    }


def mean(rows: Sequence[dict[str, Any]], name: str, *, by_support: bool = False) -> float | None:
    pairs = [(row[name], row["support"] if by_support else 1) for row in rows]
    defined = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in defined)
    return math.fsum(value * weight for value, weight in defined) / total if total else None


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    error = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        # As documented: bin b holds ceil(p · 15) = b, in floating point as well.
        inside = np.ceil(confidence * BINS) == number + 1
        if inside.any():
            assert np.all(confidence[inside] >= low - 1e-12)
            assert np.all(confidence[inside] <= high + 1e-12)
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def scores_of(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    count, classes = scores.shape
    chosen = scores.argmax(axis=1)
    rows = [one_against_rest(labels, scores, label) for label in range(classes)]
    counts = metrics.confusion_matrix(labels, chosen, labels=range(classes)).astype(object)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    own = scores[np.arange(count), labels]
    chance = int((true * predicted).sum())
    mcc_defined = (true != count).all() and (predicted != count).all()
    mean_ap = mean(rows, "average_precision")
    balanced = mean(rows, "recall")
    ahead = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]  # ties: the lower index first
    return {
        "acc": 100 * metrics.accuracy_score(labels, chosen),
        "balanced_acc": None if balanced is None else 100 * balanced,
        "mAP": None if mean_ap is None else 100 * mean_ap,
        "precision": mean(rows, "precision"),
        "recall": mean(rows, "recall"),
        "f1": mean(rows, "f1"),
        "auroc": mean(rows, "auroc"),
        "specificity": mean(rows, "specificity"),
        "precision_weighted": mean(rows, "precision", by_support=True),
        "recall_weighted": mean(rows, "recall", by_support=True),
        "f1_weighted": mean(rows, "f1", by_support=True),
        "mcc": metrics.matthews_corrcoef(labels, chosen) if mcc_defined else None,
        "kappa": metrics.cohen_kappa_score(labels, chosen) if chance != count**2 else None,
        "top_k": np.mean((ahead == labels[:, None]).any(axis=1)) if classes > TOP_K else None,
        "log_loss": math.fsum(-math.log(max(p, 2.0**-52)) for p in own.tolist()) / count,
        "brier": np.mean(((scores - np.eye(classes)[labels]) ** 2).sum(axis=1)),
        "ece": calibration_error(labels, scores),
    }


def comparisons(folder: Path) -> Iterator[Comparison]:
    summary = json.loads((folder / "cv_summary.json").read_text(encoding="utf-8"))
    # At the best epoch under the guides' keys; the schema asserts that `best_epoch` says the same.
    blocks = (
        ("best", summary, "predictions.csv"),
        ("last", summary["last_epoch"], "predictions_last.csv"),
    )
    for when, block, file in blocks:
        columns = block["fold_results"]
        parts: list[Table] = []
        per_fold: list[dict[str, Any]] = []
        for position, state in enumerate(summary["status"].values()):
            if state != "done":
                continue
            parts.append(read(folder / f"fold_{position + 1}" / file))
            per_fold.append(scores_of(*parts[-1][1:]))
            for name, value in per_fold[-1].items():
                where = f"{when} fold {position + 1} {name}"
                yield where, columns[f"fold_val_{name}"][position], value
        if not parts:
            yield f"{when} out_of_fold", block["out_of_fold"], None
            continue
        yield from averages(when, block["average_results"], per_fold)
        labels, scores = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
        for name, value in scores_of(labels, scores).items():
            yield f"{when} out_of_fold {name}", block["out_of_fold"][name], value
        if block is summary:
            yield from tables(summary, parts[0][0], labels, scores)
    if summary["test"] is not None:
        yield from on_test_images(folder, summary)


def on_test_images(folder: Path, summary: Any) -> Iterator[Comparison]:
    """Scores of each fold's model on images that all folds share."""
    per_fold = []
    for position, state in enumerate(summary["status"].values()):
        if state == "done":
            _, labels, scores = read(folder / f"fold_{position + 1}" / "test_predictions.csv")
            ahead = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            top = np.mean((ahead == labels[:, None]).any(axis=1)) if scores.shape[1] > 5 else None
            per_fold.append({**scores_of(labels, scores), "top_5": top})
            yield "test n", summary["test"]["n"], len(labels)
            for name, value in per_fold[-1].items():
                stored = summary["test"]["fold_results"][f"fold_test_{name}"][position]
                yield f"test fold {position + 1} {name}", stored, value
    yield from averages("test", summary["test"]["average_results"], per_fold, side="test")


def averages(
    when: str, stored: Any, per_fold: Sequence[dict[str, Any]], side: str = "val"
) -> Iterator[Comparison]:
    yield f"{when} n", stored["n"], len(per_fold)
    for name in per_fold[0]:
        values = [row[name] for row in per_fold if row[name] is not None]
        yield (
            f"{when} avg {name}",
            stored[f"avg_{side}_{name}"],
            np.mean(values) if values else None,
        )
        deviation = np.std(values, ddof=1) if len(values) > 1 else None
        yield f"{when} std {name}", stored[f"std_{side}_{name}"], deviation


def tables(
    summary: Any, classes: Sequence[str], labels: np.ndarray, scores: np.ndarray
) -> Iterator[Comparison]:
    assert list(summary["per_class"]) == classes == summary["confusion_matrix"]["classes"]
    for position, name in enumerate(classes):
        for score, value in one_against_rest(labels, scores, position).items():
            yield f"{name} {score}", summary["per_class"][name][score], value
    chosen = scores.argmax(axis=1)
    for row, column in np.ndindex(len(classes), len(classes)):
        count = int(((labels == row) & (chosen == column)).sum())
        yield f"{row} as {column}", summary["confusion_matrix"]["counts"][row][column], count


def deviation(stored: Any, computed: Any) -> float:
    """Absolute below 1, relative above; infinite where only one of the two is undefined."""
    if stored is None or computed is None:
        return 0.0 if stored is computed else math.inf
    return float(abs(stored - computed) / max(1.0, abs(computed)))


def largest_deviation(folder: Path) -> tuple[float, str, int]:
    """The largest deviation, where it is, and how many numbers were compared."""
    found = [(deviation(stored, mine), what) for what, stored, mine in comparisons(folder)]
    return (*max(found), len(found))


def main(folders: Sequence[str]) -> int:
    failed = not folders
    for folder in folders:
        worst, where, count = largest_deviation(Path(folder))
        print(f"{folder}: {count} numbers, largest deviation {worst:.3g} ({where})")
        failed |= worst > LARGEST
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
