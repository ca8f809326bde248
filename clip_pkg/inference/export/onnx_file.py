"""An ONNX graph of trained folds, verified against torch.

The input is the decoded and resized image, uint8 [batch, S, S, 3]. The centre crop, scaling and
normalisation are part of the graph, so users cannot get them wrong.
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

# Exports are float32; the importing program chooses its own precision.
FLOAT32 = Precision("cpu", None, torch.contiguous_format)
OUTPUTS = ("probabilities", "logits", "embedding")
CHUNK = 256  # rows
MAX_HEAD_ERROR = 1e-4  # of the logits of a linear head, relative to the largest logit

HeadInput: TypeAlias = Literal["unit embedding", "embedding"]


class ExportGraph(nn.Module):
    """K folds of one config: pixels uint8 [B, S, S, 3], RGB → probabilities, logits, embedding.

    probabilities: [B, C], averaged over folds. logits: [B, C], whose softmax they are.
    embedding: [B, K·D] of length 1, the folds' concatenated unit embeddings divided by √K, so that
    cosines are averaged over folds.
    """

    def __init__(self, folds: Sequence[FoldClassifier]) -> None:
        super().__init__()
        self._folds = tuple(folds)
        # Registered, so that the exporter finds their weights.
        self.models = nn.ModuleList(fold.classifier.model for fold in folds)
        self.objectives = nn.ModuleList(fold.classifier.objective for fold in folds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, embeddings = [], []
        for fold in self._folds:
            embedding = fold.classifier.embeddings(fold.augmentation.evaluate(pixels))
            logits.append(fold.classifier.logits(embedding))
            embeddings.append(F.normalize(embedding, dim=-1))
        if len(self._folds) == 1:
            return logits[0].softmax(dim=1), logits[0], embeddings[0]
        count = len(self._folds)
        total = torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0)
        mean = total - math.log(count)
        return mean.exp(), mean, torch.cat(embeddings, dim=1) / count**0.5


@dataclass(frozen=True)
class LinearHead:
    """A classifier as one linear layer: logits = x · weightᵀ + bias.

    weight: [C, D]. bias: [C]. on: whether x is the embedding or the normalised embedding.
    """

    weight: Tensor
    bias: Tensor
    on: HeadInput


@torch.no_grad()
def linear_head(classifier: Classifier) -> LinearHead | None:
    """The linear layer equivalent to a classifier, or None if there is none.

    Scaled cosines to texts or proxies are linear in the unit embedding, linear classifiers in the
    embedding. The layer is read off at the unit vectors and verified on random embeddings.
    """
    size = classifier.model.embed_dim
    axes = torch.eye(size)
    logits = [
        torch.cat([classifier.logits(sign * chunk) for chunk in torch.split(axes, CHUNK)])
        for sign in (1, -1)
    ]
    bias = (logits[0] + logits[1])[0] / 2
    weight = ((logits[0] - logits[1]) / 2).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    samples = 3 * torch.randn(CHUNK, size, generator=generator)
    wanted = classifier.logits(samples)
    kinds: tuple[tuple[HeadInput, Tensor], ...] = (
        ("unit embedding", F.normalize(samples, dim=-1)),
        ("embedding", samples),
    )
    for on, rows in kinds:
        error = (F.linear(rows, weight, bias) - wanted).abs().max()
        if error <= MAX_HEAD_ERROR * wanted.abs().max():
            return LinearHead(weight, bias, on)
    return None


INPUT = "pixels"
MAX_DEVIATION = 1e-4
MAX_FILE_BYTES = 1_800_000_000  # a protobuf file is limited to 2 GiB
BATCH_SIZES = (2, 5)  # the graph is traced with the first one


def write_onnx(
    path: Path, graph: ExportGraph, size: int, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a graph for images of `size` = S and compare it with torch; returns facts about it.

    description: becomes the file's metadata, each value as JSON. Weights of more than 1.8 GB go to
    a second file. Raises CheckpointError if an output deviates by more than `MAX_DEVIATION`,
    relative to its largest value if that is above 1.
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
        program.save(path, external_data=weights > MAX_FILE_BYTES)
        deviations = _deviations(path, graph, examples)
    worst = max(deviations.values())
    if not worst <= MAX_DEVIATION:
        found = ", ".join(f"{name} {value:.2g}" for name, value in deviations.items())
        raise CheckpointError(
            f"the ONNX graph and torch disagree ({found}; the limit is {MAX_DEVIATION:g}), so the "
            "export was deleted; try other versions of torch and onnxruntime"
        )
    return {
        "input": {INPUT: ["batch", size, size, 3], "type": "uint8"},
        "outputs": list(OUTPUTS),
        "opset": program.model.opset_imports[""],
        "largest_deviation_from_torch": worst,
    }


def _pixels(count: int, size: int) -> Tensor:
    """A black, a white and noise images."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    pixels[0], pixels[1] = 0, 255
    return pixels


def _deviations(path: Path, graph: ExportGraph, examples: Sequence[Tensor]) -> dict[str, float]:
    """Largest difference per output between onnxruntime and torch; NaN is passed on."""
    import onnxruntime  # noqa: PLC0415  an optional extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict.fromkeys(OUTPUTS, 0.0)
    for pixels in examples:
        outputs: list[NDArray[np.float32]] = session.run(None, {INPUT: pixels.numpy()})
        for name, output, expected in zip(OUTPUTS, outputs, graph(pixels), strict=True):
            reference = expected.numpy()
            scale = max(1.0, float(np.abs(reference).max()))
            deviation = np.abs(output - reference).max() / scale
            found[name] = float(np.maximum(found[name], deviation))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
