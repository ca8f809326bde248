"""Export formats, their requirements, and the upload to the Hugging Face hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from clip_pkg.base.errors import UserError
from clip_pkg.inference.export import Format
from clip_pkg.models import hub

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_format(kind: Format) -> None:
    """Raise UserError if packages for the format are missing."""
    missing = [name for name in ONNX_PACKAGES if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {", ".join(missing)}: pip install "clip_pkg[onnx]"')


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def check_repository(name: str) -> None:
    """Raise UserError unless `name` is valid and the hub is reachable."""
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"--push-to-hub: {name!r} is not a repository name; use OWNER/NAME")
    if not hub.is_reachable():
        raise UserError(
            f"--push-to-hub: the hub ({constants.ENDPOINT}) is not reachable; export without "
            f"the flag, and on a machine with a network run: hf upload {name} FOLDER"
        )


def push(folder: Path, repository: str) -> str:
    """Upload a folder; returns its address. A new repository is private.

    Raises UserError with the reason given by the hub.
    """
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Add a model")
    except Exception as error:  # the HTTP library of huggingface_hub differs by version
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--push-to-hub: {repository}: {lines[0]} (log in with: hf auth login); "
            f"the export is in {folder}"
        ) from error
    return hub.address(repository)
