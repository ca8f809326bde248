"""Batches of two augmented views of each image, computed on the device of the images.

Legend: M training images, B images of a batch, S size of the stored squares, H size of the
encoder's inputs.

A view is linear in the pixels up to one clamp at its end: cropping, resampling and blurring are one
matrix for the rows and one for the columns of an image, brightness, contrast, saturation, hue and
grey one matrix for its colours. So a view costs three matrix products, on a CPU as on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.augmentation import FLIP_PROBABILITY, GREY_WEIGHTS, Augmentation
from clip_pkg.data.pixel_sources import PixelSource
from clip_pkg.data.sampling import StreamKey, epoch_order, uniforms
from clip_pkg.losses.functional.numerics import widest_float

# Columns of `uniforms`; all are always drawn, as in `augmentation`.
(
    AREA,
    RATIO,
    TOP,
    LEFT,
    FLIP_HORIZONTAL,
    FLIP_VERTICAL,
    JITTERED,
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    HUE,
    GREYED,
    BLURRED,
    SIGMA,
) = range(14)
DRAWS = 14

WIDEST = 4 / 3  # width / height of a crop lies between 1 / WIDEST and WIDEST
JITTER_PROBABILITY, GREY_PROBABILITY, BLUR_PROBABILITY = 0.8, 0.2, 0.5
JITTER = 0.4  # brightness, contrast and saturation factors lie in [1 − JITTER, 1 + JITTER]
HUE_TURN = 0.1  # of a full turn, in either direction
SMALLEST_BLURRED = 64  # pixels; smaller images are never blurred, as in Chen et al. for CIFAR-10
SIGMAS = (0.1, 2.0)  # pixels of an image of 224
# RGB → luma and two colour differences (the axes of NTSC), whose plane the hue turns.
YIQ = (GREY_WEIGHTS, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class SimClrViews:
    """Augmentations of Chen et al. 2020 (arXiv:2002.05709, appendix A), colours at half strength.

    A crop of `smallest_crop` … 1 of the area with aspect ratio 3/4 … 4/3, clipped to the image;
    flips; brightness, contrast and saturation by ±40 % and hue by ±0.1 of a turn, together with
    probability 0.8; grey with probability 0.2; above 64 pixels, Gaussian blur with probability 0.5.
    Resampling is linear, and antialiased when shrinking. Unlike in torchvision, colour changes have
    a fixed order, values are clamped to [0, 1] once, at the end, and hue turns about the grey axis,
    so that all colour changes are one matrix.

    img_size: H. mean, std: [3] of the encoder.
    """

    draws = DRAWS

    def __init__(
        self,
        *,
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        smallest_crop: float,
        horizontal_flip: bool = True,
        vertical_flip: bool = False,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.img_size = img_size
        self._smallest_crop = smallest_crop
        self._horizontal_flip = horizontal_flip
        self._vertical_flip = vertical_flip
        self._format = memory_format
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)[None, :, None]
        self._std = torch.tensor(std, dtype=torch.float32, device=device)[None, :, None]
        self._yiq = torch.tensor(YIQ, dtype=torch.float32, device=device)
        self._rgb = torch.linalg.inv(self._yiq)

    def train(self, images: Tensor, uniforms: Tensor) -> Tensor:
        draws = uniforms.to(torch.float32)
        rows, columns = self._resampling(draws, images.shape[1])
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        view = rows[:, None] @ (planes @ columns[:, None].transpose(2, 3))
        flat = view.flatten(2).div_(255)
        colours, shift = self._colours(draws, flat.mean(dim=2))
        flat = torch.baddbmm(shift, colours, flat).clamp_(0, 1).sub_(self._mean).div_(self._std)
        return flat.view_as(view).contiguous(memory_format=self._format)

    def _resampling(self, draws: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Weights [B, H, S] of the stored rows in each row of the view, and of the columns."""
        area = size**2 * torch.lerp(
            draws.new_tensor(self._smallest_crop), draws.new_tensor(1.0), draws[:, AREA]
        )
        ratio = torch.exp(math.log(WIDEST) * (2 * draws[:, RATIO] - 1))
        height = (area / ratio).sqrt().clamp(max=size)
        width = (area * ratio).sqrt().clamp(max=size)
        blur = None
        if self.img_size > SMALLEST_BLURRED:  # Gaussian weights [B, H, H], normalised at borders
            low, high = SIGMAS
            sigma = (low + (high - low) * draws[:, SIGMA]) * self.img_size / 224
            sigma = torch.where(draws[:, BLURRED] < BLUR_PROBABILITY, sigma, 1e-3)
            place = torch.arange(self.img_size, dtype=torch.float32, device=draws.device)
            distance = (place[:, None] - place) ** 2
            blur = torch.exp(-distance / (2 * sigma.square())[:, None, None])
            blur = blur / blur.sum(dim=2, keepdim=True)
        axes = []
        for length, start, flip, allowed in (
            (height, TOP, FLIP_VERTICAL, self._vertical_flip),
            (width, LEFT, FLIP_HORIZONTAL, self._horizontal_flip),
        ):
            flipped = (draws[:, flip] < FLIP_PROBABILITY) & allowed
            weights = resampling_weights(
                (size - length) * draws[:, start], length, flipped, size, self.img_size
            )
            axes.append(weights if blur is None else blur @ weights)
        return axes[0], axes[1]

    def _colours(self, draws: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices [B, 3, 3] and shifts [B, 3, 1] of the colours; mean: [B, 3] of each image."""
        jittered = (draws[:, JITTERED] < JITTER_PROBABILITY).float()
        factors = 1 + jittered[:, None] * JITTER * (2 * draws[:, BRIGHTNESS : SATURATION + 1] - 1)
        brightness, contrast, saturation = factors[:, :, None, None].unbind(dim=1)
        turn = 2 * math.pi * HUE_TURN * jittered * (2 * draws[:, HUE] - 1)
        saturation = saturation * (draws[:, GREYED] >= GREY_PROBABILITY)[:, None, None]
        # Contrast moves colours away from the image's mean luma, grey itself, which stays grey.
        luma = (mean * self._yiq[0]).sum(dim=1)[:, None, None] * brightness
        cosine, sine = turn.cos() * saturation[:, 0, 0], turn.sin() * saturation[:, 0, 0]
        one, zero = torch.ones_like(turn), torch.zeros_like(turn)
        rotation = torch.stack(
            [one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1
        ).view(-1, 3, 3)
        colours = self._rgb @ rotation @ self._yiq
        return colours * brightness * contrast, ((1 - contrast) * luma).expand(-1, 3, 1)


def resampling_weights(
    start: Tensor, length: Tensor, flipped: Tensor, size: int, target: int
) -> Tensor:
    """Weights [B, target, size] that resample the stretch [start, start + length) of `size` pixels.

    Linear interpolation between pixel centres; a stretch longer than `target` is averaged, with the
    triangle as wide as it is in Pillow. start, length: [B], pixels. flipped: [B] bool.
    """
    place = torch.arange(target, dtype=torch.float32, device=start.device) + 0.5
    place = torch.where(flipped[:, None], target - place, place)
    scale = (length / target)[:, None]
    centre = start[:, None] + place * scale
    pixels = torch.arange(size, dtype=torch.float32, device=start.device) + 0.5
    # Beyond the outermost centres, the outermost pixel is repeated.
    centre = centre.clamp(0.5, size - 0.5)
    distance = (pixels - centre[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]
    weights = (1 - distance).clamp_(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


@dataclass(frozen=True)
class TwoViews:
    """One batch, all on the device.

    first, second: float32 [B, 3, H, H], normalised. targets: int64 [B], classes.
    """

    first: Tensor
    second: Tensor
    targets: Tensor


class TwoViewBatches:
    """Two views of the images at `indices` [M]; each `epoch(number)` is a function of its number.

    source: pixels of all N images. labels: int64 [N]. An incomplete last batch is dropped, so that
    every batch has equally many negatives; with fewer than `batch_size` images, a batch is all of
    them. A view depends only on (seed, fold, epoch, which of the two, image).
    """

    def __init__(
        self,
        source: PixelSource,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        views: Augmentation | SimClrViews,
        seed: int,
        fold: int,
    ) -> None:
        self.batch_size = min(batch_size, len(indices))
        self._source = source
        self._labels = labels
        self._indices = indices
        self._views = views
        self._seed = seed
        self._fold = fold

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._indices) // self.batch_size

    def epoch(self, number: int) -> Iterator[TwoViews]:
        """Batches of epoch `number`, which counts from 1."""
        order = epoch_order(
            self._labels[self._indices],
            None,
            seed=self._seed,
            fold=self._fold,
            epoch=number,
            batch_size=len(self._indices),
        )
        index = self._indices[order[: len(self) * self.batch_size]]
        device = self._source.device
        keys = [StreamKey(self._seed, self._fold, number, f"view {view}") for view in (1, 2)]
        draws = [
            torch.from_numpy(uniforms(key, index, self._views.draws)).to(widest_float(device))
            for key in keys
        ]
        batches = zip(
            self._source.stream(index, self.batch_size),
            *(torch.split(rows.to(device), self.batch_size) for rows in draws),
            torch.split(torch.tensor(self._labels[index], device=device), self.batch_size),
            strict=True,
        )
        for pixels, of_first, of_second, targets in batches:
            first, second = (self._views.train(pixels, draw) for draw in (of_first, of_second))
            yield TwoViews(first, second, targets)
