"""`folds_info.json`: folds as lists of paths, written, and imported as splits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from clip_pkg.base.errors import DamagedFile, DataError, DataErrors, UserError, shown, some
from clip_pkg.base.reading import MAX_JSON_BYTES, Count, Ordinal, read_bounded, read_required_json
from clip_pkg.study.duplicates import Indices, merge_clusters
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Fold, Splits, missing_classes, splits_hash, unit_numbers

SCHEMA_VERSION = 1
REWRITTEN = "run the training command again, which writes it anew"


class FoldInfo(TypedDict):
    """One fold. Counts are by class."""

    fold: Ordinal
    repeat: NotRequired[Ordinal]
    n_train: Count
    n_val: Count
    train_per_class: dict[str, Count]
    val_per_class: dict[str, Count]
    val: list[str]
    train: list[str]


class FoldsInfo(TypedDict):
    """The content of a `folds_info.json` that a training wrote."""

    method: str
    random_state: NotRequired[int | None]
    data_fingerprint: str
    splits_hash: str
    classes: Annotated[list[str], Field(min_length=1)]
    linked: NotRequired[list[list[str]]]
    groups: NotRequired[list[list[str]] | None]
    folds: Annotated[list[FoldInfo], Field(min_length=1)]


def read_folds_info(path: Path) -> FoldsInfo:
    """Read the folds of a result folder. Raises DamagedFile."""
    info = read_required_json(path, FoldsInfo, REWRITTEN)
    numbers = [fold["fold"] for fold in info["folds"]]
    counts = [fold[f"{split}_per_class"] for fold in info["folds"] for split in ("train", "val")]  # type: ignore[literal-required]
    if sorted(numbers) != list(range(1, len(numbers) + 1)) or any(
        list(one) != info["classes"] for one in counts
    ):
        raise DamagedFile(path, "is damaged (its folds do not fit together)", REWRITTEN)
    return info


def splits_to_json(splits: Splits, manifest: Manifest) -> dict[str, Any]:
    """Everything about the folds as JSON values; folds count from 1."""

    def paths(indices: Any) -> list[str]:
        return [manifest.paths[index] for index in indices]

    def per_class(indices: NDArray[np.int64]) -> dict[str, int]:
        return dict(zip(manifest.classes, manifest.counts_of(indices).tolist(), strict=True))

    def place_in_repeat(fold: Fold) -> dict[str, int]:
        if splits.n_repeats == 1:
            return {}
        return {
            "repeat": fold.repeat,
            "fold_in_repeat": fold.number - (fold.repeat - 1) * splits.n_splits,
        }

    return {
        "schema_version": SCHEMA_VERSION,
        "method": splits.method,
        "n_splits": splits.n_splits,
        "random_state": splits.random_state,
        "data_fingerprint": splits.fingerprint,
        "splits_hash": splits.hash,
        "classes": list(manifest.classes),
        "linked": [paths(cluster) for cluster in splits.linked],
        # images of each group (patient), without its name
        "groups": manifest.paths_by_group,
        "folds": [
            {
                "fold": fold.number,
                **place_in_repeat(fold),
                "n_train": len(fold.train),
                "n_val": len(fold.val),
                "train_per_class": per_class(fold.train),
                "val_per_class": per_class(fold.val),
                "val": paths(fold.val),
                "train": paths(fold.train),
            }
            for fold in splits.folds
        ],
    }


def splits_from_json(
    file: Path, manifest: Manifest, linked: Sequence[Sequence[int]] = ()
) -> Splits:
    """Import folds for the images of `manifest`.

    Reads files of `splits_to_json` and of other programs: `{"folds": [{"val": [paths]}, …]}` is
    enough, `train` is then the rest. Folds of several repeats have the key `repeat`, from 1. No
    fold may divide a `linked` cluster of copies.

    Raises:
        DataError: The file has another format, or was made for other images. As DataErrors with all
            problems: a fold number out of range, repeats of different sizes, unknown or repeated
            paths, images in no fold or in several of a repeat, a group or copies in two folds, a
            fold without a class.
    """
    value = _read(file)
    _refuse_other_images(file, value, manifest)
    place = {path: index for index, path in enumerate(manifest.paths)}
    problems: list[str] = []
    folds = _folds(value["folds"], place, problems)
    n_repeats = max((fold.repeat for fold in folds), default=1)
    n_splits = len(folds) // n_repeats
    ordered = [1 + position // n_splits for position in range(n_repeats * n_splits)]
    if not problems and [fold.repeat for fold in folds] != ordered:
        problems.append(
            f"the {len(folds)} folds of {n_repeats} repeats must be numbered repeat by repeat, and "
            "every repeat must have as many folds"
        )
    # clusters of copies that shared a fold when the folds were made
    stored = value.get("linked", [])
    if not isinstance(stored, list) or not all(isinstance(one, list) for one in stored):
        stored = []
    known = tuple(tuple(place[path] for path in one if path in place) for one in stored)
    clusters = merge_clusters(len(manifest), known, tuple(map(tuple, linked)))
    if not problems:
        problems += _fold_problems(manifest, folds, unit_numbers(manifest, clusters))
        problems += missing_classes(manifest, folds)
    if problems:
        raise DataErrors(file, problems)
    made_hash = splits_hash(manifest, folds)
    if value.get("splits_hash") not in (None, made_hash):
        raise DataError(
            f"{shown(file)}: splits_hash does not match the folds, so they were edited. To use "
            "them as they are, remove the line with splits_hash"
        )
    seed = value.get("random_state")
    return Splits(
        folds=folds,
        method=str(value.get("method", "imported")),
        n_splits=n_splits,
        random_state=seed if isinstance(seed, int) else None,
        fingerprint=manifest.fingerprint,
        hash=made_hash,
        linked=clusters,
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(read_bounded(file, MAX_JSON_BYTES))
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(file)}: is not JSON: {error}") from None
    except UserError as error:
        raise DataError(str(error)) from None
    if not isinstance(value, dict) or not isinstance(value.get("folds"), list):
        raise DataError(f"{shown(file)}: has no list `folds`; expected a folds_info.json")
    version = value.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{shown(file)}: has schema_version {version!r}; this program reads {SCHEMA_VERSION}"
        )
    if not value["folds"]:
        raise DataError(f"{shown(file)}: the list `folds` is empty")
    return value


def _refuse_other_images(file: Path, value: Mapping[str, Any], manifest: Manifest) -> None:
    fingerprint = value.get("data_fingerprint")
    if fingerprint in (None, manifest.fingerprint):
        return
    listed = {
        path
        for fold in value["folds"]
        if isinstance(fold, dict)
        for split in ("train", "val")
        if isinstance(fold.get(split), list)
        for path in fold[split]
        if isinstance(path, str)
    }
    present = set(manifest.paths)
    added, removed = sorted(present - listed), sorted(listed - present)
    differences = []
    if added:
        differences.append(f"{len(added)} image(s) are new ({some(added)})")
    if removed:
        differences.append(f"{len(removed)} image(s) are gone ({some(removed)})")
    if not differences:
        differences.append("the paths are the same, but contents, labels or groups differ")
    raise DataError(
        f"{shown(file)}: these folds were made for other images than those in "
        f"{shown(manifest.source)}: {'; '.join(differences)}. Use the same "
        "images, or make new folds"
    )


def _folds(
    entries: Sequence[Any], place: Mapping[str, int], problems: list[str]
) -> tuple[Fold, ...]:
    count, folds = len(entries), {}
    for position, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            problems.append(f"folds[{position - 1}]: is not an object")
            continue
        number, repeat = entry.get("fold", position), entry.get("repeat", 1)
        where = f"fold {number!r}"
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= count:
            problems.append(f"folds[{position - 1}]: {where} is out of range: 1 to {count}")
        elif number in folds:
            problems.append(f"folds[{position - 1}]: {where} is listed twice")
        elif isinstance(repeat, bool) or not isinstance(repeat, int) or not 1 <= repeat <= count:
            problems.append(f"{where}: repeat {repeat!r} is out of range: 1 to {count}")
        else:
            val = _indices(entry.get("val"), f"{where}, val", place, problems)
            rest = np.setdiff1d(np.arange(len(place)), val)
            train = rest
            if "train" in entry:
                train = _indices(entry["train"], f"{where}, train", place, problems)
            folds[number] = Fold(number, train, val, repeat)
    return tuple(folds[number] for number in sorted(folds))


def _indices(
    paths: Any, where: str, place: Mapping[str, int], problems: list[str]
) -> NDArray[np.int64]:
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        problems.append(f"{where}: is not a list of paths")
        return np.array([], dtype=np.int64)
    unknown = [path for path in paths if path not in place]
    if unknown:
        problems.append(f"{where}: {len(unknown)} path(s) are not in the data: {some(unknown)}")
    indices = [place[path] for path in paths if path in place]
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        problems.append(f"{where}: listed more than once: {some(repeated)}")
    return np.array(sorted(set(indices)), dtype=np.int64)


def _fold_problems(manifest: Manifest, folds: Sequence[Fold], units: Indices) -> list[str]:
    """Images in no fold or several, and groups and clusters of copies that a fold divides."""

    def names(mask: NDArray[np.bool_]) -> str:
        return some(manifest.paths[index] for index in np.flatnonzero(mask))

    problems = []
    n_repeats = folds[-1].repeat
    validated = np.zeros((n_repeats, len(manifest)), dtype=np.int64)
    for fold in folds:
        seen = np.zeros(len(manifest), dtype=np.int64)
        seen[fold.train] += 1
        seen[fold.val] += 1
        validated[fold.repeat - 1, fold.val] += 1
        if (seen > 1).any():
            problems.append(f"fold {fold.number}: in train and val: {names(seen > 1)}")
        if (seen == 0).any():
            problems.append(f"fold {fold.number}: neither in train nor in val: {names(seen == 0)}")
        torn = np.intersect1d(units[fold.train], units[fold.val])
        if len(torn):
            problems.append(
                f"fold {fold.number}: {len(torn)} group(s) or clusters of copies are in train and "
                f"val, such as {names(units == torn[0])}"
            )
    for repeat, times in enumerate(validated if len(folds) > 1 else (), start=1):
        where = f"repeat {repeat}: " if n_repeats > 1 else ""
        if (times > 1).any():
            problems.append(f"{where}in val of several folds: {names(times > 1)}")
        if (times == 0).any():
            problems.append(f"{where}in val of no fold: {names(times == 0)}")
    return problems
