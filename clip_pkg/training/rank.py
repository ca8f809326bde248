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
from typing import Any

from clip_pkg.base.child_process import listen
from clip_pkg.study.tasks import PretrainTask, task_from_json
from clip_pkg.training.worker import EXIT_CODES, Place, StopRequest, attempt, train_here


def main() -> int:
    """Train a fold together with the other ranks; the first one leads."""
    # A rank must not outlive the process that started it.
    messages = listen(lambda: os._exit(EXIT_CODES["failed"]))
    message = messages.get()
    task = task_from_json(message["task"])
    assert not isinstance(task, PretrainTask), "pre-trainings have one process"
    place = Place(**message["place"])
    stop = StopRequest()
    threading.Thread(target=_await_stop, args=(messages, stop), daemon=True).start()

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


def _await_stop(messages: queue.SimpleQueue[Any], stop: StopRequest) -> None:
    messages.get()  # any further message asks for a checkpoint and an end
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
