"""Exports that are pushed to a hub on this machine, and to none."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from clip_pkg.cli import main
from clip_pkg.models import hub


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for."""

    created: ClassVar[list[Any]] = []
    files: ClassVar[dict[str, bytes]] = {}
    status: ClassVar[int] = 200

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/me/mine"
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": address})
        elif "/preupload/" in self.path:
            asked = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self.answer({"commitUrl": f"{address}/commit/1", "commitOid": "1"})
        else:
            self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer({})

    def answer(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def local_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    hub.is_reachable.cache_clear()
    Hub.created, Hub.files, Hub.status = [], {}, 200
    yield Hub
    hub.is_reachable.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture
def push(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Export a small model and push it; returns what was printed."""

    def call(check: int = 0) -> str:
        words = ["--output", str(tmp_path / "mine"), "--format", "safetensors"]
        code = main(["export", str(run / "clip"), *words, "--push-to-hub", "me/mine"])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        return shown.out + shown.err

    return call


def test_the_whole_folder_is_pushed_to_a_private_repository(
    local_hub: type[Hub], push: Callable[..., str], tmp_path: Path
) -> None:
    assert "Uploaded to http://127.0.0.1" in push()
    (created,) = local_hub.created
    assert (created["organization"], created["name"]) == ("me", "mine")
    assert created.get("private") or created.get("visibility") == "private"
    here = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert local_hub.files == here
    assert set(here) == {"model.safetensors", "config.json", "README.md"}


def test_a_hub_that_refuses_is_a_sentence_and_the_export_stays(
    local_hub: type[Hub], push: Callable[..., str], tmp_path: Path
) -> None:
    local_hub.status = 401
    shown = push(check=2)
    assert "--push-to-hub: me/mine: " in shown
    assert "hf auth login" in shown
    assert (tmp_path / "mine/model.safetensors").exists()


def test_without_a_network_nothing_is_exported(
    push: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hub.is_reachable.cache_clear()
    try:
        shown = push(check=2)
    finally:
        hub.is_reachable.cache_clear()
    assert "not reachable" in shown
    assert "hf upload me/mine FOLDER" in shown
    assert not (tmp_path / "mine").exists()
