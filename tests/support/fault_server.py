"""Runs command lines in forks of one process that has imported everything, a second each.

Started with `faults.c` preloaded. Reads {"words": […], "output": file} per line, answers the exit
code, which is negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

SECONDS = 90  # of one command line; then it hangs


def run(words: list[str], output: Path) -> int:
    """Run the program in this process, with its output in a file; returns the exit code."""
    import torch

    from clip_pkg.cli import main
    from clip_pkg.results import bias_correction, bootstrap
    from clip_pkg.scheduling import retries

    for function in (bias_correction.optimism, bootstrap.resample):
        # Nothing here depends on their number.
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "resamples": 10}
    signal.alarm(SECONDS)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    torch.set_num_threads(1)
    retries.SECONDS_FOR_DISK_SPACE = 0.0
    try:
        code = main(words)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def child_does(words: list[str], output: Path, modules: Path | None) -> None:
    code = run(words, output)
    if modules is not None:
        modules.write_text("\n".join(sys.modules), encoding="utf-8")
    os._exit(code)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "preload" in order:
            for name in Path(order["preload"]).read_text(encoding="utf-8").splitlines():
                with suppress(Exception):  # some modules import under conditions only
                    importlib.import_module(name)
            assert threading.active_count() == 1, "a fork would lose these threads"
            code = 0
        else:
            pid = os.fork()
            if pid == 0:
                names = order.get("modules")
                child_does(order["words"], Path(order["output"]), names and Path(names))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps(code), flush=True)


if __name__ == "__main__":
    main()
