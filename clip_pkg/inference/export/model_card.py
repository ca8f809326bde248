"""The model card of an export: README.md with data, scores, limitations and loading code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from clip_pkg.inference.export.description import CrossValidatedScores, Member
from clip_pkg.metrics.table import HEADLINE_METRICS, METRICS

_IMAGE = """\
transform = about["transform"]
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
image = image.resize(transform["resize"]["size"], Image.Resampling.BICUBIC)
first = (image.width - transform["center_crop"][0]) // 2
last = first + transform["center_crop"][0]
pixels = torch.from_numpy(np.array(image))[first:last, first:last].permute(2, 0, 1) / 255
mean, std = (torch.tensor(transform[name])[:, None, None] for name in ("mean", "std"))
images = ((pixels - mean) / std)[None]
"""

ONNX = Template("""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("$file")
metadata = session.get_modelmeta().custom_metadata_map
about = {name: json.loads(text) for name, text in metadata.items()}
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
image = image.resize(about["transform"]["resize"]["size"], Image.Resampling.BICUBIC)
pixels = np.asarray(image)[None]  # several images make a larger batch
probabilities, logits, embedding = session.run(None, {"pixels": pixels})
print(about["classes"][probabilities[0].argmax()], probabilities[0].max())
""")

_SAFETENSORS = (
    """\
import json

import numpy as np
import $library
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import load_file

about = json.load(open("config.json", encoding="utf-8"))
state = load_file("$file")
prefix, encoder = "image_encoder.", about["image_encoder"]
encoder = $made
encoder.load_state_dict(
    {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
)
encoder.eval()
"""
    + _IMAGE
    + """\
with torch.inference_mode():
    embedding = encoder(images) @ state["image_projection.weight"].T
    $head
print(about["classes"][probabilities[0].argmax()], probabilities[0].max().item())
"""
)
SAFETENSORS = Template(_SAFETENSORS)

# Further lines, by the config's stem.
STEMS = {
    "standard": "",
    "cifar": """
width = encoder.feature_info[0]["num_chs"]
encoder.conv1 = torch.nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
encoder.maxpool = torch.nn.Identity()""",
}
HEADS = {
    "unit embedding": 'logits = F.linear(F.normalize(embedding), state["head.weight"], '
    'state["head.bias"])\n    probabilities = logits.softmax(dim=1)',
    "embedding": 'logits = F.linear(embedding, state["head.weight"], state["head.bias"])\n'
    "    probabilities = logits.softmax(dim=1)",
}

OPEN_CLIP = Template(
    """\
import json

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
model.eval()
about = json.load(open("config.json", encoding="utf-8"))
"""
    + _IMAGE
    + """\
with torch.inference_mode():
    prompts = about["texts"].values()
    every = [model.encode_text(tokenizer(texts), normalize=True) for texts in prompts]
    classes = torch.stack([F.normalize(texts.mean(dim=0), dim=0) for texts in every])
    cosines = model.encode_image(images, normalize=True) @ classes.T
    probabilities = (model.logit_scale.exp() * cosines).softmax(dim=1)
print(about["classes"][probabilities[0].argmax()], probabilities[0].max().item())
"""
)


TEMPLATE = "model_card.md.jinja"


def model_card(
    description: Mapping[str, Any],
    members: Sequence[Member],
    scores: CrossValidatedScores | None,
    notices: Sequence[str],
) -> str:
    """The text of a model card; `description` is the content of `config.json`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701  Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(TEMPLATE).render(
        model=description,
        labels=[member.label for member in members],
        is_refit=members[0].content.fold == 0,
        columns=[f"{row.heading} {row.unit_sign}".rstrip() for row in HEADLINE_METRICS],
        rows=[] if scores is None else _rows(scores),
        epoch_choice=None if scores is None else scores.epoch_choice,
        notices=notices,
    )


def _rows(scores: CrossValidatedScores) -> list[tuple[str, list[str]]]:
    """A row per fold, and one of mean ± SD."""
    rows = [
        (fold, [_number(row.name, _value(scores, row.name, index)) for row in HEADLINE_METRICS])
        for index, fold in enumerate(scores.folds)
    ]
    averages = scores.averages
    means = [
        _number(name, averages.get(f"avg_val_{name}"))
        + (
            ""
            if (deviation := averages.get(f"std_val_{name}")) is None
            else f" ± {_number(name, deviation)}"
        )
        for name in (row.name for row in HEADLINE_METRICS)
    ]
    count = averages["n"]
    return [*rows, (f"mean ± SD of {count}" if count > 1 else "mean", means)]


def _value(scores: CrossValidatedScores, name: str, index: int) -> float | None:
    return scores.columns[f"val_{name}"][index] if f"val_{name}" in scores.columns else None


def _number(name: str, value: float | None) -> str:
    return "–" if value is None else METRICS[name].shown(value)


def _cell(text: object) -> str:
    """Escape text for a Markdown table cell."""
    line = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in "\\|`*_<>[]" else char for char in line)
