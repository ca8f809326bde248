"""The next-item example from end to end, interrupted or not, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg.inference.feature_file import write_features
from clip_pkg.models.checkpoint import load_checkpoint, save_checkpoint
from examples.next_item.model import NextItemModel
from examples.next_item.settings import settings_of, training_parser
from support.small_training import SMALL, history, result
from support.tiny import CHECKOUT, program_environment
from support.tiny_checkout import make_checkout

INFONCE = ["--use_infonce", "--infonce_temperature", "0.2"]
LOSSES = {"infonce": [*INFONCE, "--norm_first"], "bce": []}
EXAMPLE = CHECKOUT / "examples" / "next_item"
Run = Callable[..., str]
TIMES = ("epoch_seconds", "train_sequences_per_second")


def assert_same(first: Path, second: Path) -> None:
    """Same numbers to the last bit, but for how long they took."""
    ours, theirs = history(first), history(second)
    assert {k: v for k, v in ours.items() if k not in TIMES} == {
        k: v for k, v in theirs.items() if k not in TIMES
    }
    for key in ("test", "test_of_popularity", "best_epoch"):
        assert result(first)[key] == result(second)[key]
    for name in ("checkpoint_best.pth", "checkpoint_latest.pth"):
        mine, other = (load_checkpoint(folder / name)["model"] for folder in (first, second))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def points(folder: Path) -> dict[str, list[int]]:
    """Steps of each curve."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def hit_rate(table: Path, log: Path, back: int) -> float:
    """HR@10 of recommended items, from the two files alone."""
    taken = defaultdict(list)
    for line in log.read_text().splitlines():
        user, item = line.split()
        taken[user].append(item)
    answers = {user: items[-back] for user, items in taken.items() if len(items) >= 3}
    with table.open(newline="") as stream:
        hits = [row["item"] == answers[row["user"]] for row in csv.DictReader(stream)]
    return sum(hits) / len(answers)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_and_what_is_made_of_it(
    loss: str, train: Run, recommend: Run, log: Path, tmp_path: Path
) -> None:
    shown = train(*LOSSES[loss], "--num_epochs", "4")
    out = tmp_path / "out"
    found = result(out)
    assert found["epochs"] == 4
    assert found["test"]["ndcg@10"] > 2 * found["test_of_popularity"]["ndcg@10"]
    assert "infer.py --checkpoint" in shown

    columns = history(out)
    assert {len(values) for values in columns.values()} == {4}
    assert columns["train_loss"][3] < columns["train_loss"][0]
    best = 1 + int(np.argmax(columns["val_ndcg@10"]))
    assert found["best_epoch"] == best == load_checkpoint(out / "checkpoint_best.pth")["epoch"]
    steps = points(out / "tensorboard" / "steps")
    for kind in ("positive_mean", "positive_std", "negative_mean", "negative_std"):
        assert len(steps[f"Logits/{kind}"]) > 4
        assert points(out / "tensorboard" / "train")[f"Logits/{kind}"] == [1, 2, 3, 4]
    assert columns["train_logits_positive_mean"][3] > columns["train_logits_negative_mean"][3]
    assert points(out / "tensorboard" / "val")["Metrics/ndcg@10"] == [1, 2, 3, 4]

    # Inference has the checkpoint alone, and ranks as the evaluation did.
    checkpoint = (out / "checkpoint_best.pth").rename(tmp_path / "moved.pth")
    shown = recommend("--checkpoint", checkpoint, "--held_out", "test")
    assert hit_rate(tmp_path / "recommendations.csv", log, 1) == found["test"]["hr@10"]
    numbers = next(line for line in shown.splitlines() if line.startswith(loss) and "0." in line)
    assert numbers.split()[1:] == [f"{value:.4f}" for value in found["test"].values()]
    recommend("--checkpoint", checkpoint, "--held_out", "val", "--output", "val.csv")
    assert hit_rate(tmp_path / "val.csv", log, 2) == columns["val_hr@10"][best - 1]
    recommend("--checkpoint", checkpoint, "--top_k", "3", "--output", "next.csv")
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    taken = set(log.read_text().splitlines())
    assert len(rows) == 3 * len({line.split()[0] for line in taken})
    assert not any(f"{row['user']} {row['item']}" in taken for row in rows)


@pytest.mark.parametrize("loss", LOSSES)
def test_epochs_one_by_one_are_epochs_in_one_go(loss: str, train: Run, tmp_path: Path) -> None:
    train(*LOSSES[loss], "--num_epochs", "3", output="whole")
    for epochs in ("1", "2", "3"):
        train(*LOSSES[loss], "--num_epochs", epochs, output="parts")
    assert_same(tmp_path / "whole", tmp_path / "parts")
    for side in ("train", "val", "steps"):
        whole, parts = (points(tmp_path / out / "tensorboard" / side) for out in ("whole", "parts"))
        assert whole == parts


def test_killed_and_started_again(train: Run, log: Path, tmp_path: Path) -> None:
    words = ["--data", str(log), "--output_dir", str(tmp_path / "killed"), *SMALL, *INFONCE]
    process = subprocess.Popen(
        [sys.executable, "-u", "main.py", *words, "--num_epochs", "10000"],
        cwd=EXAMPLE,
        env={**program_environment(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("Epoch 3/"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = load_checkpoint(tmp_path / "killed" / "checkpoint_latest.pth")["epoch"]
    assert done >= 2
    epochs = ["--num_epochs", str(done + 1)]
    assert f"Goes on after epoch {done}" in train(*INFONCE, *epochs, output="killed")
    train(*INFONCE, *epochs, output="whole")
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert not [name for name in os.listdir(tmp_path / "killed") if name.endswith(".tmp")]


def test_patience(train: Run, tmp_path: Path) -> None:
    shown = train("--lr", "1e-8", "--num_epochs", "30", "--patience", "2")
    assert "No gain for 2 epochs" in shown
    assert result(tmp_path / "out")["epochs"] < 30


def test_features_of_items(train: Run, recommend: Run, log: Path, tmp_path: Path) -> None:
    items = sorted({int(line.split()[1]) for line in log.read_text().splitlines()})
    features = np.random.default_rng(3).normal(size=(len(items) + 1, 6)).astype(np.float32)
    ids = np.array([*items[::-1], 10**9])  # one that nobody took
    np.savez(tmp_path / "81.npz", ids=ids, features=features)
    paths = tuple(f"covers/{item}.jpg" for item in ids)
    write_features(tmp_path / "c.npz", paths, features, np.zeros(len(ids), np.int64), None)
    given = ["--mm_emb_id", "81", f"cover={tmp_path / 'c.npz'}", "--mm_emb_dir", str(tmp_path)]
    train(*INFONCE, *given, "--num_epochs", "2")
    content = load_checkpoint(tmp_path / "out" / "checkpoint_best.pth")
    values = content["model"]["features.mm_81.values"]
    assert torch.equal(values, content["model"]["features.mm_cover.values"])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(values[1:], unit[:-1][::-1], rtol=1e-6)
    assert not values[0].any()

    (tmp_path / "81.npz").unlink()
    recommend("--checkpoint", tmp_path / "out/checkpoint_best.pth", "--held_out", "test")
    hits = hit_rate(tmp_path / "recommendations.csv", log, 1)
    assert hits == result(tmp_path / "out")["test"]["hr@10"]
    message = train(*INFONCE, "--num_epochs", "2", check=2)
    assert "mm_emb_id 81, mm_emb_id cover differ" in message


def test_a_folder_of_other_settings_is_refused(train: Run, tmp_path: Path) -> None:
    train(*INFONCE, "--num_epochs", "1")
    before = (tmp_path / "out" / "checkpoint_latest.pth").read_bytes()
    assert "its use_infonce differ" in train("--num_epochs", "1", check=2)
    message = train(*INFONCE, "--hidden_units", "8", "--lr", "0.1", "--num_epochs", "2", check=2)
    assert "its hidden_units, lr differ" in message
    other = tmp_path / "other.txt"
    other.write_text("1 1\n1 2\n1 3\n2 4\n")
    assert "its data differ" in train(*INFONCE, "--num_epochs", "1", data=other, check=2)
    assert (tmp_path / "out" / "checkpoint_latest.pth").read_bytes() == before


def test_checkpoints_that_cannot_be_used(recommend: Run, tmp_path: Path) -> None:
    assert "name one with --checkpoint" in recommend(check=2)
    save_checkpoint(tmp_path / "images.pth", {"model": {}})
    assert "another program" in recommend("--checkpoint", "images.pth", check=2)
    (tmp_path / "text.pth").write_text("text")
    assert "text.pth" in recommend("--checkpoint", "text.pth", check=2)
    assert "does not exist" in recommend("--checkpoint", "absent.pth", check=2)
    message = recommend("--checkpoint", "images.pth", "--output", "images.pth", check=2)
    assert "its name must end in .csv" in message


def test_the_only_checkpoint_needs_no_name(train: Run, recommend: Run, tmp_path: Path) -> None:
    train("--num_epochs", "1", output="results/bce")
    assert "Wrote recommendations.csv" in recommend()
    train(*INFONCE, "--num_epochs", "1", output="results/infonce")
    message = recommend(check=2)
    assert "results/bce/checkpoint_best.pth, results/infonce/checkpoint_best.pth" in message


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "1 2\n1 3\nx 4\n1 5 6\n\n1 -7\n",
            ["4 problems", "line 3: 'x 4'", "line 4", "line 5", "line 6"],
        ),
        ("", ["is empty"]),
        ("1 2\n1 3\n", ["no user has 3 interactions"]),
        ("5 2\n5 3\n5 4\n", ["user 5 took every item"]),
        ("1 2\n1 3\n1 " + "9" * 19 + "\n", ["line 3"]),
        ("1 2\n1 \xff\n", ["line 2"]),
    ],
)
def test_a_log_that_is_none(text: str, messages: list[str], train: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(text.encode("latin-1"))
    shown = train(data=path, check=2)
    assert all(message in shown for message in messages), shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "absent.txt"], "absent.txt: No such file"),
        (["--hidden_units", "10", "--num_heads", "4"], "--num_heads 4 does not divide"),
        (["--lr", "nan"], "'nan' is no number from"),
        (["--num_epochs", "2.5"], "'2.5' is no whole number from 1"),
        (["--use_infonse"], "--use_infonse"),
        (["--mm_emb_id", "81", "a/b=x.npz"], "--mm_emb_id cannot be used"),
    ],
)
def test_flags_that_cannot_be(
    arguments: list[str], message: str, train: Run, tmp_path: Path
) -> None:
    assert message in train(*arguments, check=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.ones((2, 3))}, "not `ids` and `features`"),
        ({"ids": np.array([0, 7]), "features": np.ones((3, 3))}, "one per row"),
        ({"ids": np.array([0.5, 7]), "features": np.ones((2, 3))}, "whole numbers"),
        ({"ids": np.array([0, 7]), "features": np.full((2, 3), np.nan)}, "finite"),
        ({"ids": np.array([7, 7]), "features": np.ones((2, 3))}, "several rows"),
        ({"ids": np.array([1, 2]), "features": np.ones((2, 3))}, "none of its 2 items"),
    ],
)
def test_features_that_are_none(
    arrays: dict[str, Any], message: str, train: Run, tmp_path: Path
) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    assert message in train("--mm_emb_id", f"f={tmp_path / 'f.npz'}", check=2)


def test_a_training_that_diverges_says_so(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        NextItemModel, "_initialise", lambda self: self.items.weight.data.fill_(math.nan)
    )
    assert "the loss is not finite in epoch 1" in train("--num_epochs", "1", check=2)
    assert not list((tmp_path / "out").glob("*.pth"))


def test_the_guides_flags() -> None:
    words = (
        "--batch_size 256 --lr 0.0007 --num_epochs 4 --dropout_rate 0.2 --hidden_units 64 "
        "--num_blocks 2 --num_heads 2 --norm_first --maxlen 101 --l2_emb 1e-6 --mm_emb_id 81 "
        "--use_infonce --infonce_temperature 0.2"
    )
    parser = training_parser()
    given = settings_of(parser.parse_args(words.split()), parser)
    assert (given.hidden_units, given.norm_first, given.loss) == (64, True, "infonce")
    assert settings_of(parser.parse_args(["--use_infonce", "--norm_first"]), parser) == given
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (shown,) = re.findall(r"(?m)^python -u main\.py (.*)$", readme)
    assert settings_of(parser.parse_args(shlex.split(shown)), parser) == given
    for name in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (EXAMPLE / name).exists(), name


@pytest.mark.parametrize("script", ["main.py", "eval/infer.py"])
def test_help_is_fast(script: str) -> None:
    code = (
        "import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, script], cwd=EXAMPLE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


@pytest.mark.parametrize("words", [[], ["infonce"], ["bce"], ["bce", "--num_epochs", "8"]])
def test_the_launcher(words: list[str], tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    folder = checkout.root / "examples" / "next_item"
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE / "run.sh", folder)
    (folder / "main.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    done = checkout.run(["bash", str(folder / "run.sh"), *words], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = json.loads(done.stdout.splitlines()[-1])
    parser = training_parser()
    given = settings_of(parser.parse_args(flags), parser)
    wanted = [*(["--use_infonce"] if "bce" not in words else []), "--norm_first", *words[1:]]
    assert given == settings_of(parser.parse_args(wanted), parser)
