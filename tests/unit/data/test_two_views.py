"""Two views: matrices against torchvision, and numbers that belong to an image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from clip_pkg.data import two_views
from clip_pkg.data.pixel_sources import HostPixels
from clip_pkg.data.two_views import DRAWS, SimClrViews, TwoViewBatches, resampling_weights
from support.array_store import ArrayStore

SIZE, TARGET = 24, 16
# Draws that change nothing but the crop: no flip, no jitter, no grey, no blur.
PLAIN = {
    two_views.FLIP_HORIZONTAL: 0.9,
    two_views.FLIP_VERTICAL: 0.9,
    two_views.JITTERED: 0.9,
    two_views.GREYED: 0.9,
    two_views.BLURRED: 0.9,
}


def simclr(size: int = TARGET, **settings: object) -> SimClrViews:
    defaults = {"mean": (0, 0, 0), "std": (1, 1, 1), "smallest_crop": 0.2, "vertical_flip": True}
    return SimClrViews(img_size=size, **{**defaults, **settings})


def draws(count: int, seed: int = 0, **changes: float) -> Tensor:
    numbers = torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed)).double()
    for column, value in {
        **PLAIN,
        **{getattr(two_views, k): v for k, v in changes.items()},
    }.items():
        numbers[:, column] = value
    return numbers


def images(count: int, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def planes(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("length", [7, 16, 24])
def test_resampling_whole_pixels_is_that_of_torchvision(length: int) -> None:
    values = planes(images(3))
    start = torch.tensor([0.0, 0.0, 0.0])
    keep = torch.zeros(3, dtype=torch.bool)
    weights = resampling_weights(start, torch.full((3,), float(length)), keep, length, TARGET)
    mine = weights[:, None] @ (values[..., :length, :length] @ weights[:, None].transpose(2, 3))
    theirs = tv.resize(values[..., :length, :length], [TARGET, TARGET], antialias=True)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_a_plain_view_of_the_whole_image_is_the_image() -> None:
    whole = simclr(SIZE, smallest_crop=1.0)
    view = whole.train(images(5), draws(5, RATIO=0.5))
    torch.testing.assert_close(view, planes(images(5)), atol=1e-5, rtol=0)


def test_flips_turn_the_image() -> None:
    whole = simclr(SIZE, smallest_crop=1.0)
    turned = whole.train(images(5), draws(5, RATIO=0.5, FLIP_HORIZONTAL=0.1, FLIP_VERTICAL=0.1))
    torch.testing.assert_close(turned, planes(images(5)).flip(2, 3), atol=1e-5, rtol=0)
    kept = simclr(SIZE, smallest_crop=1.0, horizontal_flip=False, vertical_flip=False)
    view = kept.train(images(5), draws(5, RATIO=0.5, FLIP_HORIZONTAL=0.1, FLIP_VERTICAL=0.1))
    torch.testing.assert_close(view, planes(images(5)), atol=1e-5, rtol=0)


def test_crops_have_the_areas_and_shapes_that_were_asked_for() -> None:
    numbers = draws(4000, AREA=0.0).float()
    rows, columns = simclr()._resampling(numbers, 100)
    centres = torch.arange(100) + 0.5
    height, width = (
        ((side[:, -1] * centres).sum(1) - (side[:, 0] * centres).sum(1)) * TARGET / (TARGET - 1)
        for side in (rows, columns)
    )
    area = height * width / 100**2
    torch.testing.assert_close(area, torch.full_like(area, 0.2), rtol=0.1, atol=0)
    ratio = (width / height).sort().values
    assert 0.70 < ratio[0] < 0.78
    assert 1.29 < ratio[-1] < 1.42
    assert ratio.log().mean().abs() < 0.02


def jittered(column: str, factor: float) -> Tensor:
    """What the jitter of one factor alone makes of whole images."""
    neutral = {"BRIGHTNESS": 0.5, "CONTRAST": 0.5, "SATURATION": 0.5, "HUE": 0.5}
    place = (factor / two_views.JITTER + 1) / 2
    numbers = draws(5, RATIO=0.5, JITTERED=0.1, **{**neutral, column: place})
    return simclr(SIZE, smallest_crop=1.0).train(images(5), numbers)


@pytest.mark.parametrize("change", [-0.3, 0.0, 0.35])
def test_brightness_contrast_and_saturation_are_those_of_torchvision(change: float) -> None:
    values = planes(images(5))
    for column, function in (
        ("BRIGHTNESS", tv.adjust_brightness),
        ("CONTRAST", tv.adjust_contrast),
        ("SATURATION", tv.adjust_saturation),
    ):
        torch.testing.assert_close(
            jittered(column, change), function(values, 1 + change), atol=2e-3, rtol=0
        )


def test_hue_turns_the_colours_and_leaves_luma_and_grey() -> None:
    numbers = {"BRIGHTNESS": 0.5, "CONTRAST": 0.5, "SATURATION": 0.5, "HUE": 1.0}
    colours = torch.tensor([[[[150, 120, 110], [128, 128, 128]], [[110, 130, 120], [90, 90, 90]]]])
    whole = simclr(2, smallest_crop=1.0)
    pixels = colours.to(torch.uint8)
    turned = whole.train(pixels, draws(1, RATIO=0.5, JITTERED=0.1, **numbers))
    luma = torch.tensor(two_views.GREY_WEIGHTS)[:, None, None]
    torch.testing.assert_close(
        (turned * luma).sum(1), (planes(pixels) * luma).sum(1), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(turned[..., 1], planes(pixels)[..., 1], atol=1e-3, rtol=0)
    assert (turned - planes(pixels)).abs().max() > 0.03


def test_grey_views_have_no_colour() -> None:
    view = simclr().train(images(4), draws(4, GREYED=0.1))
    torch.testing.assert_close(view[:, 0], view[:, 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(view[:, 0], view[:, 2], atol=1e-3, rtol=0)


def test_large_images_are_blurred_and_small_ones_are_not() -> None:
    for size, differs in ((64, False), (96, True)):
        views, numbers = simclr(size, smallest_crop=1.0), {"RATIO": 0.5, "SIGMA": 1.0}
        sharp = views.train(images(2, size), draws(2, **numbers))
        blurred = views.train(images(2, size), draws(2, **numbers, BLURRED=0.1))
        assert torch.equal(sharp, blurred) != differs
    sigma = 2.0 * 96 / 224
    theirs = tv.gaussian_blur(planes(images(2, 96)), [15, 15], [sigma, sigma])
    inside = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(blurred[inside], theirs[inside], atol=1e-3, rtol=0)


def batches(indices: np.ndarray, size: int = 4) -> TwoViewBatches:
    source = HostPixels(ArrayStore(images(20).numpy()), torch.device("cpu"))
    return TwoViewBatches(
        source, np.arange(20) % 3, indices, batch_size=size, views=simclr(), seed=7, fold=1
    )


def by_image(made: TwoViewBatches, epoch: int) -> dict[float, tuple[Tensor, Tensor]]:
    """Views of an epoch by the image that they are of, which their order tells."""
    order = made_order(made, epoch)
    found = list(made.epoch(epoch))
    first, second = (torch.cat([getattr(b, name) for b in found]) for name in ("first", "second"))
    return dict(zip(order, zip(first, second, strict=True), strict=True))


def made_order(made: TwoViewBatches, epoch: int) -> list[float]:
    order = two_views.epoch_order(
        made._labels[made._indices], None, seed=7, fold=1, epoch=epoch, batch_size=99
    )
    return made._indices[order[: len(made) * made.batch_size]].tolist()


def test_views_of_an_image_do_not_depend_on_who_else_is_there() -> None:
    some, all_of_them = batches(np.arange(0, 20, 2), 5), batches(np.arange(20), 10)
    mine, theirs = by_image(some, 3), by_image(all_of_them, 3)
    assert mine.keys() <= theirs.keys()
    for image, (first, second) in mine.items():
        torch.testing.assert_close(first, theirs[image][0])
        torch.testing.assert_close(second, theirs[image][1])
        assert not torch.allclose(first, second)
    again = by_image(batches(np.arange(20), 10), 4)
    assert not any(torch.allclose(again[image][0], theirs[image][0]) for image in again)


def test_the_last_batch_is_left_out_unless_it_is_full() -> None:
    assert len(batches(np.arange(19), 4)) == 4
    shown = list(batches(np.arange(19), 4).epoch(1))
    assert [len(batch.first) for batch in shown] == [4] * 4
    few = batches(np.arange(3), 8)
    assert len(few) == 1
    assert len(next(few.epoch(1)).first) == 3


def test_labels_are_those_of_the_images() -> None:
    made = batches(np.arange(20), 10)
    targets = torch.cat([batch.targets for batch in made.epoch(2)])
    assert targets.tolist() == [image % 3 for image in made_order(made, 2)]
