"""`benchmarks/losses.py` compares like with like, and reports it; times are not tested."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

from clip_pkg.losses import functional

for package in ("lightly", "pytorch_metric_learning"):
    pytest.importorskip(package, reason="environment/bench.lock is not installed")

# These import the peers.
from benchmarks import losses, results  # noqa: E402
from benchmarks.loss_pairs import PAIRS, WITHOUT_PEER, Pair  # noqa: E402
from benchmarks.loss_sides import Side  # noqa: E402

CPU = torch.device("cpu")
OF_OBJECTIVES = {"class_text_clip", "class_text_siglip", "cross_entropy"}  # what these compute
NO_LOSSES = {"pair_statistics"}


def test_every_loss_has_a_peer_or_is_known_to_have_none() -> None:
    functions = {name for name in functional.__all__ if inspect.isfunction(vars(functional)[name])}
    ours = {name for name in functions - NO_LOSSES if not name.endswith("_terms")}
    compared = {pair.name for pair in PAIRS if not pair.ours.endswith("objective")}
    assert compared.isdisjoint(WITHOUT_PEER)
    assert compared | set(WITHOUT_PEER) | OF_OBJECTIVES == ours


@pytest.mark.filterwarnings("ignore:To copy construct")  # a peer's
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.ours} {pair.peer}")
def test_both_sides_of_a_pair_agree(pair: Pair) -> None:
    losses.check_in_double(pair, CPU)


def test_sides_that_disagree_are_found() -> None:
    (pair,) = [pair for pair in PAIRS if pair.ours == "clip"]

    def makes_other(batch: losses.Batch) -> tuple[Side, Side]:
        ours, peer = pair.make(batch)
        return Side(lambda: ours.loss() + 1e-9 * batch.images.sum(), ours.leaves), peer

    other = Pair("clip", pair.package, pair.peer, makes_other)
    with pytest.raises(losses.DisagreementError, match="clip and open_clip_torch ClipLoss differ"):
        losses.check_in_double(other, CPU)


def test_it_measures_and_reports(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--sizes", "8", "16", "--rounds", "2", "--losses", "siglip", "arcface"]
    assert losses.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "### B = 8\n" in shown
    assert "### B = 16\n" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert len(rows) == 2 * 3  # siglip and its objective, arcface
    assert all(row.count("|") == 9 and row.endswith(" 2 |") for row in rows)
    assert "pytorch-metric-learning 2" in shown
    assert "agree where all classes differ" in shown
    assert "Of 6 comparisons" in shown

    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(losses, "write_section", lambda n, b: results.write_section(n, b, written))
    assert losses.main(["--sizes", "8", "--rounds", "1", "--losses", "cosface", "--write"]) == 0
    body = results.section(written.read_text(encoding="utf-8"), "losses-cpu")
    assert body is not None
    assert "`CosFaceLoss`" in body


def test_a_peer_without_room_is_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "free_bytes", lambda device: 1000)
    assert losses.main(["--sizes", "64", "--rounds", "1", "--losses", "nt_xent_labels"]) == 0
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if line.startswith("| `")]
    assert "| not run |" in row
    assert "`NTXentLoss` was not run at B = 64" in shown


@pytest.mark.parametrize("wrong", [["--losses", "clap"], ["--sizes", "many"], ["--device", "tpu"]])
def test_wrong_options_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        losses.main(wrong)
    assert stopped.value.code == 2
    assert json.dumps(wrong[1]).strip('"') in capsys.readouterr().err
