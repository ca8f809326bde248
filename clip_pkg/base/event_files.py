"""TensorBoard scalars, written with the tensorboard package, without torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class ScalarWriter:
    """Writes one curve per tag into `folder`, which is emptied first.

    A folder has exactly one event file, so that curves never fork after an interruption. Points up
    to step `keep_until` are copied from the old file.
    """

    def __init__(self, folder: Path, *, keep_until: int = 0) -> None:
        kept = [event for event in _scalar_events(folder) if event.step <= keep_until]
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)  # but no folder above: see `files.replacing`
        folder.mkdir()
        self._writer = EventFileWriter(str(folder))
        for event in kept:
            self._writer.add_event(event)

    def add(
        self, step: int, values: Mapping[str, float], *, wall_time: float | None = None
    ) -> None:
        """Write `values` (tag → number) at `step`, from 1; wall_time: seconds, now by default."""
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        moment = time.time() if wall_time is None else wall_time
        self._writer.add_event(Event(step=step, wall_time=moment, summary=summary))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _scalar_events(folder: Path) -> Iterator[Event]:
    """Scalars of a folder's event files; a truncated file is read up to the cut."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.HasField("summary"):
                yield event
