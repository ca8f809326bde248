"""Every change to a file may fail, be the last one, or be lost with the power.

A study of two configs with two folds each runs with its n-th write, fsync, rename, mkdir, unlink
or open failing, or is killed there; then the same command is run again, and must end with the same
numbers to the last bit. By default a sample is tried; CLIP_PKG_FAULTS=all tries every one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.faults import ACTIONS, Change, Disk, Study
from support.outcomes import EVERYTHING
from support.tiny import make_folder

pytestmark = pytest.mark.slow
POINTS, PROCESS_POINTS, POWER_POINTS = 16, 1, 4  # of a sample
NEVER_READ = ("/logs/", "/tensorboard/", "progress.json", "holder")
NAMED = ("open", "rename", "mkdir", "unlink")  # calls that can lack the permission


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("few"), {"red": 6, "grün": 6})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, few_images: Path) -> Iterator[Study]:
    with Study(tmp_path_factory.mktemp("faults"), few_images).open() as opened:
        yield opened


@pytest.fixture(scope="module")
def changes(study: Study) -> Sequence[Change]:
    return study.changes()


def injections(changes: Sequence[Change]) -> list[tuple[int, str]]:
    """Numbers of changes, from 1, each with how it fails: killed there, and by an error.

    The first, the middle and the last stand for all writes into a file that follow each other, for
    what a restart finds differs in the length of a temporary file only; and for all changes of one
    kind to files that no restart reads.
    """
    groups: dict[object, list[int]] = {}
    earlier: Change | None = None
    for number, change in enumerate(changes, start=1):
        is_next = earlier is not None and (earlier.call, earlier.path) == (change.call, change.path)
        key: object = number
        if any(part in f"{change.path} {change.other}" for part in NEVER_READ):
            key = change.kind
        elif is_next:
            key = next(reversed(groups))
        groups.setdefault(key, []).append(number)
        earlier = change
    found = []
    for numbers in groups.values():
        for number in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):
            call = changes[number - 1].call
            errors = ["ENOSPC", "EIO", *(["EACCES"] if call in NAMED else [])]
            killed = ["killed", *(["killed halfway"] if call == "write" else [])]
            for names in (killed, errors):
                found.append((number, names[number % len(names)]))
    return sorted(found)


def sample(changes: Sequence[Change], count: int) -> list[tuple[int, str]]:
    """Injections of as many different calls and files as there is time for."""
    chance = random.Random(5)
    every = injections(changes)
    chance.shuffle(every)
    by_kind = {changes[number - 1].kind: (number, action) for number, action in every}
    return chance.sample(list(by_kind.values()), count)


def test_whatever_fails_a_restart_ends_with_the_same_numbers(
    study: Study, changes: Sequence[Change]
) -> None:
    chosen = injections(changes) if EVERYTHING else sample(changes, POINTS)
    problems, fired = [], 0
    for number, action in chosen:
        where, problem = study.problem_after(number, ACTIONS[action])
        fired += bool(where)
        if problem:
            problems.append(f"{action} at {number}, {where}: {problem}")
            print(problems[-1], flush=True)
    print(f"{len(changes)} changes, {len(chosen)} faults, {fired} happened", flush=True)
    assert fired >= 0.9 * len(chosen)  # progress files are written by the clock
    assert problems == []


def test_workers_of_their_own_too(few_images: Path, tmp_path: Path) -> None:
    with Study(tmp_path, few_images, executor="process").open() as study:
        changes = study.changes()
        chosen = injections(changes)[::20] if EVERYTHING else sample(changes, PROCESS_POINTS)
        found = [(*study.problem_after(number, ACTIONS[how]), how) for number, how in chosen]
        print(f"{len(changes)} changes, {len(chosen)} faults", flush=True)
    assert [one for one in found if one[1]] == []


def test_nothing_of_a_run_escapes_the_harness(study: Study) -> None:
    disk = Disk(study.root)
    for change in study.changes():
        disk.apply(change)
    seen = {name: bytes(disk.contents[number]) for name, number in disk.names.items()}
    real = {str(path): path for path in study.root.rglob("*") if path.is_file()}
    assert seen.keys() == real.keys()
    assert [name for name, path in real.items() if seen[name] != path.read_bytes()] == []


def test_after_a_power_failure_a_restart_ends_with_the_same_numbers(
    study: Study, changes: Sequence[Change]
) -> None:
    moments = [n for n, one in enumerate(changes) if one.call in ("rename", "fsync", "unlink")]
    chosen = moments if EVERYTHING else random.Random(7).sample(moments, POWER_POINTS)
    problems = []
    for moment in chosen:
        for names_are_kept in (False, True):
            disk = Disk(study.root)
            for change in changes[: moment + 1]:
                disk.apply(change)
            problem = study.problem_after_power_loss(disk, names_are_kept=names_are_kept)
            if problem:
                after = f"{changes[moment].call} {changes[moment].path}"
                problems.append(f"{moment}, {after}, names kept {names_are_kept}: {problem}")
                print(problems[-1], flush=True)
    print(f"{len(chosen)} moments, each with and without names", flush=True)
    assert problems == []
