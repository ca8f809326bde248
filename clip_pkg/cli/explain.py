"""`explain`: where in images the evidence for a class is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_pkg.base.errors import UserError, shown, some
from clip_pkg.base.files import check_new_folder, new_folder
from clip_pkg.cli.models import (
    check_device,
    load,
    look_for_images,
    looking,
    note,
    note_unreadable,
)
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


def explain(parsed: argparse.Namespace) -> int:
    """Write a picture of the evidence in each image, and an index of the pictures."""
    terminal = Terminal()
    check_device(parsed.device)
    choice = choose_checkpoints(parsed.model)
    check_new_folder(parsed.output)
    note(terminal, choice.notices)
    images = look_for_images(parsed, terminal).images
    ensemble = load(choice.checkpoints, parsed.device, terminal)
    wanted = _position(parsed.class_name, ensemble.classes)
    from clip_pkg.inference.explain import explanations  # noqa: PLC0415

    rows: list[Explained] = []
    unreadable: list[UnreadableImage] = []
    with new_folder(parsed.output) as folder, looking(terminal, "Explaining") as progress:
        for part in explanations(
            ensemble,
            images,
            explained=wanted,
            skip_unreadable=parsed.skip_unreadable,
            progress=progress,
        ):
            unreadable += part.unreadable
            for number, image in enumerate(part.images):
                probabilities, position = part.probabilities[number], part.explained[number]
                row = Explained(
                    path=image.name,
                    picture=picture_name(len(rows) + 1),
                    explained=ensemble.classes[position],
                    probability=float(probabilities[position]),
                    prediction=ensemble.classes[probabilities.argmax()],
                )
                write_picture(folder / row.picture, decode_image(image.file), part.maps[number])
                rows.append(row)
        write_index(folder, f"{ensemble.folds[0].name}: evidence", rows)
    note_unreadable(terminal, unreadable)
    output: Path = parsed.output
    terminal.line(f"Wrote {shown(output)}: {len(rows)} picture(s), {PAGE} and {INDEX}.", "green")
    terminal.line(f"Open {shown(output / PAGE)} in a browser.")
    return 0


def _position(name: str | None, classes: Sequence[str]) -> int | None:
    if name is None:
        return None
    if name not in classes:
        raise UserError(
            f"--class: {shown(name)!r} is no class of this model; there are {some(classes, 30)}"
        )
    return classes.index(name)
