from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.batches import Batch, EvalBatches, TrainBatches, evaluation_batch_size
from clip_pkg.data.pixel_sources import (
    HostPixels,
    ResidentPixels,
    StreamedPixels,
    one_ahead,
    open_pixels,
)
from support.array_store import ArrayStore

CPU = torch.device("cpu")
N = 45
LABELS = np.arange(N) % 3
TRAIN = np.setdiff1d(np.arange(N), np.arange(0, N, 5))  # 36 images
VAL = np.arange(0, N, 5)[::-1].copy()  # 9, in an order of their own


def store_of(side: int) -> ArrayStore:
    images = np.random.default_rng(0).integers(0, 256, (N, side, side, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(N)  # tells who is who
    return ArrayStore(images)


def augmentation_of(policy="standard", device="cpu") -> Augmentation:
    return Augmentation(
        policy,
        img_size=14,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        horizontal_flip=policy != "none",
        vertical_flip=True,
        device=device,
    )


def train_batches(source=None, *, policy="standard", batch_size=8, **options) -> TrainBatches:
    augmentation = augmentation_of(policy)
    source = source or HostPixels(store_of(augmentation.store_size), CPU)
    return TrainBatches(
        source,
        LABELS,
        TRAIN,
        batch_size=batch_size,
        augmentation=augmentation,
        **{"seed": 3, "fold": 1, **options},
    )


def by_image(batches: list[Batch]) -> list[tuple[int, torch.Tensor]]:
    return [
        (int(index), image)
        for batch in batches
        for index, image in zip(batch.index, batch.images, strict=True)
    ]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("images", "targets", "index")
    )


def test_an_epoch_shows_the_training_fold_once() -> None:
    batches = train_batches()
    epoch = list(batches.epoch(1))
    assert len(epoch) == len(batches) == 5
    assert [len(batch.targets) for batch in epoch] == [8, 8, 8, 8, 4]
    index = torch.cat([batch.index for batch in epoch]).numpy()
    np.testing.assert_array_equal(np.sort(index), TRAIN)
    for batch in epoch:
        assert batch.images.shape[1:] == (3, 14, 14)
        assert batch.images.dtype == torch.float32
        assert batch.targets.dtype == batch.index.dtype == torch.int64
        np.testing.assert_array_equal(batch.targets.numpy(), LABELS[batch.index.numpy()])


def test_pixels_belong_to_their_index() -> None:
    source = HostPixels(store_of(14), CPU)
    augmentation = Augmentation("none", img_size=14, mean=(0.0,) * 3, std=(1.0,) * 3)
    batches = TrainBatches(
        source, LABELS, TRAIN, batch_size=8, augmentation=augmentation, seed=1, fold=1
    )
    for index, image in by_image(list(batches.epoch(1))):
        assert round(float(image[0, 0, 0]) * 255) == index


def test_epochs_repeat_and_differ() -> None:
    batches = train_batches()
    first = list(batches.epoch(1))
    assert same(first, list(train_batches().epoch(1)))  # a new process would do the same
    assert not same(first, list(batches.epoch(2)))
    assert not same(first, list(train_batches(fold=2).epoch(1)))
    assert not same(first, list(train_batches(seed=4).epoch(1)))


def test_augmentation_does_not_depend_on_the_batch() -> None:
    small = dict(by_image(list(train_batches(batch_size=5).epoch(4))))
    large = dict(by_image(list(train_batches(batch_size=36).epoch(4))))
    assert set(large) == set(TRAIN.tolist())
    assert len(small) == 35  # a last batch of one is left out
    assert all(torch.equal(image, large[index]) for index, image in small.items())


def test_an_image_drawn_twice_is_augmented_anew() -> None:
    weights = np.array([1.0, 0.0, 0.0])
    views: dict[int, list[torch.Tensor]] = {}
    for index, image in by_image(list(train_batches(weights=weights).epoch(1))):
        views.setdefault(index, []).append(image)
    assert sum(len(images) for images in views.values()) == len(TRAIN)
    repeated = [images for images in views.values() if len(images) > 1]
    assert repeated
    for images in repeated:
        assert not any(torch.equal(images[0], other) for other in images[1:])


def test_weighted_epochs_draw_by_class() -> None:
    batches = train_batches(weights=np.array([1.0, 1.0, 0.0]))
    targets = torch.cat([batch.targets for batch in batches.epoch(1)])
    assert set(targets.tolist()) == {0, 1}


def test_resident_pixels_are_the_same() -> None:
    augmentation = augmentation_of()
    store = store_of(augmentation.store_size)
    resident = ResidentPixels(store, CPU)
    assert same(list(train_batches().epoch(2)), list(train_batches(resident).epoch(2)))


def test_uploading_in_parts_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_pkg.data.pixel_sources.UPLOAD_IMAGES", 7)
    store = store_of(4)
    (everything,) = ResidentPixels(store, CPU).stream(np.arange(N), N)
    np.testing.assert_array_equal(everything.numpy(), store.images)


def test_evaluation_is_complete_and_in_order() -> None:
    augmentation = augmentation_of()
    source = HostPixels(store_of(augmentation.store_size), CPU)
    batches = EvalBatches(source, LABELS, VAL, batch_size=2, augmentation=augmentation)
    assert batches.batch_size == 8
    passed = list(batches)
    assert [len(batch.index) for batch in passed] == [8, 1]  # a last batch of one image, too
    assert len(batches) == 2
    np.testing.assert_array_equal(torch.cat([batch.index for batch in passed]), VAL)
    np.testing.assert_array_equal(torch.cat([batch.targets for batch in passed]), LABELS[VAL])
    assert same(passed, list(batches))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [HostPixels, ResidentPixels])
def test_read_only_arrays_are_fine(kind) -> None:
    augmentation = augmentation_of()
    arrays = [store_of(augmentation.store_size).images, LABELS.copy(), VAL.copy()]
    for array in arrays:
        array.flags.writeable = False
    images, labels, indices = arrays
    source = kind(ArrayStore(images), CPU)
    train = TrainBatches(
        source, labels, indices, batch_size=4, augmentation=augmentation, seed=1, fold=1
    )
    assert len(list(train.epoch(1))) == 2
    held_out = EvalBatches(source, labels, indices, batch_size=4, augmentation=augmentation)
    assert len(list(held_out)) == 1


@pytest.mark.parametrize(
    ("img_size", "batch_size", "device_type", "expected"),
    [
        (224, 32, "cuda", 128),
        (224, 128, "cuda", 256),
        (224, 1000, "cuda", 1000),
        (224, 32, "cpu", 32),
        (32, 64, "cpu", 256),
    ],
)
def test_evaluation_batches_are_bounded(
    img_size: int, batch_size: int, device_type: str, expected: int
) -> None:
    assert evaluation_batch_size(batch_size, img_size, device_type) == expected


def test_exposure_is_what_the_epochs_showed() -> None:
    batches = train_batches(weights=np.array([5.0, 1.0, 1.0]))
    shown: NDArray[np.int64] = np.zeros(N, dtype=np.int64)
    for epoch in (1, 2, 3):
        for batch in batches.epoch(epoch):
            np.add.at(shown, batch.index.numpy(), 1)
    np.testing.assert_array_equal(batches.exposure(3), shown[TRAIN])
    assert batches.exposure(0).sum() == 0


def test_the_source_fits_the_device() -> None:
    store = store_of(4)
    assert isinstance(open_pixels(store, CPU), HostPixels)
    assert isinstance(open_pixels(store, CPU, resident=True), ResidentPixels)


def test_one_item_is_made_ahead() -> None:
    events: list[str] = []

    def make():
        for number in range(3):
            events.append(f"made {number}")
            yield number

    for number in one_ahead(make()):
        events.append(f"used {number}")
    assert events == ["made 0", "made 1", "used 0", "made 2", "used 1", "used 2"]
    assert list(one_ahead([])) == []
    assert list(one_ahead([5])) == [5]


class _Event:
    """Stands for a CUDA event; remembers when it was recorded and waited for."""

    recorded = 0

    def record(self, stream: object) -> None:
        _Event.recorded += 1
        self.number = _Event.recorded

    def synchronize(self) -> None:
        assert self.number == _Event.recorded - 1, "waits for the copy two batches ago"


class _Stream:
    """Stands for a CUDA stream."""

    def __init__(self, *_: object) -> None:
        self.waited: list[int] = []

    def wait_event(self, event: _Event) -> None:
        self.waited.append(event.number)


def test_two_buffers_take_turns_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU `.to(device)` returns the buffer itself, so a buffer that is filled again before
    # its batch was used would show as wrong pixels.
    consumer, buffers, empty = _Stream(), [], torch.empty

    def allocate(*shape, pin_memory: bool, **options):
        assert pin_memory
        buffers.append(empty(*shape, **options))
        return buffers[-1]

    monkeypatch.setattr(_Event, "recorded", 0)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: consumer)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    store = store_of(4)
    source = StreamedPixels(store, CPU)
    monkeypatch.setattr(torch, "empty", allocate)
    order = np.random.default_rng(1).permutation(N)
    for number, pixels in enumerate(source.stream(order, 10)):
        expected = store.images[order[10 * number : 10 * number + 10]]
        np.testing.assert_array_equal(pixels.numpy(), expected)
        assert consumer.waited[-1] == number + 1
    assert consumer.waited == [1, 2, 3, 4, 5]
    assert len(buffers) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [ResidentPixels, StreamedPixels, HostPixels])
def test_cuda_batches_equal_those_of_the_cpu(kind) -> None:
    device = torch.device("cuda")
    augmentation = augmentation_of(device=device)
    batches = TrainBatches(
        kind(store_of(augmentation.store_size), device),
        LABELS,
        TRAIN,
        batch_size=8,
        augmentation=augmentation,
        seed=3,
        fold=1,
    )
    for here, there in zip(train_batches().epoch(1), batches.epoch(1), strict=True):
        assert there.images.device.type == "cuda"
        torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-5, rtol=0)
        assert torch.equal(there.index.cpu(), here.index)
        assert torch.equal(there.targets.cpu(), here.targets)
