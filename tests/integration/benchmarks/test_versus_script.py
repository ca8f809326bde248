"""`benchmarks/versus_script.py` from images to its section; times are not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import results, versus_script
from benchmarks.sides import Cost, in_turn, line
from benchmarks.user_script import clip_loss
from clip_pkg.losses.functional import clip

WORDS = ["--image-encoder", "test_resnet", "--text-encoder", "ViT-S-32-alt", "--img-size", "32"]
WORDS += ["--limit-images", "30", "--batch-size", "8", "--workers", "0", "--epochs", "1"]


@pytest.mark.usefixtures("in_process")
def test_it_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(
        versus_script, "write_section", lambda n, b: results.write_section(n, b, written)
    )
    versus_script.main([*WORDS, "--rounds", "1", "--write"])
    body = results.section(written.read_text(encoding="utf-8"), "versus-script-cpu")
    assert body is not None
    rows = [row for row in body.splitlines() if row.startswith("| text tower")]
    assert [row.split(" | ")[0] for row in rows] == ["| text tower trained", "| text tower frozen"]
    assert all(row.count("|") == 10 and row.count("%") == 2 for row in rows)


def test_the_script_has_the_loss_of_clip() -> None:
    torch.manual_seed(0)
    images, texts = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=-1)
    scale = torch.tensor(14.0)
    torch.testing.assert_close(clip_loss(images, texts, scale), clip(images, texts, scale))


def test_sides_take_turns_and_ratios_are_within_rounds(tmp_path: Path) -> None:
    begun: list[str] = []

    def side(name: str, seconds: list[float]) -> object:
        def run(place: Path) -> Cost:
            begun.append(name)
            value = seconds.pop(0)
            return Cost(value, 2 * value, 4 * value, None if name == "b" else value)

        return run

    pairs = in_turn(side("a", [1.0, 2.0, 4.0]), side("b", [2.0, 8.0, 4.0]), 3, tmp_path)
    assert "".join(begun) == "abbaab"
    ratio = "0.50 (0.25 to 1.00)"
    assert line("x", pairs) == (
        f"| x | 2.00 | 4.00 | **{ratio}** | {ratio} | {ratio} | 2.0 % |  | 3 |"
    )
