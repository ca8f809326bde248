"""The commands and configs of the SuperCLIP guide run as they are printed.

Replaced are the encoders (the smallest that the libraries have, with random weights), the number of
epochs, and what is in the folder of images. The program trains within this process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_pkg.base.paths import RunPaths
from clip_pkg.config.load import load_configs
from clip_pkg.config.losses import ClipLossConfig, SuperClipLossConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.scheduling.devices import Device
from support import guide_examples as printed
from support.guide_results import check_curves, check_total, guide, log, numbers, read, words
from support.tiny import make_folder
from support.tiny_checkout import make_checkout

TINY_IMAGE, TINY_TEXT = "test_resnet:scratch", "clip:ViT-S-32-alt:scratch"
HIP_CLASSES = ("Good Place", "Infection", "Wear")


@pytest.fixture
def hips(tmp_path: Path) -> Path:
    """The guide's folder of images: some of its classes, a picture per fold and class."""
    return make_folder(tmp_path / "single_label_data", dict.fromkeys(HIP_CLASSES, 5))


def with_tiny_encoders(text: str) -> str:
    for old, new in {
        '"image_encoder_name": "resnet18"': f'"image_encoder_name": "{TINY_IMAGE}"',
        '"text_encoder_name": "clip:ViT-B/32"': f'"text_encoder_name": "{TINY_TEXT}"',
        '"epochs": 100': '"epochs": 1',
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def pattern(line: str) -> str:
    """A line of the guide with other numbers, as many decimals, and any unit of speed."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", line)
    for place, piece in enumerate(pieces):
        _, dot, decimals = piece.partition(".")
        number = rf" *\d+\.\d{{{len(decimals)}}}" if dot else r"\d+"
        plain = re.escape(piece).replace("it/s", "(it/s|s/it)")
        pieces[place] = number if place % 2 else plain
    return f"(?m)^{''.join(pieces)}$"


@pytest.mark.usefixtures("hips")
def test_the_commands_with_and_without_a_file(train: Callable[..., str], tmp_path: Path) -> None:
    config = with_tiny_encoders(printed.SUPERCLIP_CONFIG)
    (tmp_path / "train_clip_config.json").write_text(config, encoding="utf-8")
    train(*words(printed.SUPERCLIP_COMMAND)[2:], output="not written")
    name = re.sub(r"[:/]", "_", f"{TINY_IMAGE}_{TINY_TEXT}")
    results = tmp_path / "checkpoints/clip_models/superclip_test" / name
    assert {path.name for path in results.iterdir()} >= set(printed.SUPERCLIP_FILES)
    for fold in range(1, 6):
        files = {path.name for path in (results / f"fold_{fold}").iterdir()}
        assert files >= set(printed.SUPERCLIP_FOLD_FILES)
    check_curves(results, {"class": "Loss/Class", "contrastive": "Loss/Contrastive"})
    check_total(results, {"class": 1.0, "contrastive": 1.0})
    told = log(tmp_path)
    banner = "Loss Type: superclip\n  → Class weight: 1.00\n  → Contrastive weight: 1.00\n"
    assert banner in told
    for line in (printed.SUPERCLIP_EPOCH + printed.SUPERCLIP_BARS).strip().splitlines():
        assert re.search(pattern(line), told), line

    # the command without a file means the same and gives the same numbers
    (tmp_path / "checkpoints").rename(tmp_path / "by_file")
    tiny = {"resnet18": TINY_IMAGE, "clip:ViT-B/32": TINY_TEXT}
    spelt = [tiny.get(word, word) for word in words(printed.SUPERCLIP_COMMAND_WITHOUT_FILE)[2:]]
    train(*spelt, "--epochs", "1", output="not written")
    by_file = tmp_path / "by_file" / results.relative_to(tmp_path / "checkpoints")
    assert read(by_file / "config.json") == {**read(results / "config.json"), "gpu_id": 0}
    assert numbers(by_file) == numbers(results)


@pytest.mark.usefixtures("hips")
def test_the_config_in_full(train: Callable[..., str], tmp_path: Path) -> None:
    config = with_tiny_encoders(printed.SUPERCLIP_CONFIG_IN_FULL).replace(TINY_TEXT, "prompts")
    (tmp_path / "train_clip_config.json").write_text(config, encoding="utf-8")
    train(*words(printed.SUPERCLIP_COMMAND)[2:], output="not written")
    (results,) = (tmp_path / "checkpoints/clip_models/superclip_test").glob("*_prompts")
    assert numbers(results)
    assert read(results / "config.json")["early_stopping_patience"] == 10


def test_the_configs_say_what_the_guide_says(tmp_path: Path) -> None:
    path = tmp_path / "train_clip_config.json"

    def only(text: str) -> RunConfig:
        path.write_text(text, encoding="utf-8")
        (config,) = load_configs(path).configs
        return config

    first, full = only(printed.SUPERCLIP_CONFIG), only(printed.SUPERCLIP_CONFIG_IN_FULL)
    assert full == first.model_copy(update={"early_stopping_patience": 10})
    assert first.loss == SuperClipLossConfig()
    folder = RunPaths(Path("checkpoints/clip_models")).config(first.name).root
    assert folder == Path(printed.SUPERCLIP_RESULTS)
    log_name = f"{first.name}_{Device('6', '6', 'a GPU').log_tag}_20260101_000000.log"
    assert Path("logs/clip_training", log_name).match(printed.SUPERCLIP_LOG)
    fragment = only(printed.SUPERCLIP_FRAGMENT)
    assert fragment == RunConfig(loss=SuperClipLossConfig(), use_weighted_sampling=True)
    switched_off = '"use_superclip_loss": false'
    off = only(printed.SUPERCLIP_CONFIG.replace('"use_superclip_loss": true', switched_off))
    left_out = only(printed.SUPERCLIP_FRAGMENT.replace('"use_superclip_loss": true,', ""))
    assert off.loss == left_out.loss == ClipLossConfig()


def test_the_weights_that_are_suggested(
    train: Callable[..., str], tmp_path: Path, write_configs: Callable[..., Path]
) -> None:
    found = [re.findall(r"(\w+)=([\d.]+)", text) for text in printed.SUPERCLIP_WEIGHTS]
    weights = [{name: float(value) for name, value in pairs} for pairs in found]
    path = write_configs(
        *(
            {"name": f"{number}", "use_cv": False, "use_superclip_loss": True, **chosen}
            for number, chosen in enumerate(weights)
        )
    )
    train("--config-file", path, "--multi-config")
    for number, chosen in enumerate(weights):
        parts = {part: chosen[f"{part}_loss_weight"] for part in ("class", "contrastive")}
        check_total(tmp_path / f"out/{number}", parts)
        banner = log(tmp_path, f"{number}_")
        for part, weight in parts.items():
            assert f"\n  → {part.capitalize()} weight: {weight:.2f}\n" in banner


def test_the_launcher_takes_the_settings(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (checkout.root / "single_label_data").mkdir()
    script = checkout.root / "run_train_clip.sh"
    text = script.read_text(encoding="utf-8")
    for line in printed.LAUNCHER_SETTINGS:
        text, found = re.subn(rf"(?m)^{line.partition('=')[0]}=.*$", line, text)
        assert found == 1
    script.write_text(text, encoding="utf-8")
    done = checkout.run(printed.LAUNCHER_COMMAND.split())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["arguments"] == [
        *("--data-dir", "single_label_data", "--output-dir", "checkpoints/clip_models"),
        *("--config-file", "train_clip_config.json", "--multi-config"),
        *("--gpus", "6", "--log-dir", "logs/clip_training"),
    ]


def test_the_copies_are_what_the_guide_prints() -> None:
    text = guide("superclip_training")
    runnable = [
        printed.SUPERCLIP_CONFIG,
        printed.SUPERCLIP_CONFIG_IN_FULL,
        printed.SUPERCLIP_FRAGMENT,
        printed.SUPERCLIP_COMMAND,
        printed.SUPERCLIP_COMMAND_WITHOUT_FILE,
        f"\n{printed.LAUNCHER_COMMAND}\n",
    ]
    copies = [
        *runnable,
        *printed.SUPERCLIP_WEIGHTS,
        *printed.LAUNCHER_SETTINGS,
        printed.SUPERCLIP_RESULTS,
        *printed.SUPERCLIP_FILES,
        *printed.SUPERCLIP_FOLD_FILES,
        printed.SUPERCLIP_LOG,
        printed.SUPERCLIP_EPOCH,
        printed.SUPERCLIP_BARS,
    ]
    assert [copy for copy in copies if copy not in text] == []
    blocks = re.findall(r"(?ms)^```(?:bash|json)\n(.*?)^```", text)
    others = [block for block in blocks if f"\n{block}" not in runnable]
    assert [block.split()[0] for block in others] == ["#", "tail"]  # the settings; tail -f
