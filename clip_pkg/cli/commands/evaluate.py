"""`evaluate`: scores of a trained model on labelled images from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import check_new_folder, new_folder, write_bytes, write_json
from clip_pkg.cli.model_arguments import (
    EVERY_FOLD,
    add_images,
    add_model,
    decoding,
    load,
    note_unreadable,
)
from clip_pkg.cli.parser import Parser, given_path

if TYPE_CHECKING:
    from rich.table import Table

    from clip_pkg.study.decoding import UnreadableImage
    from clip_pkg.study.predictions import Predictions

SUMMARY = "score a trained model on labelled images from elsewhere"
DESCRIPTION = (
    "Score a trained model on labelled images that it was not trained on, such as those of another "
    "hospital: every score with its 95 % interval, per class, and the confusion matrix."
)
MAX_SHOWN = 12  # classes of a confusion matrix on the terminal


def add_arguments(parser: Parser) -> None:
    """Add the model, the images and the folder for the results."""
    parser.require("--images")
    add_model(parser, f"{EVERY_FOLD}. The probabilities of several folds are averaged")
    add_images(
        parser, "a folder with one folder of images per class, or a CSV file: path,label[,group]"
    )
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help="new folder for evaluation.json, predictions.csv and confusion_matrix.svg",
    )


def run(parsed: argparse.Namespace) -> int:
    """Predict the images, print the scores, and write the files."""
    from clip_pkg.inference.checkpoint_choice import choose_checkpoints
    from clip_pkg.launch.terminal import Terminal

    if len(parsed.images) != 1:
        raise UserError("--images takes one path: a folder of class folders, or a CSV file")
    (data_dir,) = parsed.images
    if parsed.output is not None:
        check_new_folder(parsed.output)
    terminal = Terminal()
    choice = choose_checkpoints(parsed.model)
    terminal.notes(choice.notices)
    ensemble = load(choice.checkpoints, parsed.device, terminal)
    from clip_pkg.inference.evaluation import (
        evaluation,
        labelled_images,
        predictions_of,
        training_digests,
    )

    with decoding(terminal, "Checking images") as progress:
        labelled = labelled_images(
            data_dir,
            ensemble.classes,
            seen=training_digests(choice.checkpoints[0]),
            skip_unreadable=parsed.skip_unreadable,
            progress=progress,
        )
    terminal.notes(labelled.notices)
    unreadable: list[UnreadableImage] = []
    with decoding(terminal, "Predicting") as progress:
        answers = list(
            ensemble.answers(
                labelled.images, skip_unreadable=parsed.skip_unreadable, progress=progress
            )
        )
    for some in answers:
        unreadable += some.unreadable
    note_unreadable(terminal, unreadable)
    predictions = predictions_of(labelled, answers)
    found = {
        "model": str(parsed.model),
        "checkpoints": [str(path) for path in choice.checkpoints],
        "images": str(data_dir),
        "notices": list(labelled.notices),
        **evaluation(predictions, labelled.clusters),
    }
    for table in _tables(found):
        terminal.line()
        terminal.show(table)
    terminal.line(_sentence(found), "bold")
    if parsed.output is None:
        terminal.line("--output DIR writes every score, the predictions and the confusion matrix.")
    else:
        _write(parsed.output, found, predictions)
        terminal.line(f"Wrote {shown(parsed.output)}.", "green")
    return ExitCode.DONE


def _sentence(found: Mapping[str, Any]) -> str:
    from clip_pkg.metrics.table import HEADLINE_METRICS

    scores = ", ".join(f"{row.title} {_estimate(found, row.name)}" for row in HEADLINE_METRICS[:3])
    return f"{found['n']} images: {scores}"


def _estimate(found: Mapping[str, Any], name: str) -> str:
    from clip_pkg.results.comparison_records import Interval
    from clip_pkg.results.sentences import estimate

    limits = found["intervals"].get(name)
    return estimate(found["scores"][name], limits and Interval(*limits), name)


def _tables(found: Mapping[str, Any]) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    from clip_pkg.metrics.table import HEADLINE_METRICS

    scores = Table(title="Scores", title_justify="left")
    scores.add_column("Score")
    scores.add_column("Value", justify="right")
    for row in HEADLINE_METRICS:
        scores.add_row(row.heading, _estimate(found, row.name))
    classes = Table(title="Classes", title_justify="left")
    classes.add_column("Class", overflow="fold")
    for name in ("Images", "Recall (95 % CI)", "Precision", "F1"):
        classes.add_column(name, justify="right")
    for name, one in found["per_class"].items():
        limits = one["intervals"].get("recall")
        recall = _fraction(one["recall"])
        if limits is not None:
            recall += f" ({limits[0]:.3f} to {limits[1]:.3f})"
        scores_of_class = (_fraction(one[score]) for score in ("precision", "f1"))
        classes.add_row(Text(shown(name)), str(one["support"]), recall, *scores_of_class)
    matrix = found["confusion_matrix"]
    if len(matrix["classes"]) > MAX_SHOWN:
        return [scores, classes]
    return [scores, classes, _matrix(matrix["classes"], matrix["counts"])]


def _fraction(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Confusion matrix; its columns have the numbers of the rows, because names are long."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Images by true class (rows) and predicted class", title_justify="left")
    table.add_column("True class", overflow="fold")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(names, counts, strict=True), start=1):
        cells = [str(count) if count else "·" for count in row]
        table.add_row(Text(f"{number} {shown(name)}"), *cells)
    return table


def _write(folder: Path, found: Mapping[str, Any], predictions: Predictions) -> None:
    import numpy as np

    from clip_pkg.report.drawing import Caption
    from clip_pkg.report.figures.confusion import confusion_matrix

    counts = np.array(found["confusion_matrix"]["counts"])
    words = f"{counts.trace()} of {counts.sum()} images are on the diagonal."
    caption = Caption("confusion_matrix", "Confusion matrix, counts", words)
    with new_folder(folder) as temporary:
        write_json(temporary / "evaluation.json", found)
        predictions.write(temporary / "predictions.csv")
        drawing = confusion_matrix(predictions.classes, counts, caption)
        write_bytes(temporary / "confusion_matrix.svg", drawing.svg)
