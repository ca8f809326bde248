"""Precomputed features of items, such as embeddings of their images or texts; no torch.

A file `.npz` with `ids` [M], as in the interactions, and `features` [M, F]; or one that
`train_clip.py embed` wrote, whose images are named by items: `17.jpg` is item 17.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, shown
from examples.next_item.interactions import Interactions

NEEDED = (
    "--mm_emb_id NAME reads NAME.npz in --mm_emb_dir, NAME=FILE.npz any file. It holds `ids` [M], "
    "as in the interactions, and `features` [M, F], float32. Without the flag, items have no "
    "features"
)
Features = dict[str, NDArray[np.float32]]


def read_features(words: Sequence[str], folder: Path, interactions: Interactions) -> Features:
    """Read each of `NAME=FILE.npz` or `NAME`, a file in `folder`: name → [I + 1, F].

    Items without a feature get zeros. Raises DataError naming all files that cannot be used.
    """
    found: Features = {}
    problems = []
    for word in words:
        name, given, file = word.partition("=")
        path = Path(file) if given else folder / f"{name}.npz"
        try:
            if not re.fullmatch(r"[\w-]+", name) or name in found:
                raise DataError(f"{shown(word)}: its name must be new, of letters, digits, - and _")
            found[name] = _rows(path, interactions)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n  ".join(["--mm_emb_id cannot be used:", *problems, NEEDED]))
    return found


def digests(features: Features) -> dict[str, str]:
    """Hash each feature."""
    return {
        f"mm_emb_id {name}": hashlib.sha256(values.tobytes()).hexdigest()
        for name, values in features.items()
    }


def _rows(path: Path, interactions: Interactions) -> NDArray[np.float32]:
    ids, features = _read(path)
    place = np.searchsorted(interactions.items, ids).clip(max=interactions.num_items - 1)
    known = interactions.items[place] == ids
    if not known.any():
        raise DataError(f"{shown(path)}: none of its {len(ids)} items is in the interactions")
    rows = np.zeros((interactions.num_items + 1, features.shape[1]), dtype=np.float32)
    rows[place[known] + 1] = features[known]
    return rows


def _read(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features = arrays["features"].astype(np.float32)
            if "ids" in arrays:
                ids = arrays["ids"]
            else:
                ids = np.array([int(PurePath(name).stem) for name in arrays["path"]])
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror or 'no file of numpy arrays'}") from None
    except (KeyError, ValueError, AttributeError, EOFError) as error:
        raise DataError(
            f"{shown(path)}: not `ids` and `features`, nor features of images named by items "
            f"({error})"
        ) from None
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or features.shape[:1] != ids.shape:
        raise DataError(
            f"{shown(path)}: `ids` [M] must be whole numbers, one per row of `features`"
        )
    if features.ndim != 2 or not features.size or not np.isfinite(features).all():
        raise DataError(f"{shown(path)}: `features` [M, F] must be finite numbers")
    if len(np.unique(ids)) < len(ids):
        raise DataError(f"{shown(path)}: an item has several rows")
    return ids.astype(np.int64), features
