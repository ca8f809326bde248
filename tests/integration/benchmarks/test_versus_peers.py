"""`benchmarks/versus_peers.py` from images to its section; times are not tested."""

from __future__ import annotations

import pytest

from benchmarks import versus_peers
from benchmarks.formats import NAMES

WORDS = ["--image-encoder", "test_resnet", "--text-encoder", "ViT-S-32-alt", "--rounds", "1"]
WORDS += ["--limit-images", "30", "--batch-size", "8", "--workers", "0", "--epochs", "1"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # open_clip's loader, without a GPU
@pytest.mark.parametrize("peer", ["timm", "open_clip"])
def test_it_measures_and_reports(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    if peer == "open_clip":
        for package in ("pandas", "webdataset"):
            pytest.importorskip(package, reason="environment/bench.lock is not installed")
    versus_peers.main([*WORDS, "--pairs", f"{peer}-32"])
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if line.startswith(f"| {peer}, 32 px |")]
    assert row.count("|") == 10
    assert row.count("%") == (2 if peer == "timm" else 1)
    (remark,) = [line for line in shown.splitlines() if line.startswith(f"- {peer}, 32 px:")]
    assert remark.removesuffix(".").rpartition("fastest in ")[2] in NAMES
