from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from clip_pkg.base.errors import CheckpointError
from clip_pkg.models.checkpoint import load_checkpoint, save_checkpoint


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"model": {"w": torch.arange(3)}, "epoch": 4, "x": None})
    content = load_checkpoint(path)
    assert torch.equal(content["model"]["w"], torch.arange(3))
    assert (content["epoch"], content["x"]) == (4, None)


def test_hostile_pickle_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 1, "model": Evil()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="rejected|damaged"):
            load_checkpoint(Path(name))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_cut_off_file_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"model": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "pickled", [b".", b"\x80\x02.", b"(", b"K\x01R.", b"]](]u.", b"\x80\x02J\x01."]
)
def test_a_damaged_pickle_inside_a_whole_archive_is_named(tmp_path: Path, pickled: bytes) -> None:
    path, damaged = tmp_path / "a.pth", tmp_path / "damaged.pth"
    save_checkpoint(path, {"model": torch.zeros(10)})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(damaged, "w") as target:
        for name in whole.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(CheckpointError, match=r"damaged\.pth") as caught:
        load_checkpoint(damaged)
    assert "\n" not in str(caught.value)


def test_foreign_and_absent_files(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="format_version is missing"):
        load_checkpoint(tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    torch.save({"format_version": 99}, tmp_path / "new.pth")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "new.pth")


def test_a_write_that_fails_half_way_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"epoch": 1})
    # The operating system refuses to let any file grow beyond 100 kB, as a full disk would.
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from clip_pkg.models.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_checkpoint(Path(sys.argv[1]), {'fill': torch.zeros(1_000_000)})\n"
        "except OSError as error:\n"
        "    print('refused', error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("refused"), shown
    assert load_checkpoint(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["a.pth"]
