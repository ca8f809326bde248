"""Where in an image a fold's model found evidence for a class: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2, computed by captum: the channels of a late
layer, weighted by how much each of them raises the class's score. The score is the class's log-odds
against all others: a logit alone may be a cosine, which is near its maximum in an image that the
model is sure of, and its gradient then tells background from object no more.

Tokens, which are normalised, all get the same share of evidence for reasons that have no place;
what is shown of them is what lies above the image's mean. Where a mean over places is compared with
texts by its direction, the mean of the evidence is 0 anyway.

Legend: B images, C classes, S side of the decoded square in pixels, H side of what the encoder sees
of it (H ≤ S).
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
from clip_pkg.study.inspection import Progress


@dataclass(frozen=True, eq=False)
class Explainer:
    """Explains what one fold's model says about images.

    classifier: the fold's, in single precision. layer: the last one in which evidence has a place.
    """

    fold: FoldClassifier
    classifier: Classifier
    layer: SpatialLayer

    @classmethod
    def of(cls, fold: FoldClassifier) -> Explainer:
        """Look for the layer. Raises UserError if the encoder has none."""
        # Small gradients are lost in half precision.
        precise = replace(fold.classifier.precision, dtype=None)
        classifier = replace(fold.classifier, precision=precise)
        with memory_of(fold.device):
            layer = find_spatial_layer(classifier, fold.augmentation.img_size, fold.device)
        return cls(fold, classifier, layer)

    def maps(
        self, pixels: NDArray[np.uint8], classes: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Squares [B, S, S, 3], RGB → evidence [B, S, S] in [0, 1], which lies over the square.

        classes: [B] positions of the classes to explain; by default those that are predicted.
        The strongest place of an image is 1, unless nothing speaks for the class: then all is 0, as
        is the margin that the encoder does not see.
        """
        if classes is None:
            classes = self.fold.probabilities(pixels).argmax(axis=1)
        images = self.fold.images(pixels)
        target = torch.from_numpy(classes).to(images.device)
        with memory_of(self.fold.device), flushed_denormals(), self._seen_as_map() as seen:
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
        sides = (margin // 2, margin - margin // 2) * 2
        result: NDArray[np.float32] = F.pad(evidence, sides)[:, 0].cpu().numpy()
        return result

    def _log_odds(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return log p/(1 − p) of one class of each image, [B]."""
        logits = self.classifier.logits(self.classifier.embeddings(images))
        own = classes[:, None]
        others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
        return logits.gather(1, own)[:, 0] - others

    @contextmanager
    def _seen_as_map(self) -> Iterator[nn.Module]:
        """Give a module whose output is the layer's, laid out as captum expects it.

        Gradients end there: what comes before the layer keeps nothing for them in memory.
        """
        seen = nn.Identity()

        def through(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            values = seen(self.layer.grid.as_map(output).detach().requires_grad_())
            # A copy, because the next layer may work in place.
            return self.layer.grid.from_map(values.clone(), output)

        handle = self.layer.module.register_forward_hook(through)
        try:
            yield seen
        finally:
            handle.remove()


def mean_maps(
    explainers: Sequence[Explainer], pixels: NDArray[np.uint8], classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Mean of several folds' maps [B, S, S] for classes [B]; see `Explainer.maps`.

    Places on which the folds agree come out strongest.
    """
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

    probabilities: [B, C] of the ensemble. explained: [B] int64, position of the class whose
    evidence is shown. maps: [B, S, S], see `mean_maps`. unreadable: images without an explanation.
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
    progress: Progress | None = None,
) -> Iterator[Explanations]:
    """Explain images in batches; for unreadable ones and `progress` see `readable_batches`.

    explained: position of a class; None for the one that the ensemble predicts for each image.
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
