"""Files are damaged or lost while a run needs them: it ends with the numbers of an undisturbed one.

No attempt is spent on that: runs have `--retries 0`, unless the case itself makes a fold fail.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clip_pkg.scheduling import inline
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import JobState
from clip_pkg.study.tasks import PretrainTask
from clip_pkg.training.trainer import Trainer
from support.outcomes import outcome

Train = Callable[..., str]
Damage = Callable[[Path], object]


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def zeros(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(len(stream.read()) // 10)
        stream.write(bytes(stream.seek(0, os.SEEK_END) * 8 // 10))


def flip(file: Path, share: float = 0.5) -> None:
    """Change one byte."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)


def flip_quietly(file: Path) -> None:
    """Change one byte, as a disk does: the modification time stays."""
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(len(file.read_bytes()) // 3)


def folder_instead(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def fifo_instead(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def of(pattern: str, damage: Damage) -> Damage:
    return lambda out: damage(one(out, pattern))


def edit_texts(out: Path) -> None:
    file = out / "a/class_texts.json"
    file.write_text(file.read_text(encoding="utf-8").replace("red", "rod"), encoding="utf-8")


DAMAGES: dict[str, Damage] = {
    "store zeros": of(".cache/pixels-*.npy", zeros),
    "store byte": of(".cache/pixels-*.npy", flip),
    "store byte, quietly": of(".cache/pixels-*.npy", flip_quietly),
    "store cut": of(".cache/pixels-*.npy", cut),
    "store fifo": of(".cache/pixels-*.npy", fifo_instead),
    "store deleted": of(".cache/pixels-*.npy", Path.unlink),
    "record deleted": of(".cache/pixels-*.json", Path.unlink),
    "record cut": of(".cache/pixels-*.json", cut),
    "manifest deleted": of(".cache/manifest-*.json", Path.unlink),
    "manifest byte": of(".cache/manifest-*.json", flip),
    "class texts deleted": of("a/class_texts.json", Path.unlink),
    "class texts edited": edit_texts,
    "folds cut": of("a/folds_info.json", cut),
    "config deleted": of("a/config.json", Path.unlink),
    "identity zeros": of("a/identity.json", zeros),
    "task deleted": of("a/fold_2/task.json", Path.unlink),
    "text features byte": of(".cache/texts-*.safetensors", flip),
    "locks deleted": of(".cache/locks", shutil.rmtree),
    "cache deleted": of(".cache", shutil.rmtree),
    "config folder deleted": of("a", shutil.rmtree),
    "output folder deleted": shutil.rmtree,
}


def disturb(monkeypatch: pytest.MonkeyPatch, moment: str, act: Callable[[], object]) -> list[str]:
    """Act once at a moment of a run; the list says that it has happened."""
    happened: list[str] = []

    def once(now: str, fold: int) -> None:
        if not happened and (now, fold) == {
            "after epoch 1": ("epoch", 1),
            "after fold 1": ("end", 1),
            "at the start of fold 2": ("start", 2),
        }.get(moment):
            happened.append(moment)
            act()

    epoch, run, carry_out = Trainer._epoch, InlineExecutor._run, inline.carry_out

    def epoch_then(self: Trainer, number: int, *rest: Any) -> None:
        epoch(self, number, *rest)
        if number == 1 and not isinstance(self.task, PretrainTask):
            once("epoch", self.task.fold)

    def run_then(self: InlineExecutor, assignment: Any) -> Any:
        job = run(self, assignment)
        if job.state is JobState.DONE:
            once("end", assignment.task.fold)
        return job

    def carry_out_after(task: Any, *rest: Any) -> Any:
        once("start", task.fold)
        return carry_out(task, *rest)

    monkeypatch.setattr(Trainer, "_epoch", epoch_then)
    monkeypatch.setattr(InlineExecutor, "_run", run_then)
    monkeypatch.setattr(inline, "carry_out", carry_out_after)
    return happened


def numbers(output: Path) -> dict[str, Any]:
    """Everything that counts, without the sentences about what has happened."""
    found = outcome(output)
    for name, content in found.items():
        if name.endswith("cv_summary.json"):
            content.pop("notices")
    return found


def failures(output: Path) -> list[str]:
    lines = (output / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["kind"] for event in map(json.loads, lines) if event["event"] == "failed"]


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """Numbers of undisturbed runs, by config."""
    return {}


def undisturbed(
    known: dict[str, Any], train: Train, tmp_path: Path, config: Path
) -> dict[str, Any]:
    key = config.read_text(encoding="utf-8")
    if key not in known:
        train("--config-file", config, output="undisturbed")
        known[key] = numbers(tmp_path / "undisturbed")
    return known[key]


RUNS: dict[str, dict[str, str]] = {  # moment → damage
    "zeros": {
        "after epoch 1": "store zeros",
        "after fold 1": "record deleted",
        "at the start of fold 2": "folds cut",
    },
    "bytes": {
        "after epoch 1": "store byte, quietly",
        "after fold 1": "manifest byte",
        "at the start of fold 2": "class texts edited",
    },
    "deleted": {
        "after epoch 1": "store deleted",
        "after fold 1": "class texts deleted",
        "at the start of fold 2": "manifest deleted",
    },
    "cut": {
        "after epoch 1": "store cut",
        "after fold 1": "identity zeros",
        "at the start of fold 2": "task deleted",
    },
    "store of the next fold": {
        "after epoch 1": "locks deleted",
        "after fold 1": "record cut",
        "at the start of fold 2": "store byte",
    },
    "cache": {"after epoch 1": "cache deleted", "after fold 1": "config deleted"},
    "texts": {"after fold 1": "text features byte", "at the start of fold 2": "store fifo"},
    "output": {"after epoch 1": "output folder deleted", "after fold 1": "config folder deleted"},
}


TEXTS = {"text_encoder_name": "clip:ViT-S-32-alt:scratch", "freeze_text_encoder": True}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_damaged_meanwhile(
    train: Train,
    write_configs: Callable[..., Path],
    tmp_path: Path,
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    config = write_configs({"name": "a", **(TEXTS if name == "texts" else {})})
    wanted = undisturbed(known, train, tmp_path, config)
    out = tmp_path / "out"
    happened = [
        disturb(monkeypatch, moment, partial(DAMAGES[damage], out))
        for moment, damage in RUNS[name].items()
    ]
    train("--config-file", config, "--retries", "0")
    assert all(happened)
    assert numbers(out) == wanted
    assert set(failures(out)) <= {"damaged file"}


CHECKPOINTS: dict[str, Damage] = {
    "cut": of("checkpoint_latest.pth", cut),
    "zeros": of("checkpoint_latest.pth", zeros),
    "byte": of("checkpoint_latest.pth", flip),
    "other content": lambda fold: (fold / "checkpoint_latest.pth").write_text("{}"),
    "empty": lambda fold: (fold / "checkpoint_latest.pth").write_bytes(b""),
    "a folder": of("checkpoint_latest.pth", folder_instead),
    "a fifo": of("checkpoint_latest.pth", fifo_instead),
    "the best one": lambda fold: shutil.copy(
        fold / "checkpoint_best.pth", fold / "checkpoint_latest.pth"
    ),
    "best byte": of("checkpoint_best.pth", flip),
    "best deleted": of("checkpoint_best.pth", Path.unlink),
}


class PowerFailure(Exception):
    """Ends an attempt after its first checkpoint."""


def fail_once(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Trainer], object]) -> list[Path]:
    """Let each training fail after its first checkpoint, which is harmed then."""
    failed: list[Path] = []
    save = Trainer._save

    def save_and_fail(self: Trainer, **how: Any) -> None:
        save(self, **how)
        if self.task.paths.root not in failed:
            failed.append(self.task.paths.root)
            harm(self)
            raise PowerFailure

    monkeypatch.setattr(Trainer, "_save", save_and_fail)
    return failed


@pytest.mark.parametrize("names", [list(CHECKPOINTS)[:5], list(CHECKPOINTS)[5:]])
def test_checkpoints_that_are_damaged_before_a_fold_resumes(
    train: Train,
    write_configs: Callable[..., Path],
    tmp_path: Path,
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
) -> None:
    config = write_configs({"name": "a", "n_splits": 5})
    wanted = undisturbed(known, train, tmp_path, config)
    fail_once(
        monkeypatch, lambda self: CHECKPOINTS[names[self.task.fold - 1]](self.task.paths.root)
    )
    train("--config-file", config, "--retries", "1")
    out = tmp_path / "out"
    for moved in out.glob("a/fold_*/checkpoint_latest.pth.*"):
        shutil.rmtree(moved)
    assert numbers(out) == wanted
    assert failures(out) == ["error"] * 5
    for number, name in enumerate(names, 1):
        (notice,) = read_notices(out / f"a/fold_{number}")
        assert notice.startswith("The training started anew"), name


def read_notices(fold: Path) -> list[str]:
    notices = json.loads((fold / "result.json").read_text(encoding="utf-8"))["notices"]
    assert isinstance(notices, list)
    return notices


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_pretraining_is_repeated(
    train: Train,
    write_configs: Callable[..., Path],
    tmp_path: Path,
    known: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    damage: Damage,
) -> None:
    block = {"loss": {"type": "nt_xent"}, "epochs": 2, "batch_size": 8, "images": "all"}
    config = write_configs({"name": "a", "epochs": 1, "pretrain": block})
    wanted = undisturbed(known, train, tmp_path, config)
    out = tmp_path / "out"
    # Its checkpoint is damaged while it trains, its encoder when it is done.
    failed = fail_once(monkeypatch, lambda self: damage(self.task.paths.checkpoint_latest))
    happened = disturb(
        monkeypatch, "after fold 1", lambda: damage(one(out, "pretraining/*/encoder.pth"))
    )
    train("--config-file", config, "--retries", "1")
    assert happened
    assert len(failed) == 3
    assert numbers(out) == wanted


def test_a_damaged_checkpoint_that_the_user_names_is_refused(
    train: Train, write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_configs({"name": "a"})
    train("--config-file", config, output="first")
    flip(tmp_path / "first/a/fold_1/checkpoint_latest.pth", 0.6)
    for source in ("first/a", "first/a/fold_1/checkpoint_latest.pth"):
        said = train("--config-file", config, "--resume-from", tmp_path / source, check=2)
        assert "fold_1/checkpoint_latest.pth is damaged" in said
    assert not (tmp_path / "out").exists()
