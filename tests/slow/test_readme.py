"""README and docs/config.md: commands run, JSON loads."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pkg.cli import main
from clip_pkg.config.load import load_configs
from clip_pkg.study.class_texts import resolve_class_texts
from support.tiny import CHECKOUT, TINY, program_environment

pytestmark = pytest.mark.slow  # all of them together

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
CONFIG_PAGE = (CHECKOUT / "docs/config.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", README + CONFIG_PAGE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    inline = re.findall(r"`(python train_clip\.py [^`]+)`", CONFIG_PAGE)
    distinct = dict.fromkeys(map(tuple, [*found, *map(shlex.split, inline)]))
    return [list(words) for words in distinct if words]


def test_its_json_is_a_config_list_or_class_texts(tmp_path: Path) -> None:
    configs, texts = 0, 0
    for number, text in enumerate(blocks("json")):
        path = tmp_path / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        if text.startswith("["):
            configs += len(load_configs(path).configs)
        else:
            found = resolve_class_texts(
                ("Good Place", "Wear"),
                class_texts_file=str(path),
                text_template=None,
                prompts_per_class=None,
                search_dirs=[],
            )
            texts += sum(map(len, found.prompts))
    assert (configs, texts) == (3, 3)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's file names mean something small."""
    root = tmp_path_factory.mktemp("readme")
    (root / "train_clip_config.json").write_text(
        json.dumps([{**TINY, "epochs": 1, "name": "tiny"}])
    )
    (root / "class_texts").mkdir()
    return root


INLINE = ["--executor", "inline"]
SMALL = [
    f"--{name}={value}"
    for name, value in {
        "epochs": 1,
        "img-size": 32,
        "embed-dim": 16,
        "batch-size": 8,
        "augmentation": "none",
        "n-splits": 2,
    }.items()
]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_its_commands_run(
    words: list[str], workplace: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[:2] == ["bash", "run_tests.sh"]:
        return  # this very run
    environment = program_environment()
    while "=" in words[0]:  # VARIABLE=value before the command
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if words[0] == "bash":
        environment |= {
            "DATA_DIR": str(images),
            "OUTPUT_BASE_DIR": str(workplace / "checkpoints/clip_models"),
            "CONFIG_FILE": str(workplace / "train_clip_config.json"),
            "LOG_DIR": str(workplace / "logs"),
        }
        command, where = [*words[:1], str(CHECKOUT / words[1])], CHECKOUT
    else:
        places = {
            "DIR": str(images),
            "F": "train_clip_config.json",
            "train_clip.py": str(CHECKOUT / "train_clip.py"),
            "resnet18": "test_resnet:scratch",
            "clip:ViT-B/32": "prompts",
            "checkpoints/clip_models/resnet18_clip_ViT-B_32": "checkpoints/clip_models/tiny",
        }
        words = [places.get(word, word) for word in words[1:]]
        if "--image-encoder" in words:
            words += SMALL  # argparse keeps the last value
        if words[1] not in {"validate", "prefetch"}:  # these have a child of their own anyway
            monkeypatch.chdir(workplace)
            small = {"class-texts", "schema", "predict", "status"}
            small |= {"compare", "evaluate", "report", "suspects"}
            inline = [] if words[1] in small else INLINE
            assert main([*words[1:], *inline]) == 0
            return
        command, where = [sys.executable, *words], workplace
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
