"""A thousand folds through the scheduler, whose workers are killed, hang and fail at random.

    bash benchmarks/run.sh soak --write

The program is the real one, on a terminal of its own, with real workers; only training is replaced
by a wait (`soak_worker.py`), so that the scheduler is what is tested. What the launcher holds is
sampled from outside: its memory, files, threads and processes must not grow from the second tenth
of the folds to the last. Every fold must be trained once, whatever happened to its workers, and no
process may be left. Commands that read and summarise results run all the time beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.bitmaps import make_images
from benchmarks.commands import CHECKOUT, environment
from benchmarks.results import measured_on, write_section
from benchmarks.soak_worker import SETTINGS
from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.ledger import read_ledger

FOLDS = 5  # of each config
IMAGES = 100
SECONDS_BETWEEN_SAMPLES = 0.25
ASKED = ("status", "summarize")  # while folds are trained
SITE = """
import sys
if "clip_pkg.training.worker" in sys.orig_argv:
    from benchmarks.soak_worker import install
    install()
"""
# Measure → unit, and what is taken of many samples. A median leaves out what is there for a moment.
MEASURES: Mapping[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "memory of the launcher, resident, median": ("MiB", statistics.median),
    "memory of the launcher, its own, median": ("MiB", statistics.median),
    "open files of the launcher, median": ("", statistics.median),
    "threads of the launcher, median": ("", statistics.median),
    "processes started by it, most": ("", max),
    "open files of a worker, most": ("", max),
    "memory of a worker, its own, most": ("MiB", max),
}


@dataclass(frozen=True)
class Sample:
    """What was held when `trained` folds had been trained; `values` in the order of MEASURES."""

    trained: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Soak:
    """Result of a run.

    faults, failures: attempts that were disturbed, and those that failed in the ledger, by kind.
    commands: that were answered meanwhile. mistakes: empty if everything is as it should be.
    """

    tasks: int
    seconds: float
    samples: Sequence[Sample]
    faults: Mapping[str, int]
    failures: Mapping[str, int]
    commands: int
    mistakes: Sequence[str]

    def held(self, start: float, end: float) -> dict[str, float]:
        """Each measure while this share of the folds was trained."""
        first, last = start * self.tasks, end * self.tasks
        near = [sample.values for sample in self.samples if first <= sample.trained <= last]
        if not near:  # of very few folds
            near = [min(self.samples, key=lambda sample: abs(sample.trained - last)).values]
        columns = zip(*near, strict=True)
        return {
            name: of(column)
            for (name, (_, of)), column in zip(MEASURES.items(), columns, strict=True)
        }


class Asked:
    """Commands that are given one after another while the launcher works."""

    def __init__(self, output: Path, variables: Mapping[str, str]) -> None:
        self.count = 0
        self.mistakes: list[str] = []
        self._output = output
        self._variables = {name: text for name, text in variables.items() if name != SETTINGS}
        self._running: subprocess.Popen[str] | None = None

    def poll(self) -> None:
        """Give the next command once the one before has ended."""
        if self._running is not None and self._running.poll() is None:
            return
        self.wait()
        name = ASKED[self.count % len(ASKED)]
        self._running = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "train_clip.py"), name, str(self._output)],
            env=self._variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait for the end of the latest command."""
        if self._running is None:
            return
        _, errors = self._running.communicate()
        if self._running.returncode != 0:
            self.mistakes.append(f"{ASKED[self.count % len(ASKED)]} failed: {errors[-300:]}")
        self.count += 1
        self._running = None


def soak(
    folder: Path, *, tasks: int, jobs: int, stall_timeout: float, seed: int, seconds: float = 1.0
) -> Soak:
    """Train so many folds of `seconds` each, `jobs` at once, in an empty folder."""
    make_images(folder / "images", IMAGES, lambda done, total: None)
    rates = [number / 1e6 for number in range(1, tasks // FOLDS + 1)]
    config = {
        "name": "soak",
        "image_encoder_name": "resnet18:scratch",
        "text_encoder_name": "prompts",
        "img_size": 32,
        "batch_size": 32,
        "epochs": 1,
        "n_splits": FOLDS,
        "sweep": {"learning_rate": rates},
    }
    (folder / "configs.json").write_text(json.dumps([config]), encoding="utf-8")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    (folder / "state").mkdir()
    settings = {"folder": str(folder / "state"), "seed": seed, "seconds": seconds}
    variables = environment("cpu") | {SETTINGS: json.dumps(settings), "TERM": "xterm"}
    variables["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), variables["PYTHONPATH"]])
    where = ["--data-dir", folder / "images", "--output-dir", folder / "out"]
    what = ["--log-dir", folder / "logs", "--config-file", folder / "configs.json"]
    how = ["--jobs-per-gpu", jobs, "--stall-timeout", stall_timeout, "--retries", 3]
    words = [sys.executable, CHECKOUT / "train_clip.py", *where, *what, "--multi-config", *how]

    began = time.monotonic()
    terminal, its_end = os.openpty()
    launcher = psutil.Popen(
        list(map(str, words)),
        env=variables,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=its_end,
        stderr=its_end,
    )
    os.close(its_end)
    shown = threading.Thread(target=_copy, args=(terminal, folder / "shown.txt"))
    shown.start()
    samples: list[Sample] = []
    asked = Asked(folder / "out", variables)
    while launcher.poll() is None:
        trained = len(_lines(folder / "state" / "trained"))
        sample = _sample(launcher, trained)
        if sample is not None:
            samples.append(sample)
        if trained:
            asked.poll()
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    ended = time.monotonic()
    asked.wait()
    left = _processes_with(str(folder / "state"))
    for process in left:
        process.kill()
    shown.join()
    os.close(terminal)

    mistakes = [*asked.mistakes, *([f"{len(left)} processes were left"] if left else [])]
    if launcher.returncode != 0:
        mistakes.append(f"the exit code was {launcher.returncode}")
    run = RunPaths(folder / "out")
    events = [json.loads(line) for line in _lines(run.ledger)]
    mistakes += _mistakes(run, tasks, events, _lines(folder / "state" / "trained"))
    faults = Counter(line.split(" ", 2)[2] for line in _lines(folder / "state" / "faults"))
    failures = Counter(event["kind"] for event in events if event["event"] == "failed")
    return Soak(tasks, ended - began, samples, faults, failures, asked.count, mistakes)


def _sample(launcher: psutil.Process, trained: int) -> Sample | None:
    """What the launcher holds; None if it ends meanwhile."""
    try:
        with launcher.oneshot():
            memory = launcher.memory_full_info()
            own = [memory.rss / 2**20, memory.uss / 2**20]
            own += [float(launcher.num_fds()), float(launcher.num_threads())]
        children = launcher.children(recursive=True)
    except psutil.Error:
        return None
    workers = []
    for child in children:
        try:
            workers.append((float(child.num_fds()), child.memory_full_info().uss / 2**20))
        except psutil.Error:
            continue  # it has just ended
    if not workers:
        return None
    largest = (max(column) for column in zip(*workers, strict=True))
    return Sample(trained, (*own, float(len(children)), *largest))


def _mistakes(
    run: RunPaths, tasks: int, events: Sequence[Mapping[str, Any]], trained: Sequence[str]
) -> list[str]:
    """What is wrong with the results of a run: empty if every fold was done exactly once."""
    found = []
    configs = sorted(path.parent for path in run.output_dir.glob("*/config.json"))
    folds = {f"{config.name} {number}" for config in configs for number in range(1, FOLDS + 1)}
    done = Counter(f"{e['config']} {e['fold']}" for e in events if e["event"] == "done")
    results = {
        f"{path.parent.parent.name} {path.parent.name.removeprefix('fold_')}"
        for path in run.output_dir.glob("*/fold_*/result.json")
    }
    states = {record.state for record in read_ledger(run.ledger).tasks.values()}
    if len(folds) != tasks:
        found.append(f"{len(folds)} folds were planned, not {tasks}")
    for what, counts in (("trained", Counter(trained)), ("done in the ledger", done)):
        if counts != Counter(folds):
            wrong = sorted(fold for fold in folds | set(counts) if counts[fold] != 1)
            found.append(f"not {what} exactly once: {', '.join(wrong)}")
    if results != folds:
        found.append(f"{len(results)} folds have a result")
    if states != {"done"}:
        found.append(f"folds are {', '.join(sorted(states))} in the ledger")
    for config in configs:
        summary = _json(config / "cv_summary.json")
        wanted = [_json(config / f"fold_{n}" / "result.json") for n in range(1, FOLDS + 1)]
        accuracies = [result["best"]["val_acc"] for result in wanted]
        if not summary["complete"] or summary["fold_results"]["fold_val_acc"] != accuracies:
            found.append(f"the summary of {config.name} is not that of its folds")
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _copy(terminal: int, path: Path) -> None:
    """Read a terminal until all its writers have ended."""
    with path.open("wb") as stream:
        while True:
            try:
                stream.write(os.read(terminal, 65536))
            except OSError:  # Linux reports the end so
                return


def _processes_with(setting: str) -> list[psutil.Process]:
    """Processes whose settings name this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if setting in process.environ().get(SETTINGS, "") and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or belongs to somebody else
    return found


def section(result: Soak, jobs: int) -> str:
    """Markdown of a result."""
    rows = []
    early, late = result.held(0.1, 0.2), result.held(0.9, 1.0)
    for name, (unit, _) in MEASURES.items():
        cells = [f"{one[name]:.{1 if unit else 0}f} {unit}".strip() for one in (early, late)]
        rows.append(
            f"| {name} | {' | '.join(cells)} | {100 * (late[name] / early[name] - 1):+.1f} % |"
        )
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(result.faults.items()))
    failures = ", ".join(f"{count} {kind}" for kind, count in sorted(result.failures.items()))
    verdict = "; ".join(result.mistakes) or (
        "every fold was trained exactly once, is done exactly once in the ledger and has its own "
        "numbers in its summary; no process was left"
    )
    return "\n".join(
        [
            "## Soak",
            "",
            measured_on(torch.device("cpu"), ("psutil",)),
            "",
            f"{result.tasks:,} folds of {result.tasks // FOLDS} configs, each a wait of one second "
            f"in a real worker, {jobs} at once, in {result.seconds:.0f} s. Attempts disturbed on "
            f"purpose: {faults}. Failed attempts in the ledger: {failures}. Meanwhile "
            f"{' and '.join(ASKED)} took {result.commands} turns on the output folder.",
            "",
            f"**Outcome:** {verdict}.",
            "",
            "While the second and the last tenth of the folds were trained:",
            "",
            "| | second tenth | last tenth | change |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the section, or put it into RESULTS.md. Returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000, help=f"folds, a multiple of {FOLDS}")
    parser.add_argument("--jobs", type=int, default=16, help="folds at once")
    parser.add_argument("--stall-timeout", type=float, default=20.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--keep", type=Path, help="an empty folder to run in, which is kept")
    parser.add_argument("--write", action="store_true", help="replace the section of RESULTS.md")
    parsed = parser.parse_args(arguments)
    folder = parsed.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        result = soak(
            folder,
            tasks=parsed.tasks,
            jobs=parsed.jobs,
            stall_timeout=parsed.stall_timeout,
            seed=parsed.seed,
        )
    finally:
        if parsed.keep is None:
            shutil.rmtree(folder)
    text = section(result, parsed.jobs)
    if parsed.write:
        write_section("soak", text)
    else:
        print(text)
    return 1 if result.mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
