"""The formats of an export, and which folders it may be written to; no torch here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from clip_pkg.errors import UserError
from clip_pkg.planning.problems import shown

Format: TypeAlias = Literal["onnx", "safetensors", "open_clip"]
FORMATS: tuple[Format, ...] = get_args(Format)
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_format(kind: Format) -> None:
    """Raise UserError that says how to install what a format needs and this machine lacks."""
    missing = [name for name in ONNX_PACKAGES if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {", ".join(missing)}: pip install "clip_pkg[onnx]"')


def check_output(output: Path) -> None:
    """Raise UserError for anything but a folder that is new or empty."""
    try:
        if not output.exists():
            return
        is_free = output.is_dir() and not any(output.iterdir())
    except OSError as error:
        raise UserError(f"--output: {shown(output)}: cannot be read: {error.strerror}") from None
    if not is_free:
        raise UserError(
            f"--output: {shown(output)} is there already; an export goes to a new or empty folder"
        )
