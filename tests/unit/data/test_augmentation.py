from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from scipy import stats

from clip_pkg.data.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    CROP_LEFT,
    CROP_TOP,
    DRAWS,
    FLIP_HORIZONTAL,
    FLIP_VERTICAL,
    Augmentation,
    _cut_by_index,
    _cut_by_slices,
)
from clip_pkg.data.pixel_store import store_size
from clip_pkg.data.sampling import StreamKey, uniforms

MEAN, STD = (0.48, 0.45, 0.40), (0.27, 0.26, 0.28)
KEY = StreamKey(5, 1, 1, "augmentation")


def build(policy="standard", size=28, **options) -> Augmentation:
    options = {"horizontal_flip": policy != "none"} | options
    return Augmentation(policy, img_size=size, mean=MEAN, std=STD, **options)


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def pixels_for(augmentation: Augmentation, count: int, seed: int = 0) -> torch.Tensor:
    side = augmentation.store_size
    rng = np.random.default_rng(seed)
    # from all black over mid-tones to all white, so that clamping happens on both sides
    levels = np.linspace(0, 255, count)[:, None, None, None]
    noise = rng.normal(levels, 60, size=(count, side, side, 3))
    return torch.from_numpy(noise.clip(0, 255).astype(np.uint8))


def draws_for(index: np.ndarray, key: StreamKey = KEY) -> torch.Tensor:
    return torch.from_numpy(uniforms(key, index, DRAWS))


def slow_reference(
    augmentation: Augmentation, image: torch.Tensor, u: torch.Tensor
) -> torch.Tensor:
    """One image through torchvision, with the same parameters."""
    side, size = augmentation.store_size, augmentation.img_size
    result = image.permute(2, 0, 1)
    top, left = (int(u[column] * (side - size + 1)) for column in (CROP_TOP, CROP_LEFT))
    result = reference.crop(result, top, left, size, size)
    if augmentation.horizontal_flip and u[FLIP_HORIZONTAL] < 0.5:
        result = reference.hflip(result)
    if augmentation.vertical_flip and u[FLIP_VERTICAL] < 0.5:
        result = reference.vflip(result)
    result = reference.convert_image_dtype(result, torch.float32)
    if augmentation.jitters:
        result = reference.adjust_brightness(result, 0.8 + 0.4 * float(u[BRIGHTNESS]))
        result = reference.adjust_contrast(result, 0.8 + 0.4 * float(u[CONTRAST]))
    return reference.normalize(result, list(MEAN), list(STD))


@pytest.mark.parametrize("policy", ["none", "minimal", "standard"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_equals_torchvision_image_by_image(policy, channels_last) -> None:
    augmentation = build(
        policy, horizontal_flip=True, vertical_flip=True, memory_format=layout(channels_last)
    )
    images, u = pixels_for(augmentation, 24), draws_for(np.arange(24))
    before = images.clone()
    batch = augmentation.train(images, u)
    assert batch.dtype == torch.float32
    assert batch.shape == (24, 3, 28, 28)
    assert batch.is_contiguous(memory_format=layout(channels_last))
    for row in range(24):
        expected = slow_reference(augmentation, images[row], u[row])
        torch.testing.assert_close(batch[row], expected, atol=1e-5, rtol=0)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("size", "channels_last"), [(28, False), (224, True)])
def test_evaluation_is_the_centre(size: int, channels_last: bool) -> None:
    augmentation = build("standard", size, memory_format=layout(channels_last))
    images = pixels_for(augmentation, 3)
    start = (augmentation.store_size - size) // 2
    for image, result in zip(images, augmentation.evaluate(images), strict=True):
        crop = reference.crop(image.permute(2, 0, 1), start, start, size, size)
        expected = reference.normalize(reference.convert_image_dtype(crop), list(MEAN), list(STD))
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_large_images_stay_within_tolerance() -> None:
    augmentation = build("standard", 224, memory_format=torch.channels_last)
    images, u = pixels_for(augmentation, 2, seed=1), draws_for(np.arange(2))
    for row, result in enumerate(augmentation.train(images, u)):
        expected = slow_reference(augmentation, images[row], u[row])
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_crops_and_flips_copy_pixels_exactly() -> None:
    augmentation = build(vertical_flip=True)
    images, u = pixels_for(augmentation, 40), draws_for(np.arange(40))
    placement = augmentation.placement(u)
    by_slices = _cut_by_slices(images, placement, 28)
    assert by_slices.dtype == torch.uint8
    assert torch.equal(by_slices, _cut_by_index(images, placement, 28))
    for row in range(40):
        top, left = int(placement.top[row]), int(placement.left[row])
        square = images[row].numpy()[top : top + 28, left : left + 28]
        if placement.mirrored[row]:
            square = square[:, ::-1]
        if placement.upside_down[row]:
            square = square[::-1]
        np.testing.assert_array_equal(by_slices[row].numpy(), square)


@pytest.mark.parametrize("channels_last", [True, False])
def test_an_image_is_the_same_in_any_company(channels_last: bool) -> None:
    augmentation = build(vertical_flip=True, memory_format=layout(channels_last))
    index = np.arange(24)
    images, u = pixels_for(augmentation, 24), draws_for(index)
    together = augmentation.train(images, u)
    for row in (0, 7, 23):
        alone = augmentation.train(images[row : row + 1], draws_for(index[row : row + 1]))
        assert torch.equal(alone[0], together[row])
    turned = augmentation.train(images.flip(0), draws_for(index[::-1].copy()))
    assert torch.equal(turned.flip(0), together)


def test_crops_flips_and_factors_are_uniform() -> None:
    augmentation = build(vertical_flip=True)
    u = draws_for(np.arange(20_000))
    placement = augmentation.placement(u)
    for offsets in (placement.top, placement.left):
        counts = np.bincount(offsets.numpy())
        assert len(counts) == augmentation.store_size - 28 + 1
        assert stats.chisquare(counts).pvalue > 1e-4
    for flips in (placement.mirrored, placement.upside_down):
        assert stats.binomtest(int(flips.sum()), 20_000).pvalue > 1e-4
    pairs = placement.mirrored.long() * 2 + placement.upside_down.long()
    assert stats.chisquare(np.bincount(pairs.numpy())).pvalue > 1e-4


@pytest.mark.parametrize("horizontal", [True, False])
@pytest.mark.parametrize("vertical", [True, False])
def test_flips_can_be_chosen_one_by_one(horizontal, vertical) -> None:
    augmentation = build("none", horizontal_flip=horizontal, vertical_flip=vertical)
    placement = augmentation.placement(draws_for(np.arange(200)))
    assert bool(placement.mirrored.any()) == horizontal
    assert bool(placement.upside_down.any()) == vertical


def test_turning_flips_off_leaves_the_crops_alone() -> None:
    u = draws_for(np.arange(50))
    with_flips, without = build().placement(u), build(horizontal_flip=False).placement(u)
    assert torch.equal(with_flips.top, without.top)
    assert torch.equal(with_flips.left, without.left)


@pytest.mark.parametrize("policy", ["none", "minimal"])
def test_nothing_is_cut_off_without_crops(policy) -> None:
    augmentation = build(policy)
    assert augmentation.store_size == 28
    placement = augmentation.placement(draws_for(np.arange(100)))
    assert not placement.top.any()
    assert not placement.left.any()


@pytest.mark.parametrize("level", [0, 255])
def test_flat_images_stay_finite(level: int) -> None:
    augmentation = build()
    side = augmentation.store_size
    images = torch.full((64, side, side, 3), level, dtype=torch.uint8)
    result = augmentation.train(images, draws_for(np.arange(64)))
    assert torch.isfinite(result).all()


def test_jitter_under_autocast_is_not_rounded() -> None:
    augmentation = build()
    images, u = pixels_for(augmentation, 8), draws_for(np.arange(8))
    plain = augmentation.train(images, u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmentation.train(images, u), plain)


def test_pixels_of_another_size_or_type_are_our_mistake() -> None:
    augmentation = build()
    with pytest.raises(AssertionError, match="need"):
        augmentation.evaluate(torch.zeros(1, 28, 28, 3, dtype=torch.uint8))
    with pytest.raises(AssertionError, match="uint8"):
        augmentation.evaluate(torch.zeros(1, 32, 32, 3))


def test_store_sizes() -> None:
    assert store_size(224, "standard") == 256
    assert store_size(336, "standard") == 384
    assert store_size(8, "standard") == 9
    assert store_size(224, "none") == store_size(224, "minimal") == 224
