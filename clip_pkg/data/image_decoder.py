"""Decodes images during training, a few batches ahead, if no pixel store fits on the disk.

Legend: N images of the manifest, B images of a batch, S width and height of the squares in pixels.

The pixels equal those of a store: the same function decodes files with the same digest. The
decoding processes import no torch, start in a fraction of a second and serve all passes of a fold;
they ignore signals that are meant for the trainer, which finishes its epoch first. torch's
DataLoader would need a torch import per worker, its own signal handling, and new workers for each
pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError
from clip_pkg.data.pixel_blocks import square
from clip_pkg.study.manifest import Manifest

# Terminals and clusters send these to all processes of a job. A decoding process ignores them and
# ends when the trainer closes its input.
SIGNALS_FOR_THE_TRAINER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 5.0


class DecodeProcess:
    """Handle of a decoding process; one thread may use it at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clip_pkg.data.image_decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The package is importable there however it became importable here.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )

    def fill(
        self, pixels: NDArray[np.uint8], files: Sequence[Path], digests: Sequence[str]
    ) -> None:
        """Decode B files into `pixels` [B, S, S, 3]; digests: their expected sha256 (hex).

        Raises DataError naming the file that changed or cannot be decoded; ChildProcessError if the
        process was killed.
        """
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None, "a pipe"
        assert replies is not None, "a pipe"
        images = [[str(file), digest] for file, digest in zip(files, digests, strict=True)]
        try:
            requests.write(json.dumps([pixels.shape[1], images]).encode("ascii") + b"\n")
            requests.flush()
            problem = json.loads(replies.readline() or b"{}")
            room = memoryview(pixels.reshape(-1).data)
            while problem is None and room:
                if not (count := replies.readinto(room)):  # type: ignore[attr-defined]
                    raise EOFError
                room = room[count:]
        except (BrokenPipeError, EOFError):
            problem = {}
        if problem == {}:
            raise ChildProcessError(
                "a process that decodes images was killed, probably because memory ran out; lower "
                f"`num_workers` (exit code {self._process.wait()})"
            )
        if problem is not None:
            raise DataError(problem)

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def main() -> None:
    """Reply to requests until the input ends."""
    for number in SIGNALS_FOR_THE_TRAINER:
        signal.signal(number, signal.SIG_IGN)
    # The check of the images has reported what Pillow warns about.
    warnings.filterwarnings("ignore", module="PIL")
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as replies, contextlib.suppress(BrokenPipeError):
        os.dup2(2, 1)  # keeps anything else out of the replies
        while True:
            size, images = json.loads(requests.get())
            pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
            try:
                for row, (file, digest) in enumerate(images):
                    pixels[row] = square(Path(file), digest, size)
            except DataError as error:
                replies.write(json.dumps(str(error)).encode("ascii") + b"\n")
            else:
                replies.write(b"null\n")
                replies.write(pixels.data)
            replies.flush()


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    """Queue requests; end this process when the input ends, because the trainer has ended."""
    with open(0, "rb", closefd=False) as stream:
        for line in stream:
            requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()


BATCHES_AHEAD = 2
MAX_IMAGES_PER_REQUEST = 32

Chunk: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _PendingBatch:
    """A batch that is being decoded: pixels [B, S, S, 3], complete when all requests are."""

    pixels: NDArray[np.uint8]
    requests: list[Future[None]]

    def result(self) -> NDArray[np.uint8]:
        for request in self.requests:
            request.result()
        return self.pixels

    def cancel(self) -> None:
        for request in self.requests:
            request.cancel()


class ImageDecoder:
    """Decodes images of a manifest to squares.

    manifest: the N images. size: S, pixels; see `store_size`. workers: decoding processes, each
    with a thread here; with 0, this process decodes each batch when it is requested. The processes
    start with the first batch and run until `close`.
    """

    def __init__(self, manifest: Manifest, size: int, *, workers: int) -> None:
        self.size = size
        self._manifest = manifest
        self._workers = workers
        self._threads: ThreadPoolExecutor | None = None
        self._processes: list[DecodeProcess] = []
        self._idle: SimpleQueue[DecodeProcess] = SimpleQueue()

    def batches(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.uint8]]:
        """Images at each of `chunks` [B]: uint8 [B, S, S, 3], in order.

        Raises DataError naming the image that changed or cannot be decoded; ChildProcessError if a
        decoding process was killed.
        """
        return self._ahead(chunks) if self._workers else map(self._here, chunks)

    def close(self) -> None:
        """End the processes."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        while self._processes:
            self._processes.pop().close()
        self._idle = SimpleQueue()

    def _here(self, chunk: Chunk) -> NDArray[np.uint8]:
        pixels = self._empty(chunk)
        for row, index in enumerate(chunk):
            pixels[row] = square(
                self._manifest.file(index), self._manifest.digests[index], self.size
            )
        return pixels

    def _empty(self, chunk: Chunk) -> NDArray[np.uint8]:
        return np.empty((len(chunk), self.size, self.size, 3), dtype=np.uint8)

    def _ahead(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.uint8]]:
        threads = self._started()
        waiting = iter(chunks)
        pending = deque(self._start(threads, one) for one in islice(waiting, 1 + BATCHES_AHEAD))
        try:
            while pending:
                pixels = pending.popleft().result()
                pending.extend(self._start(threads, one) for one in islice(waiting, 1))
                yield pixels
        finally:
            for batch in pending:
                batch.cancel()

    def _started(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="decoding")
            for _ in range(self._workers):
                self._processes.append(DecodeProcess())
                self._idle.put(self._processes[-1])
        return self._threads

    def _start(self, threads: ThreadPoolExecutor, chunk: Chunk) -> _PendingBatch:
        pixels = self._empty(chunk)
        count = min(MAX_IMAGES_PER_REQUEST, -(-len(chunk) // self._workers))
        requests = [
            threads.submit(self._fill, pixels[first : first + count], chunk[first : first + count])
            for first in range(0, len(chunk), count)
        ]
        return _PendingBatch(pixels, requests)

    def _fill(self, pixels: NDArray[np.uint8], chunk: Chunk) -> None:
        process = self._idle.get()
        try:
            files = [self._manifest.file(index) for index in chunk]
            process.fill(pixels, files, [self._manifest.digests[index] for index in chunk])
        finally:
            self._idle.put(process)
