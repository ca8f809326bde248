"""Texts to paste: LaTeX and the methods paragraph."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.paths import ConfigPaths
from clip_pkg.config.loss_blocks import WeightMethod
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig
from clip_pkg.report import methods
from clip_pkg.report.methods import WEIGHTINGS, loss_phrase, methods_paragraph
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.comparison import compare
from clip_pkg.results.tables import LATEX_ESCAPES, Table, latex_escape, latex_table
from clip_pkg.study.identity import Identity
from support.result_folders import drawn_answers, image_list, write_result

COMMANDS = re.compile(r"\\(text[a-z]+\{2?\}|[{}$&#_%]|textbackslash\{\})|\$(\\pm|\\chi|-)\$")


@given(st.text(st.sampled_from([*LATEX_ESCAPES, *"abc ß😀"]), max_size=30))
def test_nothing_that_latex_would_obey_is_left(text: str) -> None:
    left = COMMANDS.sub("", latex_escape(text))
    assert not set(left) & set("\\{}$&#_%~^<>|\"`'")


def test_latex_table() -> None:
    table = Table(
        "Scores of 100%",
        ("Config", "Acc %"),
        (("a_b", "1 ± 2"), ("c", "–")),
        reference=(("majority", "0"),),
        best=frozenset({(0, 1)}),
    )
    lines = latex_table(table).splitlines()
    assert r"  \begin{tabular}{lr}" in lines
    assert r"    a\_b & \textbf{1 $\pm$ 2} \\" in lines
    assert r"    c & -- \\" in lines
    assert lines.count(r"    \midrule") == 2
    assert all(
        line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
        for line in lines
        if "resizebox" not in line and "tabular" not in line
    )
    assert "LuaLaTeX" not in latex_table(table)
    emoji = replace(table, rows=(("😀", "1"),))
    assert "LuaLaTeX" in latex_table(emoji)


FOLD = {
    "n_train": 16,
    "n_val": 4,
    "train_per_class": {"a": 10, "b": 6},
    "val_per_class": {"a": 3, "b": 1},
}
INFO = {
    "method": "StratifiedKFold",
    "random_state": 42,
    "linked": [],
    "groups": None,
    "folds": [FOLD] * 5,
}
SUMMARY = {
    "average_results": {"n": 5, "ddof": 1},
    "confidence_intervals": None,
    "splits_hash": "s",
    "environment": {"torch": "2.15.0", "timm": ["1", "2"]},
    "test": None,
}


def outcome(info: dict[str, Any] | None = None, summary: Any = None, **settings: Any) -> Any:
    config = RunConfig.model_validate({"name": "one", **settings}).model_dump(mode="json")
    identity = Identity("config", "data", "splits", "texts", "code")
    found = ConfigOutcome(ConfigPaths(Path("one")), config, {**INFO, **(info or {})}, identity, ())
    vars(found)["summary"] = {**SUMMARY, **(summary or {})}
    return found


def paragraph(*args: Any, **settings: Any) -> str:
    return methods_paragraph([outcome(*args, **settings)], "")


def test_the_plain_paragraph() -> None:
    text = paragraph()
    for part in (
        "20 images in 2 classes (7 to 13 images per class).",
        "stratified 5-fold cross-validation (scikit-learn's StratifiedKFold, seed 42)",
        "image encoder resnet18 (pretrained weights)",
        "text encoder ViT-B-32 (pretrained weights",
        "random crops, horizontal flips, changes of brightness and contrast",
        "AdamW (learning rate 0.0001, weight decay 0.01)",
        "batches of 32 images",
        "makes these scores optimistic",
        "lowest validation loss",
        "Patients were not identified",
        "mean ± sample standard deviation (ddof = 1) over n = 5 folds",
        "Software: PyTorch 2.15.0.",
    ):
        assert part in text
    for absent in ("hold-out", "group", "inner", "with replacement", "confidence interval", "timm"):
        assert absent not in text


def test_holdout() -> None:
    text = paragraph(
        {"method": "stratified hold-out of 0.2", "folds": [FOLD]},
        {"average_results": {"n": 1, "ddof": 1}},
        use_cv=False,
    )
    assert "16 images and evaluated on a single stratified hold-out set of 4 images (20 %" in text
    assert "for the one evaluated set" in text
    assert "cross-validation" not in text
    assert "±" not in text


def test_groups_copies_and_imported_folds() -> None:
    text = paragraph(
        {"method": "imported", "random_state": None, "groups": {"p": []}, "linked": [["x", "y"]]}
    )
    assert "from 1 group (" in text
    assert "5 predefined folds" in text
    assert "Patients were not identified" not in text
    assert "All images of a group and duplicate and near-duplicate images (1 cluster)" in text


def test_inner_validation_early_stopping_and_sampling() -> None:
    text = paragraph(
        inner_val_fraction=0.15,
        early_stopping_patience=7,
        early_stopping_monitor="val_f1",
        use_weighted_sampling=True,
        weight_method="inverse_sqrt",
    )
    assert "inner validation set of 15 %" in text
    assert "optimistic" not in text
    assert "100 epochs at most, and stopped after 7 epochs without improvement" in text
    assert "highest validation f1" in text
    assert "inversely to the square root of class frequency, smoothed by 1;" in text


def test_intervals_are_named_with_their_method() -> None:
    intervals = {
        "level": 0.95,
        "method": "Wilson",
        "drawn": "groups of images",
    }
    text = paragraph(None, {"confidence_intervals": intervals})
    assert (
        "95 % confidence intervals of the pooled predictions (Wilson; over groups of images, "
        "models fixed)" in text
    )


def test_without_a_text_encoder_none_is_described() -> None:
    text = paragraph(
        text_encoder_name="none",
        loss={"type": "ce", "classifier": "linear"},
        freeze_image_encoder=True,
    )
    assert "text encoder" not in text
    assert "(kept frozen)" in text
    assert "cross-entropy on a linear layer" in text
    assert "learned class vectors" in paragraph(text_encoder_name="prompts")


def test_the_level_of_detectable_differences_is_given(tmp_path: Path) -> None:
    images = image_list()
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        write_result(tmp_path, name, images, drawn_answers(images, 2.5, seed))
    found = compare([tmp_path])
    text = methods.tests_sentence(found, found.data_sets[0])
    assert "adjusted for 3 comparisons" in text
    assert "80 % power" in text
    assert "0.05/3" in text


def test_many_configs_are_described_by_their_differences() -> None:
    many = [outcome(name=f"n{one}", learning_rate=10.0**-one) for one in range(1, 7)]
    text = methods_paragraph(many, "They were tested.")
    assert "6 configurations were compared, which differed in learning_rate." in text
    assert "identical splits" in text
    assert text.count("used the image encoder") <= 1
    assert "They were tested." in text
    same = [outcome(name=f"n{one}", cuda_graphs=one > 3, num_workers=one) for one in range(1, 7)]
    assert "6 configurations were compared, equal in all settings." in methods_paragraph(same, "")
    two = methods_paragraph(many[:2], "")
    assert "Configuration “n1” used" in two
    assert "learning rate 0.1 or 0.01" in two


def test_epochs_are_those_of_each_config() -> None:
    configs = [outcome(name=f"n{one}", epochs=100 if one else 30) for one in range(3)]
    assert "Training ran for 30 (“n0”) or 100 (“n1”, “n2”) epochs" in methods_paragraph(configs, "")
    assert "ran for 100 epochs" in methods_paragraph(configs[1:], "")


def test_superclip_is_named_as_the_form_that_it_is() -> None:
    assert "class-text form of SuperCLIP" in paragraph(loss={"type": "superclip"})
    published = paragraph(loss={"type": "superclip_tokens"})
    assert "SuperCLIP (Zhao et al. 2025)" in published
    assert "class-text form" not in published
    labels = [LOSSES[kind]().label for kind in ("superclip", "superclip_tokens", "ce")]
    assert labels == ["superclip (class texts)", "superclip_tokens", "ce"]


def test_scores_over_folds_and_of_pooled_predictions_are_told_apart() -> None:
    assert "pooled predictions" in paragraph()
    single = paragraph({"folds": [FOLD]}, {"average_results": {"n": 1, "ddof": 1}}, use_cv=False)
    assert "pooled predictions" not in single


def test_a_pretraining_is_described() -> None:
    block = {"loss": {"type": "nt_xent"}, "images": "all", "epochs": 20, "batch_size": 64}
    text = paragraph(image_encoder_name="resnet18:scratch", pretrain=block)
    assert "resnet18 (random initial weights, then pre-trained as described below)" in text
    assert "pre-trained without labels on all images of the data set" in text
    assert "for 20 epochs with batches of 64 images" in text
    assert (
        "by minimising the NT-Xent loss of SimCLR (Chen et al. 2020; temperature 0.5) with AdamW ("
        in text
    )
    assert "pre-trained" not in paragraph(image_encoder_name="resnet18:scratch")
    many = [outcome(name=f"n{n}", pretrain=block if n > 3 else None) for n in range(6)]
    text = methods_paragraph(many, "")
    assert "encoders of “n4”, “n5” were pre-trained before, for 20 epochs" in text
    assert "the NT-Xent loss" in text


def test_every_loss_has_words() -> None:
    assert set(WEIGHTINGS) == set(get_args(WeightMethod))
    for kind in LOSSES:
        config = RunConfig.model_validate(
            {"loss": {"type": kind}, "aux_losses": [{"type": "center", "weight": 0.25}]}
        )
        assert "plus 0.25 times a center loss" in loss_phrase(config)
