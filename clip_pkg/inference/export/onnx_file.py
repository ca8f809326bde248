"""An ONNX graph of trained folds, compared with torch before anybody gets it.

The input is what an image is once it was decoded and resized, uint8 [batch, S, S, 3]: cutting out
the centre, scaling and normalising are in the graph, where nobody can do them differently.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.models.classifier import Classifier
from clip_pkg.models.precision import Precision, flushed_denormals

# The precision of what leaves the project: programs elsewhere choose their own.
FLOAT32 = Precision("cpu", None, torch.contiguous_format)
OUTPUTS = ("probabilities", "logits", "embedding")
ROWS_AT_ONCE = 256
LARGEST_ERROR = 1e-4  # of logits that a linear head is to give, relative to the largest of them

HeadInput: TypeAlias = Literal["unit embedding", "embedding"]


class ExportGraph(nn.Module):
    """K folds of one config: pixels uint8 [B, S, S, 3], RGB → probabilities, logits, embedding.

    probabilities: [B, C], the mean of the folds'. logits: [B, C], whose softmax they are.
    embedding: [B, K·D] of length 1, the folds' unit embeddings one after another over √K, so that
    the cosine of two is the mean of the folds' cosines.
    """

    def __init__(self, folds: Sequence[FoldClassifier]) -> None:
        super().__init__()
        self._folds = tuple(folds)
        # The modules of the folds, so that the exporter knows their weights as such.
        self.models = nn.ModuleList(fold.classifier.model for fold in folds)
        self.objectives = nn.ModuleList(fold.classifier.objective for fold in folds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify a batch of any size."""
        logits, embeddings = [], []
        for fold in self._folds:
            embedding = fold.classifier.embeddings(fold.augmentation.evaluate(pixels))
            logits.append(fold.classifier.logits(embedding))
            embeddings.append(F.normalize(embedding, dim=-1))
        if len(self._folds) == 1:
            return logits[0].softmax(dim=1), logits[0], embeddings[0]
        count = len(self._folds)
        together = torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0)
        mean = together - math.log(count)
        return mean.exp(), mean, torch.cat(embeddings, dim=1) / count**0.5


@dataclass(frozen=True)
class LinearHead:
    """What a fold predicts by, as one linear layer: logits = x · weightᵀ + bias.

    weight: [C, D]. bias: [C]. on: what x is, the embedding as it is or at length 1.
    """

    weight: Tensor
    bias: Tensor
    on: HeadInput


@torch.no_grad()
def linear_head(classifier: Classifier) -> LinearHead | None:
    """Find the linear layer that a classifier comes down to; None where it is no such layer.

    Scaled cosines to texts or proxies are one on the unit embedding, linear classifiers on the
    embedding itself. The layer is read off at the axes and tried on random embeddings.
    """
    size = classifier.model.embed_dim
    axes = torch.eye(size)
    logits = [
        torch.cat([classifier.logits(sign * some) for some in torch.split(axes, ROWS_AT_ONCE)])
        for sign in (1, -1)
    ]
    bias = (logits[0] + logits[1])[0] / 2
    weight = ((logits[0] - logits[1]) / 2).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    tried = 3 * torch.randn(ROWS_AT_ONCE, size, generator=generator)
    wanted = classifier.logits(tried)
    kinds: tuple[tuple[HeadInput, Tensor], ...] = (
        ("unit embedding", F.normalize(tried, dim=-1)),
        ("embedding", tried),
    )
    for on, rows in kinds:
        error = (F.linear(rows, weight, bias) - wanted).abs().max()
        if error <= LARGEST_ERROR * wanted.abs().max():
            return LinearHead(weight, bias, on)
    return None


INPUT = "pixels"
LARGEST_DEVIATION = 1e-4
LARGEST_FILE = 1_800_000_000  # bytes; one file of protobuf can have 2 GiB
BATCH_SIZES = (2, 5)  # the graph is traced with the first one


def write_onnx(
    path: Path, graph: ExportGraph, size: int, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a graph for images of `size` = S and compare it with torch.

    description: becomes the file's metadata, each value as JSON. Weights of more than 1.8 GB lie in
    a second file beside it. Returns facts about the file. Raises CheckpointError where an output
    deviates by more than `LARGEST_DEVIATION`, relative to its largest value if that is above 1.
    """
    graph.eval()
    examples = [_pixels(count, size) for count in BATCH_SIZES]
    with torch.no_grad(), flushed_denormals(), _quiet():
        program = torch.onnx.export(
            graph,
            (examples[0],),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
        assert program is not None, "the exporter by torch.export returns a program"
        program.model.metadata_props.update(
            {key: json.dumps(value, ensure_ascii=False) for key, value in description.items()}
        )
        weights = sum(one.nbytes for one in graph.parameters())
        program.save(path, external_data=weights > LARGEST_FILE)
        deviations = _deviations(path, graph, examples)
    worst = max(deviations.values())
    if not worst <= LARGEST_DEVIATION:
        found = ", ".join(f"{name} {value:.2g}" for name, value in deviations.items())
        raise CheckpointError(
            f"the ONNX graph answers differently than torch ({found}; {LARGEST_DEVIATION:g} is the "
            "limit), so it was not kept; with other versions of torch and onnxruntime it may be "
            "right"
        )
    return {
        "input": {INPUT: ["batch", size, size, 3], "type": "uint8"},
        "outputs": list(OUTPUTS),
        "opset": program.model.opset_imports[""],
        "largest_deviation_from_torch": worst,
    }


def _pixels(count: int, size: int) -> Tensor:
    """Noise, with a black and a white image first."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    pixels[0], pixels[1] = 0, 255
    return pixels


def _deviations(path: Path, graph: ExportGraph, examples: Sequence[Tensor]) -> dict[str, float]:
    """Largest difference of each output between onnxruntime and torch; NaN counts."""
    import onnxruntime  # noqa: PLC0415  an optional extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict.fromkeys(OUTPUTS, 0.0)
    for pixels in examples:
        answers: list[NDArray[np.float32]] = session.run(None, {INPUT: pixels.numpy()})
        for name, answer, wanted in zip(OUTPUTS, answers, graph(pixels), strict=True):
            right = wanted.numpy()
            scale = max(1.0, float(np.abs(right).max()))
            found[name] = float(np.maximum(found[name], np.abs(answer - right).max() / scale))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from talking of its own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
