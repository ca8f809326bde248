"""Columns of the history by which an epoch can be chosen, and which way is up."""

from __future__ import annotations

from typing import Literal, TypeAlias

LOWER_IS_BETTER = frozenset({"val_loss", "val_log_loss", "val_brier", "val_ece"})
HIGHER_IS_BETTER = frozenset(
    {
        "val_acc",
        "val_balanced_acc",
        "val_mAP",
        "val_auroc",
        "val_precision",
        "val_recall",
        "val_f1",
        "val_mcc",
        "val_kappa",
    }
)
Monitor: TypeAlias = Literal[
    "val_loss",
    "val_acc",
    "val_balanced_acc",
    "val_mAP",
    "val_auroc",
    "val_precision",
    "val_recall",
    "val_f1",
    "val_mcc",
    "val_kappa",
    "val_log_loss",
    "val_brier",
    "val_ece",
]
