"""`export`: a trained model as files that other programs load."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.model_arguments import add_model
from clip_pkg.cli.parser import Parser, given_path
from clip_pkg.inference.export import FORMATS

SUMMARY = "write a model for other programs: ONNX, safetensors or open_clip"
DESCRIPTION = (
    "Write a trained model for other programs, with a model card, and check that its predictions "
    "are those of the trained model."
)


def add_arguments(parser: Parser) -> None:
    """Add the model, the folder and the format."""
    parser.require("--output")
    add_model(parser)
    parser.add_argument("--output", type=given_path, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx: one graph from pixels to probabilities, for onnxruntime; safetensors: weights "
        "and config.json; open_clip: a folder for open_clip, of models with both of its towers "
        "(default: onnx)",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="also upload the folder to this repository of the Hugging Face hub, private if new",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write a model in another format, and upload it to the hub if requested."""
    from clip_pkg.base.files import check_new_folder
    from clip_pkg.inference.checkpoint_choice import choose_checkpoints
    from clip_pkg.inference.export.publication import check_format, check_repository, push
    from clip_pkg.launch.terminal import Terminal

    terminal = Terminal()
    output: Path = parsed.output
    check_format(parsed.format)
    check_new_folder(output)
    choice = choose_checkpoints(parsed.model)
    terminal.notes(choice.notices)
    if parsed.push_to_hub is not None:
        check_repository(parsed.push_to_hub)
    with terminal.waiting("Exporting and comparing"):
        from clip_pkg.inference.export.writing import export_models

        written = export_models(choice.checkpoints, parsed.format, output)
    terminal.notes(written.notices)
    terminal.line(f"{written.report}.")
    names = ", ".join([*written.names, "config.json", "README.md"])
    terminal.line(f"Wrote {shown(output)}: {names}.", "green")
    if parsed.push_to_hub is not None:
        with terminal.waiting("Uploading"):
            address = push(output, parsed.push_to_hub)
        terminal.line(f"Uploaded to {address}.", "green")
    terminal.line("README.md says how to load it; add its licence before you share it.")
    return ExitCode.DONE
