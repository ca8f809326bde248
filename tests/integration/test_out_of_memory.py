"""A batch that does not fit: the fold is tried again in micro-batches, and the summary says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.scheduling import process as processes
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, Slot
from clip_pkg.scheduling.retries import FailurePolicy
from clip_pkg.study.tasks import FoldFailure, read_task, write_task
from support.fold_tasks import task as paper_task

# Each kind of CPU adds up a batch and its micro-batches in an order of its own; two epochs of AdamW
# carry that on. Losses of another set of negatives would differ by more than a tenth.
ROUNDING = 1000 * torch.finfo(torch.float32).eps


class FakeWorker:
    """Takes assignments and does nothing."""

    pid = 1

    def __init__(self, devices: object) -> None:
        del devices

    def send(self, task: object, place: object) -> None:
        """Take it."""


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that holds so many images at a time; returns the sizes it was asked for."""
    asked: list[int] = []
    embed = ImageTextModel.image_embeddings

    def embed_if_there_is_room(self: ImageTextModel, images: Tensor) -> Tensor:
        asked.append(len(images))
        if self.training and len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return embed(self, images)

    monkeypatch.setattr(ImageTextModel, "image_embeddings", embed_if_there_is_room)
    return asked


def test_a_fold_that_ran_out_of_memory_is_finished_in_micro_batches(
    room: list[int], train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    shown = train("--config-file", write_configs({"name": "a", "use_cv": False}))
    assert "attempt 2 of 3 uses micro-batches of 4 images" in shown
    summary = read(tmp_path / "out/a/cv_summary.json")
    assert summary["complete"]
    notice, _ = summary["notices"]  # the other one is on patients
    assert notice.startswith("Fold 1 ran out of memory, so its batches of 8 images ")
    assert "micro-batches of 4" in notice
    assert notice in " ".join(shown.split())
    assert max(room[room.index(4) :]) == 4  # evaluations too
    kinds = [
        (event["event"], event.get("kind"))
        for event in map(json.loads, (tmp_path / "out/ledger.jsonl").read_text().splitlines())
        if event["event"] in ("failed", "done")
    ]
    assert kinds == [("failed", "out of memory"), ("done", None)]


def test_without_batch_norm_nothing_differs_but_rounding(
    train: Callable[..., str],
    tmp_path: Path,
    write_configs: Callable[..., Path],
    request: pytest.FixtureRequest,
) -> None:
    vit = {"image_encoder_name": "test_vit:scratch", "use_superclip_loss": True, "use_amp": False}
    path = write_configs({"name": "a", **vit})
    train("--config-file", path, output="whole")
    request.getfixturevalue("room")
    assert "micro-batches of 4 images" in train("--config-file", path, output="parts")
    notices = [
        read(tmp_path / output / "a/cv_summary.json")["notices"] for output in ("whole", "parts")
    ]
    assert notices[0] == notices[1]
    for fold in (1, 2):
        whole, parts = (
            read(tmp_path / output / f"a/fold_{fold}/history.json") for output in ("whole", "parts")
        )
        assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=ROUNDING)
        assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=ROUNDING)


def test_a_worker_is_told_the_task_of_this_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "Worker", FakeWorker)
    first = paper_task("a", batch_size=8, root=tmp_path)
    write_task(first)
    failure = FoldFailure(first.identity, 1, "out of memory", "no room")
    retry = FailurePolicy().decide(first, failure, attempt=1)
    assert retry is not None
    slots = (Slot(Device("cpu", "", "CPU")),)
    processes.ProcessExecutor().submit([Assignment(retry.task, slots, tmp_path / "log", 1, 2)])
    assert read_task(first.paths.task) == retry.task
    assert retry.task.micro_batch_size == 4


def test_a_config_may_ask_for_micro_batches_itself(
    room: list[int], train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    path = write_configs({"name": "a", "use_cv": False, "micro_batch_size": 4})
    shown = train("--config-file", path)
    assert "attempt 2" not in shown
    assert max(room) == 4
    notice, _ = read(tmp_path / "out/a/cv_summary.json")["notices"]
    assert notice.startswith("Because of micro_batch_size, batches of 8 images went through the ")
