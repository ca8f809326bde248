"""What a refit takes over from the cross-validation: its length, and the estimate of its quality.

A model that was trained on all images has no score: no image is left that it has not seen. What can
be said of it is what its config achieved in cross-validation, and that is said as such.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_pkg.base.errors import RunFolderError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RefitLength:
    """For how many epochs a refit trains. reason: why so many, as a phrase."""

    epochs: int
    reason: str


def refit_length(summary: Mapping[str, Any], wanted: int | None) -> RefitLength:
    """Take as many epochs as the folds' models needed, from a config's summary.

    That is the median of the folds' best epochs, rounded up; of their last epochs where the config
    chose none (`save_best` false). `wanted` takes the place of both.

    Raises RunFolderError where folds are missing that would have a say.
    """
    if wanted is not None:
        return RefitLength(wanted, "as --epochs says")
    name = summary["config"]["name"]
    if not summary["complete"]:
        states = summary["status"].items()
        missing = ", ".join(f"{fold} ({state})" for fold, state in states if state != "done")
        raise RunFolderError(
            f"{name}: without {missing} it is not known how many epochs to train; finish the folds "
            "with the training command, or say it: --epochs N"
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
    """Describe a refit, for `refit_summary.json`; nothing in it is a score of the refit itself."""
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
