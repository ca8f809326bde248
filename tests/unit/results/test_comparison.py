"""Comparisons of result folders: ties, differences, refusals, several data sets."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.power import TTestPower

from clip_pkg.base.errors import RunFolderError, UserError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.results import comparison_files, comparison_tables
from clip_pkg.results.comparison import compare
from clip_pkg.results.comparison_records import AcrossDataSets, Question
from clip_pkg.results.ranks import compare_across
from clip_pkg.results.sentences import rounded
from clip_pkg.results.summary import summarize
from clip_pkg.study.splits import make_splits
from support.result_folders import drawn_answers, image_list, write_result

IMAGES = image_list()
GOOD, ALSO_GOOD, BAD = (drawn_answers(IMAGES, *how) for how in ((2.5, 0), (2.5, 1), (0.0, 2)))


@pytest.fixture(scope="module")
def good_and_bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good_and_bad")
    write_result(root, "bad", IMAGES, BAD, last=GOOD)
    write_result(root, "good", IMAGES, GOOD, last=ALSO_GOOD)
    return root


def test_a_true_difference_is_found_and_reported(tmp_path: Path) -> None:
    write_result(tmp_path, "bad", IMAGES, BAD)
    write_result(tmp_path, "good", IMAGES, GOOD)
    found = compare([tmp_path])
    (one,) = found.data_sets
    assert [row.name for row in one.rows] == ["good", "bad"]
    (pair,) = one.pairs
    assert pair.verdict == "better"
    assert pair.test is not None
    assert pair.test.p == pair.p_holm < 0.05
    assert pair.sentence.startswith(
        "good is significantly better than bad, by 63.3 points of balanced accuracy (95 % CI "
    )
    assert "always predicting the most frequent class" in found.findings[-1]
    assert "bad is" in found.findings[-1]


def test_the_numbers_are_those_of_the_folds_and_of_the_pooled_images(good_and_bad: Path) -> None:
    found = compare([good_and_bad], metric="f1")
    (one,) = found.data_sets
    (pair,) = one.pairs
    splits = make_splits(IMAGES, use_cv=True, n_splits=5, random_state=42, val_fraction=0.25)

    def f1(answers: np.ndarray, of: np.ndarray) -> float:
        value = classification_metrics(answers[of], IMAGES.labels[of]).scores["f1"]
        assert value is not None
        return value

    mine, theirs = ([f1(said, fold.val) for fold in splits.folds] for said in (GOOD, BAD))
    differences = np.subtract(mine, theirs)
    deviation = differences.std(ddof=1) * np.sqrt(1 / 5 + 24 / 96)
    t = differences.mean() / deviation
    assert pair.test is not None
    assert pair.test.t == pytest.approx(t)
    assert pair.test.p == pytest.approx(2 * scipy.stats.t.sf(t, 4))
    everything = np.arange(len(IMAGES))
    assert pair.pooled_difference == pytest.approx(f1(GOOD, everything) - f1(BAD, everything))
    assert pair.bootstrap is not None
    assert pair.bootstrap.low < pair.pooled_difference < pair.bootstrap.high
    row = one.rows[0]
    assert row.best["f1"].mean == pytest.approx(np.mean(mine))
    assert row.last["f1"].mean == pytest.approx(
        np.mean([f1(ALSO_GOOD, fold.val) for fold in splits.folds])
    )
    assert row.pooled["acc"].value == pytest.approx(
        100 * np.mean(GOOD.argmax(axis=1) == IMAGES.labels)
    )


def test_a_lower_loss_is_better(good_and_bad: Path) -> None:
    found = compare([good_and_bad], metric="log_loss")
    (pair,) = found.data_sets[0].pairs
    assert found.lower_is_better
    assert (pair.first, pair.second, pair.verdict) == ("good", "bad", "better")
    assert pair.difference is not None
    assert pair.difference < 0
    assert "good is significantly better than bad, by 1." in pair.sentence
    assert compare([good_and_bad], metric="ece").data_sets[0].pairs[0].bootstrap is None


def test_the_last_epoch_is_compared_on_request(good_and_bad: Path) -> None:
    found = compare([good_and_bad], epoch="last")
    (pair,) = found.data_sets[0].pairs
    assert pair.verdict == "undecided"
    assert "is not significantly better than" in pair.sentence
    assert "; not significantly better than" in found.findings[0]


def test_an_undecided_pair_says_what_would_have_been_found(
    good_and_bad: Path, tmp_path: Path
) -> None:
    (pair,) = compare([good_and_bad], epoch="last").data_sets[0].pairs
    assert pair.test is not None
    assert pair.detectable is not None
    per_fold = TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8) * math.sqrt(5)
    assert pair.detectable == pytest.approx(per_fold * pair.test.standard_error, rel=1e-5)
    assert abs(pair.test.difference) < pair.detectable
    assert f"difference of {pair.detectable:.1f} points with 80 % power" in pair.sentence
    (better,) = compare([good_and_bad]).data_sets[0].pairs
    assert "power" not in better.sentence
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        write_result(tmp_path, name, IMAGES, drawn_answers(IMAGES, 2.5, seed))
    one, *_ = compare([tmp_path]).data_sets[0].pairs
    assert one.test is not None
    per_fold = TTestPower().solve_power(nobs=5, alpha=0.05 / 3, power=0.8) * math.sqrt(5)
    assert one.detectable == pytest.approx(per_fold * one.test.standard_error, rel=1e-5)
    assert "0.05/3" in one.sentence
    for suffix in (".json", ".csv", ".md"):
        comparison_files.write_comparison(tmp_path / f"c{suffix}", compare([tmp_path]))
    (stored, *_) = json.loads((tmp_path / "c.json").read_text())["data_sets"][0]["pairs"]
    assert stored["detectable"] == one.detectable
    assert str(one.detectable) in (tmp_path / "c_pairs.csv").read_text()
    assert f"| {one.detectable:.2f} |" in (tmp_path / "c.md").read_text()


def test_two_folds_cannot_find_any_difference(tmp_path: Path) -> None:
    images = image_list(per_class=8)
    for name, seed in (("a", 1), ("b", 2)):
        write_result(tmp_path, name, images, drawn_answers(images, 1.0, seed), n_splits=2)
    (pair,) = compare([tmp_path]).data_sets[0].pairs
    assert pair.detectable is not None
    assert pair.detectable > 100
    assert "no possible difference" in pair.sentence


def test_folds_that_differ_alike_have_no_detectable_difference(tmp_path: Path) -> None:
    for name in ("a", "same"):
        write_result(tmp_path, name, IMAGES, GOOD)
    (pair,) = compare([tmp_path]).data_sets[0].pairs
    assert pair.detectable is None


def test_unequal_budgets_come_first(tmp_path: Path) -> None:
    block = {"images": "all", "epochs": 20, "loss": {"type": "dhel"}}
    for name, settings in (
        ("a", {"epochs": 100}),
        ("b", {"epochs": 30}),
        ("c", {"epochs": 30}),
        ("pre", {"epochs": 30, "pretrain": block}),
        ("inner", {"epochs": 30, "inner_val_fraction": 0.2, "early_stopping_patience": 7}),
    ):
        write_result(tmp_path, name, IMAGES, GOOD, **settings)
    sentence = compare([tmp_path]).findings[0]
    for words in (
        "100 epochs (a)",
        "30 epochs (b, c)",
        "30 epochs after a pre-training of 20 epochs on all images (pre)",
        "at most 30 epochs with patience 7 on 80 % of each training fold (inner)",
    ):
        assert words in sentence
    same = compare([tmp_path / "b", tmp_path / "c"])
    assert "same budget" not in same.findings[0]


def test_ties_and_p_values_that_are_adjusted_for_all_pairs(tmp_path: Path) -> None:
    for name, answers in (("a", GOOD), ("same", GOOD), ("c", BAD)):
        write_result(tmp_path, name, IMAGES, answers)
    tie, *others = compare([tmp_path]).data_sets[0].pairs
    assert (tie.verdict, tie.difference, tie.mcnemar.p_mid) == ("tie", 0.0, 1.0)
    assert tie.sentence == "a and same give identical predictions: a tie"
    for pair in others:
        assert pair.test is not None
        assert pair.test.p is not None
        assert "after Holm's adjustment for 3 pairs" in pair.sentence
    least = min(others, key=lambda pair: pair.p_holm or 0)
    assert least.p_holm == pytest.approx(3 * least.test.p)


def test_other_folds_and_missing_folds_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_result(tmp_path, "a", IMAGES, GOOD)
    write_result(tmp_path, "b", IMAGES, BAD)
    write_result(tmp_path, "other", IMAGES, GOOD, seed=1)
    write_result(tmp_path, "part", IMAGES, GOOD, missing=[2, 4])
    found = compare([tmp_path])
    (one,) = found.data_sets
    assert [(pair.first, pair.second) for pair in one.pairs] == [("a", "b")]
    part, other = one.refusals
    assert part.configs == ("part",)
    assert "2 of 5 folds are unfinished: fold 2 (missing), fold 4 (missing)" in part.reason
    assert set(other.configs) == {"a", "b", "other"}
    assert "different folds" in other.reason
    assert "--splits-file" in other.reason
    assert one.rows[-1].name == "part"
    assert "of 2 configs" in found.findings[0]


def test_other_images_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_result(tmp_path / "one", "a", IMAGES, GOOD)
    write_result(tmp_path / "two", "b", image_list(data="other"), BAD)
    found = compare([tmp_path / "one", tmp_path / "two"])
    assert [one.name for one in found.data_sets] == ["one", "two"]
    assert not any(one.pairs for one in found.data_sets)
    assert found.across is None
    assert "different images" in found.refusals[0].reason


def test_one_split_only_is_not_tested_over_folds(tmp_path: Path) -> None:
    write_result(tmp_path, "a", IMAGES, GOOD, use_cv=False)
    write_result(tmp_path, "b", IMAGES, BAD, use_cv=False)
    (pair,) = compare([tmp_path]).data_sets[0].pairs
    assert (pair.test, pair.p_holm, pair.verdict) == (None, None, "untested")
    assert "a single fold" in pair.sentence
    assert "McNemar mid-p" in pair.sentence


@pytest.mark.parametrize("content", [None, "{}", "of another state"])
def test_a_summary_that_does_not_fit_is_made_again(
    good_and_bad: Path, tmp_path: Path, content: str | None
) -> None:
    root = tmp_path / good_and_bad.name
    shutil.copytree(good_and_bad, root)
    path = root / "bad" / "cv_summary.json"
    if content == "of another state":
        result = root / "bad" / "fold_1" / "result.json"
        kept = result.read_bytes()
        result.unlink()
        summarize(ConfigPaths(root / "bad"))
        result.write_bytes(kept)
    elif content is None:
        path.unlink()
    else:
        path.write_text(content)
    before = None if content is None else path.read_bytes()
    found, wanted = (compare([folder]).to_json() for folder in (root, good_and_bad))
    assert json.dumps(found).replace(str(root), str(good_and_bad)) == json.dumps(wanted)
    assert before == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("folds_info.json", '{"data_fingerprint": 1}', "damaged"),
        ("fold_1/predictions.csv", "path,label\nx,q\n", r"predictions\.csv is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    (write_result(tmp_path, "a", IMAGES, GOOD) / file).write_text(text)
    with pytest.raises(RunFolderError, match=said):
        compare([tmp_path])


def test_a_list_of_other_folds_is_refused(tmp_path: Path) -> None:
    folder = write_result(tmp_path, "a", IMAGES, GOOD)
    folds = json.loads((folder / "folds_info.json").read_text())
    (folder / "folds_info.json").write_text(json.dumps({**folds, "splits_hash": "other"}))
    with pytest.raises(RunFolderError, match="other folds"):
        compare([folder])


def test_folders_are_found_once_and_empty_ones_named(tmp_path: Path) -> None:
    write_result(tmp_path / "out", "a", IMAGES, GOOD)
    (tmp_path / "empty").mkdir()
    assert len(compare([tmp_path / "out", tmp_path / "out" / "a"]).data_sets[0].rows) == 1
    with pytest.raises(RunFolderError, match="empty holds no results"):
        compare([tmp_path / "out", tmp_path / "empty"])
    with pytest.raises(UserError, match="unknown score 'accuracy'; use one of acc"):
        compare([tmp_path / "out"], metric="accuracy")


def test_configs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    write_result(tmp_path / "one", "a", IMAGES, GOOD)
    write_result(tmp_path / "two", "a", IMAGES, BAD)
    (one,) = compare([tmp_path / "one", tmp_path / "two"]).data_sets
    assert [row.name for row in one.rows] == ["one/a", "two/a"]
    assert {row.config for row in one.rows} == {"a"}


def test_patients_are_drawn_together(tmp_path: Path) -> None:
    images = image_list(groups_of=4)
    answers = drawn_answers(images, 1.0, 0)
    answers[:] = np.repeat(answers[::4], 4, axis=0)  # a patient's images get the same answer
    write_result(tmp_path / "grouped", "a", images, answers, n_splits=2)
    alone = image_list()
    write_result(tmp_path / "alone", "a", alone, answers, n_splits=2)
    widths = []
    for name in ("grouped", "alone"):
        (one,) = compare([tmp_path / name]).data_sets
        assert one.grouped == (name == "grouped")
        interval = one.rows[0].pooled["acc"].interval
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[0] > 1.6 * widths[1]


def several_sets(root: Path, names: tuple[str, ...], sets: int) -> list[Path]:
    folders = []
    for place in range(sets):
        images = image_list(data=str(place))
        for skill, name in enumerate(names):
            answers = drawn_answers(images, float(skill), 10 * place + skill)
            write_result(root / f"set{place}", name, images, answers)
        folders.append(root / f"set{place}")
    return folders


def test_several_data_sets_are_compared_by_rank(tmp_path: Path) -> None:
    found = compare(several_sets(tmp_path, ("x", "y", "z"), 3))
    across = found.across
    assert across is not None
    assert across.data_sets == ("set0", "set1", "set2")
    assert dict(zip(across.configs, across.mean_ranks, strict=True)) == {"x": 3, "y": 2, "z": 1}
    assert across.friedman is not None
    assert across.friedman.chi_square == pytest.approx(
        scipy.stats.friedmanchisquare(*np.array(across.scores).T).statistic
    )
    assert "3 data sets are few" in across.sentence
    assert found.findings[-1] == across.sentence
    assert all(pair.sentence.startswith("set0: ") for pair in found.data_sets[0].pairs)
    two_each = [replace(one, rows=one.rows[:2]) for one in found.data_sets]
    two = compare_across(two_each, Question("acc", "best", 0.95, 0))
    assert isinstance(two, AcrossDataSets)
    assert (two.friedman, two.critical_difference, two.cliques) == (None, None, ())
    assert "needs three configs" in two.sentence
    reversed_ranks = compare_across(found.data_sets, Question("log_loss", "best", 0.95, 0))
    assert isinstance(reversed_ranks, AcrossDataSets)
    assert dict(zip(reversed_ranks.configs, reversed_ranks.mean_ranks, strict=True))["z"] == 1


def test_every_table_and_file_holds_what_was_found(tmp_path: Path) -> None:
    folders = several_sets(tmp_path, ("x_1", "y & <b>|c", "z"), 2)
    found = compare(folders, metric="mcc")
    json.dumps(found.to_json(), allow_nan=False)
    for suffix in comparison_files.WRITERS:
        for written in comparison_files.write_comparison(tmp_path / f"c{suffix}", found):
            assert written.stat().st_size > 100
    assert json.loads((tmp_path / "c.json").read_text())["across"]["configs"]
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert len((tmp_path / "c_pairs.csv").read_text().splitlines()) == 1 + 6
    latex = (tmp_path / "c.tex").read_text()
    assert r"x\_1" in latex
    assert r"y \& \textless{}b\textgreater{}\textbar{}c" in latex
    markdown = (tmp_path / "c.md").read_text()
    assert r"y & &lt;b>\|c" in markdown
    assert "Matthews correlation" in markdown
    drawn = (tmp_path / "c.svg").read_text()
    assert "critical difference" in drawn
    assert "x_1" in drawn
    comparison_files.write_comparison(tmp_path / "again.svg", found)
    assert (tmp_path / "again.svg").read_text() == drawn


def test_a_diagram_needs_three_configs_on_two_sets(good_and_bad: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="three configs"):
        comparison_files.write_comparison(tmp_path / "c.svg", compare([good_and_bad]))


def test_scores_are_shown_with_their_unit() -> None:
    assert [comparison_tables.title(name) for name in ("acc", "f1")] == ["Acc %", "Macro F1"]
    shown = [rounded(-2.31, "acc"), rounded(-0.04, "acc"), rounded(0.0214, "f1")]
    assert shown == ["−2.3", "0.0", "0.021"]
