"""Files of features, .npz or .parquet, written completely or not at all.

- `.npz`: arrays `path` [N], `label` [N] if known, `fold` [N], and `features` [N, D]
  float32; no pickles.
- `.parquet`: a row per image, columns `path`, `label` if known, `fold`, and
  `feature_0`, `feature_1`, …
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_with

SUFFIXES = (".npz", ".parquet")


def check_parquet(path: Path) -> None:
    """Raise UserError if `path` is a Parquet file and pyarrow is not installed."""
    if path.suffix.lower() == ".parquet":
        _import_pyarrow()


def write_features(
    path: Path,
    paths: tuple[str, ...],
    features: NDArray[np.float32],
    folds: NDArray[np.int64],
    labels: tuple[str, ...] | None,
) -> None:
    """Write N images with their features [N, D]. Raises UserError if the file cannot be written."""
    named: dict[str, Any] = {} if labels is None else {"label": np.array(labels)}
    named["fold"] = folds
    write = _parquet_writer if path.suffix.lower() == ".parquet" else _npz_writer
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, np.array(paths), named, features)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{shown(path)}: cannot be written: {reason}") from None


def _npz_writer(
    path: Path, paths: NDArray[np.str_], named: dict[str, Any], features: NDArray[np.float32]
) -> None:
    write_with(path, lambda stream: np.savez(stream, path=paths, **named, features=features))


def _parquet_writer(
    path: Path, paths: NDArray[np.str_], named: dict[str, Any], features: NDArray[np.float32]
) -> None:
    pyarrow, parquet = _import_pyarrow()
    columns = {"path": paths, **named}
    columns |= {f"feature_{number}": column for number, column in enumerate(features.T)}
    table = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})
    write_with(path, lambda stream: parquet.write_table(table, stream))


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415  an optional extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            '.parquet files need the pyarrow package: pip install "clip_pkg[parquet]"; or write an '
            ".npz file"
        ) from error
    return pyarrow, parquet
