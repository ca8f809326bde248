"""State dicts from safetensors, torch and TorchScript files, read without running code.

OpenAI publishes CLIP weights as TorchScript archives. `torch.jit.load` would load their code; here
only tensors are read, and a pickle that refers to anything else is rejected.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.base.reading import open_regular

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
    """Placeholder for classes of the archive: attributes without behaviour."""


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive (a zip file with code)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by their names in `state_dict()`.

    Raises pickle.UnpicklingError if the archive contains more than a tree of tensors, and any error
    of a damaged zip file.
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
    """Resolves only tensors, plain containers and `_Object`, so that no code can run."""

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


WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys under which training programs save weights
_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and data-parallel training
_SHOWN = 6


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, torch checkpoint or TorchScript archive, on the CPU.

    Nothing in the file is executed. Raises CheckpointError if it is unreadable or unsafe.
    """
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: rejected, because it contains more than tensors and loading it could run "
            f"code ({_first_line(error)}). Save the model's state_dict() instead."
        ) from error
    except Exception as error:  # readers raise any error on damaged files
        raise CheckpointError(
            f"{path}: not a readable weights file ({_first_line(error)}); copy it again"
        ) from error
    state = _unwrapped(content)
    if not state:
        raise CheckpointError(f"{path}: contains no named tensors; expected a model's state_dict()")
    return state


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, extra: Iterable[str] = ()
) -> None:
    """Load all of `state` into `module`.

    extra: prefixes of further names allowed in `state`, such as a classifier's. source: of the
    tensors, for the message.
    Raises CheckpointError that lists missing, unexpected and differently shaped tensors.
    """
    own = module.state_dict()
    allowed = tuple(extra)
    # Missing in checkpoints of old torch versions; not used here.
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
    """A sentence that lists the differences between a file and a model."""
    differences = [f"{source}: does not fit the model"]
    for what, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("other shape", shapes or []),
    ):
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            differences.append(f"{what} ({len(names)}): {', '.join(names[:_SHOWN])}{rest}")
    return "; ".join(differences)


def _read(path: Path) -> Any:
    open_regular(path).close()  # the readers would wait for a pipe, and never finish a device
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """Remove the wrappers of training programs."""
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
