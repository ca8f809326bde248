"""A process that decodes images for another one, which says which ones and gets their pixels.

python -m clip_pkg.data.decode_process     requests as JSON lines on standard input

It answers each request with a line of JSON and the pixels, as raw bytes. It ends when its input
does, so at the latest with the process that started it, however that ends. No torch here.
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.data.pixel_blocks import square
from clip_pkg.errors import DataError

# What asks for an end may reach all processes of a terminal or of a cluster's job. The one that
# decodes for a fold goes on until the fold needs it no more.
FOR_THE_STARTER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 5.0


class DecodeProcess:
    """One such process, as the one that started it sees it; for one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clip_pkg.data.decode_process"],
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
