"""`export`: a trained model as files that other programs load."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import shown
from clip_pkg.base.files import check_new_folder
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.inference.export.publication import check_format
from clip_pkg.launch.terminal import Terminal


def export(parsed: argparse.Namespace) -> int:
    """Write a model in another format, and push it to the hub where that is wanted."""
    terminal = Terminal()
    output: Path = parsed.output
    check_format(parsed.format)
    check_new_folder(output)
    choice = choose_checkpoints(parsed.model)
    for notice in choice.notices:
        terminal.line(f"NOTE: {notice}", "yellow")
    # Here, so that a wrong path or folder is told without torch.
    from clip_pkg.inference.export.publication import check_repository, push  # noqa: PLC0415

    if parsed.push_to_hub is not None:
        check_repository(parsed.push_to_hub)
    with terminal.waiting("Exporting and comparing"):
        from clip_pkg.inference.export.writing import export_models  # noqa: PLC0415

        written = export_models(choice.checkpoints, parsed.format, output)
    for notice in written.notices:
        terminal.line(f"NOTE: {notice}", "yellow")
    terminal.line(f"{written.report}.")
    names = ", ".join([*written.names, "config.json", "README.md"])
    terminal.line(f"Wrote {shown(output)}: {names}.", "green")
    if parsed.push_to_hub is not None:
        with terminal.waiting("Uploading"):
            address = push(output, parsed.push_to_hub)
        terminal.line(f"Uploaded to {address}.", "green")
    terminal.line("README.md says how to load it; fill in its licence before it is passed on.")
    return 0
