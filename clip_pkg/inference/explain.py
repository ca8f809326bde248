"""Grad-CAM: regions of an image that are evidence for a class.

Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2, computed by captum: the channels of a late
layer, weighted by how much each raises the score of the class. The score is the log-odds of the
class against all others, not the logit: a cosine is near its maximum in an image that the model is
sure of, and its gradient no longer separates object from background.

Tokens are normalised, which gives all of them the same constant evidence; only evidence above the
mean of the image is shown. Where a mean over tokens is compared with texts by cosine, the mean
evidence is 0 anyway.

Legend: B images, C classes, S width of the decoded square in pixels, H width of the encoder's input
(H ≤ S).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_pkg.inference.ensemble import Ensemble
from clip_pkg.inference.fold_classifier import FoldClassifier, memory_of
from clip_pkg.inference.images import ImageFile, readable_batches
from clip_pkg.inference.spatial_layer import SpatialLayer, find_spatial_layer
from clip_pkg.models.classifier import Classifier
from clip_pkg.models.precision import flushed_denormals
from clip_pkg.study.decoding import UnreadableImage
from clip_pkg.study.inspection import OnProgress


@dataclass(frozen=True, eq=False)
class Explainer:
    """Explains predictions of one fold's model.

    classifier: the fold's, in float32. layer: its last layer with spatial resolution.
    """

    fold: FoldClassifier
    classifier: Classifier
    layer: SpatialLayer

    @classmethod
    def of(cls, fold: FoldClassifier) -> Explainer:
        """Find the layer. Raises UserError if the encoder has none."""
        # Small gradients are lost in half precision.
        precise = replace(fold.classifier.precision, dtype=None)
        classifier = replace(fold.classifier, precision=precise)
        with memory_of(fold.device):
            layer = find_spatial_layer(classifier, fold.augmentation.img_size, fold.device)
        return cls(fold, classifier, layer)

    def maps(
        self, pixels: NDArray[np.uint8], classes: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Evidence [B, S, S] in [0, 1] over the squares [B, S, S, 3] uint8 RGB.

        classes: [B] indices of the classes to explain; by default the predicted ones.
        The maximum of each image is 1, or 0 if nothing is evidence for the class. The margin
        outside the encoder's input is 0.
        """
        if classes is None:
            classes = self.fold.probabilities(pixels).argmax(axis=1)
        images = self.fold.images(pixels)
        target = torch.from_numpy(classes).to(images.device)
        with memory_of(self.fold.device), flushed_denormals(), self._as_map() as seen:
            method = LayerGradCam(self._log_odds, seen)
            evidence = method.attribute(images, additional_forward_args=target)
        evidence = evidence.detach().float()
        if self.layer.grid.layout == "tokens":
            evidence -= evidence.mean(dim=(2, 3), keepdim=True)
        evidence = evidence.relu()
        evidence = F.interpolate(evidence, images.shape[2:], mode="bilinear", align_corners=False)
        strongest = evidence.amax(dim=(2, 3), keepdim=True)
        evidence = evidence / torch.where(strongest > 0, strongest, 1.0)
        margin = self.fold.store_size - images.shape[2]
        padding = (margin // 2, margin - margin // 2) * 2
        result: NDArray[np.float32] = F.pad(evidence, padding)[:, 0].cpu().numpy()
        return result

    def _log_odds(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return log p/(1 − p) of one class of each image, [B]."""
        logits = self.classifier.logits(self.classifier.embeddings(images))
        own = classes[:, None]
        others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
        return logits.gather(1, own)[:, 0] - others

    @contextmanager
    def _as_map(self) -> Iterator[nn.Module]:
        """A module whose output is that of the layer, in the layout that captum expects.

        Gradients stop there, so earlier layers keep no activations.
        """
        seen = nn.Identity()

        def through(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            values = seen(self.layer.grid.as_map(output).detach().requires_grad_())
            # A copy, because the next layer may operate in place.
            return self.layer.grid.from_map(values.clone(), output)

        handle = self.layer.module.register_forward_hook(through)
        try:
            yield seen
        finally:
            handle.remove()


def mean_maps(
    explainers: Sequence[Explainer], pixels: NDArray[np.uint8], classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Mean of several folds' maps [B, S, S] for classes [B], scaled to a maximum of 1."""
    if not len(pixels):
        return np.empty(pixels.shape[:3], dtype=np.float32)
    total: NDArray[np.float32] = explainers[0].maps(pixels, classes)
    for explainer in explainers[1:]:
        total = total + explainer.maps(pixels, classes)
    strongest = total.max(axis=(1, 2), keepdims=True)
    total /= np.where(strongest > 0, strongest, 1)
    return total


@dataclass(frozen=True, eq=False)
class Explanations:
    """Evidence in B images.

    probabilities: [B, C] of the ensemble. explained: [B] int64, index of the explained class.
    maps: [B, S, S], see `mean_maps`. unreadable: images without an explanation.
    """

    images: tuple[ImageFile, ...]
    probabilities: NDArray[np.float64]
    explained: NDArray[np.int64]
    maps: NDArray[np.float32]
    unreadable: tuple[UnreadableImage, ...]


def explanations(
    ensemble: Ensemble,
    images: Sequence[ImageFile],
    *,
    explained: int | None = None,
    skip_unreadable: bool = False,
    progress: OnProgress | None = None,
) -> Iterator[Explanations]:
    """Explain images in batches; for unreadable ones and `progress` see `readable_batches`.

    explained: index of a class; None for the predicted class of each image.
    Raises UserError if the encoder cannot be explained.
    """
    explainers = [Explainer.of(fold) for fold in ensemble.folds]
    first = ensemble.folds[0]
    for batch in readable_batches(
        images,
        size=first.store_size,
        batch_size=first.batch_size,
        skip_unreadable=skip_unreadable,
        progress=progress,
    ):
        probabilities = ensemble.probabilities(batch.pixels)
        classes = probabilities.argmax(axis=1)
        if explained is not None:
            classes = np.full_like(classes, explained)
        maps = mean_maps(explainers, batch.pixels, classes)
        yield Explanations(batch.images, probabilities, classes, maps, batch.unreadable)
