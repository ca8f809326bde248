"""One of the processes that train a fold together; see `rank_processes`, which starts them.

python -m clip_pkg.training.rank     the task as a line on standard input, torchrun's environment
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict, replace

from clip_pkg.study.tasks import PretrainTask, task_from_json
from clip_pkg.training.worker import EXIT_CODES, Place, StopRequest, attempt, train_here


def main() -> int:
    """Train a fold together with the other ranks; the first one leads."""
    lines: queue.Queue[str] = queue.Queue()
    stop = StopRequest()
    threading.Thread(target=_listen, args=(lines, stop), daemon=True).start()
    message = json.loads(lines.get())
    task = task_from_json(message["task"])
    assert not isinstance(task, PretrainTask), "pre-trainings have one process"
    place = Place(**message["place"])

    # Imported only now, so that a starter that ends meanwhile is noticed.
    from clip_pkg.training import ranks  # noqa: PLC0415
    from clip_pkg.training.build import trainer_for  # noqa: PLC0415

    board = ranks.connect()

    def train() -> None:
        device = ranks.rank_device(place.device)
        group = ranks.join(device, board)
        if group.rank == 0:
            train_here(task, replace(place, device=str(device)), sys.stdout, stop, group)
            group.announce()
        else:
            with trainer_for(task, device, group) as trainer:
                trainer.follow()

    report = attempt(task, place, train)
    board.set(f"report/{os.environ['RANK']}", json.dumps({**asdict(report), "moment": time.time()}))
    if report.state == "done":
        ranks.leave()
        return 0
    # What is left of the connections to the other ranks must not hold up the end.
    sys.stdout.flush()
    os._exit(EXIT_CODES[report.state])


def _listen(lines: queue.Queue[str], stop: StopRequest) -> None:
    """Read the task, then requests to stop; nobody is there any more when the input ends."""
    with open(0, encoding="utf-8", closefd=False) as stream:
        lines.put(stream.readline())
        for _ in stream:
            stop.set()
    os._exit(EXIT_CODES["failed"])


if __name__ == "__main__":
    sys.exit(main())
