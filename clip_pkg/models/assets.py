"""Assets: files that encoders need besides installed packages, and where to find them.

An asset is a file of pretrained weights, or a folder with components of a transformers model. It is
looked up in `weights_dir`, then in the caches of the hub, open_clip and torch.hub. `weights_dir` is

- a file, used for every pretrained timm or open_clip encoder of the config, or
- a folder with `<name>.safetensors` (or .pt, .pth, .bin) by the timm or open_clip name, folders
  named like the model or its hub repository, a copied hub cache, or one snapshot itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clip_pkg.base.errors import WeightsError
from clip_pkg.base.program import program
from clip_pkg.models import hub
from clip_pkg.models.state_dicts import WEIGHT_SUFFIXES

Component: TypeAlias = Literal["configuration", "weights", "tokenizer"]

_PREFERRED_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_SAFE_NAMES = {  # names of the same weights as pickle and as safetensors
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}
_COMPONENT_FILES: dict[Component, tuple[str, ...]] = {
    "configuration": ("config.json",),
    "weights": ("model.safetensors", "pytorch_model.bin"),
    "tokenizer": (
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    ),
}
_COMPONENT_PATTERNS: dict[Component, tuple[str, ...]] = {
    "configuration": ("config.json",),
    "weights": ("model*.safetensors", "model.safetensors.index.json"),
    "tokenizer": ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model"),
}


@dataclass(frozen=True)
class WeightsFile:
    """One file of pretrained weights.

    names: in `weights_dir`, without suffix. repo, filenames: on the hub, best first. url: other
    source. architecture: timm's name in a snapshot's `config.json`, None for open_clip. scratch:
    the config value for random weights.
    """

    what: str
    names: tuple[str, ...]
    repo: str | None
    filenames: tuple[str, ...]
    url: str | None
    architecture: str | None
    scratch: str

    def find(self, weights_dir: Path | None) -> Path | None:
        """Path on this machine, or None."""
        if weights_dir is not None and weights_dir.is_file():
            return weights_dir
        if weights_dir is not None and (found := self._in_folder(weights_dir)):
            return found
        if self.repo and (found := hub.cached_file(self.repo, self.filenames)):
            return found
        places = hub.url_places(self.url) if self.url else ()
        return next((place for place in places if place.is_file()), None)

    def fetch(self) -> Path:
        """Download it. Raises WeightsError."""
        if self.repo:
            return hub.fetch_file(self.repo, self.filenames)
        if self.url:
            return hub.fetch_url(self.url)
        raise WeightsError(f"{self.what} are not published")

    def ways(self, weights_dir: Path | None) -> tuple[str, ...]:
        """Ways for a user to provide it."""
        origin = f" ({self.filenames[0]} of {hub.address(self.repo)})" if self.repo else ""
        place = f"put it in {_named(weights_dir)} as {self.names[0]}.safetensors{origin}"
        scratch = f'start from random weights with "{self.scratch}"'
        return (*_network_ways(self.repo or self.url), place, scratch)

    def _in_folder(self, folder: Path) -> Path | None:
        for name in self.names:
            for suffix in WEIGHT_SUFFIXES:
                if (file := folder / f"{name}{suffix}").is_file():
                    return file
        for candidate in _model_folders(folder, [*self.names, *([self.repo] if self.repo else [])]):
            if found := _weights_in(candidate):
                return found
        if self._is_own_snapshot(folder) and (found := _weights_in(folder)):
            return found
        for cache in (folder, folder / "hub"):
            if self.repo and (found := hub.cached_file(self.repo, self.filenames, cache)):
                return found
        return None

    def _is_own_snapshot(self, folder: Path) -> bool:
        if self.architecture is None:
            return (folder / "open_clip_config.json").is_file()
        return _json(folder / "config.json").get("architecture") == self.architecture


@dataclass(frozen=True)
class Snapshot:
    """A folder with components of a transformers model, from the hub or the user."""

    what: str
    repo: str
    components: tuple[Component, ...]

    @property
    def is_folder(self) -> bool:
        """Whether `repo` names a local folder rather than a hub repository."""
        return self.repo.startswith(("/", "./", "../", "~")) or Path(self.repo).is_dir()

    def find(self, weights_dir: Path | None) -> Path | None:
        """Folder on this machine with all components, or None."""
        candidates = self._candidates(weights_dir)
        return next((folder for folder in candidates if not self.lacks(folder)), None)

    def lacks(self, folder: Path) -> tuple[Component, ...]:
        """Components missing from a folder."""
        return tuple(
            component for component in self.components if not _has_component(folder, component)
        )

    def fetch(self) -> Path:
        """Download it. Raises WeightsError."""
        patterns = [
            pattern for component in self.components for pattern in _COMPONENT_PATTERNS[component]
        ]
        folder = hub.fetch_folder(self.repo, patterns)
        if "weights" in self.lacks(folder):  # published as pickles only
            folder = hub.fetch_folder(self.repo, [*patterns, "pytorch_model*.bin*"])
        if lacks := self.lacks(folder):
            raise WeightsError(f"{hub.address(self.repo)} lacks {' and '.join(lacks)}")
        return folder

    def ways(self, weights_dir: Path | None) -> tuple[str, ...]:
        """Ways for a user to provide it."""
        folder = Path(self.repo).expanduser()
        if self.is_folder and not folder.is_dir():
            return (f"correct the path {folder}, which is not a folder",)
        if self.is_folder:
            files = " and ".join(
                " or ".join(_COMPONENT_FILES[component]) for component in self.lacks(folder)
            )
            return (f"add {files} to {folder}",)
        origin = f"a copy of {hub.address(self.repo)}"
        place = f"put {origin} in {_named(weights_dir)} as {self.repo.replace('/', '--')}/"
        return (*_network_ways(self.repo), place)

    def _candidates(self, weights_dir: Path | None) -> Iterator[Path]:
        if self.is_folder:
            yield Path(self.repo).expanduser()
            return
        if weights_dir is not None and weights_dir.is_dir():
            yield from _model_folders(weights_dir, [self.repo])
            yield weights_dir
        caches = [None] if weights_dir is None else [weights_dir, weights_dir / "hub", None]
        names = [name for component in self.components for name in _COMPONENT_FILES[component]]
        for cache in caches:
            if found := hub.cached_file(self.repo, names, cache):
                yield found.parent


Asset: TypeAlias = WeightsFile | Snapshot


def both_formats(filename: str) -> tuple[str, ...]:
    """Names of a weights file on the hub: as safetensors, and as published."""
    safe = _SAFE_NAMES.get(filename) or str(Path(filename).with_suffix(".safetensors"))
    return safe, filename


def _model_folders(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Sub-folders with the name of a model or repository."""
    for name in names:
        for spelling in (name, name.replace("/", "--"), name.rsplit("/", 1)[-1]):
            if (candidate := folder / spelling).is_dir():
                yield candidate


def _weights_in(folder: Path) -> Path | None:
    """Weights in a model's folder: by the usual names, else the only weights file."""
    for name in _PREFERRED_FILES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    return files[0] if len(files) == 1 else None


def _has_component(folder: Path, component: Component) -> bool:
    if any((folder / name).is_file() for name in _COMPONENT_FILES[component]):
        return True
    if component != "weights":
        return False
    for name in _COMPONENT_FILES["weights"]:  # large models come in shards, listed in an index
        shards = _json(folder / f"{name}.index.json").get("weight_map")
        if (
            isinstance(shards, dict)
            and shards
            and all(_is_shard(folder, shard) for shard in shards.values())
        ):
            return True
    return False


def _is_shard(folder: Path, name: object) -> bool:
    """Whether a name in an index, which may be damaged, is that of a file in the same folder."""
    return isinstance(name, str) and Path(name).name == name and (folder / name).is_file()


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it is missing or unreadable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _network_ways(source: str | None) -> tuple[str, ...]:
    if source is None:
        return ()
    return (f"run `{program()} prefetch` (with a network, then copy its hub cache here)",)


def _named(weights_dir: Path | None) -> str:
    if weights_dir is None:
        return 'the folder of "weights_dir"'
    return (
        f"the weights_dir {weights_dir}{'' if weights_dir.exists() else ' (which does not exist)'}"
    )
