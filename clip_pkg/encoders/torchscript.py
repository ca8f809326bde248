"""Tensors of a TorchScript archive, read without running the program inside it.

OpenAI publishes its CLIP weights in this form. `torch.jit.load` would bring the archive's program
to life; here only its tensors are taken, and a pickle that asks for anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Object:
    """Stands in for any class of the archive's program: attributes, no behaviour."""


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive (a zip with program code in it)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by their path in the module tree, as `state_dict()` names them.

    Raises pickle.UnpicklingError if the archive holds anything but a tree of tensors, and whatever
    a damaged zip raises.
    """
    with zipfile.ZipFile(path) as archive:
        data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = _TensorUnpickler(archive, data.removesuffix("data.pkl")).load()
    return dict(_tensors(root, ""))


def _tensors(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Object):
            yield from _tensors(value, f"{prefix}{name}.")


class _TensorUnpickler(pickle.Unpickler):
    """Resolves tensors, plain containers and `_Object` only, so that nothing in a file can run."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a global of the pickle. Raises UnpicklingError for everything not listed."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Object
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _type: value,
        }
        if module == "torch.jit._pickle" and name.startswith("build_") and name.endswith("list"):
            return list
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"refers to {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """Read one storage, named `("storage", dtype, key, device, number of elements)`."""
        _, dtype, key, _, _ = pid
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset)
