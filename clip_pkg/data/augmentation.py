"""Stored pixels → encoder inputs: crops, flips, brightness and contrast, normalisation.

Legend: B images, S size of the stored squares, H size of the encoder's inputs (H ≤ S), 3 channels.

Processes whole batches on their device (CPU or GPU). The parameters of an image come from its own
row of uniform numbers, and so do not depend on the rest of the batch. Brightness and contrast
follow torchvision's `adjust_brightness` and `adjust_contrast` on float images, in this order;
values stay within [0, 1] after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from clip_pkg.data.pixel_store import store_size

PolicyName: TypeAlias = Literal["none", "minimal", "standard"]

# Columns of `uniforms`. All are drawn under every policy, so that two configs with the same seed
# have the same crops even if only one of them flips.
CROP_TOP, CROP_LEFT, FLIP_HORIZONTAL, FLIP_VERTICAL, BRIGHTNESS, CONTRAST = range(6)
DRAWS = 6

FLIP_PROBABILITY = 0.5
JITTER = 0.2  # brightness and contrast factors lie in [1 − JITTER, 1 + JITTER]
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # luma of ITU-R BT.601, with torchvision's digits


@dataclass(frozen=True)
class Placement:
    """Crop and flips of each image; tensors [B] on the device of the images.

    top, left: int64, first row and column of the crop in the stored square, in pixels.
    mirrored: left and right swapped. upside_down: top and bottom swapped; both bool.
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor
    upside_down: Tensor


class InputTransform(Protocol):
    """Transforms stored images to model inputs: randomly in `train`, fixed in `evaluate`.

    img_size: H.
    """

    @property
    def img_size(self) -> int: ...

    def train(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """`uniforms`: float64 [B, DRAWS] in [0, 1)."""
        ...

    def evaluate(self, images: Tensor) -> Tensor: ...


class Augmentation:
    """The transforms of one config: random in `train`, fixed in `evaluate`.

    policy: `standard` crops a random H×H square from the stored one and varies brightness and
        contrast by ±20 %; `none` and `minimal` do neither.
    img_size: H, pixels. mean, std: [3] of the encoder, for pixel values in [0, 1].
    horizontal_flip, vertical_flip: applied to half of the images each.
    memory_format: of the result, whose shape is always [B, 3, H, H].
    """

    draws = DRAWS

    def __init__(
        self,
        policy: PolicyName,
        *,
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.img_size = img_size
        self.store_size = store_size(img_size, policy)
        self.crops = self.jitters = policy == "standard"
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self._format = memory_format
        self._mean, self._std = (self._per_row(values, device) for values in (mean, std))
        self._grey = torch.tensor(GREY_WEIGHTS, device=device)

    @property
    def varies(self) -> bool:
        """Whether the view of an image differs between epochs."""
        return self.crops or self.jitters or self.horizontal_flip or self.vertical_flip

    def train(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Augment and normalise: uint8 [B, S, S, 3] → float32 [B, 3, H, H].

        `uniforms`: float64 [B, DRAWS] in [0, 1), on the images' device; columns as named above.
        """
        self._check(images)
        result = self._floats(cut(images, self.placement(uniforms), self.img_size))
        if self.jitters:
            factors = (1 - JITTER + 2 * JITTER * uniforms).to(torch.float32)[:, :, None, None, None]
            brightness, contrast = factors[:, BRIGHTNESS], factors[:, CONTRAST]
            result.mul_(brightness).clamp_(0, 1)
            # Not a matrix product, which would run in half precision under autocast.
            grey = (result.mean(dim=(2, 3)) * self._grey).sum(dim=1)[:, None, None, None]
            result.mul_(contrast).add_((1 - contrast) * grey).clamp_(0, 1)
        return result.sub_(self._mean).div_(self._std)

    def evaluate(self, images: Tensor) -> Tensor:
        """Cut out the centre and normalise: uint8 [B, S, S, 3] → float32 [B, 3, H, H]."""
        self._check(images)
        start = (self.store_size - self.img_size) // 2
        stop = start + self.img_size
        result = self._floats(images[:, start:stop, start:stop])
        return result.sub_(self._mean).div_(self._std)

    def placement(self, uniforms: Tensor) -> Placement:
        """Crop offsets, uniform over all positions, and flips of each image."""
        places = self.store_size - self.img_size + 1
        # 0 if there is only one position
        offsets = (uniforms[:, [CROP_TOP, CROP_LEFT]] * places).long()
        flips = uniforms[:, [FLIP_HORIZONTAL, FLIP_VERTICAL]] < FLIP_PROBABILITY
        return Placement(
            top=offsets[:, 0],
            left=offsets[:, 1],
            mirrored=flips[:, 0] & self.horizontal_flip,
            upside_down=flips[:, 1] & self.vertical_flip,
        )

    def _check(self, images: Tensor) -> None:
        expected = (self.store_size, self.store_size, 3)
        assert images.dtype == torch.uint8, f"pixels are {images.dtype}, not uint8"
        assert images.shape[1:] == expected, f"images {tuple(images.shape[1:])}, need {expected}"

    def _per_row(self, values: Sequence[float], device: torch.device | str) -> Tensor:
        """Repeat [3] over one row of pixels: [1, 3, 1, H].

        In the layout of the images, so that elementwise operations run over whole rows: on a CPU, 5
        times faster than broadcasting a last dimension of 3.
        """
        row = torch.tensor(values, dtype=torch.float32, device=device).repeat(self.img_size, 1)
        return row.T[None, :, None, :].contiguous(memory_format=self._format)

    def _floats(self, pixels: Tensor) -> Tensor:
        """[B, H, H, 3] in 0..255 → new [B, 3, H, H] in [0, 1], in the configured memory format."""
        planes = pixels.permute(0, 3, 1, 2)
        return planes.to(torch.float32, memory_format=self._format, copy=True).div_(255)


def cut(images: Tensor, placement: Placement, size: int) -> Tensor:
    """Crop and flip each image: [B, S, S, 3] → [B, size, size, 3]; pixels are not interpolated."""
    # 32 images, 256 → 224 pixels, one core: slices 1 ms, index arrays 16 ms. On a GPU, slices would
    # cost two launches per image and a synchronisation for the offsets.
    return (_cut_by_slices if images.is_cpu else _cut_by_index)(images, placement, size)


def _cut_by_slices(images: Tensor, placement: Placement, size: int) -> Tensor:
    result = images.new_empty(len(images), size, size, images.shape[3])
    columns = (placement.top, placement.left, placement.mirrored, placement.upside_down)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for image, target, (top, left, mirrored, upside_down) in zip(images, result, rows, strict=True):
        square = image[top : top + size, left : left + size]
        turned = [axis for axis, turn in ((0, upside_down), (1, mirrored)) if turn]
        target.copy_(square.flip(turned) if turned else square)
    return result


def _cut_by_index(images: Tensor, placement: Placement, size: int) -> Tensor:
    forward = torch.arange(size, device=images.device)
    backward = forward.flip(0)
    rows = placement.top[:, None] + torch.where(placement.upside_down[:, None], backward, forward)
    columns = placement.left[:, None] + torch.where(placement.mirrored[:, None], backward, forward)
    batch = torch.arange(len(images), device=images.device)
    return images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


class LabelMixing:
    """Mixup, CutMix and label smoothing of an augmented training batch.

    mixup_alpha, cutmix_alpha: parameters of the Beta distributions of the shares, 0 for none; with
    both, each batch gets one of them at random. label_smoothing: share of every label that is
    spread over all classes. Draws from torch's global generator.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        self._num_classes = num_classes
        self._label_smoothing = label_smoothing
        mixers: list[v2.Transform] = []
        if mixup_alpha > 0:
            mixers.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha > 0:
            mixers.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
        self._mixers = mixers

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images [B, 3, H, H], classes [B] → images, main classes [B], labels [B, C] or None."""
        shares: Tensor | None = None
        if self._mixers:
            chosen = int(torch.randint(len(self._mixers), ()))
            images, shares = self._mixers[chosen](images, targets)
            assert shares is not None, "torchvision's mixers return labels"
            targets = shares.argmax(dim=1)
        if self._label_smoothing > 0:
            if shares is None:
                shares = F.one_hot(targets, self._num_classes).float()
            keep = 1 - self._label_smoothing
            shares = keep * shares + self._label_smoothing / self._num_classes
        return images, targets, shares
