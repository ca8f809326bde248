"""Paths of every kind in every place that takes one: refused in a sentence, nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from clip_pkg.cli import main
from clip_pkg.training.console import Console

SECONDS = 60  # after which a refusal counts as a hang; one that imports torch takes a few


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a file, a loop of links, and a folder that nobody can change."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "file").write_text("content")
    (folder / "loop").symlink_to("loop")
    (folder / "frozen").mkdir()
    monkeypatch.chdir(folder)
    frozen = [["chattr", sign, str(folder / "frozen")] for sign in ("+i", "-i")]
    if shutil.which("chattr") is None or subprocess.run(frozen[0], capture_output=True).returncode:
        frozen = [["chmod", mode, str(folder / "frozen")] for mode in ("a-w", "u+w")]
        subprocess.run(frozen[0], check=True)
    yield folder
    subprocess.run(frozen[1], check=True)


def unusable(work: Path) -> dict[str, str]:
    """Paths under which no folder can be made and no file be written or read."""
    long = str(work / ("n" * 300))
    places = {
        "a file": f"{work}/file",
        "below a file": f"{work}/file/x",
        "a device": "/dev/null",
        "below a device": "/dev/null/x",
        "in /proc": "/proc/none/x",
        "a folder of /proc": "/proc/self",
        "a component of 300 characters": long,
        "below one": f"{long}/x",
        "5,000 characters": str(work) + "/d" * 2500,
        "no room for names": (str(work) + "/ddddddddd" * 410)[:4060].rstrip("/"),
        "a loop of links": f"{work}/loop",
        "below a loop": f"{work}/loop/x",
        "a NUL byte": "a\0b",
        "not UTF-8": os.fsdecode(b"bad\xff"),
        "no such user": "~nobody_of_that_name/x",
        "empty": "",
    }
    if not os.access(work / "frozen", os.W_OK):
        places |= {
            "a frozen folder": f"{work}/frozen",
            "below a frozen folder": f"{work}/frozen/x",
        }
    if not os.access("/sys/none", os.W_OK) and Path("/sys").is_dir():
        places["in /sys"] = "/sys/none"
    return places


def tree(folder: Path) -> dict[str, object]:
    """Everything in a folder, and when files were changed."""
    found: dict[str, object] = {}
    for name, folders, files in os.walk(folder):
        found |= {f"{name}/{one}": "folder" for one in folders}
        found |= {f"{name}/{one}": os.lstat(f"{name}/{one}").st_mtime_ns for one in files}
    return found


@dataclass
class Refusals:
    """Runs commands that must be refused, and collects what is wrong with how they are."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def refuse(self, what: str, *words: object) -> None:
        self.count += 1
        before, started = tree(self.folder), time.monotonic()
        try:
            code: object = main([str(word) for word in words])
        except Exception as error:
            code = repr(error)
        shown = self.capsys.readouterr().err
        if code != 2 or not shown.startswith("error: ") or "Traceback" in shown:
            self.failures.append(f"{what}: {code}: {shown}")
        if left := set(tree(self.folder).items()) ^ set(before.items()):
            self.failures.append(f"{what}: leaves {sorted(map(str, left))[:3]}")
        if (seconds := time.monotonic() - started) > SECONDS:
            self.failures.append(f"{what}: took {seconds:.0f} s")

    def check(self) -> None:
        print(f"{self.count} cases, {len(self.failures)} failures")
        assert not self.failures, "\n".join(self.failures)


@pytest.fixture
def refusals(work: Path, capsys: pytest.CaptureFixture[str]) -> Refusals:
    return Refusals(work.parent, capsys)


def test_places_of_a_run(
    work: Path, images: Path, write_configs: Callable[..., Path], refusals: Refusals
) -> None:
    configs = write_configs({"name": "a", "epochs": 1})
    words = ["--data-dir", images, "--config-file", configs, "--executor", "inline"]
    for what, path in unusable(work).items():
        for flag in ("--output-dir", "--log-dir", "--cache-dir", "--resume-from"):
            places = {"--output-dir": "out", "--log-dir": "logs"} | {flag: path}
            given = [word for pair in places.items() for word in pair]
            refusals.refuse(f"{flag}: {what}", *words, *given)
    refusals.check()


def test_checkpoints_to_resume_from(
    work: Path,
    images: Path,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
    refusals: Refusals,
) -> None:
    configs = write_configs({"name": "a", "epochs": 1})
    train("--config-file", configs, output="before")
    made = work.parent / "before/a"
    cut = work / "cut.pth"
    cut.write_bytes((made / "fold_1/checkpoint_latest.pth").read_bytes()[:-1000])
    torch.save({"weight": torch.zeros(3)}, work / "foreign.pth")
    (work / "empty").mkdir()
    shutil.copytree(made, work / "torn")
    shutil.copy(cut, work / "torn/fold_2/checkpoint_latest.pth")
    shutil.copytree(made, work / "damaged")
    (work / "damaged/identity.json").write_text("{")
    other = write_configs({"name": "a", "epochs": 1, "learning_rate": 0.5}, name="other.json")
    for what, path, file in (
        ("cut off", cut, configs),
        ("of another program", work / "foreign.pth", configs),
        ("of the best epoch", made / "fold_1/checkpoint_best.pth", configs),
        ("no folds", work / "empty", configs),
        ("a fold is cut off", work / "torn", configs),
        ("identity.json is damaged", work / "damaged", configs),
        ("of another config", made, other),
    ):
        data = ["--data-dir", images, "--config-file", file, "--executor", "inline"]
        refusals.refuse(what, *data, "--output-dir", "out", "--resume-from", path)
        refusals.refuse(what, "plan", *data[:4], "--output-dir", "out", "--resume-from", path)
    refusals.check()


def test_places_of_other_commands(
    work: Path,
    images: Path,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
    refusals: Refusals,
) -> None:
    configs = write_configs({"name": "a", "epochs": 1})
    train("--config-file", configs)
    made = work.parent / "out/a"
    picture = next(images.rglob("*.png"))
    for what, path in unusable(work).items():
        file = path and f"{path}/x"
        for command, *words in (
            ("class-texts", "--data-dir", images, "--output", file and f"{file}.json"),
            ("compare", made, "--output", f"{file}.json"),
            ("suspects", made, "--output", f"{file}.csv"),
            ("predict", made, "--images", picture, "--output", f"{file}.csv"),
            ("embed", made / "fold_1", "--images", picture, "--output", f"{file}.npz"),
            ("explain", made, "--images", picture, "--output", file),
            ("export", made, "--output", file),
            ("evaluate", made, "--images", images, "--output", file),
            ("validate", "--config-file", configs, "--data-dir", images, "--output-dir", path),
            ("refit", made, "--log-dir", path),
            ("refit", made, "--cache-dir", path),
            *((name, path) for name in ("report", "status", "summarize", "compare", "suspects")),
            ("predict", path, "--images", picture),
            ("plan", "--config-file", path, "--data-dir", images, "--output-dir", "out"),
            ("prefetch", "--config-file", path),
        ):
            refusals.refuse(f"{command}: {what}", command, *words)
    refusals.check()


def test_odd_places_that_can_be_used(
    work: Path,
    images: Path,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(work))
    (work / "link").symlink_to("nowhere/deep")
    configs = write_configs({"name": "n" * 190, "epochs": 1})
    places = ("--log-dir", work / "link", "--cache-dir", "~/" + "ü" * 127)
    train("--config-file", configs, *places, output="work/-o [red]\n" + "x" * 240)
    (folder,) = work.glob("-o *")
    assert len(list(folder.glob("*/fold_*/result.json"))) == 2
    assert list((work / "nowhere/deep").glob("*.log"))
    assert list((work / ("ü" * 127)).glob("pixels-*.npy"))


@pytest.mark.parametrize("deleted", ["out", "out/a", "out/a/fold_1"])
def test_a_folder_that_is_deleted_during_the_run(
    deleted: str,
    images: Path,
    tmp_path: Path,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = write_configs({"name": "a", "epochs": 2})
    write = Console.save_progress
    is_due = True

    def delete(console: Console) -> None:
        nonlocal is_due
        if is_due:
            is_due = False
            shutil.rmtree(tmp_path / deleted)
        write(console)

    monkeypatch.setattr(Console, "save_progress", delete)
    words = ["--data-dir", images, "--output-dir", tmp_path / "out", "--config-file", configs]
    words += ["--executor", "inline", "--log-dir", tmp_path]
    assert main([str(word) for word in words]) == 0  # the attempt after the lost one
    assert not is_due
    train("--config-file", configs, data=images)
    assert len(list(tmp_path.glob("out/a/fold_*/result.json"))) == 2


def test_finished_folds_of_another_place_are_kept(
    tmp_path: Path, write_configs: Callable[..., Path], train: Callable[..., str]
) -> None:
    configs = write_configs({"name": "a", "epochs": 1})
    train("--config-file", configs, output="before")
    (tmp_path / "before/a/fold_2/result.json").unlink()
    train("--config-file", configs, "--resume-from", tmp_path / "before/a", output="after")
    before, after = (tmp_path / name / "a/fold_1" for name in ("before", "after"))
    for name in ("result.json", "predictions.csv", "checkpoint_best.pth"):
        assert (after / name).read_bytes() == (before / name).read_bytes()
