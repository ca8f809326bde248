"""Text features in the cache folder: whose they are, when they are made again or not kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clip_pkg.config.encoders import parse_text_encoder
from clip_pkg.data import cache as cache_files
from clip_pkg.data import text_cache
from clip_pkg.data.cache import builder_lock, make_room
from clip_pkg.data.text_cache import TextCache
from clip_pkg.models.text_encoder import FrozenText

TOWER = parse_text_encoder("clip:ViT-S-32-alt:scratch")
TEXT = FrozenText(TOWER, ("an ant", "a bee", "two bees"), None, 5)
CONTENT = 3 * 256 * 4  # bytes of the features


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Features of TEXT; a formula takes the place of the tower."""

    def quick(text: FrozenText) -> torch.Tensor:
        numbers = torch.Generator().manual_seed(hash((text.prompts, text.seed)) % 2**31)
        return torch.randn(len(text.prompts), 256, generator=numbers)

    monkeypatch.setattr(FrozenText, "features", quick)
    return TEXT.features()


@pytest.fixture
def cache(tmp_path: Path, said: list[str], features: torch.Tensor) -> TextCache:
    return TextCache(tmp_path / "cache", None, said.append)


def the_file(cache: TextCache) -> Path:
    (path,) = cache.folder.glob("texts-*.safetensors")
    return path


def test_computed_once_and_found_to_the_bit(tmp_path: Path, said: list[str]) -> None:
    cache = TextCache(tmp_path / "cache", None, said.append)
    torch.manual_seed(3)
    untouched = torch.get_rng_state()
    first = cache.features(TEXT)
    kept = the_file(cache).stat()
    again = cache.features(TEXT)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), untouched)
    assert the_file(cache).stat().st_ino == kept.st_ino
    name = the_file(cache).name
    what = "the features of 3 texts by clip:ViT-S-32-alt:scratch"
    assert said == [f"Computed {what}, kept as {name}", f"Found {what} in {name}"]
    assert safetensors.torch.load_file(the_file(cache)).keys() == {"features"}


@pytest.mark.parametrize(
    "other",
    [
        replace(TEXT, prompts=("an ant", "a bee", "three bees")),
        replace(TEXT, prompts=("a bee", "an ant", "two bees")),
        replace(TEXT, seed=6),
    ],
)
def test_other_texts_and_seeds_are_other_entries(
    cache: TextCache, said: list[str], features: torch.Tensor, other: FrozenText
) -> None:
    cache.features(TEXT)
    assert not torch.equal(cache.features(other), features)
    assert [line.split()[0] for line in said] == ["Computed", "Computed"]
    assert len(list(cache.folder.glob("texts-*.safetensors"))) == 2


def test_another_number_of_threads_is_another_entry(cache: TextCache, said: list[str]) -> None:
    threads = torch.get_num_threads()
    cache.features(TEXT)
    torch.set_num_threads(threads + 1)
    try:
        cache.features(TEXT)
    finally:
        torch.set_num_threads(threads)
    assert [line.split()[0] for line in said] == ["Computed", "Computed"]


def flipped(content: bytes) -> bytes:
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


def fewer_rows(content: bytes) -> bytes:
    kept = safetensors.torch.load(content)["features"]
    return safetensors.torch.save({"features": kept[:2].clone()})


@pytest.mark.parametrize("damage", [flipped, fewer_rows, lambda content: content[:-1]])
def test_a_damaged_file_is_made_again(
    cache: TextCache,
    said: list[str],
    features: torch.Tensor,
    damage: Callable[[bytes], bytes],
) -> None:
    cache.features(TEXT)
    path = the_file(cache)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    said.clear()
    assert torch.equal(cache.features(TEXT), features)
    assert said[0].startswith(f"NOTE: {path} is damaged: ")
    assert said[0].endswith("; the texts are encoded again")
    assert said[1].startswith("Computed ")
    assert path.read_bytes() == content
    assert torch.equal(cache.features(TEXT), features)
    assert said[2].startswith("Found ")


def test_of_many_at_once_one_computes(
    cache: TextCache, said: list[str], features: torch.Tensor
) -> None:
    barrier = threading.Barrier(6)
    found = []

    def ask() -> None:
        barrier.wait()
        found.append(cache.features(TEXT))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert all(torch.equal(one, features) for one in found)
    assert sorted(line.split()[0] for line in said) == ["Computed", *["Found"] * 5]


def test_whoever_waits_too_long_computes_for_itself(
    cache: TextCache,
    said: list[str],
    features: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache.features(TEXT)
    path = the_file(cache)
    path.unlink()
    said.clear()
    monkeypatch.setattr(text_cache, "MAX_SECONDS_TO_WAIT", 0.1)
    with builder_lock(path):
        assert torch.equal(cache.features(TEXT), features)
    (line,) = said
    assert "were computed for this fold only: another process has been computing" in line
    assert not path.exists()


def test_where_nothing_can_be_kept_the_features_are_the_same(
    tmp_path: Path, said: list[str], features: torch.Tensor
) -> None:
    (tmp_path / "file").touch()
    cache = TextCache(tmp_path / "file" / "cache", None, said.append)
    assert torch.equal(cache.features(TEXT), features)
    (line,) = said
    assert line.startswith("NOTE: the features of 3 texts")
    assert "computed for this fold only" in line


def test_the_limit_counts_them(
    tmp_path: Path, said: list[str], features: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = TextCache(tmp_path, 0, said.append)
    assert torch.equal(none.features(TEXT), features)
    assert "for this fold only: they need 3.2 kB, but the cache limit is 0 bytes" in said[0]
    assert not list(tmp_path.glob("texts-*.safetensors"))

    roomy = TextCache(tmp_path, 5000, said.append)
    roomy.features(TEXT)
    first = the_file(roomy)
    os.utime(first, (1e9, 1e9))
    (entry,) = cache_files.cached_entries(tmp_path)
    assert (entry.path, entry.files, entry.used) == (first, (first,), 1e9)
    assert CONTENT < entry.size == first.stat().st_size
    roomy.features(replace(TEXT, seed=1))  # takes the place of what was used longest ago
    assert said[2] == f"removed to keep the cache within 5.0 kB: {first.name} (3.2 kB)"
    assert the_file(roomy) != first

    monkeypatch.setattr(cache_files, "MIN_FREE_BYTES", 2**60)
    assert torch.equal(TextCache(tmp_path, None, said.append).features(TEXT), features)
    assert "are free" in said[-1]


def test_reading_is_using(cache: TextCache) -> None:
    cache.features(TEXT)
    first = the_file(cache)
    cache.features(replace(TEXT, seed=1))
    (second,) = set(cache.folder.glob("texts-*.safetensors")) - {first}
    os.utime(first, (1e9, 1e9))
    os.utime(second, (1e9 + 1, 1e9 + 1))
    cache.features(TEXT)
    make_room(cache.folder, 0, limit=5000, kept=(), say=print)
    assert first.exists()
    assert not second.exists()


def test_what_killed_processes_left_goes(cache: TextCache) -> None:
    cache.features(TEXT)
    path = the_file(cache)
    path.unlink()
    leftover = path.with_name(f".{path.name}.0123.tmp")
    leftover.write_bytes(b"half")
    assert [entry.path for entry in cache_files.cached_entries(cache.folder)] == [path]
    cache.features(TEXT)
    assert not leftover.exists()
