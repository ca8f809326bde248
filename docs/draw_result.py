"""Draws the README's picture: `python docs/draw_result.py RESULT_FOLDER PICTURE.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw(folder: Path, target: Path) -> None:
    """Curves with mean ± SD over folds, and the confusion matrix over all out-of-fold images."""
    histories = [
        json.loads(path.read_text()) for path in sorted(folder.glob("fold_*/history.json"))
    ]
    summary = json.loads((folder / "cv_summary.json").read_text())
    figure, (loss, accuracy, matrix) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, columns, title in (
        (loss, ("train_loss", "val_loss"), "Loss"),
        (accuracy, ("train_acc", "val_acc", "val_mAP"), "Percent"),
    ):
        for column in columns:
            values = np.array([history[column] for history in histories])
            epochs = np.arange(1, values.shape[1] + 1)
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
            axis.plot(epochs, mean, label=column)
            axis.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2)
        axis.set(xlabel="Epoch", ylabel=title, xticks=epochs)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    counts = np.array(summary["confusion_matrix"]["counts"])
    names = summary["confusion_matrix"]["classes"]
    matrix.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            colour = "white" if counts[row, column] > counts[row].sum() / 2 else "black"
            matrix.text(
                column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
            )
    matrix.set(
        xticks=range(len(names)), yticks=range(len(names)), xlabel="Predicted", ylabel="True"
    )
    matrix.set_xticklabels(names, rotation=60, ha="right", fontsize=8)
    matrix.set_yticklabels(names, fontsize=8)
    best = summary["average_results"]
    name = summary["config"]["name"]
    figure.suptitle(
        f"{name}: accuracy {best['avg_val_acc']:.1f} ± {best['std_val_acc']:.1f} %, "
        f"macro F1 {best['avg_val_f1']:.3f} ± {best['std_val_f1']:.3f} over {best['n']} folds"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
