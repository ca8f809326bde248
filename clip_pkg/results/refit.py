"""The number of epochs of a refit, and the estimate of its scores, from the cross-validation.

A model that is trained on all images has no score of its own, since no held-out image is left. Its
summary holds the cross-validated scores of its config, marked as such.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_pkg.base.errors import RunFolderError
from clip_pkg.results.folders import left_out

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RefitLength:
    """Number of epochs of a refit, and the reason as a phrase."""

    epochs: int
    reason: str


def refit_length(summary: Mapping[str, Any], wanted: int | None) -> RefitLength:
    """Median of the folds' best epochs, rounded up; `wanted` overrides it.

    The median of their last epochs if the config does not choose an epoch (`save_best` false).

    Raises RunFolderError if folds are unfinished.
    """
    if wanted is not None:
        return RefitLength(wanted, "set by --epochs")
    name = summary["config"]["name"]
    if not summary["complete"]:
        missing = ", ".join(left_out(summary))
        raise RunFolderError(
            f"{name}: the number of epochs cannot be derived without {missing}. Run the training "
            "command again to finish them, or set it with --epochs N"
        )
    if summary["config"]["save_best"]:
        kind, epochs = "best", summary["fold_results"]["fold_best_epoch"]
    else:
        kind, epochs = "last", summary["last_epoch"]["fold_results"]["fold_last_epoch"]
    listed = ", ".join(map(str, epochs))
    median = statistics.median(epochs)
    rounded = "" if median == math.ceil(median) else ", rounded up"
    return RefitLength(
        math.ceil(median), f"the median of the folds' {kind} epochs ({listed}){rounded}"
    )


def refit_summary(
    summary: Mapping[str, Any], length: RefitLength, class_counts: Mapping[str, int]
) -> dict[str, Any]:
    """Content of `refit_summary.json`; its scores are the cross-validated ones."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": summary["config"]["name"],
        "epochs": length.epochs,
        "epochs_are": length.reason,
        "trained_on": {
            "images": sum(class_counts.values()),
            "per_class": dict(class_counts),
            "data_fingerprint": summary["data_fingerprint"],
        },
        "held_out": None,
        "cross_validated_estimate": {
            "of": "the models of the folds, each judged by images it had not seen; the refit "
            "itself was judged by none",
            "folds": sum(state == "done" for state in summary["status"].values()),
            "epoch_choice": summary["epoch_choice"],
            "best_epoch": summary["average_results"],
            "last_epoch": summary["last_epoch"]["average_results"],
        },
    }
