"""What a fold says while it trains: log lines, and a progress file for the launcher."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from clip_pkg.base.files import write_json
from clip_pkg.losses.contract import PartLabel
from clip_pkg.study.progress import Progress
from clip_pkg.training.epoch import EpochScores
from clip_pkg.training.history import finite_or_none
from clip_pkg.training.loss_scores import LossScores

RULE = "=" * 70


class LogLines:
    """Voice of a training."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str = "") -> None:
        """Write one line now."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def banner(self, title: str, settings: Sequence[tuple[str, str]]) -> None:
        """Write a titled block of `name: value` lines."""
        for text in (RULE, title, RULE, *(f"{name}: {value}" for name, value in settings), RULE):
            self.line(text)


SECONDS_BETWEEN_LINES = 30.0  # within a long epoch
SECONDS_BETWEEN_UPDATES = 0.5  # of the progress file


class FoldConsole(LogLines):
    """Voice of one fold. `stream` gets lines, `progress_file` the latest `Progress`."""

    def __init__(
        self,
        stream: TextIO,
        progress_file: Path,
        *,
        epochs: int,
        labels: Mapping[str, PartLabel],
    ) -> None:
        super().__init__(stream)
        self._progress_file = progress_file
        self._epochs = epochs
        self._labels = labels
        self._epoch = 0
        self._monitored: float | None = None
        self._updated = 0.0

    def phase(
        self, name: str, *, epoch: int, steps: int, batch_size: int
    ) -> Callable[[int, Callable[[], LossScores] | None], None]:
        """Begin a phase (`train`, `val`, `features`) of `epoch`; the result is its `on_step`."""
        self._epoch = epoch
        started = spoken = time.monotonic()
        prefix = self._prefix(name)

        def on_step(done: int, scores: Callable[[], LossScores] | None) -> None:
            nonlocal spoken
            now = time.monotonic()
            if now - self._updated >= SECONDS_BETWEEN_UPDATES or done == steps:
                rate = done * batch_size / max(now - started, 1e-9)
                self._write_progress(name, done, steps, rate)
            if now - spoken >= SECONDS_BETWEEN_LINES and done < steps:
                spoken = now
                self.line(_bar(prefix, done, steps, now - started, self._postfix(scores)))

        return on_step

    def phase_done(self, name: str, *, steps: int, seconds: float, scores: LossScores) -> None:
        """Write the finished bar of a phase."""
        prefix = self._prefix(name)
        self.line(_bar(prefix, steps, steps, seconds, self._postfix(lambda: scores)))

    def epoch_lines(
        self,
        train: EpochScores,
        val: EpochScores | None,
        val_map: float | None,
        *,
        monitored: float | None,
        remark: str = "",
    ) -> None:
        """Write the two lines that people and scripts read: losses, accuracies, mAP (percent).

        There is only the first of them where no image was held out.
        """
        self._monitored = monitored
        map_text = "n/a" if val_map is None else f"{val_map:.2f}%"
        self.line()
        self.line(f"Train Loss: {self._loss(train)}, Train Acc: {100 * train.accuracy:.2f}%")
        if val is not None:
            accuracy = f"{100 * val.accuracy:.2f}%"
            self.line(f"Val Loss: {self._loss(val)}, Val Acc: {accuracy}, Val mAP: {map_text}")
        if remark:
            self.line(remark)

    def test_line(self, scores: EpochScores, test_map: float | None, epoch: int) -> None:
        """Write the line on the test images, like those of an epoch."""
        map_text = "n/a" if test_map is None else f"{test_map:.2f}%"
        self.line(
            f"Test Loss: {self._loss(scores)}, Test Acc: {100 * scores.accuracy:.2f}%, "
            f"Test mAP: {map_text} (epoch {epoch})"
        )

    def measured_line(self, words: str, monitored: float | None) -> None:
        """Write a line on an epoch that was measured by other things than losses and accuracy."""
        self._monitored = monitored
        self.line(words)

    def setup(self, what: str) -> None:
        """Tell the launcher what is being prepared."""
        self._write_progress(what, 0, 0, 0.0)

    def _prefix(self, phase: str) -> str:
        return f"Epoch {self._epoch} [Train]" if phase == "train" else f"[{phase.capitalize()}]"

    def _loss(self, scores: EpochScores) -> str:
        if len(scores.parts) < 2:
            return f"{scores.loss:.4f}"
        parts = ", ".join(
            f"{self._labels[name].label}: {value:.4f}" for name, value in scores.parts.items()
        )
        return f"{scores.loss:.4f} ({parts})"

    def _postfix(self, scores: Callable[[], LossScores] | None) -> str:
        if scores is None:
            return ""
        now = scores()
        values = [f"loss={now.loss:.4f}"]
        if len(now.parts) > 1:
            values += [f"{self._labels[name].short}={v:.4f}" for name, v in now.parts.items()]
        if isinstance(now, EpochScores):
            values.append(f"acc={100 * now.accuracy:.2f}%")
        return ", ".join(values)

    def _write_progress(self, phase: str, step: int, steps: int, rate: float) -> None:
        self._updated = time.monotonic()
        progress = Progress(
            phase=phase,
            epoch=self._epoch,
            epochs=self._epochs,
            step=step,
            steps=steps,
            images_per_second=round(rate, 1),
            monitored=finite_or_none(self._monitored),
            updated=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        write_json(self._progress_file, vars(progress), durable=False)


def _bar(prefix: str, done: int, total: int, seconds: float, postfix: str) -> str:
    bar = tqdm.format_meter(done, total, seconds, prefix=prefix, postfix=postfix, ascii=False)
    return str(bar)
