from __future__ import annotations

from pathlib import Path

import pytest

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.study.run_folder import refuse_folder_in_use, sole_launcher


@pytest.mark.parametrize("name", ["lock", "holder", "ledger"])
def test_nothing_is_written_through_a_planted_link(tmp_path: Path, name: str) -> None:
    precious, run = tmp_path / "precious", RunPaths(tmp_path / "out")
    run.output_dir.mkdir()
    precious.write_text("as it was")
    getattr(run, name).symlink_to(precious)
    for enter in (refuse_folder_in_use, lambda run: sole_launcher(run).__enter__()):
        with pytest.raises(RunFolderError, match="symbolic link"):
            enter(run)
    Ledger(run.ledger).append("launched")  # one that was planted later
    assert precious.read_text() == "as it was"


def test_a_link_to_a_file_that_does_not_exist_makes_none(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "new")
    Ledger(tmp_path / "ledger.jsonl").append("launched")
    assert not (tmp_path / "new").exists()
