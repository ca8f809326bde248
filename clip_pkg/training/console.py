"""Log lines of a training, and its progress file for the launcher."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from clip_pkg.base.errors import printable
from clip_pkg.base.files import write_json
from clip_pkg.config.loss_blocks import TermLabel
from clip_pkg.study.progress import Progress
from clip_pkg.training.history import Columns, finite_or_none
from clip_pkg.training.loss_scores import MeanScores

RULE = "=" * 70
SECONDS_BETWEEN_LINES = 30.0  # within a long epoch
SECONDS_BETWEEN_UPDATES = 0.5  # of the progress file


class LogLines:
    """Writes log lines. is_new_log: nothing was written before."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Folds of a config may share a log; the other ones need not repeat its settings.
        self.is_new_log = not stream.seekable() or stream.tell() == 0

    def line(self, text: str = "") -> None:
        """Write one line now. On a full disk it is retried with the next one; training goes on."""
        with contextlib.suppress(OSError):
            self._stream.write(printable(text) + "\n")
            self._stream.flush()

    def banner(self, title: str, settings: Sequence[tuple[str, str]]) -> None:
        """Write a titled block of `name: value` lines."""
        for text in (RULE, title, RULE, *(f"{name}: {value}" for name, value in settings), RULE):
            self.line(text)


class Console(LogLines):
    """Log lines and progress of one training.

    stream: for the lines. progress_file: for the latest `Progress`. labels: of the loss's terms.
    epoch: the last finished one. spent: seconds of all attempts so far, on everything and on
    training steps.
    """

    def __init__(
        self,
        stream: TextIO,
        progress_file: Path,
        *,
        epochs: int,
        labels: Mapping[str, TermLabel],
        epoch: int,
        spent: Callable[[], tuple[float, float]],
    ) -> None:
        super().__init__(stream)
        self._progress_file = progress_file
        self._epochs = epochs
        self._labels = labels
        self._epoch = epoch
        self._spent = spent
        self._monitored: float | None = None
        self._updated = 0.0
        self._state: tuple[str, int, int, float] = ("start", 0, 0, 0.0)

    def save_progress(self) -> None:
        """Write the progress file now; without room on the disk, the old one stays."""
        phase, step, steps, speed = self._state
        seconds, train_seconds = self._spent()
        self._updated = time.monotonic()
        progress = Progress(
            phase=phase,
            epoch=self._epoch,
            epochs=self._epochs,
            step=step,
            steps=steps,
            images_per_second=speed,
            monitored=finite_or_none(self._monitored),
            updated=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
            seconds=round(seconds, 3),
            train_seconds=round(train_seconds, 3),
        )
        try:
            write_json(self._progress_file, vars(progress), durable=False)
        except FileNotFoundError:
            raise  # the result folder was deleted: training there is in vain
        except OSError:
            return

    def phase(
        self, name: str, *, steps: int, batch_size: int, epoch: int | None = None
    ) -> Callable[..., None]:
        """Begin a phase (`train`, `val`, `test`, `features`) of `epoch`; None: the latest one.

        Speed and remaining time are those of the steps after the first, which may include a
        start-up.

        Returns a function to call after each step with the number of steps done and, in training, a
        function that fetches the means so far.
        """
        if epoch is not None:
            self._epoch = epoch
        self._state = (name, 0, steps, 0.0)
        started = logged = time.monotonic()
        first: tuple[int, float] | None = None  # step after the start-up, and when it was done
        prefix = self._prefix(name)

        def on_step(done: int, fetch: Callable[[], MeanScores] | None = None) -> None:
            nonlocal logged, first
            now = time.monotonic()
            first = first or (done, now)
            step, since = first if done > first[0] else (0, started)
            speed = (done - step) / max(now - since, 1e-9)
            self._state = (name, done, steps, round(speed * batch_size, 1))
            if now - self._updated >= SECONDS_BETWEEN_UPDATES or done == steps:
                self.save_progress()
            if now - logged >= SECONDS_BETWEEN_LINES and done < steps:
                logged = now
                scores = None if fetch is None else fetch()
                self.line(
                    _bar(prefix, done, steps, now - started, self._postfix(scores), rate=speed)
                )

        return on_step

    def phase_done(self, name: str, *, steps: int, seconds: float, scores: MeanScores) -> None:
        """Write the finished bar of a phase."""
        self.line(_bar(self._prefix(name), steps, steps, seconds, self._postfix(scores)))

    def score_line(self, split: str, scores: MeanScores, mean_ap: float | None = None) -> str:
        """`Val Loss: …, Val Acc: …, Val mAP: …`; accuracy and `mean_ap` in percent."""
        assert scores.accuracy is not None, "something is predicted"
        line = f"{split} Loss: {self._loss(scores)}, {split} Acc: {100 * scores.accuracy:.2f}%"
        if split == "Train":
            return line
        return f"{line}, {split} mAP: {'n/a' if mean_ap is None else f'{mean_ap:.2f}%'}"

    def epoch_done(self, lines: Sequence[str], row: Columns, monitored: str | None) -> None:
        """Write the lines of an epoch; monitored: the column that the progress file shows."""
        self._monitored = None if monitored is None else row[monitored]
        pace = (
            f"Learning Rate: {row['learning_rate']:.3g}, Epoch Time: {row['epoch_seconds']:.1f} s"
        )
        for line in (*lines, pace):
            self.line(line)

    def _prefix(self, phase: str) -> str:
        return f"Epoch {self._epoch} [Train]" if phase == "train" else f"[{phase.capitalize()}]"

    def _loss(self, scores: MeanScores) -> str:
        if len(scores.terms) < 2:
            return f"{scores.loss:.4f}"
        parts = ", ".join(
            f"{self._labels[name].label}: {value:.4f}" for name, value in scores.terms.items()
        )
        return f"{scores.loss:.4f} ({parts})"

    def _postfix(self, scores: MeanScores | None) -> str:
        if scores is None:
            return ""
        values = [f"loss={scores.loss:.4f}"]
        if len(scores.terms) > 1:
            values += [f"{self._labels[name].short}={v:.4f}" for name, v in scores.terms.items()]
        if scores.accuracy is not None:
            values.append(f"acc={100 * scores.accuracy:.2f}%")
        return ", ".join(values)


def _bar(
    prefix: str, done: int, total: int, seconds: float, postfix: str, *, rate: float | None = None
) -> str:
    """Progress bar; rate: steps per second, None for the mean."""
    bar = tqdm.format_meter(
        done, total, seconds, prefix=prefix, postfix=postfix, ascii=False, rate=rate
    )
    return str(bar)
