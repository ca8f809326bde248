"""`cv_summary.json`: one config's folds as publishable numbers, from the folds' files alone.

Scores with a percent sign in the log (`acc`, `balanced_acc`, `mAP`) are percentages here too; all
others are fractions. A fold that is missing or diverged is named and takes no part in any average.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from clip_pkg.atomic import write_json
from clip_pkg.errors import RunFolderError
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.units import PERCENT, history_scores
from clip_pkg.paths import ConfigPaths
from clip_pkg.planning.tasks import FoldFailure, FoldResult, Identity, read_record
from clip_pkg.predictions import Predictions, pooled, read_predictions

SCHEMA_VERSION = 1
DDOF = 1  # sample standard deviation


@dataclass(frozen=True)
class FoldFiles:
    """What is known of one fold: a result with its predictions, or why there is none."""

    number: int
    result: FoldResult | None
    failure: FoldFailure | None
    predictions: Predictions | None

    @property
    def status(self) -> str:
        """`done`, `diverged`, `failed` or `missing`."""
        if self.result is not None:
            return "done"
        if self.failure is not None:
            return "diverged" if self.failure.kind == "diverged" else "failed"
        return "missing"


def summarize(paths: ConfigPaths) -> dict[str, Any]:
    """Build the summary of one config from its folder and write `cv_summary.json`.

    Raises RunFolderError when the folder is no result folder or its files contradict each other.
    """
    config, folds_info, identity = (
        _read(path) for path in (paths.config, paths.folds_info, paths.identity)
    )
    folds = [
        _fold_files(paths, int(info["fold"]), Identity(**identity)) for info in folds_info["folds"]
    ]
    done = [fold for fold in folds if fold.result is not None]
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": config,
        "n_folds": len(folds),
        "status": {f"fold_{fold.number}": fold.status for fold in folds},
        "complete": len(done) == len(folds),
        "units": {"percent": sorted(PERCENT), "all other scores": "fractions; losses in nats"},
        "epoch_choice": _epoch_choice(config),
        "fold_results": _fold_results(folds),
        "average_results": _averages([fold.result.best for fold in done if fold.result]),
        "last_epoch": {
            "fold_results": {"fold_last_epoch": [f.result and f.result.last_epoch for f in folds]}
            | _columns([fold.result.last if fold.result else None for fold in folds]),
            "average_results": _averages([fold.result.last for fold in done if fold.result]),
        },
        "baselines": {
            "majority_class": _majority_baseline(folds_info),
            "untrained_model": _averages([f.result.untrained for f in done if f.result]),
        },
        **_pooled_scores(done),
        "failures": {
            f"fold_{f.number}": {"kind": f.failure.kind, "reason": f.failure.reason}
            for f in folds
            if f.result is None and f.failure is not None
        },
        "identity": identity,
        "data_fingerprint": folds_info["data_fingerprint"],
        "splits_hash": folds_info["splits_hash"],
        "environment": _shared([fold.result.environment for fold in done if fold.result]),
        "timing": {
            "fold_seconds": [f.result and round(f.result.seconds, 3) for f in folds],
            "fold_train_seconds": [f.result and round(f.result.train_seconds, 3) for f in folds],
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "notices": sorted({note for f in done if f.result for note in f.result.notices}),
    }
    write_json(paths.summary, summary)
    return summary


def without_times(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a summary that two equal runs share."""
    return {key: value for key, value in summary.items() if key != "timing"}


def _read(path: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent} is no result folder: it has no {path.name}") from None
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from None


def _fold_files(paths: ConfigPaths, number: int, identity: Identity) -> FoldFiles:
    files = paths.fold(number)
    result = read_record(FoldResult, files.result)
    if result is not None and result.identity != identity:
        parts = ", ".join(identity.differences(result.identity))
        raise RunFolderError(f"{files.result} belongs to another run: its {parts} differ")
    if result is None:
        return FoldFiles(number, None, read_record(FoldFailure, files.failure), None)
    return FoldFiles(number, result, None, read_predictions(files.predictions))


def _epoch_choice(config: Mapping[str, Any]) -> str:
    monitor = config["early_stopping_monitor"]
    if config["inner_val_fraction"] > 0:
        return (
            f"best epoch by {monitor} on an inner validation split of the training fold; the "
            "reported fold had no say"
        )
    return (
        f"best epoch by {monitor} on the reported fold itself, which makes best-epoch scores "
        "optimistic; last_epoch scores involve no choice"
    )


def _fold_results(folds: Sequence[FoldFiles]) -> dict[str, list[Any]]:
    results = [fold.result for fold in folds]
    return {
        "fold": [fold.number for fold in folds],
        "fold_best_epoch": [result and result.best_epoch for result in results],
        "fold_n_train": [result and result.n_train for result in results],
        "fold_n_val": [result and result.n_val for result in results],
        "fold_stopped_early": [result and result.stopped_early for result in results],
        **_columns([result.best if result else None for result in results]),
    }


def _columns(rows: Sequence[Mapping[str, float | None] | None]) -> dict[str, list[float | None]]:
    names = next((list(row) for row in rows if row is not None), [])
    return {f"fold_{name}": [row and row[name] for row in rows] for name in names}  # type: ignore[misc]


def _averages(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Mean and sample standard deviation of each column over the folds where it is defined."""
    averages: dict[str, Any] = {"n": len(rows), "ddof": DDOF}
    for name in rows[0] if rows else ():
        values = [value for row in rows if (value := row[name]) is not None]
        averages[f"avg_{name}"] = statistics.fmean(values) if values else None
        averages[f"std_{name}"] = statistics.stdev(values) if len(values) > DDOF else None
        if len(values) < len(rows):
            averages[f"n_{name}"] = len(values)
    return averages


def _majority_baseline(folds_info: Mapping[str, Any]) -> dict[str, Any]:
    """What always answering the training fold's largest class would score."""
    rows: list[dict[str, float | None]] = []
    for fold in folds_info["folds"]:
        train, val = fold["train_per_class"], fold["val_per_class"]
        answer = max(train, key=lambda name: (train[name], name))
        present = sum(1 for count in val.values() if count)
        rows.append(
            {
                "val_acc": 100 * val[answer] / sum(val.values()),
                "val_balanced_acc": 100 / present if val[answer] else 0.0,
            }
        )
    return _averages(rows)


def _pooled_scores(done: Sequence[FoldFiles]) -> dict[str, Any]:
    """Scores over all out-of-fold predictions at once, each image counted once."""
    parts = [fold.predictions for fold in done if fold.predictions is not None]
    if not parts:
        return {"out_of_fold": None, "per_class": None, "confusion_matrix": None}
    together = pooled(parts)
    metrics = classification_metrics(together.probabilities, together.targets)
    table = metrics.to_json()
    return {
        "out_of_fold": {
            **history_scores(metrics),
            "n": metrics.n,
            "top_k_is": metrics.k,
            "defined_classes": table["defined_classes"],
        },
        "per_class": dict(zip(together.classes, table["per_class"], strict=True)),
        "confusion_matrix": {
            "classes": list(together.classes),
            "rows": "true class",
            "columns": "predicted class",
            "counts": table["confusion_matrix"],
        },
    }


def _shared(environments: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Facts that all folds share, and those in which they differ as lists."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    values = {key: list(np.unique([e.get(key, "") for e in environments])) for key in keys}
    return {k: str(v[0]) if len(v) == 1 else [str(one) for one in v] for k, v in values.items()}
