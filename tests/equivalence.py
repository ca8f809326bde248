"""Run two checkouts over the same small studies and compare everything that they leave behind.

    python tests/equivalence.py OLD_CHECKOUT NEW_CHECKOUT [--only NAME ...] [--work DIR] [--jobs N]

Both checkouts need their own `.venv`. Every study runs in the same folder for both, first with the
old checkout and then with the new one. Results of the old one are kept in DIR, so that another run
needs the new one only. Predictions, histories, weights, summaries and curves must be equal to the
bit. Messages may change their wording but must keep their facts: names, keys, numbers.

`equivalence_studies.py` is the list of studies. What had to change has a row in `TOLERANCES` or
`EXPECTED` of `equivalence_files.py`. Exit code 1 if anything else differs.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from equivalence_studies import Study

LIBRARIES = ("torchvision", "timm", "open_clip", "sklearn.metrics", "tensorboard", "pandas")
SETTINGS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "160",
}


def main() -> int:
    """Run both checkouts, compare, and print a table; returns the exit code."""
    if sys.argv[1:2] == ["--serve"]:
        checkout, work, side, jobs, *names = sys.argv[2:]
        return serve(Path(checkout), Path(work), side, names, int(jobs))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="studies (default: all)")
    parser.add_argument("--work", type=Path, default=Path("/tmp/equivalence"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="studies at a time")
    parser.add_argument("--show", type=int, default=5, help="differences to list per study")
    given = parser.parse_args()
    old, new, work = given.old.resolve(), given.new.resolve(), given.work.resolve()
    if Path(sys.prefix) != new / ".venv":
        python = str(new / ".venv/bin/python")
        os.execv(python, [python, *sys.argv])
    from equivalence_files import compare
    from equivalence_studies import STUDIES, make_data

    studies = {study.name: study for study in STUDIES}
    names = given.only or list(studies)
    if not (work / "data").exists():
        make_data(work / "data")
    old_version = version(old)
    missing = [
        name for name in names if not is_known(work / "old" / name, old_version, studies[name])
    ]
    if missing:
        start(old, work, "old", missing, given.jobs)
    start(new, work, "new", names, given.jobs)
    found = {
        name: compare(work / "old" / name, work / "new" / name, studies[name].inputs)
        for name in names
    }
    for one in found.values():
        print(*one.different[: given.show], sep="\n", end="\n" if one.different else "")
    print("\nstudy | compared | result")
    for name, one in found.items():
        counted = ", ".join(f"{count} {what}" for what, count in one.counts.items())
        print(f"{name} | {counted} | {one.verdict}")
    return int(any(one.different for one in found.values()))


def version(checkout: Path) -> str:
    """The commit of a checkout, and its uncommitted changes."""
    git = ["git", "-C", checkout]
    commands = ([*git, "rev-parse", "HEAD"], [*git, "diff", "HEAD"])
    return "".join(subprocess.check_output(command, text=True) for command in commands)


def key_of(commit: str, study: Study) -> str:
    """Digest of what the results of a study follow from."""
    from equivalence_studies import TINY

    return hashlib.sha256(f"{commit}{study}{TINY}".encode()).hexdigest()


def is_known(results: Path, commit: str, study: Study) -> bool:
    """Whether results were kept, and are those of this commit and study."""
    kept = results / ".key"
    return kept.exists() and kept.read_text() == key_of(commit, study)


def start(checkout: Path, work: Path, side: str, names: Sequence[str], jobs: int) -> None:
    """Run studies with a checkout's own Python."""
    words = [checkout / ".venv/bin/python", __file__, "--serve", checkout, work, side, jobs, *names]
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(checkout)}
    subprocess.run([str(word) for word in words], env=environment, check=True)


def serve(checkout: Path, work: Path, side: str, names: Sequence[str], jobs: int) -> int:
    """Carry out studies in forks of this process, `jobs` at a time; returns how many failed.

    Libraries are imported before, once; the package is imported anew by every command. A study has
    one core, so that it computes in one thread.
    """
    from equivalence_studies import STUDIES

    sys.path[0] = str(checkout)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            import_module(name)
    cores = sorted(os.sched_getaffinity(0))
    places, running, failed = list(range(jobs)), {}, 0

    def wait() -> bool:
        child, status = os.wait()
        places.append(running.pop(child))
        return status != 0

    for study in (study for study in STUDIES if study.name in names):
        failed += wait() if not places else 0
        place = places.pop()
        if (child := os.fork()) == 0:
            os.sched_setaffinity(0, {cores[place % len(cores)]})
            carry_out(study, checkout, work, side)
        running[child] = place
    while running:
        failed += wait()
    return failed


def carry_out(study: Study, checkout: Path, work: Path, side: str) -> NoReturn:
    """Run a study's commands in its folder, then move it to the results of this side; exits."""
    code = 1
    try:
        here, begun, started = work / "run" / study.name, work / "begun" / study.name, time.time()
        shutil.rmtree(here, ignore_errors=True)
        if study.begin and side == "new":
            shutil.copytree(begun, here)
        else:
            (here / "commands").mkdir(parents=True)
            for name, content in study.inputs.items():
                (here / name).write_text(content, encoding="utf-8")
            for number, command in enumerate(study.begin):
                run_command(command, checkout, here, f"begin_{number}")
        if study.begin and side == "old":
            shutil.rmtree(begun, ignore_errors=True)
            shutil.copytree(here, begun)
        kept = {path: path.stat() for glob in study.kept for path in sorted(here.glob(glob))}
        for number, command in enumerate(study.commands, start=1):
            run_command(command, checkout, here, f"{number:02d}")
        untouched = {
            str(path.relative_to(here)): path.stat().st_mtime_ns == before.st_mtime_ns
            for path, before in kept.items()
        }
        (here / "commands/kept.json").write_text(json.dumps(untouched))
        (here / ".key").write_text(key_of(version(checkout), study))
        shutil.rmtree(work / side / study.name, ignore_errors=True)
        shutil.move(here, work / side / study.name)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = f"{time.time() - started:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of CPUs"
        print(f"{side}: {study.name} took {took}", flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_command(command: str, checkout: Path, here: Path, name: str) -> None:
    """Run one command in a fork; writes its exit code and, unless it is killed, what it printed."""
    kill = re.fullmatch(r"kill (\d+) after (\S+): (.*)", command)
    words = shlex.split(kill[3] if kill else command)
    script = checkout / "train_clip.py"
    if words[0].endswith(".py"):
        script = next(place / words[0] for place in (here, checkout) if (place / words[0]).exists())
        words = words[1:]
    assert not kill or not any(here.glob(kill[2])), f"{kill[2]} is there before {command}"
    printed = here / f"commands/{name}.txt"
    child = os.fork()
    if child == 0:
        run_script([str(script), *words], here, printed)
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while kill and not any(here.glob(kill[2])) and not os.waitid(os.P_PID, child, ended):
        time.sleep(0.002)
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, int(kill[1]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = printed.read_text(encoding="utf-8", errors="replace").replace(str(checkout), "CHECKOUT")
    if kill:
        printed.with_suffix(".killed").write_text(text, encoding="utf-8")
        text = ""
    printed.write_text(f"{command}\nexit code {code}\n{text}", encoding="utf-8")


def run_script(words: list[str], here: Path, printed: Path) -> NoReturn:
    """Become a script that was started with these words; exits."""
    os.setsid()
    os.chdir(here)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.argv, code = words, 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] # as Python itself at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
