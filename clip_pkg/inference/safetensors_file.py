"""A fold's classifier as a safetensors file: weights by public names, everything else as JSON.

Names: `image_encoder.` plus timm's or open_clip's names; `image_projection.weight` [D, F];
`log_logit_scale`; `class_features` [C, D]; `head.weight` [C, D] and `head.bias` [C], the linear
layer equivalent to the classifier; `objective.` plus the parameters of the loss. The text tower is
not exported; the class features replace it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from clip_pkg.base.errors import CheckpointError, DamagedFile, UserError
from clip_pkg.base.reading import open_regular, parse_json

SUFFIX = ".safetensors"
KEY = "clip_pkg"  # of the file's metadata
FORMAT_VERSION = 1
TEXT_PREFIXES = ("text_encoder.", "text_projection.")  # modules that only training needs
_ENCODER, _ENCODER_HERE = "image_encoder.", "image_encoder.model."
_OBJECTIVE, _HEAD = "objective.", "head."
_FEATURES = "class_features"


def write_safetensors(path: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file that `read_safetensors` reads.

    facts: the content of a checkpoint besides tensors, as JSON values.
    """
    metadata = json.dumps({"format_version": FORMAT_VERSION, **facts}, allow_nan=False)
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt", KEY: metadata},
    )


def named_tensors(
    model: Mapping[str, Tensor], objective: Mapping[str, Tensor], class_features: Tensor | None
) -> dict[str, Tensor]:
    """Tensors of a checkpoint by their names in the file."""
    named = {
        _ENCODER + name.removeprefix(_ENCODER_HERE) if name.startswith(_ENCODER_HERE) else name: one
        for name, one in model.items()
        if not name.startswith(TEXT_PREFIXES)
    }
    named |= {_OBJECTIVE + name: tensor for name, tensor in objective.items()}
    return named if class_features is None else {**named, _FEATURES: class_features}


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint, without the text tower.

    Raises CheckpointError if the file is missing, damaged or of another program.
    """
    try:
        open_regular(path).close()  # the library itself would wait for a pipe
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        facts = parse_json(metadata[KEY].encode(), dict[str, Any], path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except UserError as error:
        raise CheckpointError(str(error)) from None
    except KeyError:
        raise CheckpointError(
            f"{path} contains weights, but is not an export of this program"
        ) from None
    except DamagedFile as error:
        raise CheckpointError(str(error)) from None
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if facts.get("format_version") != FORMAT_VERSION:
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
        **facts,
        "model": model,
        "objective": objective,
        "class_features": tensors.get(_FEATURES),
    }
