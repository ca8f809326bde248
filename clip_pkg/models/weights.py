"""Pretrained weights of the configs' encoders: what is missing here, and how to provide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.errors import WeightsError
from clip_pkg.config.encoders import EncoderSpec, Tower
from clip_pkg.models import hub
from clip_pkg.models.assets import Asset, Snapshot
from clip_pkg.models.families import assets


@dataclass(frozen=True)
class WeightsRequest:
    """One encoder of one config, with its `weights_dir`."""

    spec: EncoderSpec
    tower: Tower
    weights_dir: Path | None = None


@dataclass(frozen=True)
class MissingWeights:
    """A missing asset of an encoder, with the ways to provide it."""

    encoder: str
    what: str
    ways: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.encoder}: {self.what} not found on this machine; {'; or '.join(self.ways)}"


def obtain(asset: Asset, spec: EncoderSpec, weights_dir: Path | None) -> Path:
    """Path of an asset, downloaded if necessary.

    Raises WeightsError with the ways to provide it.
    """
    if found := asset.find(weights_dir):
        return found
    reason = ""
    if hub.is_reachable() and not (isinstance(asset, Snapshot) and asset.is_folder):
        try:
            return asset.fetch()
        except WeightsError as error:
            reason = f" ({error})"
    missing = MissingWeights(spec.written, asset.what, asset.ways(weights_dir))
    raise WeightsError(f"{missing}{reason}")


def files_in_use(request: WeightsRequest) -> list[tuple[str, int, int]]:
    """Path, bytes and modification time in ns of every file that an encoder reads.

    Missing files are downloaded. Raises WeightsError for unavailable ones.
    """
    files: list[Path] = []
    for asset in assets(request.spec, request.tower):
        path = obtain(asset, request.spec, request.weights_dir).resolve()
        files += sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def missing_weights(requests: Iterable[WeightsRequest]) -> list[MissingWeights]:
    """Missing assets of the encoders; uses no network."""
    missing: dict[MissingWeights, None] = {}  # an ordered set
    for request in requests:
        for asset in assets(request.spec, request.tower):
            if asset.find(request.weights_dir) is None:
                ways = asset.ways(request.weights_dir)
                missing[MissingWeights(request.spec.written, asset.what, ways)] = None
    return list(missing)


def prefetch(
    requests: Iterable[WeightsRequest], say: Callable[[str], None] = lambda _: None
) -> None:
    """Download missing assets into the caches; `say` gets a line per asset.

    Raises one WeightsError that names everything unavailable.
    """
    failures: dict[str, None] = {}
    for request in requests:
        for asset in assets(request.spec, request.tower):
            if found := asset.find(request.weights_dir):
                say(f"{request.spec.written}: {asset.what}: already at {found}")
                continue
            try:
                found = obtain(asset, request.spec, request.weights_dir)
                say(f"{request.spec.written}: {asset.what}: downloaded to {found}")
            except WeightsError as error:
                failures[str(error)] = None
    if failures:
        reach = "" if hub.is_reachable() else " The hub is not reachable."
        raise WeightsError(
            "\n".join([f"{len(failures)} not available.{reach}", *(f"  {f}" for f in failures)])
        )
