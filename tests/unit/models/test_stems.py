from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from clip_pkg.base.errors import UserError
from clip_pkg.config.encoders import parse_image_encoder, timm_resnets
from clip_pkg.models.image_encoder import build_image_encoder, with_stem


# One of each kind of first layers that timm's ResNets have: plain, deep, group normalisation,
# blurred, average and convolution in the place of the pooling.
@pytest.mark.parametrize(
    "name", ["resnet18", "test_resnet", "resnet10t", "resnet50_gn", "resnetblur18", "resnetrs50"]
)
def test_the_first_block_sees_as_many_places_as_the_image_has(name: str) -> None:
    encoder = build_image_encoder(parse_image_encoder(f"{name}:scratch"), img_size=16, stem="cifar")
    seen: list[torch.Size] = []
    encoder.model.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    standard = timm.create_model(name, num_classes=0)
    features = encoder(torch.randn(2, 3, 16, 16))
    assert seen == [(2, standard.feature_info[0]["num_chs"], 16, 16)]
    assert features.shape == (2, encoder.num_features)
    features.sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_the_convolution_is_drawn_as_timm_draws_and_from_torchs_generator() -> None:
    spec = parse_image_encoder("resnet18:scratch")
    first, second = (
        build_image_encoder(spec, img_size=32, stem="cifar").state_dict()
        for seed in (3, 3)
        if torch.manual_seed(seed)
    )
    weight = first["model.conv1.weight"]
    assert weight.shape == (64, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He, fan out
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_standard_stem_is_what_the_model_has() -> None:
    model = timm.create_model("test_resnet")
    before = model.conv1
    assert with_stem(model, "standard").conv1 is before
    assert isinstance(model.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_other_models_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(UserError, match=r'stem "cifar" is only available for timm ResNets'):
        with_stem(timm.create_model(name), "cifar")


def test_the_names_that_the_config_lets_through_are_timms_resnets() -> None:
    assert timm_resnets() == set(timm.list_models(module="resnet"))
