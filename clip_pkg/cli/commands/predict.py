"""`predict`: classes of images by trained folds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import check_output_file
from clip_pkg.base.program import program
from clip_pkg.cli.model_arguments import (
    EVERY_FOLD,
    add_images,
    add_model,
    add_out_of_fold,
    decoding,
    held_out_of,
    images_of,
    load,
    note_unreadable,
)
from clip_pkg.cli.parser import Parser, given_path

if TYPE_CHECKING:
    from rich.table import Table

    from clip_pkg.inference.answer_file import Answers
    from clip_pkg.inference.ensemble import Ensemble
    from clip_pkg.inference.fold_classifier import FoldClassifier
    from clip_pkg.study.class_texts import ClassTexts
    from clip_pkg.study.decoding import UnreadableImage

SUMMARY = "classify images with a trained config, fold or checkpoint"
DESCRIPTION = "Classify images with trained models."
SHOWN = 10  # images in the table


def add_arguments(parser: Parser) -> None:
    """Add the model, the images and how they are classified."""
    parser.require("--images")
    add_model(parser, f"{EVERY_FOLD}. The probabilities of several folds are averaged")
    add_images(parser)
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="FILE",
        help="write path, prediction and the probability of every class to FILE.csv or FILE.json; "
        "an existing file is replaced. Without it the first predictions are shown",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="temperature scaling: make probabilities as confident as the folds were accurate on "
        "their held-out images",
    )
    parser.add_argument(
        "--class-texts",
        type=given_path,
        metavar="FILE",
        help="classify by these texts (JSON: class to text, or to a list of texts) instead of the "
        "trained ones; for models that compare images with texts",
    )
    parser.add_argument(
        "--weights-dir",
        type=given_path,
        metavar="DIR",
        help="with --class-texts: folder of the pretrained text encoder, if not where the config "
        "says",
    )
    add_out_of_fold(parser, "classified")


def run(parsed: argparse.Namespace) -> int:
    """Classify images; write a file, or show the first predictions."""
    _check_flags(parsed)
    from clip_pkg.inference.answer_file import SUFFIXES, write_answers
    from clip_pkg.inference.calibration import calibrate
    from clip_pkg.inference.checkpoint_choice import choose_checkpoints
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.study.class_texts import read_class_texts

    terminal = Terminal()
    texts = None if parsed.class_texts is None else read_class_texts(parsed.class_texts)
    choice = choose_checkpoints(parsed.model)
    output: Path | None = parsed.output
    if output is not None:
        inputs = [*parsed.images, *choice.checkpoints, *filter(None, [parsed.class_texts])]
        check_output_file(output, inputs, SUFFIXES)
    temperature = 1.0
    if parsed.calibrate:
        calibration = calibrate(parsed.model)
        terminal.line(f"Calibrated: {calibration}")
        temperature = calibration.temperature
    ensemble_of = partial(
        _ensemble, texts=texts, weights_dir=parsed.weights_dir, temperature=temperature
    )
    unreadable: list[UnreadableImage] = []
    if parsed.out_of_fold:
        held_out = held_out_of(parsed, terminal)
        from clip_pkg.inference.loading import choose_device

        device = choose_device(parsed.device)
        from clip_pkg.inference.ensemble import out_of_fold_answers

        with decoding(terminal, "Predicting") as progress:
            answers = out_of_fold_answers(
                held_out, device, lambda fold: ensemble_of([fold]), progress=progress
            )
            classes = held_out.classes if texts is None else texts.classes
            write_answers(parsed.output, classes, _noting(answers, unreadable), known=True)
        asked = found = len(held_out)
    else:
        terminal.notes(choice.notices)
        listed = images_of(parsed, terminal).images
        ensemble = ensemble_of(load(choice.checkpoints, parsed.device, terminal).folds)
        images = listed if output else listed[:SHOWN]
        asked, found = len(images), len(listed)
        with decoding(terminal, "Predicting") as progress:
            answers = ensemble.answers(
                images, skip_unreadable=parsed.skip_unreadable, progress=progress
            )
            if output:
                write_answers(output, ensemble.classes, _noting(answers, unreadable))
            else:
                table = _table(ensemble.classes, _noting(answers, unreadable))
    note_unreadable(terminal, unreadable)
    if output:
        terminal.line(f"Wrote {shown(output)}: {asked - len(unreadable)} prediction(s).", "green")
        terminal.line(
            f"To see the evidence: {program()} explain {shown(parsed.model)} --images "
            "PATH --output DIR"
        )
    else:
        terminal.show(table)
        terminal.line(
            f"{asked} of {found} images; --output predictions.csv (or .json) writes all of them "
            "with the probability of every class."
        )
    return ExitCode.DONE


def _check_flags(parsed: argparse.Namespace) -> None:
    if parsed.weights_dir is not None and parsed.class_texts is None:
        raise UserError("--weights-dir needs --class-texts: no other prediction reads weights")
    if parsed.calibrate and parsed.class_texts is not None:
        raise UserError(
            "--calibrate fits the temperature of the trained classes, not of those of --class-texts"
        )
    if parsed.out_of_fold and parsed.output is None:
        raise UserError("--out-of-fold classifies all images of the training; add --output FILE")


def _ensemble(
    folds: Sequence[FoldClassifier],
    *,
    texts: ClassTexts | None,
    weights_dir: Path | None,
    temperature: float,
) -> Ensemble:
    """Folds with the class texts and the temperature of the command line."""
    from clip_pkg.inference.ensemble import Ensemble

    if texts is not None:
        from clip_pkg.inference.new_texts import with_class_texts

        folds = [with_class_texts(fold, texts, weights_dir) for fold in folds]
    return Ensemble(tuple(folds), temperature)


def _noting(answers: Iterable[Answers], unreadable: list[UnreadableImage]) -> Iterator[Answers]:
    """Pass predictions on and collect what could not be read."""
    for some in answers:
        unreadable += some.unreadable
        yield some


def _table(classes: Sequence[str], answers: Iterable[Answers]) -> Table:
    """One row per image, with the two most probable classes."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("Image", "Prediction", "Probability", "Next", "Probability"):
        is_number = name == "Probability"
        table.add_column(
            name,
            overflow="ellipsis" if is_number else "fold",
            justify="right" if is_number else "left",
        )
    for some in answers:
        for image, row in zip(some.images, some.probabilities, strict=True):
            first, second = (-row).argsort(kind="stable")[:2].tolist()
            # Text, because brackets in names are not markup.
            table.add_row(
                Text(shown(image.name)),
                Text(shown(classes[first])),
                f"{row[first]:.4f}",
                Text(shown(classes[second])),
                f"{row[second]:.4f}",
            )
    return table
