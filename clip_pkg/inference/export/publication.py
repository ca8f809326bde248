"""An export on the Hugging Face hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import huggingface_hub
from huggingface_hub import constants

from clip_pkg.base.errors import UserError, shown
from clip_pkg.models import hub

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


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def check_repository(name: str) -> None:
    """Raise UserError unless it can name a repository and the hub answers."""
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"--push-to-hub: {name!r} is no repository; write OWNER/NAME")
    if not hub.is_reachable():
        raise UserError(
            f"--push-to-hub: the hub ({constants.ENDPOINT}) does not answer; export without the "
            f"flag, and where there is a network run: hf upload {name} FOLDER"
        )


def push(folder: Path, repository: str) -> str:
    """Upload a folder into a repository, made private if it is new; returns its address.

    Raises UserError with the hub's reason.
    """
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Add a model")
    except Exception as error:  # errors of the hub's HTTP library, which one differs by version
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--push-to-hub: {repository}: {lines[0]} (hf auth login tells the hub who you are); "
            f"the export is in {folder}"
        ) from error
    return hub.address(repository)
