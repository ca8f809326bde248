from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.base.errors import DataError
from clip_pkg.study.folds_info import splits_from_json, splits_to_json
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.scan import scan
from clip_pkg.study.splits import (
    Splits,
    fold_class_counts,
    inner_split,
    make_splits,
    stratified_folds,
    unit_numbers,
    units_per_class,
)

DEFAULTS = {"use_cv": True, "n_splits": 5, "random_state": 42, "val_fraction": 0.2}


def manifest_of(labels: list[int], groups: list[str] | None = None) -> Manifest:
    """A manifest without files."""
    present = sorted(set(labels))
    return Manifest(
        data_dir=Path("/data"),
        classes=tuple(f"class {label}" for label in present),
        paths=tuple(f"{number:05}.png" for number in range(len(labels))),
        labels=np.array([present.index(label) for label in labels], dtype=np.int64),
        groups=None if groups is None else tuple(groups),
        digests=tuple(f"{number:064x}" for number in range(len(labels))),
    )


def clusters_of(groups: list[str]) -> list[list[int]]:
    return [
        [index for index, other in enumerate(groups) if other == group] for group in set(groups)
    ]


def check_partition(manifest: Manifest, splits: Splits) -> None:
    everything = np.arange(len(manifest))
    for number, fold in enumerate(splits.folds, start=1):
        assert fold.number == number
        assert np.array_equal(np.sort(np.concatenate([fold.train, fold.val])), everything)
        assert np.array_equal(fold.val, np.sort(fold.val))
        assert (manifest.counts_of(fold.train) > 0).all()
        assert (manifest.counts_of(fold.val) > 0).all()
    assert len(splits.folds) == splits.n_splits * splits.n_repeats
    for repeat in range(1, splits.n_repeats + 1 if len(splits.folds) > 1 else 1):
        validated = np.concatenate([fold.val for fold in splits.folds if fold.repeat == repeat])
        assert np.array_equal(np.sort(validated), everything)


def check_units(splits: Splits, units: np.ndarray) -> None:
    for fold in splits.folds:
        assert not set(units[fold.train]) & set(units[fold.val])


LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=60).filter(lambda ls: len(set(ls)) > 1)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_folds_partition_and_stratify(labels: list[int], n_splits: int, seed: int) -> None:
    manifest = manifest_of(labels)
    options = {**DEFAULTS, "n_splits": n_splits, "random_state": seed}
    if manifest.class_counts.min() < n_splits:
        with pytest.raises(DataError, match=f"too few for {n_splits} folds"):
            make_splits(manifest, **options)
        return
    splits = make_splits(manifest, **options)
    check_partition(manifest, splits)
    counts = np.array([manifest.counts_of(fold.val) for fold in splits.folds])
    assert np.ptp(counts, axis=0).max() <= 1
    assert splits.method == "StratifiedKFold"
    assert make_splits(manifest, **options).hash == splits.hash


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(4, 15), min_size=2, max_size=4),
    st.integers(2, 4),
    st.integers(2, 4),
    st.integers(0, 2**32 - 1),
)
def test_every_repeat_is_a_partition_and_the_first_one_that_of_a_single_run(
    class_counts: list[int], n_splits: int, n_repeats: int, seed: int
) -> None:
    manifest = manifest_of(np.repeat(np.arange(len(class_counts)), class_counts).tolist())
    options = {**DEFAULTS, "n_splits": n_splits, "random_state": seed}
    made = [make_splits(manifest, n_repeats=count, **options) for count in (1, n_repeats)]
    for splits in made:
        check_partition(manifest, splits)
    once, several = made
    assert (several.n_repeats, several.n_splits) == (n_repeats, n_splits)
    assert [fold.repeat for fold in several.folds] == sorted([*range(1, n_repeats + 1)] * n_splits)
    for mine, theirs in zip(once.folds, several.folds, strict=False):
        assert np.array_equal(mine.val, theirs.val)
    fewer = make_splits(manifest, n_repeats=n_repeats - 1, **options)
    assert several.hash != fewer.hash
    assert make_splits(manifest, n_repeats=n_repeats, **options).hash == several.hash


def test_repeats_divide_differently() -> None:
    manifest = manifest_of([0, 1] * 30)
    splits = make_splits(manifest, n_repeats=20, **DEFAULTS)
    divisions = {
        frozenset(fold.val.tobytes() for fold in splits.folds if fold.repeat == repeat)
        for repeat in range(1, 21)
    }
    assert len(divisions) == 20


@settings(max_examples=80, deadline=None)
@given(LABELS, st.integers(2, 4), st.integers(0, 99), st.booleans(), st.data())
def test_units_are_never_torn(
    labels: list[int], n_splits: int, seed: int, use_cv: bool, data: st.DataObject
) -> None:
    groups = data.draw(
        st.lists(st.sampled_from("abcdefghijkl"), min_size=len(labels), max_size=len(labels))
    )
    copies = data.draw(st.lists(st.lists(st.integers(0, len(labels) - 1), max_size=3), max_size=3))
    manifest = manifest_of(labels, groups)
    units = unit_numbers(manifest, copies)
    available = [
        len(set(units[manifest.labels == label])) for label in range(len(manifest.classes))
    ]
    options = {**DEFAULTS, "n_splits": n_splits, "random_state": seed, "use_cv": use_cv}
    options["n_repeats"] = data.draw(st.integers(1, 3)) if use_cv else 1
    needed = n_splits if use_cv else 2
    if min(available) < needed:
        with pytest.raises(DataError, match="too few for"):
            make_splits(manifest, linked=copies, **options)
        return
    try:
        splits = make_splits(manifest, linked=copies, **options)
    except DataError:  # some sets of groups cannot be divided; see the test below
        return
    check_partition(manifest, splits)
    check_units(splits, units)
    as_links = make_splits(manifest_of(labels), linked=[*clusters_of(groups), *copies], **options)
    assert as_links.hash == splits.hash


@settings(max_examples=60, deadline=None)
@given(LABELS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_holdout_takes_its_share_of_each_class(
    labels: list[int], fraction: float, seed: int
) -> None:
    manifest = manifest_of(labels)
    options = {**DEFAULTS, "use_cv": False, "val_fraction": fraction, "random_state": seed}
    if manifest.class_counts.min() < 2:
        with pytest.raises(DataError, match="too few for a training and a validation split"):
            make_splits(manifest, **options)
        return
    splits = make_splits(manifest, **options)
    check_partition(manifest, splits)
    assert splits.n_splits == len(splits.folds) == 1
    shares = fraction * manifest.class_counts
    expected = np.clip(np.rint(shares), 1, manifest.class_counts - 1)
    assert manifest.counts_of(splits.folds[0].val).tolist() == expected.tolist()


def test_holdout_is_random_but_repeats() -> None:
    manifest = manifest_of([0] * 50 + [1] * 50)
    chosen = [
        tuple(
            make_splits(manifest, **{**DEFAULTS, "use_cv": False, "random_state": seed})
            .folds[0]
            .val
        )
        for seed in (1, 2, 1)
    ]
    assert chosen[0] == chosen[2] != chosen[1]


def test_few_linked_pairs_keep_stratification_within_rounding() -> None:
    labels = [0] * 150 + [1] * 60 + [2] * 13
    links = [[0, 7], [3, 9], [151, 170], [212, 215], [40, 41, 42]]
    splits = make_splits(manifest := manifest_of(labels), linked=links, **DEFAULTS)
    counts = np.array([manifest.counts_of(fold.val) for fold in splits.folds])
    assert np.ptp(counts, axis=0).max() <= 1
    check_units(splits, unit_numbers(manifest, links))
    assert splits.linked == tuple(map(tuple, links))


def test_very_many_units_are_divided_as_units() -> None:
    labels = np.repeat([0, 1, 2], [18_000, 6_000, 300])
    units = np.arange(len(labels))
    units[1:2000:2] = units[:2000:2]
    units[24_200:24_204] = 24_200
    fold_of, method = stratified_folds(labels, units, 5, 0)
    assert method == "StratifiedKFold of units"
    assert np.array_equal(fold_of[1:2000:2], fold_of[:2000:2])
    counts = fold_class_counts(labels, fold_of, 5)
    assert (np.ptp(counts, axis=0) <= [110, 1, 4]).all()


def test_class_in_too_few_groups_is_refused_by_name() -> None:
    manifest = manifest_of([0] * 20 + [1] * 20, [f"p{n}" for n in range(20)] + ["q1", "q2"] * 10)
    with pytest.raises(DataError) as caught:
        make_splits(manifest, **DEFAULTS)
    message = str(caught.value)
    assert "class 'class 1' has 20 image(s) in 2 groups that must stay whole" in message
    assert "lower n_splits to at most 2" in message.lower()


def test_groups_that_no_fold_can_divide_are_refused() -> None:
    # Every class is in three groups. Classes 0 and 1 force c and d into one fold, class 2 apart.
    manifest = manifest_of([0, 0, 0, 1, 1, 1, 2, 2, 2], list("abcabdcde"))
    with pytest.raises(DataError) as caught:
        make_splits(manifest, **{**DEFAULTS, "n_splits": 3})
    assert "no division into 3 folds keeps groups whole" in str(caught.value)
    assert "no image of class" in str(caught.value)


def test_further_seeds_are_tried_for_groups() -> None:
    """Scikit-learn's first answer for groups leaves a fold without a class now and then."""
    random, helped = np.random.default_rng(0), 0
    for _ in range(300):
        labels, units = random.integers(0, 3, 12), random.integers(0, 7, 12)
        if len(set(labels)) == 3 and units_per_class(labels, units).min() >= 3:
            fold_of, method = stratified_folds(labels, units, 3, 0)
            assert all(len(set(fold_of[units == unit])) == 1 for unit in set(units))
            helped += "attempt" in method and fold_class_counts(labels, fold_of, 3).min() > 0
    assert helped


def test_seed_changes_folds_and_hash() -> None:
    manifest = manifest_of([0, 1] * 30)
    hashes = {make_splits(manifest, **{**DEFAULTS, "random_state": s}).hash for s in range(5)}
    assert len(hashes) == 5


@settings(max_examples=40, deadline=None)
@given(LABELS, st.floats(0.05, 0.6), st.data())
def test_inner_split(labels: list[int], fraction: float, data: st.DataObject) -> None:
    size = len(labels)
    copies = data.draw(st.lists(st.lists(st.integers(0, size - 1), max_size=3), max_size=3))
    train = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=2))))
    manifest = manifest_of(labels)
    units = unit_numbers(manifest, copies)
    try:
        rest, held = inner_split(manifest, train, fraction, seed=3, linked=copies)
    except DataError:
        there = manifest.labels[train]
        assert all(len(set(units[train][there == label])) < 2 for label in set(there.tolist()))
        return
    assert np.array_equal(np.sort(np.concatenate([rest, held])), train)
    assert len(held)
    assert not set(units[rest]) & set(units[held])
    assert set(manifest.labels[rest]) == set(manifest.labels[train])


# --- folds_info.json


@pytest.fixture
def stored(image_set: Callable[..., Path], tmp_path: Path) -> tuple[Path, Manifest, dict]:
    result = scan(image_set({"a": 9, "b": 6}))
    splits = make_splits(result.manifest, linked=[[0, 1]], **{**DEFAULTS, "n_splits": 3})
    value = splits_to_json(splits, result.manifest)
    file = tmp_path / "folds_info.json"
    file.write_text(json.dumps(value))
    return file, result.manifest, json.loads(json.dumps(value))


def test_folds_info_round_trip(stored: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = stored
    assert value["schema_version"] == 1
    assert value["classes"] == ["a", "b"]
    assert [fold["fold"] for fold in value["folds"]] == [1, 2, 3]
    assert value["folds"][0]["n_val"] == len(value["folds"][0]["val"]) == 5
    assert value["folds"][0]["val_per_class"] == {"a": 3, "b": 2}
    assert value["folds"][0]["train_per_class"] == {"a": 6, "b": 4}
    splits = splits_from_json(file, manifest)
    assert splits.hash == value["splits_hash"]
    assert splits.linked == ((0, 1),)
    assert (splits.method, splits.random_state, splits.n_splits) == (
        value["method"], 42, 3,
    )  # fmt: skip
    check_partition(manifest, splits)
    assert splits_to_json(splits, manifest) == value


def test_short_file_made_elsewhere(stored: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = stored
    file.write_text(json.dumps({"folds": [{"val": fold["val"]} for fold in value["folds"]]}))
    splits = splits_from_json(file, manifest)
    assert splits.hash == value["splits_hash"]
    assert splits.method == "imported"
    assert splits.random_state is None


def test_folds_of_other_images_are_refused(stored: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = stored
    (manifest.data_dir / "a" / "000.png").rename(manifest.data_dir / "a" / "new.png")
    changed = scan(manifest.data_dir).manifest
    with pytest.raises(DataError) as caught:
        splits_from_json(file, changed)
    assert "1 image(s) are new (a/new.png); 1 image(s) are gone (a/000.png)" in str(caught.value)
    value["data_fingerprint"] = "0" * 64
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match="contents, labels or groups differ"):
        splits_from_json(file, manifest)


def move(value: dict, path: str, target: int | None) -> None:
    for fold in value["folds"]:
        for side in ("val", "train"):
            fold[side] = [one for one in fold[side] if one != path]
        fold["val" if fold["fold"] == target else "train"].append(path)


def move_to_two(value: dict) -> None:
    path = value["folds"][0]["val"][-1]
    value["folds"][1]["val"].append(path)
    value["folds"][1]["train"].remove(path)


def tear(value: dict) -> None:
    here = next(fold["fold"] for fold in value["folds"] if "a/000.png" in fold["val"])
    move(value, "a/000.png", here % 3 + 1)


def take_class_b(value: dict) -> None:
    for path in [path for path in value["folds"][0]["val"] if path.startswith("b")]:
        move(value, path, 2)


def swap(value: dict) -> None:
    first, second = (value["folds"][k]["val"][-1] for k in (0, 1))
    move(value, first, 2)
    move(value, second, 1)


@pytest.fixture
def repeated(image_set: Callable[..., Path], tmp_path: Path) -> tuple[Path, Manifest, dict]:
    manifest = scan(image_set({"a": 9, "b": 6})).manifest
    splits = make_splits(manifest, n_repeats=2, **{**DEFAULTS, "n_splits": 3})
    file = tmp_path / "folds_info.json"
    file.write_text(json.dumps(splits_to_json(splits, manifest)))
    return file, manifest, json.loads(file.read_text())


def test_repeats_round_trip(repeated: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = repeated
    places = [(fold["fold"], fold["repeat"], fold["fold_in_repeat"]) for fold in value["folds"]]
    assert places == [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 1), (5, 2, 2), (6, 2, 3)]
    assert value["n_splits"] == 3
    splits = splits_from_json(file, manifest)
    assert (splits.n_repeats, splits.n_splits) == (2, 3)
    check_partition(manifest, splits)
    assert splits_to_json(splits, manifest) == value
    short = [{"val": fold["val"], "repeat": fold["repeat"]} for fold in value["folds"]]
    file.write_text(json.dumps({"folds": short}))
    assert splits_from_json(file, manifest).hash == splits.hash


def move_in_the_second_repeat(value: dict) -> None:
    path = value["folds"][3]["val"].pop()
    value["folds"][3]["train"].append(path)


WRONG_REPEATS: dict[str, Callable[[dict], object]] = {
    "repeat 2: in val of no fold: ": move_in_the_second_repeat,
    "must be numbered repeat by repeat": lambda v: v["folds"][2].update(repeat=2),
    "every repeat must have as many folds": lambda v: v["folds"].pop(),
    "fold 4: repeat 'two' is out of range: 1 to 6": lambda v: v["folds"][3].update(repeat="two"),
    "in val of several folds": lambda v: [fold.pop("repeat") for fold in v["folds"]],
}


@pytest.mark.parametrize("reason", WRONG_REPEATS)
def test_wrong_repeats_are_refused(reason: str, repeated: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = repeated
    WRONG_REPEATS[reason](value)
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=reason):
        splits_from_json(file, manifest)


WRONG: dict[str, Callable[[dict], object]] = {
    "fold 1: in train and val: ": lambda v: v["folds"][0]["train"].append(v["folds"][0]["val"][0]),
    "fold 4 is out of range: 1 to 3": lambda v: v["folds"][2].update(fold=4),
    "fold 1 is listed twice": lambda v: v["folds"][2].update(fold=1),
    r"fold 1, val: 1 path\(s\) are not in the data: a/x.png": (
        lambda v: v["folds"][0]["val"].append("a/x.png")
    ),
    "fold 1, val: listed more than once": (
        lambda v: v["folds"][0]["val"].append(v["folds"][0]["val"][0])
    ),
    "in val of no fold: ": lambda v: move(v, v["folds"][0]["val"][-1], None),
    "fold 1: neither in train nor in val": lambda v: v["folds"][0]["train"].pop(),
    "in val of several folds": move_to_two,
    "are in train and val, such as a/000.png, a/001.png": tear,
    "fold 1: no image of class 'b' for validation": take_class_b,
    "fold 1, val: is not a list of paths": lambda v: v["folds"][0].update(val={"a": 1}),
    r"folds\[1\]: is not an object": lambda v: v["folds"].__setitem__(1, "fold"),
    "splits_hash does not match the folds": swap,
    "schema_version 2": lambda v: v.update(schema_version=2),
    "the list `folds` is empty": lambda v: v.update(folds=[]),
    "has no list `folds`": lambda v: v.pop("folds"),
}


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_folds_are_refused(reason: str, stored: tuple[Path, Manifest, dict]) -> None:
    file, manifest, value = stored
    WRONG[reason](value)
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=reason):
        splits_from_json(file, manifest)


def test_unreadable_folds_info(tmp_path: Path) -> None:
    manifest = manifest_of([0, 1])
    with pytest.raises(DataError, match="cannot be read: No such file"):
        splits_from_json(tmp_path / "none.json", manifest)
    for content in (b"{", b"\xff\xfe", b"[1]", b"[" * 5000):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.json: (is not JSON|has no list)"):
            splits_from_json(tmp_path / "x.json", manifest)


def test_copies_found_now_must_not_be_torn_by_an_import(
    stored: tuple[Path, Manifest, dict],
) -> None:
    file, manifest, value = stored
    place = {path: index for index, path in enumerate(manifest.paths)}
    torn = [place[value["folds"][k]["val"][0]] for k in (0, 1)]
    with pytest.raises(DataError, match="clusters of copies are in train and val"):
        splits_from_json(file, manifest, [torn])
