"""Weights of every hostile kind: read, or refused with the file's name; no code in them runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from clip_pkg.base.errors import UserError
from clip_pkg.inference.fold_classifier import read_content
from clip_pkg.models.checkpoint import FORMAT_VERSION, load_checkpoint, save_checkpoint
from clip_pkg.models.state_dicts import read_state_dict

SECONDS = 10  # on a busy machine; a hang takes forever
READERS: Mapping[str, Callable[[Path], object]] = {
    "weights": read_state_dict,
    "checkpoint": load_checkpoint,
    "model": read_content,
}


class Runs:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.marker, "w"))


def torch_bytes(content: Any, *, is_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def safetensors_bytes(header: Any, body: bytes = bytes(64), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def hostile_files(folder: Path, marker: Path) -> dict[str, bytes]:
    evil, weights = Runs(marker), {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}
    whole, nested = torch_bytes(weights), torch_bytes({"model": weights, "x": evil})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        legacy = torch_bytes({"a": evil}, is_zip=False)
    save_checkpoint(folder / "own.pth", {"model": weights})
    own = (folder / "own.pth").read_bytes()
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    tensors = {
        "huge shape": {**one, "shape": [2**62, 8]},
        "negative offset": {**one, "data_offsets": [-16, 0]},
        "reversed offsets": {**one, "data_offsets": [16, 0]},
        "beyond the end": {**one, "data_offsets": [0, 2**40]},
        "unknown dtype": {**one, "dtype": "F31"},
        "other size": {**one, "shape": [5]},
        "no offsets": {"dtype": "F32", "shape": [4]},
    }
    found = {
        "pickle": pickle.dumps({"a": evil}),
        "pickle of protocol 0": pickle.dumps({"a": evil}, protocol=0),
        "gzip": gzip.compress(pickle.dumps(evil)),
        "legacy": legacy,
        "code": torch_bytes({"a": evil}),
        "code beside weights": nested,
        "lists": torch_bytes({"a": [1, 2], "b": "text"}),
        "tensor alone": torch_bytes(torch.ones(3)),
        "numbers": torch_bytes(3),
        "nan": torch_bytes({"a": torch.full((2,), torch.nan)}),
        "no names": torch_bytes({1: torch.ones(1)}),
        "other version": torch_bytes({"format_version": FORMAT_VERSION + 1, "model": weights}),
        "bad version": torch_bytes({"format_version": [FORMAT_VERSION]}),
        "traversal": zip_bytes({"../../escape": b"x", "archive/data.pkl": pickle.dumps({})}),
        "zip of text": zip_bytes({"readme.txt": b"hello"}),
        "zip bomb": zip_bytes({"archive/data.pkl": bytes(10**7)}),
        "evil in a zip": zip_bytes(
            {"archive/data.pkl": pickle.dumps({"a": evil}), "archive/version": b"3\n"}
        ),
        "empty": b"",
        "text": b"<html>not found</html>",
        "zeros": bytes(4096),
        **{f"cut {size}": whole[:size] for size in (3, len(whole) // 2, len(whole) - 5)},
        **{f"own cut {size}": own[:size] for size in (10, len(own) // 2, len(own) - 1)},
        **{
            f"own changed at {at}": own[:at] + bytes([own[at] ^ 255]) + own[at + 1 :]
            for at in range(40, len(own) - 40, len(own) // 12)
        },
    }
    found |= {f"{name}.safetensors": safetensors_bytes({"a": one}) for name in ("other",)}
    found |= {f"{n}.safetensors": safetensors_bytes({"a": row}) for n, row in tensors.items()}
    found |= {
        "overlap.safetensors": safetensors_bytes({"a": one, "b": one}),
        "long header.safetensors": safetensors_bytes({"a": one}, length=2**60),
        "short header.safetensors": safetensors_bytes({"a": one}, length=3),
        "nested.safetensors": safetensors_bytes(b'{"a":' + b"[" * 10**5),
        "list.safetensors": safetensors_bytes([1]),
        "not json.safetensors": safetensors_bytes(b"hello"),
        "metadata.safetensors": safetensors_bytes({"__metadata__": {"clip_pkg": "{"}, "a": one}),
        "cut.safetensors": save_safetensors(weights)[:40],
        "empty.safetensors": b"",
        "pickle.safetensors": pickle.dumps(evil),
    }
    return found


def test_each_is_read_or_refused_by_name_and_runs_nothing(tmp_path: Path) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "files"
    folder.mkdir()
    paths = []
    for name, content in hostile_files(folder, marker).items():
        path = folder / (name if name.endswith(".safetensors") else f"{name}.pth")
        path.write_bytes(content)
        paths.append(path)
    (folder / "folder.pth").mkdir()
    os.mkfifo(folder / "fifo.pth")
    (folder / "loop.pth").symlink_to("loop.pth")
    (folder / "zero.pth").symlink_to("/dev/zero")
    paths += [folder / f"{name}.pth" for name in ("folder", "fifo", "loop", "zero", "absent")]
    failures, cases = [], 0
    for path in paths:
        for reader, read in READERS.items():
            cases += 1
            started = time.monotonic()
            try:
                read(path)
            except UserError as error:
                if path.name not in str(error):
                    failures.append(f"{path.name}, {reader}: not named: {error}")
            except BaseException as error:
                failures.append(f"{path.name}, {reader}: {error!r:.200}")
            if time.monotonic() - started > SECONDS:
                failures.append(f"{path.name}, {reader}: slow")
    assert failures == []
    assert not marker.exists(), "code in a file was run"
    assert not (tmp_path / "escape").exists()
    assert cases >= 72
