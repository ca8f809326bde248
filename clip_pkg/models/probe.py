"""Check encoders in a child process, so that its parent need not import torch.

`python -m clip_pkg.models.probe [--fetch]` reads a JSON list of requests from standard input

    {"image_encoder_name": …, "text_encoder_name": …, "img_size": …, "weights_dir": null,
     "activation_checkpointing": false, "stem": "standard"}

and writes a JSON list of problems to standard output

    {"encoder": …, "kind": "unknown" | "img_size" | "memory" | "weights" | "extra",
     "message": …, "requests": [indices of the requests with this problem]}

Each distinct encoder is checked once: it is built on the meta device and applied to an image
without content, and weights on this machine are loaded into it. With `--fetch`, missing weights are
downloaded first.
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
from clip_pkg.config.encoders import (
    EncoderSpec,
    Tower,
    parse_image_encoder,
    parse_text_encoder,
)
from clip_pkg.models.assets import Snapshot
from clip_pkg.models.families import assets, family_of
from clip_pkg.models.hf_text import import_transformers
from clip_pkg.models.image_encoder import ImageEncoder, Stem, build_image_encoder
from clip_pkg.models.weights import WeightsRequest, missing_weights, prefetch

Kind: TypeAlias = Literal["unknown", "img_size", "memory", "weights", "extra"]


@dataclass(frozen=True)
class Problem:
    """Why an encoder cannot be used. requests: indices into the list of requests."""

    encoder: str
    kind: Kind
    message: str
    requests: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """One encoder to check; `img_size` is 0 for text encoders."""

    written: str
    tower: Tower
    img_size: int
    weights_dir: str | None
    activation_checkpointing: bool = False
    stem: Stem = "standard"


def probe(requests: Sequence[Mapping[str, Any]], *, fetch: bool = False) -> list[Problem]:
    """Problems of all requested encoders, without repetition."""
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
    yield Target(
        request["image_encoder_name"],
        "image",
        request["img_size"],
        directory,
        request.get("activation_checkpointing", False),
        request.get("stem", "standard"),
    )
    yield Target(request["text_encoder_name"], "text", 0, directory)


def _problems(target: Target, *, fetch: bool) -> Iterable[Problem]:
    try:
        parse = parse_image_encoder if target.tower == "image" else parse_text_encoder
        spec = parse(target.written)
    except ValueError as error:
        return [Problem(target.written, "unknown", str(error))]
    if target.tower == "image" and (problem := _image_problem(spec, target)):
        return [problem]
    needs_transformers = any(isinstance(asset, Snapshot) for asset in assets(spec, target.tower))
    if needs_transformers and (problem := _extra_problem(spec)):
        return [problem]
    return _weights_problems(spec, target, fetch=fetch)


def _image_problem(spec: EncoderSpec, target: Target) -> Problem | None:
    """Problems of the architecture, whatever its weights."""
    return _size_problem(spec, target) or (
        _memory_problem(spec, target) if target.activation_checkpointing else None
    )


def _memory_problem(spec: EncoderSpec, target: Target) -> Problem | None:
    # If the meta device does not support the model, `_size_problem` succeeded on the CPU.
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
    error = _failure(spec.untrained, target, "meta")
    if error is not None and "meta" in str(error):  # it needs values while it is built
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
    except Exception as error:  # any failure inside a library is a reason
        return error
    return None


@torch.no_grad()
def _check_forward(encoder: ImageEncoder, img_size: int) -> None:
    features = encoder.eval()(torch.zeros(1, 3, img_size, img_size))
    if features.shape != (1, encoder.num_features):
        raise UserError(
            f"its output has shape {list(features.shape[1:])} instead of one vector per image"
        )


def _extra_problem(spec: EncoderSpec) -> Problem | None:
    try:
        import_transformers()
    except UserError as error:
        return Problem(spec.written, "extra", f"{spec.written}: {error}")
    return None


def _weights_problems(spec: EncoderSpec, target: Target, *, fetch: bool) -> list[Problem]:
    """Missing weights, or weights that do not fit the model."""
    directory = Path(target.weights_dir).expanduser() if target.weights_dir else None
    request = WeightsRequest(spec, target.tower, directory)
    reason = ""
    if fetch and missing_weights([request]):
        try:
            prefetch([request])
        except WeightsError as error:
            reason = f" ({str(error).splitlines()[0]})"
    if missing := missing_weights([request]):
        return [Problem(spec.written, "weights", f"{item}{reason}") for item in missing]
    if not assets(spec, target.tower):
        return []
    try:
        if target.tower == "image":
            build_image_encoder(
                spec, img_size=target.img_size, weights_dir=directory, stem=target.stem
            )
        else:
            tower = spec.start or spec
            family_of(tower).build_text(tower, ["a photo"], directory)
    except UserError as error:
        return [Problem(spec.written, "weights", str(error))]
    return []


if __name__ == "__main__":
    sys.exit(main())
