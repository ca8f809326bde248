"""`predict`: what trained folds say about images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from clip_pkg.base.errors import UserError, shown
from clip_pkg.cli.models import (
    check_device,
    load,
    look_for_held_out,
    look_for_images,
    looking,
    note,
    note_unreadable,
    use_device,
)
from clip_pkg.cli.output_file import check_target
from clip_pkg.inference.answer_file import SUFFIXES, Answers, write_answers
from clip_pkg.inference.calibration import calibrate
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.class_texts import ClassTexts, read_class_texts
from clip_pkg.study.decoding import UnreadableImage
from clip_pkg.study.inspection import Progress

if TYPE_CHECKING:
    from clip_pkg.inference.ensemble import Ensemble
    from clip_pkg.inference.fold_classifier import FoldClassifier

SHOWN = 10  # images in the table


@dataclass(frozen=True)
class Question:
    """What is asked.

    classes: C names. found: images there are, and asked: of which so many are answered. answers:
    computes when it is read. known: whether labels and folds are.
    """

    classes: tuple[str, ...]
    found: int
    asked: int
    answers: Callable[[Progress], Iterator[Answers]]
    known: bool = False


def predict(parsed: argparse.Namespace) -> int:
    """Look at images with trained folds; write a file, or show the first answers."""
    terminal = Terminal()
    _check_flags(parsed)
    texts = None if parsed.class_texts is None else read_class_texts(parsed.class_texts)
    choice = choose_checkpoints(parsed.model)
    output: Path | None = parsed.output
    if output is not None:
        read = [*parsed.images, *choice.checkpoints, *filter(None, [parsed.class_texts])]
        check_target(output, read, SUFFIXES)
    temperature = _temperature(parsed, terminal)
    if parsed.out_of_fold:
        question = _about_held_out(parsed, texts, temperature, terminal)
    else:
        note(terminal, choice.notices)
        question = _about_images(parsed, choice.checkpoints, texts, temperature, terminal)
    unreadable: list[UnreadableImage] = []
    with looking(terminal, "Predicting") as progress:
        answers = _noting(question.answers(progress), unreadable)
        if output:
            write_answers(output, question.classes, answers, known=question.known)
        else:
            table = _table(question.classes, answers)
    note_unreadable(terminal, unreadable)
    if output:
        count = question.asked - len(unreadable)
        terminal.line(f"Wrote {shown(output)}: {count} image(s).", "green")
        terminal.line(
            f"Where the evidence is: python train_clip.py explain {shown(parsed.model)} --images "
            "PATH --output DIR"
        )
        return 0
    terminal.console.print(table)
    terminal.line(
        f"{question.asked} of {question.found} images; --output predictions.csv (or .json) writes "
        "all of them with the probability of every class."
    )
    return 0


def _check_flags(parsed: argparse.Namespace) -> None:
    check_device(parsed.device)
    if parsed.weights_dir is not None and parsed.class_texts is None:
        raise UserError("--weights-dir is for --class-texts: no other prediction needs weights")
    if parsed.calibrate and parsed.class_texts is not None:
        raise UserError(
            "--calibrate fits the temperature of the trained classes; it says nothing about those "
            "of --class-texts"
        )
    if parsed.out_of_fold and parsed.output is None:
        raise UserError("--out-of-fold answers all images of the training: --output must be given")


def _temperature(parsed: argparse.Namespace, terminal: Terminal) -> float:
    if not parsed.calibrate:
        return 1.0
    calibration = calibrate(parsed.model)
    terminal.line(f"Calibrated: {calibration}")
    return calibration.temperature


def _about_images(
    parsed: argparse.Namespace,
    checkpoints: Sequence[Path],
    texts: ClassTexts | None,
    temperature: float,
    terminal: Terminal,
) -> Question:
    found = look_for_images(parsed, terminal)
    ensemble = load(checkpoints, parsed.device, terminal)
    ensemble = replace(
        ensemble,
        folds=tuple(_reading(fold, texts, parsed.weights_dir) for fold in ensemble.folds),
        temperature=temperature,
    )
    images = found.images if parsed.output else found.images[:SHOWN]

    def answers(progress: Progress) -> Iterator[Answers]:
        return ensemble.answers(images, skip_unreadable=parsed.skip_unreadable, progress=progress)

    return Question(ensemble.classes, len(found.images), len(images), answers)


def _about_held_out(
    parsed: argparse.Namespace, texts: ClassTexts | None, temperature: float, terminal: Terminal
) -> Question:
    held_out = look_for_held_out(parsed, terminal)
    device = use_device(parsed.device)
    from clip_pkg.inference.ensemble import Ensemble, out_of_fold_answers  # noqa: PLC0415

    def prepared(fold: FoldClassifier) -> Ensemble:
        return Ensemble((_reading(fold, texts, parsed.weights_dir),), temperature)

    def answers(progress: Progress) -> Iterator[Answers]:
        return out_of_fold_answers(held_out, device, prepared, progress=progress)

    classes = held_out.classes if texts is None else texts.classes
    return Question(classes, len(held_out), len(held_out), answers, known=True)


def _reading(
    fold: FoldClassifier, texts: ClassTexts | None, weights_dir: Path | None
) -> FoldClassifier:
    """The fold itself, or with other class texts."""
    if texts is None:
        return fold
    from clip_pkg.inference.new_texts import with_class_texts  # noqa: PLC0415

    return with_class_texts(fold, texts, weights_dir)


def _noting(answers: Iterator[Answers], unreadable: list[UnreadableImage]) -> Iterator[Answers]:
    """Pass answers on and remember what could not be read."""
    for some in answers:
        unreadable += some.unreadable
        yield some


def _table(classes: Sequence[str], answers: Iterator[Answers]) -> Table:
    """One row per image, with the two likeliest classes."""
    table = Table()
    table.add_column("Image", overflow="fold")
    table.add_column("Prediction", overflow="fold")
    table.add_column("Probability", justify="right")
    table.add_column("Next", overflow="fold")
    table.add_column("Probability", justify="right")
    for some in answers:
        for image, row in zip(some.images, some.probabilities, strict=True):
            first, second = (-row).argsort(kind="stable")[:2].tolist()
            # Text, because brackets in names are no markup.
            table.add_row(
                Text(shown(image.name)),
                Text(shown(classes[first])),
                f"{row[first]:.4f}",
                Text(shown(classes[second])),
                f"{row[second]:.4f}",
            )
    return table
