"""Images decoded while training give the pixels of a store, and leave nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from clip_pkg.base.errors import DataError
from clip_pkg.data.image_decoder import BATCHES_AHEAD, ImageDecoder
from clip_pkg.data.pixel_sources import HostPixels, StreamedPixels, open_pixels
from clip_pkg.data.pixel_store import PixelStore, build_store
from clip_pkg.study.manifest import Manifest
from support.outcomes import alive

MakeImages = Callable[..., Manifest]
CPU = torch.device("cpu")


@pytest.fixture
def manifest(make_images: MakeImages) -> Manifest:
    return make_images({"good place": 40, "松动": 30})


@pytest.fixture(params=[0, 2])
def decoder(request: pytest.FixtureRequest, manifest: Manifest) -> Iterator[ImageDecoder]:
    with closing(ImageDecoder(manifest, 16, workers=request.param)) as made:
        yield made


def test_pixels_are_those_of_a_store(
    decoder: ImageDecoder, manifest: Manifest, tmp_path: Path
) -> None:
    store = PixelStore.open(build_store(manifest, 16, tmp_path / "cache"), manifest)
    source = open_pixels(decoder, CPU)
    assert isinstance(source, HostPixels)
    rng = np.random.default_rng(0)
    for order, size in ((rng.permutation(70), 8), (rng.integers(0, 70, 150), 64)):
        found = list(source.stream(order, size))
        expected = list(HostPixels(store, CPU).stream(order, size))
        assert len(found) == len(expected)
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    store.close()


def test_an_image_that_changed_or_broke_is_named(decoder: ImageDecoder, manifest: Manifest) -> None:
    chunks = [np.array([number]) for number in (3, 50, 4)]
    content = manifest.file(50).read_bytes()
    for harm, message in (
        (lambda file: file.write_bytes(b"other"), "changed since the images were checked"),
        (lambda file: file.unlink(), "does not exist"),
    ):
        harm(manifest.file(50))
        batches = decoder.batches(chunks)
        next(batches)
        with pytest.raises(DataError, match=f"松动/010.jpg: {message}"):
            list(batches)
        manifest.file(50).write_bytes(content)
        assert len(list(decoder.batches(chunks))) == 3  # later batches are not affected


def test_only_a_few_batches_are_ahead(manifest: Manifest) -> None:
    asked = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal asked
        for number in range(60):
            asked += 1
            yield np.array([number])

    with closing(ImageDecoder(manifest, 16, workers=2)) as decoder:
        for used, _ in enumerate(decoder.batches(chunks()), start=1):
            assert asked == min(60, used + 1 + BATCHES_AHEAD)
            if used == 20:
                break


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_processes_start_when_needed_and_end_with_the_fold(manifest: Manifest) -> None:
    before, threads = children(), threading.active_count()
    decoder = ImageDecoder(manifest, 16, workers=2)
    assert children() == before
    batches = decoder.batches([np.arange(70)] * 9)
    next(batches)
    assert len(children() - before) == 2
    decoder.close()
    assert children() == before
    assert threading.active_count() == threads
    decoder.close()  # twice is fine


def test_a_killed_process_is_reported(manifest: Manifest) -> None:
    before = children()
    with closing(ImageDecoder(manifest, 16, workers=2)) as decoder:
        batches = decoder.batches([np.arange(70)] * 50)
        next(batches)
        for child in children() - before:
            child.terminate()  # SIGTERM is meant for the trainer
        next(batches)
        for child in children() - before:
            child.kill()
        with pytest.raises(ChildProcessError, match="lower `num_workers`"):
            list(batches)


STREAM = """
import json, sys, time
from pathlib import Path
import numpy as np
from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.study.manifest import Manifest
if __name__ == "__main__":
    manifest = Manifest.from_json(json.loads(Path(sys.argv[1]).read_text()))
    for _ in ImageDecoder(manifest, 16, workers=2).batches([np.arange(70)] * 10**6):
        print("on", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(
    manifest: Manifest, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_json()))
    parent = subprocess.Popen(
        [sys.executable, "-c", STREAM, tmp_path / "manifest.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "on\n"
    mine = psutil.Process(parent.pid).children()
    assert len(mine) == 2
    parent.send_signal(how)
    parent.communicate(timeout=30)
    assert not alive(mine, 20)


def test_no_torch_is_imported() -> None:
    modules = "clip_pkg.data.image_decoder, clip_pkg.data.pixel_store"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_on_cuda_are_the_same(decoder: ImageDecoder) -> None:
    source = open_pixels(decoder, torch.device("cuda"))
    assert isinstance(source, StreamedPixels)
    order = np.random.default_rng(1).permutation(70)
    expected = list(HostPixels(decoder, CPU).stream(order, 16))
    for here, there in zip(expected, source.stream(order, 16), strict=True):
        assert torch.equal(here, there.cpu())
