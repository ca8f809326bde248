from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import timm
import torch

from clip_pkg.base.errors import CheckpointError, UserError, WeightsError
from clip_pkg.config.encoders import EncoderSpec, parse_image_encoder
from clip_pkg.models.image_encoder import build_image_encoder

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved_timm(name: str, folder: Path, **options: Any) -> tuple[Any, Path]:
    torch.manual_seed(1)
    model = timm.create_model(name, **options).eval()
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet10t:scratch", 32),
        ("test_vit:scratch", 48),
        ("test_efficientnet:scratch", 32),
        ("mobilenetv3_small_050:scratch", 32),
        ("starnet_s050:scratch", 32),
        ("clip:ViT-S-32-alt:scratch", 64),
        ("clip:MobileCLIP-S1:scratch", 64),
    ],
)
def test_features_have_the_stated_size_and_reach_every_parameter(name: str, size: int) -> None:
    torch.manual_seed(0)
    encoder = build_image_encoder(parse_image_encoder(name), img_size=size)
    features = encoder(torch.randn(2, 3, size, size))
    assert features.shape == (2, encoder.num_features)
    assert len(encoder.mean) == len(encoder.std) == 3
    features.sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_scratch_weights_follow_torchs_seed() -> None:
    spec = parse_image_encoder("test_resnet:scratch")
    first, second, third = (
        build_image_encoder(spec, img_size=32).state_dict()
        for seed in (3, 3, 4)
        if torch.manual_seed(seed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.conv1.0.weight"], third["model.conv1.0.weight"])


def test_normalisation_is_the_pretrained_models() -> None:
    timm_encoder = build_image_encoder(parse_image_encoder("test_vit:scratch"), img_size=160)
    assert timm_encoder.mean == (0.5, 0.5, 0.5)
    clip_encoder = build_image_encoder(
        parse_image_encoder("clip:ViT-S-32-alt:scratch"), img_size=64
    )
    assert clip_encoder.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext"])
def test_a_local_file_gives_timms_own_features(tmp_path: Path, name: str) -> None:
    model, _ = saved_timm(name, tmp_path)
    encoder = build_image_encoder(
        parse_image_encoder(name), img_size=160, weights_dir=tmp_path
    ).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.allclose(encoder(images), expected, atol=1e-6)


def test_another_image_size_resamples_position_embeddings(tmp_path: Path) -> None:
    _, path = saved_timm("test_vit", tmp_path)
    encoder = build_image_encoder(parse_image_encoder("test_vit"), img_size=96, weights_dir=path)
    expected = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        num_classes=0,
        img_size=96,
    )
    state = encoder.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 7}])
def test_a_users_file_may_have_another_head_or_none(
    tmp_path: Path, options: dict[str, int]
) -> None:
    model, path = saved_timm("resnet10t", tmp_path, **options)
    encoder = build_image_encoder(parse_image_encoder("resnet10t"), img_size=32, weights_dir=path)
    assert torch.equal(encoder.model.conv1[0].weight, model.conv1[0].weight)


def test_a_file_of_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    _, path = saved_timm("test_resnet", tmp_path)
    with pytest.raises(CheckpointError, match="test_resnet.safetensors.*does not fit"):
        build_image_encoder(parse_image_encoder("resnet10t"), img_size=32, weights_dir=path)


@pytest.mark.parametrize(
    ("drop", "add", "words"),
    [
        ("layer2.0.conv1.weight", None, r"missing \(1\): layer2.0.conv1.weight"),
        ("layer2.0.bn1.bias", None, r"missing \(1\): layer2.0.bn1.bias"),
        (None, "layer2.9.conv1.weight", r"unexpected \(1\): layer2.9.conv1.weight"),
    ],
)
def test_no_tensor_of_a_file_is_skipped_silently(
    tmp_path: Path, drop: str | None, add: str | None, words: str
) -> None:
    _, path = saved_timm("resnet10t", tmp_path)
    state = safetensors.torch.load_file(path)
    if drop:
        del state[drop]
    if add:
        state[add] = torch.ones(2, 2)
    safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match=words):
        build_image_encoder(parse_image_encoder("resnet10t"), img_size=32, weights_dir=tmp_path)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    _, path = saved_timm("resnet10t", tmp_path)
    state = safetensors.torch.load_file(path)
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match=r"layer1.0.conv1.weight"):
        build_image_encoder(parse_image_encoder("resnet10t"), img_size=32, weights_dir=tmp_path)


@pytest.mark.parametrize("name", ["tiny-causal", "tiny-custom"])
def test_the_clip_image_tower_is_open_clips(
    name: str,
    saved_clip: Callable[[str], tuple[Any, Path]],
    tiny_spec: Callable[..., EncoderSpec],
) -> None:
    model, path = saved_clip(name)
    encoder = build_image_encoder(tiny_spec(name), img_size=32, weights_dir=path).eval()
    with torch.no_grad():
        assert torch.allclose(encoder(IMAGES), model.encode_image(IMAGES), atol=1e-6)
    assert not any("token_embedding" in n for n, _ in encoder.named_parameters())


def test_the_clip_image_tower_is_open_clips_at_another_size(
    saved_clip: Callable[[str], tuple[Any, Path]], tiny_spec: Callable[..., EncoderSpec]
) -> None:
    _, path = saved_clip("tiny-causal")
    encoder = build_image_encoder(tiny_spec("tiny-causal"), img_size=48, weights_dir=path).eval()
    larger = open_clip.create_model("tiny-causal", pretrained=str(path), force_image_size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(encoder(images), larger.encode_image(images), atol=1e-6)


def test_a_clip_file_of_another_width_is_refused(
    saved_clip: Callable[[str], tuple[Any, Path]], tiny_spec: Callable[..., EncoderSpec]
) -> None:
    _, path = saved_clip("tiny-causal")
    with pytest.raises(CheckpointError, match="other shape"):
        build_image_encoder(tiny_spec("ViT-S-32-alt"), img_size=32, weights_dir=path)


def test_a_size_that_the_architecture_refuses_is_a_users_mistake() -> None:
    spec = parse_image_encoder("test_vit_relpos:scratch")
    with pytest.raises(UserError, match="test_vit_relpos:scratch cannot be built for img_size 8"):
        build_image_encoder(spec, img_size=8)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["resnet18", "clip:ViT-B/32", "vit_base_patch16_224.augreg_in21k"])
def test_missing_weights_never_become_random_ones(name: str) -> None:
    with pytest.raises(WeightsError, match="prefetch.*weights_dir.*:scratch"):
        build_image_encoder(parse_image_encoder(name), img_size=224)
