"""An ONNX graph of trained folds, compared with torch before anybody gets it.

The input is what an image is once it was decoded and resized, uint8 [batch, S, S, 3]: cutting out
the centre, scaling and normalising are in the graph, where nobody can do them differently.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.errors import CheckpointError
from clip_pkg.inference.export.graph import OUTPUTS, ExportGraph
from clip_pkg.precision import flushed_denormals

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
