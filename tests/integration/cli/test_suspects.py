"""`suspects` as a user types it: on a trained folder with wrong labels, and with bad input."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from clip_pkg.cli import main
from support.result_folders import drawn_answers, image_list, write_result
from support.tiny import paint

CLASSES = ("[b]grün & <heil>", "owl, 'x'", "NA")
LONG = "a very long folder name that needs several lines"
IMAGES = image_list()


def shown(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr()
    return said.out + said.err


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_wrong_labels_of_a_trained_folder(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "images"
    for label, name in enumerate(CLASSES):
        for number in range(14):
            paint(data / name / LONG / f"{number:02d} “é”.png", label, number)
    flipped = [data / CLASSES[label] / f"wrong {label} 😀.png" for label in range(3)]
    for label, path in enumerate(flipped):
        paint(path, (label + 1) % 3, 99)
    copied = data / CLASSES[0] / LONG / "03 “é”.png"
    copy = data / CLASSES[1] / "copy #3.png"
    ImageEnhance.Brightness(Image.open(copied)).enhance(1.02).save(copy)
    learning = {"epochs": 10, "learning_rate": 3e-3, "augmentation": "none"}
    file = write_configs({"name": "one", **learning}, {"name": "two", **learning, "epochs": 8})
    train("--config-file", file, "--multi-config", data=data, output="my runs")

    monkeypatch.setenv("COLUMNS", "80")
    said = shown(capsys, "suspects", tmp_path / "my runs", "--top", "4")
    assert all(len(line) <= 80 for line in said.splitlines() if line[:1] in "┃│┏└")
    assert "mean of 2 configs" in said
    assert "│ 4 │" in said
    assert "│ 5 │" not in said
    (pasted,) = re.findall(r"python train_clip.py (suspects .*)", said)
    said = shown(capsys, *shlex.split(pasted))
    assert "Wrote suspects.html" in said
    found = rows(tmp_path / "suspects.csv")
    assert [*found[0]] == [
        *("path", "label", "suggested_label", "p_label", "p_suggested", "score", "reasons"),
        *("configs_wrong", "copy_of", "corrected_label"),
    ]
    first = {row["path"]: row for row in found[:5]}
    for label, path in enumerate(flipped):
        row = first[path.relative_to(data).as_posix()]
        assert (row["label"], row["suggested_label"]) == (CLASSES[label], CLASSES[(label + 1) % 3])
        assert float(row["p_label"]) < float(row["p_suggested"])
        assert row["reasons"] == "confident; misclassified"
        assert row["configs_wrong"] == "2"
        assert row["corrected_label"] == ""
    of = {row["path"]: row["copy_of"] for row in found}
    names = [path.relative_to(data).as_posix() for path in (copy, copied)]
    assert [of[name] for name in names] == names[::-1]
    page = (tmp_path / "suspects.html").read_text(encoding="utf-8")
    assert page.count("<img ") == len(found) + 2  # both copies are shown twice
    assert "<heil>" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)

    (tmp_path / "images").rename(tmp_path / "moved")
    said = shown(capsys, "suspects", tmp_path / "my runs", "--output", "there.html", "there.csv")
    assert "thumbnails are missing" in said
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "suspects.csv").read_text()
    assert "<img " not in (tmp_path / "there.html").read_text(encoding="utf-8")
    where = ["--data-dir", tmp_path / "moved", "--top", "2"]
    shown(capsys, "suspects", tmp_path / "my runs", "--output", "there.html", *where)
    assert (tmp_path / "there.html").read_text(encoding="utf-8").count("<li>\n") == 2


def test_without_suspects_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_result(tmp_path, "sure", IMAGES, drawn_answers(IMAGES, 30.0, 0))
    output = tmp_path / "s.csv"
    said = shown(capsys, "suspects", folder, "--output", output, tmp_path / "s.html")
    assert "None of the labels of 120 images is suspect." in said
    assert "Next:" not in said
    assert output.read_text().startswith("path,label,")
    assert rows(output) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["suspects"], "DIR"),
        (["suspects", "{folder}/nowhere"], "holds no results"),
        (["suspects", "{folder}", "--output", "x.xlsx"], "must end in .csv or .html"),
        (["suspects", "{folder}", "--output", "{folder}/s.csv"], "training run"),
        (["suspects", "{folder}", "--top", "0"], "at least 1"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    folder = write_result(tmp_path, "a", IMAGES, drawn_answers(IMAGES, 1.0, 0))
    (folder / "s.csv").write_text("mine")
    told = shown(capsys, *(word.format(folder=folder) for word in words), code=2)
    assert said in told
    assert "Traceback" not in told
