"""Folders of models that are damaged or hostile: refused, and nothing in them runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.config.encoders import parse_text_encoder
from clip_pkg.models.assets import Snapshot
from clip_pkg.models.hf_text import build_text


@pytest.mark.parametrize(
    "weight_map", [["a"], {"a": "../outside.safetensors"}, {"a": [1]}, {"a": None}, 1, {}]
)
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, weight_map: Any) -> None:
    (tmp_path / "outside.safetensors").touch()
    folder = tmp_path / "model"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert Snapshot("weights", "model", ("weights",)).lacks(folder) == ("weights",)
    index.write_text("[" * 10**5)
    assert Snapshot("weights", "model", ("weights",)).lacks(folder) == ("weights",)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.M"}},
        {"model_type": ["bert"]},
        {"model_type": "bert", "hidden_size": "wide"},
        ["bert"],
        {},
    ],
)
def test_code_of_a_folder_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    marker = tmp_path / "marker"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("[UNK]")
    (folder / "tokenizer.json").write_text("{}")

    def asked(*_: object) -> str:
        pytest.fail("asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(UserError):
        build_text(parse_text_encoder(f"hf:{folder}:scratch"), ["a photo"], None)
    assert not marker.exists()
