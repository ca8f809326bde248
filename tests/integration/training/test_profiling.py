"""`--profile`: where the time of a fold goes, and that asking does not change the fold."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.study.progress import PHASES, FoldProfile, read_profile
from clip_pkg.training.profiling import Stopwatch, fetched, unmeasured

IN_A_STEP = {"data", "image forward", "text forward", "loss", "backward", "optimiser"}
TIMES = ("epoch_seconds", "train_images_per_second")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def profiled(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> tuple[str, Path]:
    configs = write_configs({"name": "a", "epochs": 3, "batch_size": 4}, {"name": "b", "epochs": 1})
    shown = train("--config-file", configs, "--multi-config", "--profile")
    train("--config-file", configs, "--multi-config", output="plain")
    return shown, tmp_path


def test_a_profiled_run(profiled: tuple[str, Path]) -> None:
    shown, root = profiled
    shares_add_up_and_are_shown(shown, root)
    the_trace_has_the_phases(root)
    the_numbers_are_the_same(root)


def shares_add_up_and_are_shown(shown: str, root: Path) -> None:
    files = sorted(path.relative_to(root / "out") for path in root.glob("out/*/profile/*.json"))
    assert files == [Path("a/profile/fold_1.json"), Path("b/profile/fold_1.json")]
    found = read_profile(root / "out" / files[0])
    assert found is not None
    assert (found.first_epoch, found.last_epoch, found.steps, found.images) == (2, 3, 8, 30)
    assert set(found.seconds) == {*PHASES, "other"}
    assert sum(found.shares.values()) == pytest.approx(100)
    assert sum(found.seconds.values()) == pytest.approx(found.total_seconds)
    assert read(root / "out" / files[0])["shares"] == found.shares
    assert all(found.seconds[name] > 0 for name in PHASES)
    only = read_profile(root / "out" / files[1])
    assert only is not None
    assert (only.first_epoch, only.last_epoch) == (1, 1)  # there is no other
    logs = [path.read_text(encoding="utf-8") for path in root.glob("logs/clip_training/a_*.log")]
    assert "Time of a fold 1 by phase, epochs 2–3 on cpu" in "".join(logs)
    assert "Time of a fold 1 by phase, epochs 2–3 on cpu: 30 images in 8 steps" in shown
    for name in (*PHASES, "other", "sum"):
        assert name in shown


def the_trace_has_the_phases(root: Path) -> None:
    with gzip.open(root / "out/a/profile/fold_1_trace.json.gz", "rt", encoding="utf-8") as stream:
        events = json.load(stream)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {name: names.count(name) for name in IN_A_STEP - {"data"}} == dict.fromkeys(
        IN_A_STEP - {"data"}, 4
    )
    assert "data" in names


def the_numbers_are_the_same(root: Path) -> None:
    for fold in (1, 2):
        one, other = (
            {
                k: v
                for k, v in read(root / f"{run}/a/fold_{fold}/history.json").items()
                if k not in TIMES
            }
            for run in ("out", "plain")
        )
        assert one == other
        same, plain = (
            torch.load(root / f"{run}/a/fold_{fold}/checkpoint_latest.pth", weights_only=True)
            for run in ("out", "plain")
        )
        assert all(torch.equal(plain["model"][name], same["model"][name]) for name in same["model"])


def test_it_says_so_where_nothing_is_left_to_measure(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    configs = write_configs({"name": "a", "epochs": 1, "use_cv": False})
    train("--config-file", configs)
    shown = train("--config-file", configs, "--profile")
    assert "NOTE: a: --profile measures nothing because all folds are finished" in shown
    assert not (tmp_path / "out/a/profile").exists()


def test_a_stopwatch_counts_from_its_start_and_adds_up() -> None:
    watch = Stopwatch(torch.device("cpu"))
    with watch("loss"):
        time.sleep(0.01)
    watch.start()
    for _ in range(2):
        with watch("backward"):
            time.sleep(0.01)
    time.sleep(0.01)
    total, seconds = watch.read()
    assert seconds["loss"] == 0
    assert seconds["backward"] >= 0.02
    assert seconds["other"] >= 0.01
    assert total == pytest.approx(sum(seconds.values()))


def test_waiting_for_items_is_data() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.start()

    def slow() -> Any:
        for number in range(3):
            time.sleep(0.01)
            yield number

    assert list(fetched(slow(), watch)) == [0, 1, 2]
    assert watch.read()[1]["data"] >= 0.03
    assert list(fetched(slow(), unmeasured)) == [0, 1, 2]


def test_what_is_no_profile_is_none(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    assert read_profile(path) is None
    for text in ("", "[]", "{}", '{"config": "a"}'):
        path.write_text(text, encoding="utf-8")
        assert read_profile(path) is None
    seconds = {**dict.fromkeys(PHASES, 1.0), "other": 2.0}
    profile = FoldProfile("a", 1, "cpu", 2, 2, 3, 24, 10.0, seconds)
    profile.write(path)
    assert read_profile(path) == profile
    assert profile.shares["other"] == pytest.approx(20)
    assert "epoch 2 on cpu" in profile.title


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_devices_time_counts() -> None:
    watch = Stopwatch(torch.device("cuda"))
    values = torch.randn(4096, 4096, device="cuda")
    watch.start()
    with watch("backward"):
        for _ in range(50):
            values = values @ values / 64
    with watch("loss"):
        pass
    total, seconds = watch.read()
    assert seconds["backward"] > 10 * seconds["loss"]
    assert seconds["backward"] < total
