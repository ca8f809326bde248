from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.models.state_dicts import load_strictly, read_state_dict

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_safetensors_and_torch_files_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pt", "old.bin"):
        assert same(read_state_dict(tmp_path / name), STATE)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_what_training_programs_add_is_taken_off(tmp_path: Path, wrapper: str, prefix: str) -> None:
    content = {wrapper: {prefix + name: value for name, value in STATE.items()}, "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    assert same(read_state_dict(tmp_path / "a.pth"), STATE)


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_unrun(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "ran"
    torch.save({"w": Hostile(trace)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="rejected"):
        read_state_dict(tmp_path / "a.pt")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "absent"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path)
    whole = path.read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not weights"}
    if kind == "absent":
        path.unlink()
    else:
        path.write_bytes(content[kind])
    with pytest.raises(CheckpointError, match=f"a{suffix}"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], 3, {"model": {"a": 1}}])
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no named tensors"):
        read_state_dict(tmp_path / "a.pt")


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")


def test_strict_loading_copies_everything() -> None:
    layer = nn.Linear(3, 2)
    load_strictly(layer, {**STATE, "fc.weight": torch.ones(1)}, source="x", extra=["fc."])
    assert torch.equal(layer.weight, STATE["weight"])
    assert torch.equal(layer.bias, STATE["bias"])


def test_differences_are_listed_and_nothing_is_loaded() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    wrong = {"weight": torch.zeros(2, 4), "offset": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(layer, wrong, source="file.pt")
    text = str(caught.value)
    assert text.startswith("file.pt")
    assert "missing (1): bias" in text
    assert "unexpected (1): offset" in text
    assert "weight is [2, 4], expected [2, 3]" in text
    assert torch.equal(layer.weight, before)


def test_long_lists_are_cut() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    with pytest.raises(CheckpointError, match=r"missing \(40\): .* and 34 more"):
        load_strictly(model, {}, source="x")


def test_counters_that_old_torch_did_not_save_may_be_absent() -> None:
    norm = nn.BatchNorm2d(3)
    state = {n: v for n, v in norm.state_dict().items() if n != "num_batches_tracked"}
    load_strictly(norm, state, source="x")
