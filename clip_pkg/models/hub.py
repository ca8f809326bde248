"""The Hugging Face hub: its cache, whether it is reachable, and downloads."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from clip_pkg.base.errors import WeightsError

_TIMEOUT_SECONDS = 5.0


@cache
def is_reachable() -> bool:
    """Whether the hub (or the mirror in HF_ENDPOINT) responds; checked once per process.

    Without this check huggingface_hub retries for half a minute per file on a machine without a
    network. False if HF_HUB_OFFLINE=1.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  the hub's
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # an error response is a response
    except (OSError, ValueError):
        return False
    return True


def address(repo: str) -> str:
    return f"{constants.ENDPOINT}/{repo}"


def cached_file(repo: str, filenames: Sequence[str], cache_dir: Path | None = None) -> Path | None:
    """First of `filenames` in the cache of `repo`, or None."""
    for filename in filenames:
        try:
            found = huggingface_hub.try_to_load_from_cache(repo, filename, cache_dir=cache_dir)
        except ValueError:  # not a valid repository name
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def fetch_file(repo: str, filenames: Sequence[str]) -> Path:
    """Download the first of `filenames` that exists in `repo`. Raises WeightsError."""
    for filename in filenames:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, filename))
        except LocalEntryNotFoundError as error:  # no connection
            raise _refused(repo, error) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the HTTP library of huggingface_hub differs by version
            raise _refused(repo, error) from error
    raise WeightsError(f"{address(repo)} contains none of {', '.join(filenames)}")


def fetch_folder(repo: str, patterns: Sequence[str]) -> Path:
    """Download the matching files of `repo`. Raises WeightsError."""
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception as error:  # as above
        raise _refused(repo, error) from error


def url_places(url: str) -> tuple[Path, ...]:
    """Where open_clip, OpenAI's clip and torch.hub cache a file from `url`."""
    name = url.rsplit("/", 1)[-1]
    return (
        Path("~/.cache/clip").expanduser() / name,
        Path(torch.hub.get_dir()) / "checkpoints" / name,
    )


def fetch_url(url: str) -> Path:
    """Download to torch.hub's cache. Raises WeightsError.

    OpenAI's URLs contain the SHA-256 of the file, which is verified.
    """
    target = url_places(url)[-1]
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(partial), progress=False)
        expected = url.split("/")[-2]
        if len(expected) == 64 and _sha256(partial) != expected:
            raise WeightsError(f"{url}: the download is damaged (its SHA-256 differs); try again")
        partial.replace(target)
    except (OSError, ValueError) as error:
        raise _refused(url, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(what: str, error: Exception) -> WeightsError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return WeightsError(f"{what} cannot be downloaded: {lines[0]}")
