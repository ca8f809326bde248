"""What the encoders of many configs lack on this machine, and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.errors import WeightsError
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models import hub
from clip_pkg.models.assets import Asset, Side, Snapshot, assets


@dataclass(frozen=True)
class WeightsRequest:
    """One encoder of one config. weights_dir: the config's, or None."""

    spec: EncoderSpec
    side: Side
    weights_dir: Path | None = None


@dataclass(frozen=True)
class MissingWeights:
    """Something that an encoder needs and this machine lacks, with the ways to provide it."""

    encoder: str
    what: str
    ways: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.encoder}: {self.what} not found here; {'; or '.join(self.ways)}"


def obtain(asset: Asset, spec: EncoderSpec, weights_dir: Path | None) -> Path:
    """Path of an asset: on this machine, else from the hub.

    Raises WeightsError that names the asset and the ways to provide it.
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
    """Path, bytes and modification time in ns of every file from outside that an encoder reads.

    Missing ones are fetched. A file that is written anew has another time, whatever is in it.
    Raises WeightsError for what is not to be had.
    """
    files: list[Path] = []
    for asset in assets(request.spec, request.side):
        path = obtain(asset, request.spec, request.weights_dir).resolve()
        files += sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def missing_weights(requests: Iterable[WeightsRequest]) -> list[MissingWeights]:
    """Everything that the encoders need and this machine lacks; asks no network."""
    missing: dict[MissingWeights, None] = {}  # a set that keeps its order
    for request in requests:
        for asset in assets(request.spec, request.side):
            if asset.find(request.weights_dir) is None:
                ways = asset.ways(request.weights_dir)
                missing[MissingWeights(request.spec.written, asset.what, ways)] = None
    return list(missing)


def prefetch(
    requests: Iterable[WeightsRequest], say: Callable[[str], None] = lambda _: None
) -> None:
    """Download all that is missing into the caches, telling `say` a line per asset.

    Raises one WeightsError that names everything that could not be had.
    """
    failures: dict[str, None] = {}
    for request in requests:
        for asset in assets(request.spec, request.side):
            if found := asset.find(request.weights_dir):
                say(f"{request.spec.written}: {asset.what}: here already, {found}")
                continue
            try:
                found = obtain(asset, request.spec, request.weights_dir)
                say(f"{request.spec.written}: {asset.what}: fetched, {found}")
            except WeightsError as error:
                failures[str(error)] = None
    if failures:
        reach = "" if hub.is_reachable() else " The hub does not answer."
        raise WeightsError(
            "\n".join([f"{len(failures)} not available.{reach}", *(f"  {f}" for f in failures)])
        )
