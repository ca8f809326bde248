from __future__ import annotations

import json
import subprocess
import sys

import pytest

from clip_pkg.config.encoders import (
    EncoderSpec,
    encoders_of_model,
    open_clip_tags,
    parse_image_encoder,
    parse_text_encoder,
    timm_names,
)


@pytest.mark.parametrize(
    ("written", "family", "model", "weights", "tag"),
    [
        ("resnet18", "timm", "resnet18", "pretrained", None),
        ("resnet18:scratch", "timm", "resnet18", "scratch", None),
        ("efficientnet-b0", "timm", "efficientnet_b0", "pretrained", None),
        ("convnext-tiny", "timm", "convnext_tiny", "pretrained", None),
        ("vit", "timm", "vit_base_patch16_224", "pretrained", None),
        ("starnet_s1:pretrained", "timm", "starnet_s1", "pretrained", None),
        ("resnet18.a1_in1k", "timm", "resnet18.a1_in1k", "pretrained", None),
        ("clip:ViT-B/32", "clip", "ViT-B-32", "pretrained", "openai"),
        ("clip:ViT-L/14@336px:scratch", "clip", "ViT-L-14-336", "scratch", None),
        (
            "clip:ViT-B-32:laion2b_s34b_b79k",
            "clip",
            "ViT-B-32",
            "pretrained",
            "laion2b_s34b_b79k",
        ),
        ("clip:ViT-B-16-SigLIP", "clip", "ViT-B-16-SigLIP", "pretrained", "webli"),
    ],
)
def test_image_encoders(written, family, model, weights, tag):
    assert parse_image_encoder(written) == EncoderSpec(family, model, weights, tag, written)


@pytest.mark.parametrize(
    ("written", "family", "model", "weights", "tag"),
    [
        ("clip:ViT-B/32", "clip", "ViT-B-32", "pretrained", "openai"),
        ("clip:ViT-B/32:scratch", "clip", "ViT-B-32", "scratch", None),
        ("clip:ViT-B-32:laion2b-s34b-b79k", "clip", "ViT-B-32", "pretrained", "laion2b_s34b_b79k"),
        ("bert-base-chinese", "hf", "bert-base-chinese", "pretrained", None),
        ("hf:some/model:scratch", "hf", "some/model", "scratch", None),
        ("hf:/models/bert", "hf", "/models/bert", "pretrained", None),
        ("prompts", "prompts", "", "scratch", None),
        ("prompts:scratch", "prompts", "", "scratch", None),
        ("none", "none", "", "scratch", None),
    ],
)
def test_text_encoders(written, family, model, weights, tag):
    assert parse_text_encoder(written) == EncoderSpec(family, model, weights, tag, written)


@pytest.mark.parametrize(
    "start",
    ["clip:ViT-B/32", "clip:ViT-B/32:scratch", "bert-base-chinese", "hf:/models/bert:scratch"],
)
def test_learned_prompts_can_start_from_a_text_encoder(start):
    spec = parse_text_encoder(f"prompts:{start}")
    assert spec.family == "prompts"
    assert spec.start == parse_text_encoder(start)
    assert parse_text_encoder("prompts").start is None


@pytest.mark.parametrize(
    ("parse", "written", "part"),
    [
        (parse_image_encoder, "resnet81", "did you mean 'resnet18'"),
        (parse_image_encoder, "ViT-B/32", "did you mean 'clip:ViT-B-32'"),
        (parse_image_encoder, "resnet18.a1_in2k", "did you mean 'resnet18.a1_in1k'"),
        (parse_image_encoder, "resnet18.a1_in1k:scratch", "remove one of them"),
        (parse_image_encoder, "vim_tiny_patch16_224_clip_prompts", "Vision Mamba is not in timm"),
        (parse_image_encoder, "resnet18_clip_prompts", "write 'resnet18' here and `prompts` as"),
        (parse_image_encoder, "resnet81_clip_prompts", "did you mean 'resnet18'"),
        (parse_image_encoder, "resnet18" + 9999 * "_clip_prompts", "unknown image encoder"),
        (parse_image_encoder, "prompts", "is a text encoder"),
        (parse_image_encoder, "prompts:clip:ViT-B/32", "is a text encoder"),
        (parse_image_encoder, "none", "is a text encoder"),
        (parse_image_encoder, "bert-base-chinese", "is a text encoder"),
        (parse_image_encoder, "", "unknown image encoder"),
        (parse_image_encoder, "x" * 5000, "unknown image encoder"),
        (parse_text_encoder, "ViT-B/32", "did you mean 'clip:ViT-B-32'"),
        (parse_text_encoder, "clip:ViT-B/33", "did you mean 'clip:ViT-B-32'"),
        (parse_text_encoder, "clip:ViT-B/32:opnai", "did you mean 'openai'"),
        (parse_text_encoder, "clip:ViT-B/32:openai:scratch", "remove one of them"),
        (parse_text_encoder, "clip:ViT-M-16", "has no pretrained weights"),
        (parse_text_encoder, "bert-base-chines", "did you mean 'bert-base-chinese'"),
        (parse_text_encoder, "bert-large", "did you mean 'hf:bert-large'"),
        (parse_text_encoder, "prompts:pretrained", "have no pretrained weights"),
        (parse_text_encoder, "prompts:none", "learned prompts start from a text encoder"),
        (parse_text_encoder, "prompts:prompts", "learned prompts start from a text encoder"),
        (parse_text_encoder, "prompts:clip:ViT-B/33", "did you mean 'clip:ViT-B-32'"),
        (parse_text_encoder, "prompts:", "unknown text encoder"),
        (parse_text_encoder, "none:scratch", "remove `:scratch`"),
        (parse_text_encoder, "nome", "did you mean 'none'"),
        (parse_text_encoder, "hf:", "no model name"),
        (parse_text_encoder, "resnet18", "text encoders are `clip:"),
    ],
)
def test_unknown_names_get_a_sentence(parse, written, part):
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse(written)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("model", "image", "learned"),
    [
        ("resnet18", "resnet18", False),
        ("resnet18:scratch", "resnet18:scratch", False),
        ("resnet18_clip_prompts", "resnet18", True),
        ("resnet18_clip_prompts:pretrained", "resnet18:pretrained", True),
        ("clip:ViT-B/32_clip_prompts:scratch", "clip:ViT-B/32:scratch", True),
    ],
)
def test_encoders_of_a_model(model, image, learned):
    text = {"text_encoder_name": "prompts"} if learned else {}
    assert encoders_of_model(model) == {"image_encoder_name": image, **text}


def test_names_are_those_of_the_libraries():
    import timm
    from open_clip.pretrained import _PRETRAINED
    from timm.models._registry import _model_pretrained_cfgs

    assert timm_names() == set(timm.list_models())
    # In a process of its own: other tests of this one have registered models.
    code = "import json, open_clip; print(json.dumps(open_clip.list_models()))"
    listed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert set(open_clip_tags()) == set(json.loads(listed.stdout))
    for model, tags in open_clip_tags().items():
        assert tags == tuple(_PRETRAINED.get(model, ()))
    for name in _model_pretrained_cfgs:
        assert parse_image_encoder(name).model == name


def test_names_are_found_without_importing_the_libraries():
    code = """
import sys
from clip_pkg.config.encoders import parse_image_encoder, parse_text_encoder
parse_image_encoder("vit"); parse_text_encoder("clip:ViT-B/32")
assert not {"torch", "timm", "open_clip", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(timm_names()) > 500
    assert "openai" in open_clip_tags()["ViT-B-32"]
