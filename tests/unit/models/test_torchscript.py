from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.models.state_dicts import is_torchscript, read_state_dict, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.halved = nn.Linear(3, 2).half()
        self.strided = nn.Parameter(torch.randn(5, 4).t()[:, 1:4])
        self.sizes = [1, 2]
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("ids", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.sizes[0]


def script(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(Model())
        torch.jit.save(model, path)
    return model


def test_an_archive_gives_the_state_that_torch_gives(tmp_path: Path) -> None:
    expected = script(tmp_path / "a.pt").state_dict()
    for found in (read_torchscript(tmp_path / "a.pt"), read_state_dict(tmp_path / "a.pt")):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_other_files_are_not_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"text")
    assert not is_torchscript(tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"ctorch\nload\n."]
)
def test_an_archive_that_would_run_code_is_refused(tmp_path: Path, call: bytes) -> None:
    script(tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, call if name.endswith("/data.pkl") else source.read(name))
    with pytest.raises(pickle.UnpicklingError, match="refers to"):
        read_torchscript(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="rejected"):
        read_state_dict(tmp_path / "b.pt")
