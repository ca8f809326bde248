"""`explain`: the image regions that a prediction rests on."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import UserError, shown, some
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.model_arguments import (
    EVERY_FOLD,
    add_images,
    add_model,
    decoding,
    images_of,
    load,
    note_unreadable,
)
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "show which image regions are evidence for a class"
DESCRIPTION = "Show which image regions are evidence for a class (Grad-CAM), as pictures."


def add_arguments(parser: Parser) -> None:
    """Add the model, the images, the folder and the class."""
    parser.require("--images", "--output")
    add_model(parser, f"{EVERY_FOLD}. The maps of several folds are averaged")
    add_images(parser)
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help="new folder for one picture per image, index.html and index.csv",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="explain this class (default: the predicted class of each image)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write a picture of the evidence in each image, and an index of the pictures."""
    from clip_pkg.base.files import check_new_folder, new_folder
    from clip_pkg.inference.checkpoint_choice import choose_checkpoints
    from clip_pkg.inference.explanation_folder import (
        INDEX,
        PAGE,
        Explained,
        picture_name,
        write_index,
        write_picture,
    )
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.study.decoding import UnreadableImage, decode_image

    terminal = Terminal()
    choice = choose_checkpoints(parsed.model)
    output: Path = parsed.output
    check_new_folder(output)
    terminal.notes(choice.notices)
    images = images_of(parsed, terminal).images
    ensemble = load(choice.checkpoints, parsed.device, terminal)
    classes, wanted = ensemble.classes, parsed.class_name
    if wanted is not None and wanted not in classes:
        raise UserError(
            f"--class: this model has no class {shown(wanted)!r}; choose from {some(classes, 30)}"
        )
    from clip_pkg.inference.explain import explanations

    rows: list[Explained] = []
    unreadable: list[UnreadableImage] = []
    with new_folder(output) as folder, decoding(terminal, "Explaining") as progress:
        for batch in explanations(
            ensemble,
            images,
            explained=None if wanted is None else classes.index(wanted),
            skip_unreadable=parsed.skip_unreadable,
            progress=progress,
        ):
            unreadable += batch.unreadable
            for number, image in enumerate(batch.images):
                probabilities, position = batch.probabilities[number], batch.explained[number]
                row = Explained(
                    path=image.name,
                    picture=picture_name(len(rows) + 1),
                    explained=classes[position],
                    probability=float(probabilities[position]),
                    prediction=classes[probabilities.argmax()],
                )
                write_picture(folder / row.picture, decode_image(image.file), batch.maps[number])
                rows.append(row)
        write_index(folder, f"{ensemble.folds[0].name}: evidence", rows)
    note_unreadable(terminal, unreadable)
    terminal.line(f"Wrote {shown(output)}: {len(rows)} picture(s), {PAGE} and {INDEX}.", "green")
    terminal.line(f"Open {shown(output / PAGE)} in a browser.")
    return ExitCode.DONE
