"""CIFAR-10 or -100 as folders of images: `python -m examples.contrastive.cifar cifar100 FOLDER`.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

import sys
from pathlib import Path

from clip_pkg.base.errors import UserError, first_line, shown
from clip_pkg.base.exit_codes import ExitCode, exit_code
from clip_pkg.base.files import new_folder
from clip_pkg.launch.terminal import Terminal

SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # → class of torchvision.datasets


def make_folders(name: str, folder: Path, terminal: Terminal) -> None:
    """Write `folder/train/<class>/<number>.png` and `folder/test/…`, unless they are there.

    torchvision downloads the archive, unless it is in `folder`, and compares checksums before it
    reads anything.

    Raises:
        UserError: There is neither the archive nor a network, or `folder` cannot be written.
    """
    if all((folder / part).exists() for part in ("train", "test")):
        return
    from torchvision import datasets  # noqa: PLC0415 - takes seconds

    kind = getattr(datasets, SETS[name])
    terminal.line(f"{name}: images are written to {shown(folder)}")
    try:
        parts = {
            part: kind(folder, train=part == "train", download=True) for part in ("train", "test")
        }
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise UserError(
            f"{name} cannot be downloaded ({first_line(error)}); put {kind.filename}, the archive "
            f"of {kind.url}, into {shown(folder.resolve())} and run the same command again"
        ) from None
    for part, images in parts.items():
        if (folder / part).exists():
            continue
        with (
            new_folder(folder / part) as temporary,
            terminal.counting(f"Writing the {part} images") as progress,
        ):
            for label in images.classes:
                (temporary / label).mkdir()
            for number, (image, label) in enumerate(images):
                image.save(temporary / images.classes[label] / f"{number:05d}.png")
                progress(number + 1, len(images))


def main(words: list[str] | None = None) -> int:
    """Write the set into the folder that the command line names."""
    words = sys.argv[1:] if words is None else words

    def run() -> int:
        if len(words) != 2 or words[0] not in SETS:
            raise UserError(f"usage: python -m examples.contrastive.cifar {'|'.join(SETS)} FOLDER")
        make_folders(words[0], Path(words[1]), Terminal())
        return ExitCode.DONE

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
