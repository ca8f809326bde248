"""The commands and settings of the loss guides run as they are printed.

Replaced are the place of the images, the model (the smallest that the libraries have, with random
weights) and the number of epochs; the Proxy and InfoNCE guides, which print settings of the loss
alone, get the tiny config of all tests around them. The program trains within this process.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.cli import main
from clip_pkg.cli.main import parser_of
from clip_pkg.config.flags import config_from_flags
from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.schema import RunConfig
from support import guide_examples as printed
from support.guide_results import (
    check_curves,
    check_total,
    curves,
    guide,
    log,
    numbers,
    read,
    single,
    words,
)
from support.tiny import TINY

VIM = "vim_tiny_patch16_224_clip_prompts"
MAMBA = "test_mambaout"  # of the family that is nearest to the guide's own


def settings(code: str) -> dict[str, Any]:
    """Values of the assignments in a piece of Python."""
    assignments = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    return {
        target.id: ast.literal_eval(node.value)
        for node in assignments
        for target in node.targets
        if isinstance(target, ast.Name)
    }


SETTINGS: dict[str, dict[str, Any]] = {
    **{f"proxy_{name}": settings(code) for name, code in printed.PROXY_SETTINGS.items()},
    "infonce": {"use_infonce": True, "infonce_temperature": 0.2},
    "bce": {"use_infonce": False, "infonce_temperature": 0.2},
}


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of `SETTINGS` as the keys of a config of a list, trained in one run."""
    root = tmp_path_factory.mktemp("settings")
    configs = [{**TINY, "use_cv": False, "name": name, **s} for name, s in SETTINGS.items()]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    places = {
        "--data-dir": images,
        "--output-dir": root,
        "--log-dir": root / "logs/clip_training",
        "--config-file": root / "configs.json",
    }
    flags = [f"{flag}={place}" for flag, place in places.items()]
    assert main([*flags, "--multi-config", "--executor", "inline"]) == 0
    return root


# --- CE + InfoNCE


def test_the_ce_infonce_command(train: Callable[..., str], images: Path, tmp_path: Path) -> None:
    replaced = {VIM: f"{MAMBA}_clip_prompts:scratch", "/path/to/dataset": str(images)}
    command = words(printed.CE_INFONCE_COMMAND)[2:]
    spelt = [replaced.get(word, word) for word in command]
    train(*spelt, "--epochs", "1", data=tmp_path / "not read", output="not written")
    assert not (tmp_path / "not written").exists()
    results = tmp_path / f"output/ce_infonce_test/{MAMBA}_scratch_prompts"
    expected = RunConfig.model_validate(
        {
            "image_encoder_name": f"{MAMBA}:scratch",
            "text_encoder_name": "prompts",
            "batch_size": 128,
            "epochs": 1,
            "loss": {
                "type": "ce_infonce",
                "classifier": "linear",
                "contrast_weight": 0.5,
                "infonce_temp": 0.07,
            },
            "aux_losses": [{"type": "center", "weight": 0.1}],
            "prompts_per_class": 5,
        }
    )
    assert read(results / "config.json") == expected.model_dump(mode="json")
    assert read(results / "cv_summary.json")["complete"]
    check_curves(results, {"ce": "Loss/CE", "infonce": "Loss/InfoNCE", "center": "Loss/Center"})
    check_total(results, {"ce": 1.0, "infonce": 0.5, "center": 0.1})
    lines = log(tmp_path).splitlines()
    start = lines.index("Loss Type: ce_infonce")
    assert lines[start + 1 : start + 4] == [
        "  → CE weight: 1.00",
        "  → InfoNCE weight: 0.50",
        "  → Center weight: 0.10",
    ]
    assert "Auxiliary Loss: center" in lines
    state = torch.load(results / "fold_1/checkpoint_best.pth", weights_only=True)
    assert len(state["model"]["text_encoder.vectors"]) == 3 * 5


def test_the_ce_infonce_command_has_all_that_is_needed() -> None:
    parser = parser_of()
    parsed = parser.parse(words(printed.CE_INFONCE_COMMAND)[2:])
    assert parsed.data_dir == Path("/path/to/dataset")
    assert parsed.output_dir == Path("output/ce_infonce_test")


def test_the_lists_of_auxiliary_losses_and_weights(
    train: Callable[..., str], tmp_path: Path
) -> None:
    flags = words(printed.CE_INFONCE_FLAGS + printed.AUXILIARY_FLAGS)
    train(*(f"--{key}={value}" for key, value in TINY.items()), "--no-cv", "--name", "a", *flags)
    tags = {
        "ce": "Loss/CE",
        "infonce": "Loss/InfoNCE",
        "center": "Loss/Center",
        "arcface": "Loss/ArcFace",
    }
    check_curves(tmp_path / "out/a", tags)
    check_total(tmp_path / "out/a", {"ce": 1.0, "infonce": 0.5, "center": 0.1, "arcface": 0.2})


def test_the_model_of_the_ce_infonce_guide_has_named_relatives(train: Callable[..., str]) -> None:
    shown = train(*words(printed.CE_INFONCE_COMMAND)[2:], check=2)
    assert "error: 1 problem" in shown
    assert "--model: 'vim_tiny_patch16_224': Vision Mamba is not in timm" in shown
    relatives = re.findall(r"`(efficientvim_\w+|mambaout_\w+)`", shown)
    assert len(relatives) == 4
    for name in relatives:
        flags = parser_of().parse_args(["--model", f"{name}_clip_prompts"])
        (config,) = config_from_flags(flags).configs
        assert (config.image_encoder_name, config.text_encoder_name) == (name, "prompts")


# --- Proxy-Anchor


PROXY_PARTS = {
    "ce": {"ce": "Loss/CE"},
    "proxy": {"proxy": "Loss/Proxy"},
    "combined": {"ce": "Loss/CE", "proxy": "Loss/Proxy"},
}


def banner_of(chosen: Mapping[str, Any]) -> list[str]:
    """The guide's lines about the loss, for settings that it prints no banner for."""
    kind, share = chosen["loss_type"].lower(), chosen.get("lambda_combined", 0.5)
    focal = chosen.get("proxy_type") == "FocalStyleProxyAnchorLoss"
    proxy = [
        f"Proxy Type: {chosen.get('proxy_type', 'ProxyAnchorLoss')}",
        "Proxy α (alpha): 32.0",
        "Proxy δ (delta): 0.1",
        *(["Proxy γ⁺ (gamma_pos): 2.0", "Proxy γ⁻ (gamma_neg): 2.0"] if focal else []),
    ]
    combined = [
        f"λ (lambda): {share:.2f}",
        f"  → CE weight: {share:.2f}",
        f"  → Proxy weight: {1 - share:.2f}",
    ]
    shown: dict[str, list[str]] = {"ce": [], "proxy": proxy, "combined": [*proxy, *combined]}
    return [f"Loss Type: {kind}", *shown[kind]]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("proxy")])
def test_the_settings_of_the_proxy_guide(name: str, trained: Path) -> None:
    chosen, results = SETTINGS[name], trained / name
    kind, share = chosen["loss_type"].lower(), chosen.get("lambda_combined")
    loss = read(results / "config.json")["loss"]
    given = {"proxy_type": "proxy_type", "proxy_alpha": "alpha", "proxy_delta": "delta"}
    given |= {"loss_type": "type", "lambda_combined": "lambda_combined"}
    assert {given[key]: value for key, value in {**chosen, "loss_type": kind}.items()}.items() <= (
        loss.items()
    )
    check_curves(results, PROXY_PARTS[kind])
    check_total(results, {kind: 1.0} if share is None else {"ce": share, "proxy": 1 - share})
    lines = re.findall(r"(?m)^(?:Loss Type|Proxy (?!lr)|λ|  →).*$", log(trained, name))
    assert lines == banner_of(chosen)
    if name == "proxy_3, combined":
        assert printed.PROXY_BANNER in log(trained, name)


def test_the_tags_of_the_proxy_guide() -> None:
    assert ["Loss/Total", *PROXY_PARTS["combined"].values()] == printed.PROXY_TAGS


# --- InfoNCE and its baseline

LOGITS = {f"{pair}_{what}" for pair in ("positive", "negative") for what in ("mean", "std")}


@pytest.mark.parametrize(("kind", "tag"), [("infonce", "Loss/InfoNCE"), ("bce", "Loss/BCE")])
def test_the_switch_of_the_infonce_guide(kind: str, tag: str, trained: Path) -> None:
    loss = read(trained / kind / "config.json")["loss"]
    assert (loss["type"], loss["temperature"]) == (kind, 0.2)
    check_curves(trained / kind, {kind: tag})
    check_total(trained / kind, {kind: 1.0})
    history = read(trained / kind / "fold_1/history.json")
    for side in ("train", "val"):
        found = curves(trained / kind / "tensorboard/fold_1" / side)
        told = {tag.removeprefix("Logits/") for tag in found if tag.startswith("Logits/")}
        assert told == LOGITS
        for name in LOGITS:
            column = history[f"{side}_logits_{name}"]
            assert found[f"Logits/{name}"] == single(column)
        assert max(abs(value) for value in found["Logits/positive_mean"]) <= 1 / 0.2
    assert f"Loss Type: {kind}\nLoss Temperature: 0.2\n" in log(trained, kind)


def test_without_any_switch_the_loss_is_the_default_and_the_settings_are_noticed() -> None:
    loaded = configs_from_mapping([{"infonce_temperature": 0.2}])
    assert loaded.configs[0].loss == RunConfig().loss
    (notice,) = loaded.notices
    assert "has no effect here; it is used when use_infonce is true or false" in notice


# --- flags and copies


FLAGS = {
    **{
        name: [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items()]
        for name, chosen in SETTINGS.items()
        if name.startswith("proxy")
    },
    "infonce": words(printed.INFONCE_FLAGS),
    "bce": ["--no-infonce", *words(printed.INFONCE_FLAGS)[1:]],
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_settings_as_flags_make_the_same_config(name: str) -> None:
    parser = parser_of()
    by_flags = config_from_flags(parser.parse_args(FLAGS[name]))
    assert by_flags.configs == configs_from_mapping([SETTINGS[name]]).configs


def test_the_settings_as_flags_give_the_same_numbers(
    trained: Path, train: Callable[..., str], tmp_path: Path
) -> None:
    name = "proxy_5, focal"
    train(
        *(f"--{key}={value}" for key, value in TINY.items()),
        "--no-cv",
        "--name",
        name,
        *FLAGS[name],
    )
    assert numbers(tmp_path / "out" / name) == numbers(trained / name)


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        (
            "ce_infonce",
            [printed.CE_INFONCE_COMMAND, printed.CE_INFONCE_FLAGS, printed.AUXILIARY_FLAGS],
        ),
        (
            "proxy_anchor",
            [
                *printed.PROXY_SETTINGS.values(),
                printed.PROXY_BANNER,
                *(f"`{tag}`" for tag in printed.PROXY_TAGS),
            ],
        ),
        ("infonce_vs_bce", [printed.INFONCE_FLAGS]),
    ],
)
def test_the_copies_are_what_the_guides_print(name: str, copies: list[str]) -> None:
    text = guide(name)
    assert [copy for copy in copies if copy not in text] == []


def test_no_setting_of_the_proxy_guide_is_missing() -> None:
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", guide("proxy_anchor"))
    found = [settings(block) for block in blocks if "_type" in block]
    assert len(found) == 9
    assert [one for one in found if one not in SETTINGS.values()] == []
