"""Mixed images and soft labels: mixup, cutmix and label smoothing.

Legend: B images of a batch, C classes, H side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


class LabelMixing:
    """What happens to a training batch after its images were augmented.

    mixup_alpha, cutmix_alpha: parameters of the Beta distributions that shares are drawn from, 0
    for none; with both, each batch gets one of them. label_smoothing: share of every label that is
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
