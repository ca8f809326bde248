"""The report of a trained run: what is written, and what happens where something is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from integration.report.conftest import CLASSES, TrainedRun
from markupsafe import escape

from clip_pkg.cli import main
from support.pretraining_folders import write_pretraining

KINDS = (
    "loss_curves",
    "accuracy_curves",
    "confusion_counts",
    "confusion_shares",
    "roc",
    "precision_recall",
    "reliability",
    "per_class",
    "embedding",
)


@pytest.fixture
def copied_run(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """A copy of the results that a test may change."""
    return Path(shutil.copytree(trained_run.output, tmp_path / "out"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


class Outline(HTMLParser):
    """Ids, headings, what is named and what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.fetched: list[str] = []
        self.unnamed: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("img", "script", "link", "iframe", "source", "image", "object", "embed"):
            address = found.get("src", found.get("href", ""))
            self.fetched += [] if address.startswith("data:") or not address else [address]
        if (tag == "img" and not found.get("alt")) or (
            tag == "svg" and not (found.get("role") == "img" and found.get("aria-labelledby"))
        ):
            self.unnamed.append(tag)
        for name in ("aria-labelledby", "data-copy"):
            self.references += found.get(name, "").split()
        if found.get("href", "").startswith("#"):
            self.references.append(found["href"][1:])


def test_the_page_is_whole(trained_run: TrainedRun) -> None:
    text = trained_run.page.read_text(encoding="utf-8")
    page = Outline(text)
    assert not page.fetched
    assert not page.unnamed
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", text)
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.references) <= set(page.ids)
    (lede,) = re.findall(r'<p class="lede">(.*)</p>', text)
    assert "did not have the same budget: " in lede
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(page.levels))
    assert text.count("<svg") == 2 * len(KINDS) + 2 + 2  # sampler per config; scores, distribution


def test_names_are_text_everywhere(trained_run: TrainedRun) -> None:
    text = trained_run.page.read_text(encoding="utf-8")
    assert all(escape(name) in text for name in CLASSES)
    assert "<b>" not in text
    for kind in ("per_class", "confusion_counts"):
        path = trained_run.page.parent / "figures/weighted_ce" / f"{kind}.svg"
        drawn = "".join(ET.parse(path).getroot().itertext())
        assert all(name in drawn for name in CLASSES)


def test_every_figure_is_a_file_twice(trained_run: TrainedRun) -> None:
    figures = trained_run.page.parent / "figures"
    names = {path.name for path in figures.iterdir()}
    assert {"weighted_ce", "plain & <clip>"} <= names
    for kind in KINDS:
        for config in ("weighted_ce", "plain & <clip>"):
            svg, pdf = (figures / config / f"{kind}.{suffix}" for suffix in ("svg", "pdf"))
            root = ET.parse(svg).getroot()
            assert root.find("{*}title") is not None, svg
            assert pdf.read_bytes().startswith(b"%PDF")
            assert "var(--" not in svg.read_text(encoding="utf-8")
    linked = re.findall(r'href="(figures/[^"]+)"', trained_run.page.read_text(encoding="utf-8"))
    assert len(linked) == 2 * len(list(figures.rglob("*.svg")))
    assert all((figures.parent / unquote(link)).is_file() for link in linked)


def test_numbers_are_those_of_the_summaries(trained_run: TrainedRun) -> None:
    folder = trained_run.page.parent
    summary = json.loads((trained_run.output / "weighted_ce/cv_summary.json").read_text())
    (line,) = [
        row
        for row in rows(folder / "leaderboard.csv")
        if (row["config"], row["epoch"], row["score"]) == ("weighted_ce", "best", "acc")
    ]
    assert float(line["mean"]) == summary["average_results"]["avg_val_acc"]
    assert float(line["sd"]) == summary["average_results"]["std_val_acc"]
    counts = np.array([int(row["images"]) for row in rows(folder / "confusion.csv")])
    assert counts.sum() == 2 * sum(CLASSES.values())
    folds = rows(folder / "folds.csv")
    assert [row["best_epoch"] for row in folds if row["config"] == "weighted_ce"] == [
        str(epoch) for epoch in summary["fold_results"]["fold_best_epoch"]
    ]
    wrong = rows(folder / "mistakes.csv")
    assert len(wrong) == sum(
        row["true_class"] != row["answer"]
        for row in rows(folder / "confusion.csv")
        for _ in range(int(row["images"]))
    )
    assert len(rows(folder / "pairs.csv")) == 1
    assert "stratified 2-fold" in (folder / "methods.txt").read_text(encoding="utf-8")
    assert r"plain \& \textless{}clip\textgreater{}" in (folder / "results.tex").read_text()


def test_suspected_labels_have_a_section_and_a_file(trained_run: TrainedRun) -> None:
    folder = trained_run.page.parent
    found = rows(folder / "suspects.csv")
    wrong: dict[str, set[str]] = {}
    for row in rows(folder / "mistakes.csv"):
        wrong.setdefault(row["path"], set()).add(row["config"])
    never_right = {path for path, configs in wrong.items() if len(configs) == 2}
    assert never_right
    assert {row["path"] for row in found if "misclassified" in row["reasons"]} == never_right
    text = trained_run.page.read_text(encoding="utf-8")
    (section,) = re.findall(r'<section id="suspects".*?</section>', text, flags=re.S)
    assert section.count("<img ") == min(12, len(found))
    assert str(escape(found[0]["path"])) in section


def test_a_second_report_is_the_same_and_keeps_nothing_old(copied_run: Path) -> None:
    figures = copied_run / "report" / "figures"

    def curves() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in figures.rglob("roc.*")}

    before = curves()
    (figures / "gone.svg").write_text("old")
    (figures / "mine.txt").write_text("kept")
    assert main(["report", str(copied_run), "--no-images"]) == 0
    assert curves() == before
    assert not (figures / "gone.svg").exists()
    assert not list(figures.rglob("embedding.*"))
    assert (figures / "mine.txt").exists()
    text = (copied_run / "report/index.html").read_text(encoding="utf-8")
    assert text.count("because of --no-images") == 2
    assert "<img" not in text


def test_one_config_by_its_own_folder_without_torch(copied_run: Path) -> None:
    folder = copied_run / "weighted_ce"
    code = (
        "import sys; from clip_pkg.cli import main; "
        f"main(['report', {str(folder)!r}, '--no-images']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    text = (folder / "report/index.html").read_text(encoding="utf-8")
    assert "plain" not in text
    assert "Differences between" not in text


def test_missing_images_are_reported(
    trained_run: TrainedRun, copied_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = copied_run / "weighted_ce"
    audit = json.loads((folder / "preflight.json").read_text(encoding="utf-8"))
    there, gone = trained_run.images, tmp_path / "gone"
    (folder / "preflight.json").write_text(json.dumps({**audit, "data_dir": str(gone)}))
    assert main(["report", str(folder)]) == 0
    text = (folder / "report/index.html").read_text(encoding="utf-8")
    assert "No feature map and no mistakes are shown: " in text
    assert str(gone) in capsys.readouterr().out
    assert main(["report", str(folder), "--data-dir", str(there)]) == 0
    assert "<img" in (folder / "report/index.html").read_text(encoding="utf-8")


def test_a_missing_fold_and_a_config_without_any(copied_run: Path) -> None:
    (copied_run / "weighted_ce/fold_2/result.json").unlink()
    for path in copied_run.glob("plain*/fold_*/result.json"):
        path.unlink()
    for path in copied_run.glob("*/cv_summary.json"):
        path.unlink()
    assert main(["report", str(copied_run), "--no-images"]) == 0
    text = (copied_run / "report/index.html").read_text(encoding="utf-8")
    assert "weighted_ce is incomplete: its numbers are over 1 of 2 folds" in text
    assert "is not part of this report" in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S).lower().split()


def test_bad_folders_are_sentences(
    copied_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    named_report = tmp_path / "other"
    shutil.copytree(copied_run / "weighted_ce", named_report / "report")
    damaged = tmp_path / "damaged"
    shutil.copytree(copied_run / "weighted_ce", damaged / "a")
    (damaged / "a/fold_1/history.json").write_text("{")
    for folder, words in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "holds no results"),
        (named_report, "a config called `report`"),
        (damaged, "history.json is damaged"),
    ):
        assert main(["report", str(folder)]) == 2
        assert words in capsys.readouterr().err
        assert not (folder / "report/index.html").exists()


def test_losses_of_pretrainings_have_a_table_and_curves(copied_run: Path) -> None:
    write_pretraining(copied_run / "weighted_ce", "train_fold", "dcl", runs=("one", "two"))
    assert main(["report", str(copied_run), "--no-images"]) == 0
    page = (copied_run / "report" / "index.html").read_text(encoding="utf-8")
    assert "Losses of the pre-training" in page
    assert re.search(r'<th scope="row">dcl</th>', page)
    figure = copied_run / "report" / "figures" / "pretraining_convergence.svg"
    assert "Linear probe" in figure.read_text(encoding="utf-8")
