"""Mean ± SD over folds of every history column, as TensorBoard curves and as numbers."""

from __future__ import annotations

import contextlib
import statistics

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.event_files import ScalarWriter
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.study.fold_files import read_history

CURVES = ("mean", "mean_plus_std", "mean_minus_std")


def write_mean_curves(paths: ConfigPaths) -> None:
    """Rewrite `tensorboard/mean*` from the folds' histories, one point per epoch and column.

    Each epoch is averaged over the folds that reached it (some may stop early); the number of these
    folds is a curve of its own.
    """
    histories = []
    for path in sorted(paths.root.glob("fold_*/history.json")):
        with contextlib.suppress(DamagedFile):  # of a fold that is left out of the summary too
            histories.append(read_history(path))
    columns = list(dict.fromkeys(name for history in histories for name in history))
    epochs = max((len(values) for history in histories for values in history.values()), default=0)
    if epochs == 0:
        return
    writers = {name: ScalarWriter(paths.tensorboard / name) for name in CURVES}
    for epoch in range(epochs):
        points: dict[str, dict[str, float]] = {name: {} for name in CURVES}
        for column in columns:
            values = [
                value
                for history in histories
                if epoch < len(history.get(column, []))
                and (value := history[column][epoch]) is not None
            ]
            if not values:
                continue
            mean = statistics.fmean(values)
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            points["mean"][f"Folds/{column}"] = mean
            points["mean_plus_std"][f"Folds/{column}"] = mean + deviation
            points["mean_minus_std"][f"Folds/{column}"] = mean - deviation
        reached = sum(1 for history in histories if epoch < len(next(iter(history.values()), [])))
        points["mean"]["Folds/count"] = reached
        for name, writer in writers.items():
            writer.add(epoch + 1, points[name])
    for writer in writers.values():
        writer.close()
