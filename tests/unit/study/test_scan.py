from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_pkg.base.errors import DataError
from clip_pkg.study.image_folder import label_of
from clip_pkg.study.image_table import list_table
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.scan import class_names, scan
from clip_pkg.study.splits import make_splits

ImageSet = Callable[..., Path]


def test_folder_per_class(image_set: ImageSet) -> None:
    root = image_set({"zeta": 2, "股骨": 3, "été (2)": 1})
    steps: list[tuple[int, int]] = []
    result = scan(root, progress=lambda done, total: steps.append((done, total)))
    manifest = result.manifest
    assert manifest.classes == ("zeta", "été (2)", "股骨")
    assert manifest.class_counts.tolist() == [2, 1, 3]
    assert manifest.paths[0] == "zeta/000.png"
    assert manifest.groups is None
    assert manifest.file(0) == root / "zeta" / "000.png"
    assert steps == [(number, 6) for number in range(1, 7)]
    assert result.linked == ()
    assert class_names(root) == manifest.classes


def test_nested_folders_and_what_is_ignored(
    image_set: ImageSet, noise: Callable[[int], Image.Image]
) -> None:
    root = image_set({"a": 1, "b": 1})
    (root / "a" / "deep" / "er").mkdir(parents=True)
    noise(70).save(root / "a" / "deep" / "er" / "x.JPeG")
    (root / "a" / ".hidden").mkdir()
    noise(71).save(root / "a" / ".hidden" / "y.png")
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    (root / "b" / "scan.dcm").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    noise(72).save(root / "loose.png")
    (root / "readme.txt").write_text("x")
    result = scan(root)
    assert result.manifest.paths == ("a/000.png", "a/deep/er/x.JPeG", "b/000.png")
    ignored = dict(result.audit.ignored)
    assert set(ignored) == {
        "a/.hidden", "a/Thumbs.db", "b/scan.dcm", "__MACOSX", "loose.png", "readme.txt",
    }  # fmt: skip
    assert ignored["loose.png"] == "not in a class folder"
    notices = "\n".join(result.audit.notices)
    assert "1 image(s) directly in" in notices
    assert "1 .dcm file(s) are ignored" in notices


def test_links_are_followed_and_loops_end(
    image_set: ImageSet, tmp_path: Path, noise: Callable[[int], Image.Image]
) -> None:
    root = image_set({"a": 2, "b": 2})
    (tmp_path / "elsewhere").mkdir()
    noise(80).save(tmp_path / "elsewhere" / "x.png")
    (root / "a" / "0 up").symlink_to(root / "a")
    (root / "a" / "0 root").symlink_to(root)
    (root / "b" / "extra").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "extra twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "b")
    (root / "b" / "self").symlink_to("self")
    with pytest.raises(DataError, match="with different labels"):
        scan(root)  # `0 root` brings the images of b into a
    (root / "a" / "0 root").unlink()
    result = scan(root)
    assert result.manifest.paths == (
        "a/000.png", "a/001.png", "b/000.png", "b/001.png", "b/extra/x.png",
    )  # fmt: skip
    assert ("a/0 up", "link to a folder that has been read") in result.audit.ignored


def test_unreadable_images_are_left_out_on_request(image_set: ImageSet) -> None:
    root = image_set({"a": 3, "b": 2})
    (root / "a" / "000.png").write_bytes(b"")
    result = scan(root, skip_unreadable=True)
    assert len(result.manifest) == 4
    assert result.audit.unreadable == (("a/000.png", "the file is empty"),)
    assert any("left out: 1 (a/000.png)" in line for line in result.audit.lines())
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"class 'b': none of its 2 file\(s\) can be read"):
        scan(root, skip_unreadable=True)


def test_progress_that_raises_ends_the_scan(image_set: ImageSet) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(image_set({"a": 50, "b": 50}), progress=interrupt)


def test_fingerprint_and_splits_do_not_depend_on_place_or_order(
    image_set: ImageSet, tmp_path: Path
) -> None:
    root = image_set({"a": 6, "b": 5, "c": 4})
    shutil.copy(root / "a" / "000.png", root / "a" / "copy.png")
    first = scan(root)
    other = tmp_path / "moved" / "far"
    for file in sorted(root.rglob("*.png"), reverse=True):
        (other / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other / file.relative_to(root))
    os.utime(other / "a" / "000.png", (0, 0))
    second = scan(other)
    assert first.manifest.fingerprint == second.manifest.fingerprint
    assert first.linked == second.linked == ((0, 6),)
    options = {"use_cv": True, "n_splits": 3, "random_state": 7, "val_fraction": 0.2}
    splits = [make_splits(r.manifest, linked=r.linked, **options) for r in (first, second)]
    assert splits[0].hash == splits[1].hash


def test_any_change_changes_the_fingerprint(image_set: ImageSet) -> None:
    manifest = scan(image_set({"a": 3, "b": 3})).manifest
    kept = {name: getattr(manifest, name)[:-1] for name in ("paths", "labels", "digests")}
    changes = [
        {"digests": ("0" * 64, *manifest.digests[1:])},
        {"labels": 1 - manifest.labels},
        {"paths": ("a/00.png", *manifest.paths[1:])},
        {"groups": ("p",) * 6},
        kept,
    ]
    found = {replace(manifest, **change).fingerprint for change in changes}
    assert len(found | {manifest.fingerprint}) == len(changes) + 1


def test_group_pattern(image_set: ImageSet) -> None:
    root = image_set({"a": 4, "b": 2})
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        file.rename(file.with_name(f"p{number // 2}_{number}.png"))
    grouped = scan(root, group_pattern=r"^(p\d+)_").manifest
    assert grouped.groups == ("p0", "p0", "p1", "p1", "p2", "p2")
    assert grouped.fingerprint != scan(root).manifest.fingerprint
    with pytest.raises(DataError, match=r"finds no group in \d+ of \d+ file names \(a/p0_0\.png"):
        scan(root, group_pattern=r"^(q\d+)_")
    with pytest.raises(DataError, match="use one of them"):
        grouped.grouped(r"^(p)")
    assert grouped.grouped(None) is grouped


def test_manifest_survives_json(image_set: ImageSet) -> None:
    for pattern in (None, r"(\d)\."):
        manifest = scan(image_set({"a": 3, "b": 2}, name=str(pattern)[:4]), group_pattern=pattern)
        manifest = manifest.manifest
        again = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
        assert again.fingerprint == manifest.fingerprint
        assert (again.paths, again.groups, again.data_dir) == (
            manifest.paths, manifest.groups, manifest.data_dir,
        )  # fmt: skip
        assert np.array_equal(again.labels, manifest.labels)


def test_damaged_manifest_is_refused(image_set: ImageSet) -> None:
    value = scan(image_set({"a": 3, "b": 2})).manifest.to_json()
    for change, reason in (
        ({"schema_version": 9}, "schema_version 9"),
        ({"images": value["images"][:-1]}, "edited or truncated"),
        ({"images": value["images"][::-1]}, "damaged"),
        ({"images": [{"path": "a"}]}, "damaged"),
        ({"classes": ["a"]}, "damaged"),
    ):
        with pytest.raises(DataError, match=reason):
            Manifest.from_json({**value, **change})


def test_table(image_set: ImageSet) -> None:
    root = image_set({"x": 4, "y": 1})
    table = root / "labels.csv"
    outside = root.parent / "outside.png"
    shutil.copy(root / "y" / "000.png", outside)
    rows = [
        "\ufeffPath;Label ;group;age",
        "x/000.png;Ja;p1;3",
        "",
        "x/../x/001.png; Ja ;p1;4",
        f'"{root}/x/002.png";Nein;p2;5',
        f"{outside};Nein;p3;6",
    ]
    table.write_text("\r\n".join(rows), encoding="utf-8")
    result = scan(table)
    assert result.manifest.data_dir == root
    assert set(result.manifest.paths) == {"x/000.png", "x/001.png", "x/002.png", str(outside)}
    assert result.manifest.classes == ("Ja", "Nein")
    by_path = dict(zip(result.manifest.paths, result.manifest.groups or (), strict=True))
    assert by_path["x/001.png"] == "p1"
    assert any("columns age are ignored" in notice for notice in result.audit.notices)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=st.lists(TEXT.filter(label_of), min_size=2, max_size=8),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
)
def test_table_reads_what_csv_writes(
    tmp_path: Path, labels: list[str], delimiter: str, quoting: int, bom: bool
) -> None:
    table = tmp_path / "t.csv"
    with table.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting)
        writer.writerow(["path", "label"])
        for number, label in enumerate(labels):
            (tmp_path / f"{number}, é;.png").touch()
            writer.writerow([f"{number}, é;.png", label])
    listing = list_table(table)
    assert [image.label for image in listing.images] == [label_of(label) for label in labels]
    spelt_twice = len({label_of(label) for label in labels}) < len(set(labels))
    single = len({label_of(label) for label in labels}) == 1
    assert bool(listing.problems) == (spelt_twice or single)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(alphabet='path,label"\n\r;\tgroup ./x\x00é', max_size=80).map(str.encode),
        st.text(alphabet='a.png,"\n; ', max_size=40).map(
            lambda rest: b"path,label\n" + rest.encode()
        ),
    )
)
def test_any_bytes_as_table_end_in_problems(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    try:
        listing = list_table(tmp_path / "t.csv")
    except DataError:
        return
    assert listing.problems


def test_classes_that_differ_in_case_are_mentioned(image_set: ImageSet) -> None:
    notices = scan(image_set({"Wear": 1, "wear": 1})).audit.notices
    assert any("upper and lower case" in notice for notice in notices)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 5000, "File name too long"), (os.fsdecode(b"caf\xe9"), "not valid UTF-8")],
)
def test_data_folders_that_cannot_be(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        scan(tmp_path / name)
    str(caught.value).encode("utf-8")


def test_folder_that_cannot_be_listed(image_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = image_set({"a": 2, "b": 2, "c": 1}), os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "c":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="c: cannot be read: Permission denied"):
        scan(root)


def test_names_too_long_for_a_file_are_missing_files(image_set: ImageSet) -> None:
    table = image_set({"a": 1, "b": 1}) / "t.csv"
    table.write_text(f"path,label\na/000.png,a\n{'x' * 5000}.png,b\n")
    with pytest.raises(DataError, match=r"t\.csv:3: no file"):
        scan(table)
