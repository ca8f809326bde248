"""State dicts from files of unknown origin: read without running code, loaded without gaps."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from clip_pkg.encoders.torchscript import is_torchscript, read_torchscript
from clip_pkg.errors import CheckpointError

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training programs put the weights
_PREFIXES = ("_orig_mod.", "module.")  # left by torch.compile and by data-parallel training
_SHOWN = 6


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, a torch checkpoint or a TorchScript archive, on CPU.

    Nothing in the file is executed. Raises CheckpointError if it is unreadable or would need to be.
    """
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors and loading it could run code "
            f"({_first_line(error)}). Save the model's state_dict() with torch.save or safetensors."
        ) from error
    except Exception as error:  # a damaged file can raise anything inside the readers
        raise CheckpointError(
            f"{path}: not a readable weights file ({_first_line(error)}); copy it again"
        ) from error
    state = _unwrapped(content)
    if not state:
        raise CheckpointError(f"{path}: holds no named tensors; expected a model's state_dict()")
    return state


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, extra: Iterable[str] = ()
) -> None:
    """Load `state` into `module`, every tensor of it.

    extra: prefixes of names that `state` may have beyond the module's, such as a classifier's.
    source: what the tensors came from, for the message.
    Raises CheckpointError that lists missing, unexpected and differently shaped tensors.
    """
    own = module.state_dict()
    allowed = tuple(extra)
    # Absent in checkpoints of old torch versions; torch fills it in, and nothing here reads it.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own and not n.startswith(allowed)]
    shapes = [
        f"{name} is {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(mismatch(source, missing, unexpected, shapes))
    module.load_state_dict({n: state[n] for n in own if n in state}, strict=False)


def mismatch(
    source: str, missing: list[str], unexpected: list[str], shapes: list[str] | None = None
) -> str:
    """One sentence per kind of difference between a file and a model."""
    parts = [f"{source}: does not fit the model"]
    for what, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("other shape", shapes or []),
    ):
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{what} ({len(names)}): {', '.join(names[:_SHOWN])}{rest}")
    return "; ".join(parts)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """Take the tensors out of what training programs wrap around them."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
