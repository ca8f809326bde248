from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

from clip_pkg.base.errors import WeightsError
from clip_pkg.config.encoders import parse_image_encoder, parse_text_encoder
from clip_pkg.models import hub
from clip_pkg.models.families import assets
from clip_pkg.models.weights import WeightsRequest, missing_weights, obtain, prefetch


def image(name: str, weights_dir: Path | None = None) -> WeightsRequest:
    return WeightsRequest(parse_image_encoder(name), "image", weights_dir)


def text(name: str, weights_dir: Path | None = None) -> WeightsRequest:
    return WeightsRequest(parse_text_encoder(name), "text", weights_dir)


@pytest.mark.usefixtures("no_network")
def test_everything_missing_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "resnet34.safetensors").touch()
    requests = [
        image("resnet18"),
        text("clip:ViT-B/32"),
        image("resnet18"),
        image("resnet34", tmp_path),
        image("resnet50:scratch"),
        text("bert-base-chinese"),
        text("prompts"),
        text("clip:ViT-B-16-SigLIP"),
    ]
    missing = missing_weights(requests)
    assert [(item.encoder, item.what) for item in missing] == [
        ("resnet18", "pretrained weights resnet18.a1_in1k"),
        ("clip:ViT-B/32", "pretrained weights openai of ViT-B-32"),
        ("bert-base-chinese", "configuration, weights, tokenizer of bert-base-chinese"),
        ("clip:ViT-B-16-SigLIP", "pretrained weights webli of ViT-B-16-SigLIP"),
        ("clip:ViT-B-16-SigLIP", "the tokenizer timm/ViT-B-16-SigLIP"),
    ]
    assert "prefetch" in str(missing[0])
    assert "as resnet18.safetensors" in str(missing[0])
    assert '"resnet18:scratch"' in str(missing[0])


@pytest.mark.usefixtures("empty_caches")
def test_a_model_without_published_weights_says_so() -> None:
    (item,) = missing_weights([image("resnet50_mlp")])
    assert not any("prefetch" in way for way in item.ways)
    assert '"resnet50_mlp:scratch"' in str(item)


@pytest.mark.usefixtures("empty_caches")
def test_a_weights_dir_that_is_not_there_is_mentioned(tmp_path: Path) -> None:
    (item,) = missing_weights([image("resnet18", tmp_path / "absent")])
    assert f"{tmp_path}/absent (which does not exist)" in str(item)


@pytest.mark.usefixtures("no_network")
def test_prefetch_without_network_names_everything_within_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        prefetch([image("resnet18"), text("clip:ViT-B/32"), text("bert-base-chinese")])
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith("3 not available. The hub is not reachable.")
    for what in ("resnet18.a1_in1k", "openai of ViT-B-32", "bert-base-chinese"):
        assert what in message


def test_prefetch_says_what_is_here_already(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.safetensors"
    file.touch()
    lines: list[str] = []
    prefetch([image("resnet18", tmp_path), image("resnet18:scratch")], lines.append)
    assert lines == [f"resnet18: pretrained weights resnet18.a1_in1k: already at {file}"]


@pytest.mark.usefixtures("empty_caches")
def test_offline_mode_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.is_reachable.cache_clear()
    assert not hub.is_reachable()
    hub.is_reachable.cache_clear()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download of single files asks for."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        content = self.files.get(path, self.about(path))
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
            content = b""
        else:
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def about(self, path: str) -> bytes | None:
        """Answer the questions about a repository that a snapshot's download asks."""
        files = [name.partition("/resolve/main/")[2] for name in self.files]
        if path.startswith("/api/models/") and path.endswith("/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            return json.dumps({"id": "r", "sha": "1" * 40, "siblings": siblings}).encode()
        if path.startswith("/api/models/") and "/tree/" in path:
            rows = [{"type": "file", "path": n, "size": 1, "oid": "1" * 40} for n in files]
            return json.dumps(rows).encode()
        return self.files.get(path.replace("1" * 40, "main"))

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def local_hub(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.is_reachable.cache_clear()
    Hub.files = {}
    yield Hub
    hub.is_reachable.cache_clear()
    server.shutdown()
    server.server_close()


def test_missing_weights_are_fetched_from_the_hub_once(local_hub: type[Hub]) -> None:
    local_hub.files["/timm/resnet18.a1_in1k/resolve/main/pytorch_model.bin"] = b"weights"
    lines: list[str] = []
    prefetch([image("resnet18"), image("resnet18")], lines.append)
    first, second = lines
    assert "downloaded" in first
    assert "already at" in second
    assert missing_weights([image("resnet18")]) == []
    path = Path(second.rpartition("already at ")[2])
    assert path.read_bytes() == b"weights"


def test_a_transformers_model_is_fetched_with_all_its_parts(local_hub: type[Hub]) -> None:
    request = text("hf:some/bert")
    for name in ("config.json", "vocab.txt", "pytorch_model.bin", "flax_model.msgpack"):
        local_hub.files[f"/some/bert/resolve/main/{name}"] = b"x"
    prefetch([request])
    assert missing_weights([request]) == []
    (asset,) = assets(request.spec, "text")
    folder = asset.find(None)
    assert folder is not None
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_parts_that_the_hub_lacks_are_said(local_hub: type[Hub]) -> None:
    local_hub.files["/some/bert/resolve/main/config.json"] = b"x"
    with pytest.raises(WeightsError, match="some/bert lacks weights and tokenizer"):
        prefetch([text("hf:some/bert")])


def test_what_the_hub_lacks_is_said(local_hub: type[Hub]) -> None:
    request = image("resnet18")
    (asset,) = assets(request.spec, "image")
    with pytest.raises(
        WeightsError, match=r"contains none of model.safetensors, pytorch_model.bin"
    ):
        obtain(asset, request.spec, None)


def test_a_damaged_download_is_not_kept(local_hub: type[Hub], empty_caches: Path) -> None:
    local_hub.files[f"/models/{'0' * 64}/ViT.pt"] = b"other"
    local_hub.files["/models/v1/ViT.pt"] = b"right"
    with pytest.raises(WeightsError, match="damaged"):
        hub.fetch_url(f"{constants.ENDPOINT}/models/{'0' * 64}/ViT.pt")
    folder = empty_caches / "torch" / "hub" / "checkpoints"
    assert list(folder.iterdir()) == []
    assert hub.fetch_url(f"{constants.ENDPOINT}/models/v1/ViT.pt").read_bytes() == b"right"
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        hub.fetch_url(f"{constants.ENDPOINT}/models/absent.pt")
