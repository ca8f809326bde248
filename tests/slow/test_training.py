"""The whole program on a small folder of images: from the command line to the last file."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg.cli import main
from clip_pkg.results.summary import without_times
from support.tiny import TINY, Program, command, program_environment

pytestmark = pytest.mark.slow  # all of them together

FOLD_FILES = {
    "task.json",
    "result.json",
    "progress.json",
    "history.json",
    "predictions.csv",
    "predictions_last.csv",
    "predictions_epochs.npz",
    "sampler_exposure.csv",
    "checkpoint_best.pth",
    "checkpoint_latest.pth",
}
CONFIG_FILES = {
    "config.json",
    "cv_summary.json",
    "folds_info.json",
    "class_texts.json",
    "preflight.json",
}


@pytest.fixture(scope="module")
def run_folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configs, two folds, trained once through the launcher's form of the command."""
    root = tmp_path_factory.mktemp("run")
    configs = [
        {**TINY, "name": "plain"},
        {
            **TINY,
            "name": "super",
            "use_superclip_loss": True,
            "class_loss_weight": 0.5,
            "use_weighted_sampling": True,
        },
    ]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    words = [
        "--data-dir",
        images,
        "--output-dir",
        root / "out",
        "--config-file",
        root / "configs.json",
    ]
    done = subprocess.run(
        command(*words, "--multi-config", "--gpu-id", "0", "--log-dir", root / "logs"),
        cwd=root,
        env=program_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "stdout.txt").write_text(done.stdout, encoding="utf-8")
    return root


def read(path: Path) -> Any:
    return json.loads(
        path.read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(f"{name} in {path}"),
    )


def test_every_file_of_the_layout_is_there(run_folder: Path) -> None:
    for name in ("plain", "super"):
        folder = run_folder / "out" / name
        assert {path.name for path in folder.iterdir() if path.is_file()} >= CONFIG_FILES
        for fold in (1, 2):
            assert {path.name for path in (folder / f"fold_{fold}").iterdir()} == FOLD_FILES


def test_each_image_is_validated_exactly_once(run_folder: Path, images: Path) -> None:
    rows: list[str] = []
    for fold in (1, 2):
        with (run_folder / f"out/plain/fold_{fold}/predictions.csv").open(
            encoding="utf-8"
        ) as stream:
            rows += [row["path"] for row in csv.DictReader(stream)]
    assert sorted(rows) == sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))


def test_predictions_reproduce_every_number_of_the_summary(run_folder: Path) -> None:
    summary = read(run_folder / "out/super/cv_summary.json")
    classes = read(run_folder / "out/super/folds_info.json")["classes"]
    for fold in (1, 2):
        with (run_folder / f"out/super/fold_{fold}/predictions.csv").open(
            encoding="utf-8"
        ) as stream:
            rows = list(csv.DictReader(stream))
        scores = np.array([[float(row[f"prob_{name}"]) for name in classes] for row in rows])
        labels = np.array([classes.index(row["label"]) for row in rows])
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-12)
        assert [classes[n] for n in scores.argmax(axis=1)] == [row["prediction"] for row in rows]
        found = summary["fold_results"]
        accuracy = sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1))
        assert found["fold_val_acc"][fold - 1] == pytest.approx(100 * accuracy, abs=1e-12)
        auroc = sklearn.metrics.roc_auc_score(labels, scores, multi_class="ovr")
        assert found["fold_val_auroc"][fold - 1] == pytest.approx(auroc, abs=1e-12)
        precision = [
            sklearn.metrics.average_precision_score(labels == n, scores[:, n]) for n in range(3)
        ]
        assert found["fold_val_mAP"][fold - 1] == pytest.approx(100 * np.mean(precision), abs=1e-10)
    values = summary["fold_results"]["fold_val_acc"]
    assert summary["average_results"]["avg_val_acc"] == pytest.approx(np.mean(values))
    assert summary["average_results"]["std_val_acc"] == pytest.approx(np.std(values, ddof=1))
    assert summary["average_results"]["n"] == 2
    assert sum(map(sum, summary["confusion_matrix"]["counts"])) == 30
    assert summary["baselines"]["majority_class"]["avg_val_acc"] == pytest.approx(100 * 14 / 30)


def test_history_has_one_entry_per_epoch_and_the_guides_columns(run_folder: Path) -> None:
    history = read(run_folder / "out/super/fold_1/history.json")
    guide = (
        "train_loss train_acc val_loss val_acc val_mAP val_precision val_recall val_f1 "
        "train_class_loss train_contrastive_loss val_class_loss val_contrastive_loss learning_rate"
    )
    assert set(guide.split()) <= set(history)
    assert {len(column) for column in history.values()} == {2}
    for side in ("train", "val"):
        total = 0.5 * np.array(history[f"{side}_class_loss"])
        total += np.array(history[f"{side}_contrastive_loss"])
        np.testing.assert_allclose(history[f"{side}_loss"], total, rtol=1e-6)


def test_the_log_has_the_guides_lines_and_no_carriage_returns(run_folder: Path) -> None:
    names = sorted(path.name for path in (run_folder / "logs").iterdir())
    assert [re.sub(r"\d{8}_\d{6}", "TIME", name) for name in names] == [
        "plain_gpu-none_TIME.log",
        "super_gpu-none_TIME.log",
    ]
    text = (run_folder / "logs" / names[1]).read_text(encoding="utf-8")
    assert "\r" not in text
    number = r"\d+\.\d{4}"
    parts = rf"\(Class: {number}, Contrastive: {number}\)"
    assert len(re.findall(rf"(?m)^Train Loss: {number} {parts}, Train Acc: \d+\.\d\d%$", text)) == 4
    assert (
        len(
            re.findall(
                rf"(?m)^Val Loss: {number} {parts}, Val Acc: \d+\.\d\d%, Val mAP: \d+\.\d\d%$", text
            )
        )
        == 4
    )
    values = rf"loss={number}, cls={number}, clip={number}, acc=\d+\.\d\d%"
    bar = rf"(?m)^Epoch 1 \[Train\]: 100%\|█+\| 2/2 \[.*{values}\]$"
    assert len(re.findall(bar, text)) == 2
    assert "Loss Type: superclip" in text
    plain = (run_folder / "logs" / names[0]).read_text(encoding="utf-8")
    assert re.search(rf"(?m)^Train Loss: {number}, Train Acc: ", plain)


def test_tensorboard_shows_what_the_history_holds(run_folder: Path) -> None:
    history = read(run_folder / "out/super/fold_2/history.json")

    def curve(folder: str, tag: str) -> list[float]:
        events = EventAccumulator(str(run_folder / "out/super/tensorboard" / folder))
        events.Reload()
        return [event.value for event in events.Scalars(tag)]

    assert curve("fold_2/train", "Loss/Total") == pytest.approx(history["train_loss"])
    assert curve("fold_2/val", "Loss/Class") == pytest.approx(history["val_class_loss"])
    other = read(run_folder / "out/super/fold_1/history.json")
    means = np.mean([history["val_acc"], other["val_acc"]], axis=0)
    assert curve("mean", "Folds/val_acc") == pytest.approx(list(means), rel=1e-6)


def test_the_screen_shows_progress_results_and_next_steps(run_folder: Path) -> None:
    shown = (run_folder / "stdout.txt").read_text(encoding="utf-8")
    for piece in (
        "No usable NVIDIA GPU found: training runs on the CPU.",
        "fold 2 of 2 done",
        "Bal. acc %",
        "super",
        "tensorboard --logdir",
        "corrected twice",
    ):
        assert piece in shown, piece


def test_the_sampler_shows_rare_classes_as_often_as_common_ones(run_folder: Path) -> None:
    with (run_folder / "out/super/fold_1/sampler_exposure.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sum(int(row["times_seen"]) for row in rows) == 2 * len(rows)
    assert {row["label"] for row in rows} == {"red", "grün", "blue sky"}


def test_the_same_command_again_does_nothing_twice(
    run_folder: Path, images: Path, program: Program
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run_folder / "out").rglob("fold_*/*.pth")}
    words = ["--data-dir", images, "--output-dir", run_folder / "out"]
    shown = program(*words, "--config-file", run_folder / "configs.json", "--multi-config").stdout
    assert "4 of 4 folds are already finished" in shown
    assert before == {p: p.stat().st_mtime_ns for p in (run_folder / "out").rglob("fold_*/*.pth")}


def test_config_json_can_be_fed_back_and_flags_give_the_same_numbers(
    run_folder: Path, train: Callable[..., str], tmp_path: Path
) -> None:
    wanted = numbers(run_folder / "out/super/cv_summary.json")
    train("--config-file", run_folder / "out/super/config.json", output="again")
    assert numbers(tmp_path / "again/super/cv_summary.json") == wanted
    flags = (
        "--name super --image-encoder test_resnet:scratch --text-encoder prompts --img-size 32 "
        "--embed-dim 16 --batch-size 8 --epochs 2 --learning-rate 1e-3 --use-cv --n-splits 2 "
        "--augmentation minimal --num-workers 0 --use-superclip-loss --class-loss-weight 0.5 "
        "--use-weighted-sampling --gpu-id 0"
    )
    train(*flags.split(), output="flags")
    assert numbers(tmp_path / "flags/super/cv_summary.json") == wanted


def numbers(path: Path) -> dict[str, Any]:
    return without_times(read(path))


def test_diverged_folds_are_named_and_the_other_config_is_finished(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    wild = {"learning_rate": 10.0, "image_lr_scale": 100.0, "grad_clip_norm": None, "epochs": 40}
    configs = write_configs({"name": "wild", **wild}, {"name": "calm"})
    shown = train("--config-file", configs, "--multi-config", check=1)
    summary = read(tmp_path / "out/wild/cv_summary.json")
    assert set(summary["status"].values()) == {"diverged"}
    assert summary["average_results"]["n"] == 0
    assert "FAILED (diverged)" in shown
    assert read(tmp_path / "out/calm/cv_summary.json")["complete"] is True


def test_an_inner_split_chooses_the_epoch_without_the_reported_fold(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    changes = {"inner_val_fraction": 0.3, "image_lr_scale": 0.5, "warmup_epochs": 0.0}
    train("--config-file", write_configs({"name": "a", **changes}))
    result = read(tmp_path / "out/a/fold_1/result.json")
    history = read(tmp_path / "out/a/fold_1/history.json")
    assert history["learning_rate"][0] == pytest.approx(TINY["learning_rate"])
    assert result["chosen_on"] == "inner validation split"
    losses = history["inner_val_loss"]
    assert result["best_epoch"] == 1 + losses.index(min(losses))
    assert result["n_train"] + result["n_val"] < 30
    assert "had no say" in read(tmp_path / "out/a/cv_summary.json")["epoch_choice"]


def test_early_stopping_ends_a_fold_and_is_recorded(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    stopping = {"early_stopping_patience": 1, "early_stopping_min_delta": 1000.0}
    train("--config-file", write_configs({"name": "a", "epochs": 50, **stopping}))
    result = read(tmp_path / "out/a/fold_1/result.json")
    assert result["stopped_early"]
    assert result["last_epoch"] == 2


@pytest.mark.parametrize("method", ["inverse_freq", "inverse_sqrt", "balanced", "effective_number"])
def test_every_weight_method_trains(
    method: str, train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    config = {"name": "a", "epochs": 1, "use_cv": False, "use_superclip_loss": True}
    train("--config-file", write_configs({**config, "weight_method": method, "save_best": False}))
    assert read(tmp_path / "out/a/cv_summary.json")["complete"]
    assert not (tmp_path / "out/a/fold_1/checkpoint_best.pth").exists()


def test_splits_of_another_run_are_imported_and_shared(
    run_folder: Path, train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    splits = run_folder / "out/plain/folds_info.json"
    config = write_configs({"name": "a", "epochs": 1, "random_state": 1})
    train("--config-file", config, "--splits-file", splits)
    mine, theirs = read(tmp_path / "out/a/folds_info.json"), read(splits)
    assert mine["splits_hash"] == theirs["splits_hash"]


def test_groups_of_a_csv_stay_together(
    images: Path, train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    table = images / "table.csv"
    rows = [
        f"{path.relative_to(images)},{path.parent.name},{path.parent.name}{number // 2}"
        for folder in sorted(path for path in images.iterdir() if path.is_dir())
        for number, path in enumerate(sorted(folder.iterdir()))
    ]
    table.write_text("path,label,group\n" + "\n".join(rows), encoding="utf-8")
    try:
        train("--config-file", write_configs({"name": "a", "epochs": 1}), data=table)
    finally:
        table.unlink()
    group_of = {row.split(",")[0]: row.split(",")[2] for row in rows}
    for fold in read(tmp_path / "out/a/folds_info.json")["folds"]:
        sides = [{group_of[path] for path in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]


def test_summarize_rebuilds_what_was_there(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder / "out/super/cv_summary.json"
    before = numbers(path)
    path.unlink()
    assert main(["summarize", str(run_folder / "out")]) == 0
    assert numbers(path) == before
    assert "super" in capsys.readouterr().out


def test_a_real_clip_text_tower_reads_the_class_texts(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    texts = {"red": ["a red thing", "stripes"], "grün": "a green thing", "blue sky": "a blue sky"}
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    common = {
        "text_encoder_name": "clip:ViT-S-32-alt:scratch",
        "class_texts_file": "texts.json",
        "epochs": 1,
        "use_cv": False,
    }
    configs = write_configs(
        {"name": "trained", **common}, {"name": "frozen", "freeze_text_encoder": True, **common}
    )
    train("--config-file", configs, "--multi-config")
    for name in ("trained", "frozen"):
        assert read(tmp_path / f"out/{name}/cv_summary.json")["complete"]
        assert read(tmp_path / f"out/{name}/class_texts.json")["texts"]["red"] == texts["red"]
