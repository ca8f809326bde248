"""Writes an export folder completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from clip_pkg.base.errors import UserError
from clip_pkg.base.files import new_folder, write_json, write_text
from clip_pkg.config.load import dump_canonical
from clip_pkg.inference.ensemble import check_one_run
from clip_pkg.inference.export import Format
from clip_pkg.inference.export import model_card as examples
from clip_pkg.inference.export.description import Member, describe, encoder_recipe, find_scores
from clip_pkg.inference.export.model_card import model_card
from clip_pkg.inference.export.onnx_file import FLOAT32, ExportGraph, linear_head, write_onnx
from clip_pkg.inference.export.open_clip_folder import write_open_clip
from clip_pkg.inference.fold_classifier import CheckpointContent, FoldClassifier, read_content
from clip_pkg.inference.safetensors_file import SUFFIX, named_tensors, write_safetensors


@dataclass(frozen=True)
class Written:
    """Files of one format.

    title: display name. names: files. example: Python code that loads them. facts: for
    `config.json`. notices: for the model card, without full stop. report: for the terminal.
    """

    title: str
    names: tuple[str, ...]
    example: str
    facts: Mapping[str, Any]
    notices: tuple[str, ...]
    report: str


Writer: TypeAlias = Callable[[Sequence[Member], dict[str, Any], Path], Written]


def export_models(checkpoints: Sequence[Path], kind: Format, output: Path) -> Written:
    """Export one model, or the folds of a config, to a new folder.

    Raises CheckpointError for unusable checkpoints and if the export disagrees with torch,
    UserError if the format cannot represent the model.
    """
    members = [Member(path, read_content(path)) for path in checkpoints]
    check_one_run([(one.source, one.content.classes, one.content.identity) for one in members])
    description = describe(members)
    with new_folder(output) as folder:
        written = WRITERS[kind](members, description, folder)
        description |= written.facts
        write_json(folder / "config.json", description)
        files = {"format": written.title, "names": written.names, "example": written.example}
        card = model_card(
            {**description, "files": files}, members, find_scores(members[0]), written.notices
        )
        write_text(folder / "README.md", card)
    return written


def _classifier(member: Member) -> FoldClassifier:
    return FoldClassifier.rebuild(member.content, member.source, torch.device("cpu"), FLOAT32)


def _onnx(members: Sequence[Member], description: dict[str, Any], folder: Path) -> Written:
    folds = [_classifier(member) for member in members]
    name = "model.onnx"
    facts = write_onnx(folder / name, ExportGraph(folds), folds[0].store_size, description)
    deviation = facts["largest_deviation_from_torch"]
    return Written(
        "ONNX",
        (name,),
        examples.ONNX.substitute(file=name),
        {"onnx": facts},
        (),
        f"Largest deviation of onnxruntime from torch: {deviation:.1e}",
    )


def _safetensors(members: Sequence[Member], description: dict[str, Any], folder: Path) -> Written:
    names, heads = [], []
    for member, facts in zip(members, description["models"], strict=True):
        name = member.file_name("model", SUFFIX, alone=len(members) == 1)
        heads.append(_write_weights(folder / name, member))
        facts |= {"file": name, "head": heads[-1]}
        names.append(name)
    report = "The text tower is not exported; the class features replace it"
    if heads[0] is None:
        return Written("safetensors", tuple(names), _PREDICT, {}, (_NO_HEAD,), report)
    encoder = encoder_recipe(members[0].content)
    example = examples.SAFETENSORS.substitute(
        file=names[0],
        library=encoder.library,
        made=encoder.expression + examples.STEMS[members[0].content.config.stem],
        head=examples.HEADS[heads[0]],
    )
    return Written("safetensors", tuple(names), example, {}, (), report)


_PREDICT = "# in a shell: python train_clip.py predict FOLDER --images PATH\n"
_NO_HEAD = "its predictions are not linear in the embedding; use `predict` of clip_pkg"


def _write_weights(path: Path, member: Member) -> str | None:
    """Write one model's file; returns the input of its linear head, or None without one."""
    content = member.content
    tensors = named_tensors(content.model, content.objective, content.class_features)
    head = linear_head(_classifier(member).classifier)
    if head is not None:
        tensors |= {"head.weight": head.weight, "head.bias": head.bias}
    facts = content.model_dump(exclude={"model", "objective", "class_features", "config"})
    facts["config"] = dump_canonical(content.config)
    write_safetensors(path, facts, tensors)
    return None if head is None else head.on


def _open_clip(members: Sequence[Member], description: dict[str, Any], folder: Path) -> Written:
    if len(members) > 1:
        raise UserError(
            f"an open_clip folder contains one model, and these are {len(members)} folds: choose "
            "one of them, or a refit"
        )
    content: CheckpointContent = members[0].content
    found = write_open_clip(content, members[0].source, folder)
    description["open_clip"] = {"largest_deviation": found.deviation}
    names = tuple(sorted(path.name for path in folder.iterdir()))
    report = f"Largest deviation of open_clip's features: {found.deviation:.1e}"
    return Written("open_clip", names, examples.OPEN_CLIP.substitute(), {}, found.notices, report)


WRITERS: Mapping[Format, Writer] = {
    "onnx": _onnx,
    "safetensors": _safetensors,
    "open_clip": _open_clip,
}
