"""Decodes images during training, a few batches ahead, if no pixel store fits on the disk.

Legend: N images of the manifest, B images of a batch, S width and height of the squares in pixels.

The pixels equal those of a store: the same function decodes files with the same digest. The
decoding processes import no torch, start in a fraction of a second and serve all passes of a fold.
torch's DataLoader would need a torch import per worker, its own signal handling, and new workers
for each pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.child_process import ChildProcess, answers, end_signals_blocked, listen
from clip_pkg.base.errors import DataError
from clip_pkg.data.pixel_blocks import square
from clip_pkg.study.manifest import Manifest

BATCHES_AHEAD = 2
MAX_IMAGES_PER_REQUEST = 32
DECODED = b"null\n"  # reply before the pixels; a JSON string tells a problem instead

Chunk: TypeAlias = NDArray[np.int64]
Squares: TypeAlias = NDArray[np.uint8]


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
        self._children: list[ChildProcess] = []
        self._idle: SimpleQueue[ChildProcess] = SimpleQueue()

    def batches(self, chunks: Iterable[Chunk]) -> Iterator[Squares]:
        """Images at each of `chunks` [B]: uint8 [B, S, S, 3], in order.

        Raises DataError naming the image that changed or cannot be decoded; ChildProcessError if a
        decoding process was killed.
        """
        return self._ahead(chunks) if self._workers else map(self._decode_here, chunks)

    def close(self) -> None:
        """End the processes."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        while self._children:
            self._children.pop().close()
        self._idle = SimpleQueue()

    def _decode_here(self, chunk: Chunk) -> Squares:
        pixels = self._empty(chunk)
        for row, index in enumerate(chunk):
            digest = self._manifest.digests[index]
            pixels[row] = square(self._manifest.file(index), digest, self.size)
        return pixels

    def _empty(self, chunk: Chunk) -> Squares:
        return np.empty((len(chunk), self.size, self.size, 3), dtype=np.uint8)

    def _ahead(self, chunks: Iterable[Chunk]) -> Iterator[Squares]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="decoding")
            # The package is importable there however it became importable here.
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            for _ in range(self._workers):
                with end_signals_blocked():  # the trainer finishes its epoch first
                    self._children.append(ChildProcess("clip_pkg.data.image_decoder", env=env))
                self._idle.put(self._children[-1])
        start = partial(self._start, self._threads)
        waiting = iter(chunks)
        pending = deque(map(start, islice(waiting, 1 + BATCHES_AHEAD)))
        try:
            while pending:
                pixels, requests = pending.popleft()
                for request in requests:
                    request.result()
                pending.extend(map(start, islice(waiting, 1)))
                yield pixels
        finally:
            for _, requests in pending:
                for request in requests:
                    request.cancel()

    def _start(
        self, threads: ThreadPoolExecutor, chunk: Chunk
    ) -> tuple[Squares, list[Future[None]]]:
        """Pixels of a batch, which are complete when all requests are."""
        pixels = self._empty(chunk)
        count = min(MAX_IMAGES_PER_REQUEST, -(-len(chunk) // self._workers))
        requests = [
            threads.submit(self._fill, pixels[first : first + count], chunk[first : first + count])
            for first in range(0, len(chunk), count)
        ]
        return pixels, requests

    def _fill(self, pixels: Squares, chunk: Chunk) -> None:
        """Let an idle process decode the images `chunk` [B] into `pixels` [B, S, S, 3]."""
        files = [str(self._manifest.file(index)) for index in chunk]
        digests = [self._manifest.digests[index] for index in chunk]
        child = self._idle.get()
        try:
            child.write([self.size, files, digests])
            reply = child.answers.readline()
            if reply == DECODED and child.answers.readinto(pixels) < pixels.nbytes:  # type: ignore[attr-defined]
                reply = b""
            if not reply:
                raise ChildProcessError(
                    "a process that decodes images was killed, probably because memory ran out; "
                    f"lower `num_workers` (exit code {child.wait()})"
                )
            if reply != DECODED:
                raise DataError(json.loads(reply))
        finally:
            self._idle.put(child)


def main() -> None:
    """Decode what is requested until the input ends, because the trainer has ended."""
    # The check of the images has reported what Pillow warns about.
    warnings.filterwarnings("ignore", module="PIL")
    requests = listen(partial(os._exit, 0))
    with contextlib.suppress(BrokenPipeError), answers() as stream:
        replies = stream.buffer
        os.dup2(2, 1)  # keeps anything else out of the replies
        for size, files, digests in iter(requests.get, None):
            pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
            try:
                for row, (file, digest) in enumerate(zip(files, digests, strict=True)):
                    pixels[row] = square(Path(file), digest, size)
            except DataError as error:
                replies.write(json.dumps(str(error)).encode("ascii") + b"\n")
            else:
                replies.write(DECODED)
                replies.write(pixels.data)
            replies.flush()


if __name__ == "__main__":
    main()
