from __future__ import annotations

import json
from pathlib import Path

from clip_pkg.training.history import History


def test_columns_have_equal_length_and_nan_becomes_null(tmp_path: Path) -> None:
    history = History()
    history.append({"train_loss": 1.0, "val_auroc": float("nan")})
    history.append({"train_loss": float("inf"), "val_auroc": 0.5})
    history.write(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == {
        "train_loss": [1.0, None],
        "val_auroc": [None, 0.5],
    }
    again = History(json.loads((tmp_path / "history.json").read_text(encoding="utf-8")))
    assert again.epochs == 2
    assert again.row(2) == {"train_loss": None, "val_auroc": 0.5}
