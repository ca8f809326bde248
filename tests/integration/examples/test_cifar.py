"""CIFAR by name: made from an archive in its own format, or asked for; and the experiment."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from clip_pkg.cli.main import parser_of
from clip_pkg.config.flags import config_from_flags
from clip_pkg.config.load import load_configs
from clip_pkg.launch.terminal import Terminal
from examples.contrastive import train
from examples.contrastive.cifar import main, make_folders
from support.tiny import CHECKOUT

CLASSES = ["apple", "aquarium_fish", "baby"]
IMAGES = {"train": 36, "test": 9}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small archive in the official format in `cifar100/`; its arrays, by part."""
    random = np.random.default_rng(0)
    contents: dict[str, Any] = {"meta": {"fine_label_names": CLASSES}}
    for part, count in IMAGES.items():
        labels = [number % len(CLASSES) for number in range(count)]
        pixels = random.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        contents[part] = {"data": pixels, "fine_labels": labels}
    folder = tmp_path / "cifar100"
    folder.mkdir()
    sums = {}
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as tar:
        for name, content in contents.items():
            data = pickle.dumps(content)
            sums[name] = hashlib.md5(data).hexdigest()
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    whole = hashlib.md5((folder / "cifar-100-python.tar.gz").read_bytes()).hexdigest()
    kind = datasets.CIFAR100
    monkeypatch.setattr(kind, "tgz_md5", whole)
    monkeypatch.setattr(kind, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["meta"]})
    return contents


@pytest.mark.usefixtures("no_network")
def test_an_archive_becomes_folders_once(archive: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "cifar100"
    make_folders("cifar100", folder, Terminal.silent())
    for part, count in IMAGES.items():
        written = sorted((folder / part).rglob("*.png"))
        assert len(written) == count
        for path in written:
            pixels = archive[part]["data"][int(path.stem)].reshape(3, 32, 32).transpose(1, 2, 0)
            np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
            assert path.parent.name == CLASSES[archive[part]["fine_labels"][int(path.stem)]]
    (folder / "cifar-100-python.tar.gz").unlink()
    make_folders("cifar100", folder, Terminal.silent())  # nothing is missing


@pytest.mark.usefixtures("no_network")
def test_without_network_and_archive_both_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cifar100", str(tmp_path / "here")]) == 2
    said = capsys.readouterr().err
    assert "cifar100 cannot be downloaded" in said
    assert f"put cifar-100-python.tar.gz, the archive of {datasets.CIFAR100.url}, into" in said
    assert main(["imagenet"]) == 2


@pytest.mark.usefixtures("no_network")
def test_an_archive_with_other_contents_is_not_read(
    archive: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cifar100/cifar-100-python.tar.gz"
    file.write_bytes(file.read_bytes() + b"\0")
    assert main(["cifar100", str(tmp_path / "cifar100")]) == 2
    assert "put cifar-100-python.tar.gz" in capsys.readouterr().err
    assert not (tmp_path / "cifar100/train").exists()


def test_the_defaults_are_those_of_the_comparison() -> None:
    words = train.completed(
        ["--loss_func", "dhel", "--data-dir", "mine", "--test-dir=TEST_DIR", "--seed=1"],
        Terminal.silent(),
    )
    (config,) = config_from_flags(parser_of().parse(words)).configs
    (same,) = [
        one
        for one in load_configs(CHECKOUT / "examples/contrastive/gpu_config.json").configs
        if one.pretrain is not None and one.pretrain.loss.type == "dhel" and one.random_state == 1
    ]
    assert config == same.model_copy(update={"name": "resnet18_dhel"})


@pytest.mark.parametrize("words", [["--help"], ["status", "x"], ["--loss_type", "CE"]])
def test_other_command_lines_are_left_as_they_are(words: list[str]) -> None:
    assert train.completed(words, Terminal.silent()) == words


@pytest.mark.usefixtures("no_network", "archive")
def test_one_flag_is_the_whole_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--image-encoder", "test_resnet:scratch", "--epochs", "1", "--batch-size", "8"]
    small += ["--pretrain", '{"images": "all", "epochs": 1, "batch_size": 8}']
    small += ["--embed-dim", "16", "--executor", "inline"]
    guide = ["--loss_func", "dhel", "--continue_pretrain", "--continue_finetune"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *guide, *small])
    assert train.main() == 0
    results = tmp_path / "checkpoints/contrastive/resnet18_dhel"
    summary = json.loads((results / "cv_summary.json").read_text())
    assert summary["complete"]
    assert summary["pretraining"] is not None
    assert summary["test"] is not None
    result = json.loads((results / "fold_1/result.json").read_text())
    assert result["n_val"] == 3, "a tenth of each class"
