"""A fold's classifier as a safetensors file: weights under names for everybody, all else as JSON.

Names: `image_encoder.` and timm's or open_clip's own names; `image_projection.weight` [D, F];
`log_logit_scale`; `class_features` [C, D]; `head.weight` [C, D] and `head.bias` [C], the linear
layer that the classifier comes down to; `objective.` and what the loss owns. The text tower stays
behind, because class features stand for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from clip_pkg.base.errors import CheckpointError

SUFFIX = ".safetensors"
KEY = "clip_pkg"  # of the file's metadata
FORMAT_VERSION = 1
TEXT_SIDE = ("text_encoder.", "text_projection.")  # parts of a model that only training needs
_ENCODER, _ENCODER_HERE = "image_encoder.", "image_encoder.model."
_OBJECTIVE, _HEAD = "objective.", "head."
_FEATURES = "class_features"


def write_safetensors(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file that `read_safetensors` reads.

    facts: what a checkpoint holds besides tensors, as JSON values.
    """
    told = json.dumps({"format_version": FORMAT_VERSION, **facts}, allow_nan=False)
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt", KEY: told},
    )


def named_tensors(
    model: Mapping[str, Tensor], objective: Mapping[str, Tensor], class_features: Tensor | None
) -> dict[str, Tensor]:
    """Tensors of a checkpoint's parts under the names of the file."""
    named = {
        _ENCODER + name.removeprefix(_ENCODER_HERE) if name.startswith(_ENCODER_HERE) else name: one
        for name, one in model.items()
        if not name.startswith(TEXT_SIDE)
    }
    named |= {_OBJECTIVE + name: tensor for name, tensor in objective.items()}
    return named if class_features is None else {**named, _FEATURES: class_features}


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read what a checkpoint of the same model would hold, without its text side.

    Raises CheckpointError if the file is absent, damaged or of another program.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        told = json.loads(metadata[KEY])
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except KeyError:
        raise CheckpointError(f"{path} holds weights, but is no export of this program") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(told, dict) or told.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} was written by another version of this program")
    model: dict[str, Tensor] = {}
    objective: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OBJECTIVE):
            objective[name.removeprefix(_OBJECTIVE)] = tensor
        elif name.startswith(_ENCODER):
            model[_ENCODER_HERE + name.removeprefix(_ENCODER)] = tensor
        elif not name.startswith(_HEAD) and name != _FEATURES:
            model[name] = tensor
    return {
        **told,
        "model": model,
        "objective": objective,
        "class_features": tensors.get(_FEATURES),
    }
