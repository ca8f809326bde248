"""Images decoded when they are needed, a few batches ahead: what there is where no store fits.

Legend: N images of the manifest, B images of a batch, S side of the square in pixels.

The pixels are those of a store, made by the same function from files with the same digest. Files
are addressed by their place in the manifest, so nothing is kept per image. No torch here.
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

# What asks for an end may reach all processes of a terminal or of a cluster's job. The one that
# decodes for a fold goes on until the fold needs it no more.
FOR_THE_STARTER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 5.0


class DecodeProcess:
    """One such process, as the one that started it sees it; for one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clip_pkg.data.image_decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Importable there whatever made it importable here.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )

    def fill(
        self, pixels: NDArray[np.uint8], files: Sequence[Path], digests: Sequence[str]
    ) -> None:
        """Decode B files into `pixels` [B, S, S, 3]; digests: sha256 (hex) of what is in them.

        Raises DataError naming the file that changed or cannot be decoded; ChildProcessError if the
        process is gone.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None, "a pipe"
        assert answers is not None, "a pipe"
        images = [[str(file), digest] for file, digest in zip(files, digests, strict=True)]
        try:
            requests.write(json.dumps([pixels.shape[1], images]).encode("ascii") + b"\n")
            requests.flush()
            problem = json.loads(answers.readline() or b"{}")
            room = memoryview(pixels.reshape(-1).data)
            while problem is None and room:
                if not (count := answers.readinto(room)):  # type: ignore[attr-defined]
                    raise EOFError
                room = room[count:]
        except (BrokenPipeError, EOFError):
            problem = {}
        if problem == {}:
            raise ChildProcessError(
                "a process that decodes images was killed, as happens when memory runs out; lower "
                f"`num_workers` (exit code {self._process.wait()})"
            )
        if problem is not None:
            raise DataError(problem)

    def close(self) -> None:
        """End it."""
        try:
            self._process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def main() -> None:
    """Answer requests until there are no more."""
    for number in FOR_THE_STARTER:
        signal.signal(number, signal.SIG_IGN)
    # What Pillow warns of was said when the images were checked.
    warnings.filterwarnings("ignore", module="PIL")
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers, contextlib.suppress(BrokenPipeError):
        os.dup2(2, 1)  # only answers go there
        while True:
            size, images = json.loads(requests.get())
            pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
            try:
                for row, (file, digest) in enumerate(images):
                    pixels[row] = square(Path(file), digest, size)
            except DataError as error:
                answers.write(json.dumps(str(error)).encode("ascii") + b"\n")
            else:
                answers.write(b"null\n")
                answers.write(pixels.data)
            answers.flush()


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    """Read requests; whoever made them is gone when the input ends."""
    with open(0, "rb", closefd=False) as stream:
        for line in stream:
            requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()


BATCHES_AHEAD = 2
MOST_AT_ONCE = 32  # images that one process gets at a time

Chunk: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Begun:
    """A batch that is being decoded: pixels [B, S, S, 3], whole when all parts are done."""

    pixels: NDArray[np.uint8]
    parts: list[Future[None]]

    def whole(self) -> NDArray[np.uint8]:
        for part in self.parts:
            part.result()
        return self.pixels

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()


class ImageDecoder:
    """Decodes images of a manifest to squares.

    manifest: the N images. size: S, pixels; see `store_size`. workers: processes that decode, each
    watched over by a thread; with 0 this process does, when a batch is asked for. They start with
    the first batch and live until `close`.
    """

    def __init__(self, manifest: Manifest, size: int, *, workers: int) -> None:
        self.size = size
        self._manifest = manifest
        self._workers = workers
        self._threads: ThreadPoolExecutor | None = None
        self._processes: list[DecodeProcess] = []
        self._idle: SimpleQueue[DecodeProcess] = SimpleQueue()

    def batches(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.uint8]]:
        """Images at each of `chunks` [B]: uint8 [B, S, S, 3], one after another.

        Raises DataError naming the image that changed or cannot be decoded; ChildProcessError when
        a process that decodes was killed.
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
        begun = deque(self._begin(threads, one) for one in islice(waiting, 1 + BATCHES_AHEAD))
        try:
            while begun:
                pixels = begun.popleft().whole()
                begun.extend(self._begin(threads, one) for one in islice(waiting, 1))
                yield pixels
        finally:
            for batch in begun:
                batch.cancel()

    def _started(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="decoding")
            for _ in range(self._workers):
                self._processes.append(DecodeProcess())
                self._idle.put(self._processes[-1])
        return self._threads

    def _begin(self, threads: ThreadPoolExecutor, chunk: Chunk) -> _Begun:
        pixels = self._empty(chunk)
        most = min(MOST_AT_ONCE, -(-len(chunk) // self._workers))
        parts = [
            threads.submit(self._fill, pixels[first : first + most], chunk[first : first + most])
            for first in range(0, len(chunk), most)
        ]
        return _Begun(pixels, parts)

    def _fill(self, pixels: NDArray[np.uint8], chunk: Chunk) -> None:
        process = self._idle.get()
        try:
            files = [self._manifest.file(index) for index in chunk]
            process.fill(pixels, files, [self._manifest.digests[index] for index in chunk])
        finally:
            self._idle.put(process)
