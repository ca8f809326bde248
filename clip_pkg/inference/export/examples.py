"""The lines of Python that load each kind of export, for its model card; tests run them."""

from __future__ import annotations

from string import Template

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

ENCODERS = {
    "timm": 'timm.create_model(encoder["model"], **encoder["options"])',
    "open_clip": 'open_clip.create_model(encoder["model"], **encoder["options"]).visual',
}
# Lines that follow, by the config's stem.
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
