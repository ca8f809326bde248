"""The curves within epochs: each step once, whatever was interrupted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg.base.event_files import ScalarWriter
from clip_pkg.config.loss_blocks import TermLabel
from clip_pkg.losses.contract import LossOutput
from clip_pkg.training.tensorboard import POINTS_PER_FETCH, StepCurves

PARTS = {
    "ce": TermLabel("ce", "CE", "ce"),
    "proxy": TermLabel("proxy", "Proxy", "proxy"),
}


def output(step: int) -> LossOutput:
    ce, proxy = torch.tensor(float(step)), torch.tensor(2.0)
    statistic = torch.tensor(float("nan") if step == 2 else 0.5)
    return LossOutput(
        ce + 0.25 * proxy,
        {"ce": ce, "proxy": proxy},
        {"ce": 1.0, "proxy": 0.25},
        {"positive_mean": statistic},
    )


def take(folder: Path, steps: range, *, total: int, flush: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    with StepCurves(folder / "fold_1", PARTS, total_steps=total, done=steps.start - 1) as curves:
        for step in steps:
            curves.add(output(step))
        if flush:
            curves.flush()


def points(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars(tag)]
    assert len(dict(read)) == len(read), "a step is there twice"
    return dict(read)


def test_parts_are_there_plain_and_weighted(tmp_path: Path) -> None:
    take(tmp_path, range(1, 6), total=5)
    folder = tmp_path / "fold_1/steps"
    assert points(folder, "Loss/CE") == {step: step for step in range(1, 6)}
    assert points(folder, "Weighted/Proxy") == dict.fromkeys(range(1, 6), 0.5)
    assert points(folder, "Loss/Total") == {step: step + 0.5 for step in range(1, 6)}
    assert points(folder, "Logits/positive_mean") == dict.fromkeys((1, 3, 4, 5), 0.5)


def test_what_an_interrupted_attempt_took_beyond_its_checkpoint_is_replaced(
    tmp_path: Path,
) -> None:
    take(tmp_path, range(1, 8), total=10)
    take(tmp_path, range(5, 11), total=10)
    folder = tmp_path / "fold_1/steps"
    assert points(folder, "Loss/CE") == {step: step for step in range(1, 11)}
    assert len(list(folder.iterdir())) == 1


def test_points_are_written_as_they_come_and_thinned_out_in_long_trainings(tmp_path: Path) -> None:
    take(tmp_path / "short", range(1, POINTS_PER_FETCH + 2), total=1000, flush=False)
    assert len(points(tmp_path / "short/fold_1/steps", "Loss/CE")) == POINTS_PER_FETCH
    take(tmp_path / "long", range(1, 31), total=30_000)
    assert sorted(points(tmp_path / "long/fold_1/steps", "Loss/CE")) == [*range(3, 31, 3)]


@given(kept=st.integers(0, 12), cut=st.integers(0, 400))
def test_an_event_file_that_was_cut_off_gives_what_it_has(
    kept: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("events")
    with closing(ScalarWriter(folder)) as writer:
        for step in range(1, 11):
            writer.add(step, {"a": step})
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: max(0, len(content) - cut)])
    with closing(ScalarWriter(folder, keep_until=kept)) as writer:
        writer.add(kept + 1, {"a": kept + 1})
    found = points(folder, "a")
    assert found == {step: step for step in found}
    assert max(found) == kept + 1
    if cut == 0:
        assert sorted(found) == [*range(1, min(kept, 10) + 1), kept + 1]


def test_curves_that_cannot_be_written_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "fold_1").write_text("not a folder", encoding="utf-8")
    take(tmp_path, range(1, 4), total=3)
    assert (tmp_path / "fold_1").read_text(encoding="utf-8") == "not a folder"
