"""Check encoders in a child process, so that its parent need not import torch.

`python -m clip_pkg.models.probe [--fetch]` reads a JSON list of requests from standard input

    {"image_encoder_name": …, "text_encoder_name": …, "img_size": …, "weights_dir": null,
     "activation_checkpointing": false, "stem": "standard"}

and writes a JSON list of problems to standard output

    {"encoder": …, "kind": "unknown" | "img_size" | "memory" | "weights" | "extra",
     "message": …, "requests": [positions of the requests that have this problem]}

Each distinct encoder is looked at once: it is built on the meta device and sees one image that has
a shape and no content; weights that are on this machine are read and fitted to it. With `--fetch`,
missing weights are downloaded first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from clip_pkg.base.errors import UserError, WeightsError
from clip_pkg.config.encoders import EncoderSpec, parse_image_encoder, parse_text_encoder
from clip_pkg.models.assets import Snapshot, assets
from clip_pkg.models.hf_text import import_transformers
from clip_pkg.models.image_encoder import ImageEncoder, Stem, build_image_encoder
from clip_pkg.models.text_encoder import build_text_encoder
from clip_pkg.models.weights import WeightsRequest, missing_weights, prefetch

Kind: TypeAlias = Literal["unknown", "img_size", "memory", "weights", "extra"]


@dataclass(frozen=True)
class Problem:
    """Why an encoder cannot be used. requests: positions in the list that was asked about."""

    encoder: str
    kind: Kind
    message: str
    requests: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """One encoder to look at; `img_size` is 0 for text encoders.

    recomputes: whether it is to compute activations again in the backward pass. stem: its first
    layers.
    """

    written: str
    side: Literal["image", "text"]
    img_size: int
    weights_dir: str | None
    recomputes: bool = False
    stem: Stem = "standard"


def probe(requests: Sequence[Mapping[str, Any]], *, fetch: bool = False) -> list[Problem]:
    """Problems of all requested encoders, each named once."""
    asked: dict[Target, list[int]] = {}
    for position, request in enumerate(requests):
        for target in _targets(request):
            asked.setdefault(target, []).append(position)
    found: dict[Problem, set[int]] = {}
    for target, positions in asked.items():
        for problem in _problems(target, fetch=fetch):
            found.setdefault(problem, set()).update(positions)
    return [replace(problem, requests=tuple(sorted(at))) for problem, at in found.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; exit code 0 whether or not there are problems."""
    parser = argparse.ArgumentParser(prog="clip_pkg.models.probe", description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="download missing weights")
    fetch = parser.parse_args(arguments).fetch
    with contextlib.redirect_stdout(sys.stderr):  # libraries print; standard output is for JSON
        problems = probe(json.load(sys.stdin), fetch=fetch)
    json.dump([asdict(problem) for problem in problems], sys.stdout, ensure_ascii=True)
    return 0


def _targets(request: Mapping[str, Any]) -> Iterator[Target]:
    directory = request.get("weights_dir")
    recomputes = request.get("activation_checkpointing", False)
    yield Target(
        request["image_encoder_name"],
        "image",
        request["img_size"],
        directory,
        recomputes,
        request.get("stem", "standard"),
    )
    yield Target(request["text_encoder_name"], "text", 0, directory)


def _problems(target: Target, *, fetch: bool) -> Iterable[Problem]:
    try:
        parse = parse_image_encoder if target.side == "image" else parse_text_encoder
        spec = parse(target.written)
    except ValueError as error:
        return [Problem(target.written, "unknown", str(error))]
    if target.side == "image" and (problem := _image_problem(spec, target)):
        return [problem]
    needs_transformers = any(isinstance(asset, Snapshot) for asset in assets(spec, target.side))
    if needs_transformers and (problem := _extra_problem(spec)):
        return [problem]
    return _weights_problems(spec, target, fetch=fetch)


def _image_problem(spec: EncoderSpec, target: Target) -> Problem | None:
    """Whether the architecture does what is asked of it; its weights do not matter here."""
    return _size_problem(spec, target) or (
        _memory_problem(spec, target) if target.recomputes else None
    )


def _memory_problem(spec: EncoderSpec, target: Target) -> Problem | None:
    # Where the meta device will not do, `_size_problem` has told nothing, so the CPU will.
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                encoder = build_image_encoder(
                    spec.untrained, img_size=target.img_size, stem=target.stem
                )
        except UserError:
            continue
        try:
            encoder.recompute_activations()
        except UserError as error:
            return Problem(spec.written, "memory", str(error))
        return None
    return None


def _size_problem(spec: EncoderSpec, target: Target) -> Problem | None:
    """Whether the architecture takes images of this size."""
    error = _failure(spec.untrained, target, "meta")
    if error is not None and "meta" in str(error):  # it wants to see values while it is built
        error = _failure(spec.untrained, target, "cpu")
    if error is None:
        return None
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = f"{spec.written} does not work with img_size {target.img_size}: {lines[0][:300]}"
    return Problem(spec.written, "img_size", message)


def _failure(spec: EncoderSpec, target: Target, device: str) -> Exception | None:
    size = target.img_size
    try:
        with torch.device(device):
            _check_forward(build_image_encoder(spec, img_size=size, stem=target.stem), size)
    except Exception as error:  # any failure inside a library is the answer
        return error
    return None


@torch.no_grad()
def _check_forward(encoder: ImageEncoder, img_size: int) -> None:
    features = encoder.eval()(torch.zeros(1, 3, img_size, img_size))
    if features.shape != (1, encoder.num_features):
        raise UserError(f"it gives {list(features.shape[1:])} instead of one vector per image")


def _extra_problem(spec: EncoderSpec) -> Problem | None:
    try:
        import_transformers()
    except UserError as error:
        return Problem(spec.written, "extra", f"{spec.written}: {error}")
    return None


def _weights_problems(spec: EncoderSpec, target: Target, *, fetch: bool) -> list[Problem]:
    """What is missing; where nothing is, whether the weights fit."""
    directory = Path(target.weights_dir).expanduser() if target.weights_dir else None
    request = WeightsRequest(spec, target.side, directory)
    reason = ""
    if fetch and missing_weights([request]):
        try:
            prefetch([request])
        except WeightsError as error:
            reason = f" ({str(error).splitlines()[0]})"
    if missing := missing_weights([request]):
        return [Problem(spec.written, "weights", f"{item}{reason}") for item in missing]
    if not assets(spec, target.side):
        return []
    try:
        if target.side == "image":
            build_image_encoder(
                spec, img_size=target.img_size, weights_dir=directory, stem=target.stem
            )
        else:
            build_text_encoder(spec, ["a photo"], embed_dim=1, weights_dir=directory)
    except UserError as error:
        return [Problem(spec.written, "weights", str(error))]
    return []


if __name__ == "__main__":
    sys.exit(main())
