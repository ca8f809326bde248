"""TensorBoard scalars, written with the tensorboard package, without torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class ScalarWriter:
    """Writes one curve per tag into `folder`, which is emptied first.

    A folder has exactly one event file, so that curves never fork after an interruption. Points up
    to step `keep_until` are copied from the old file. Curves must not stop a training: what follows
    an OSError, on a full disk for example, is dropped.
    """

    def __init__(self, folder: Path, *, keep_until: int = 0) -> None:
        # Not tensorboard's EventFileWriter: its thread prints a traceback when a write fails.
        self._stream: BinaryIO | None = None
        with self._giving_up():
            kept = [event for event in _scalar_events(folder) if event.step <= keep_until]
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(exist_ok=True)  # but no folder above: see `files.replacing`
            folder.mkdir()
            now = time.time()
            name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
            self._stream = (folder / name).open("xb")
            for event in (Event(wall_time=now, file_version="brain.Event:2"), *kept):
                RecordWriter(self._stream).write(event.SerializeToString())
            self._stream.flush()

    def add(
        self, step: int, values: Mapping[str, float], *, wall_time: float | None = None
    ) -> None:
        """Write `values` (tag → number) at `step`, from 1; wall_time: seconds, now by default."""
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        moment = time.time() if wall_time is None else wall_time
        event = Event(step=step, wall_time=moment, summary=summary)
        with self._giving_up():
            if self._stream is not None:
                RecordWriter(self._stream).write(event.SerializeToString())

    def flush(self) -> None:
        with self._giving_up():
            if self._stream is not None:
                self._stream.flush()

    def close(self) -> None:
        with self._giving_up():
            if self._stream is not None:
                self._stream.close()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            stream, self._stream = self._stream, None
            with contextlib.suppress(OSError):  # what is left in its buffer cannot be written
                if stream is not None:
                    stream.close()


def _scalar_events(folder: Path) -> Iterator[Event]:
    """Scalars of a folder's event files; a truncated file is read up to the cut."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.HasField("summary"):
                yield event
