from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clip_pkg.study.groups import GroupSuggestion, suggest_groups
from clip_pkg.study.manifest import Manifest


def manifest(names: Mapping[str, Sequence[str]]) -> Manifest:
    """A manifest of these file names by class."""
    classes = tuple(sorted(names))
    rows = sorted(
        (f"{name}/{file}", classes.index(name)) for name in classes for file in set(names[name])
    )
    return Manifest(
        data_dir=Path("data"),
        classes=classes,
        paths=tuple(path for path, _ in rows),
        labels=np.array([label for _, label in rows], dtype=np.int64),
        groups=None,
        digests=tuple("" for _ in rows),
    )


def assert_true(suggestion: GroupSuggestion, images: Manifest) -> None:
    """What a suggestion says is what `group_pattern` does."""
    counts = Counter(images.grouped(suggestion.pattern).groups)
    assert suggestion.groups == len(counts)
    assert suggestion.smallest == min(counts.values())
    assert suggestion.largest == max(counts.values())


PREFIXES = st.sampled_from(["P", "patient", "", "Pat-", "ÄB", "case.", "x+", "id "])


@given(
    PREFIXES,
    st.sampled_from("_- "),
    st.lists(st.integers(2, 4), min_size=8, max_size=30),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_patients_in_front_of_a_separator_are_suggested(
    prefix: str, separator: str, sizes: list[int], digits: int, random: object
) -> None:
    assume(separator not in prefix)
    names: dict[str, list[str]] = {"loose": [], "stable": []}
    for patient, size in enumerate(sizes):
        for number in range(size):
            name = f"{prefix}{patient:0{digits}d}{separator}{number}.png"
            names[random.choice(sorted(names))].append(name)  # type: ignore[attr-defined]
    assume(all(names.values()))
    images = manifest(names)
    suggestion = suggest_groups(images)
    if suggestion is None:  # every patient has one image per class at most
        groups = [path.rpartition(separator)[0] for path in images.paths]
        assert max(Counter(groups).values()) == 1
        return
    assert_true(suggestion, images)
    assert (suggestion.groups, suggestion.smallest) == (len(sizes), min(sizes))


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.lists(st.from_regex(r"\A[AP]?[0-3]{1,2}[-_ .]?[ab12_]{0,4}\.png\Z"), min_size=1),
        min_size=1,
    )
)
def test_whatever_is_suggested_is_true(names: dict[str, list[str]]) -> None:
    images = manifest(names)
    suggestion = suggest_groups(images)
    if suggestion is not None:
        assert_true(suggestion, images)
        assert suggestion.groups > len(images.classes)
        assert suggestion.largest <= len(images) / 4


def patients(template: str, count: int = 8, images: int = 4) -> list[str]:
    return [template.format(p=p, n=n) for p in range(count) for n in range(images)]


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("P{p:03d}_{n}.png", r"^(P\d+)_"),
        ("{p:05d}-{n}.jpg", r"^(\d+)-"),
        ("{p}.{n}.png", r"^(\d+)\."),
        ("hip_P{p}_{n}.png", r"^(hip_P\d+)_"),
        ("IMG_{n}{p}.png", None),
        ("{p}{n}.png", None),
    ],
)
def test_patterns(template: str, pattern: str | None) -> None:
    names = patients(template)
    found = suggest_groups(manifest({"a": names[::2], "b": names[1::2]}))
    assert (None if found is None else found.pattern) == pattern


def test_letters_behind_the_number() -> None:
    names = [f"P{patient}{view}.png" for patient in range(10) for view in "abc"]
    found = suggest_groups(manifest({"x": names[:15], "y": names[15:]}))
    assert found is not None
    assert found.pattern == r"^(P\d+)[^\W\d_]"
    assert (found.groups, found.smallest, found.largest) == (10, 3, 3)
    setting = str(found).partition(", ")[2].partition(" would")[0]
    assert json.loads("{" + setting + "}") == {"group_pattern": found.pattern}


@pytest.mark.parametrize(
    "names",
    [
        {"a": ["a_1.png", "a_2.png"] * 9, "b": [f"b_{n}.png" for n in range(20)]},  # the class
        {"a": [f"scan_{n}.png" for n in range(40)]},  # one group
        {"a": [f"{n}_x.png" for n in range(40)]},  # a group per image
        {"a": patients("P{p}_{n}.png", 3, 9), "b": patients("P{p}_{n}.png", 3, 8)},  # a few
        {c: [f"{n:04}_{c}.png" for n in range(20)] for c in "ab"},  # counted in each class
        {"a": ["1.png"]},
    ],
)
def test_implausible_groups(names: Mapping[str, Sequence[str]]) -> None:
    assert suggest_groups(manifest(names)) is None
