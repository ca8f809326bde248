from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.config.encoders import EncoderSpec, parse_text_encoder
from clip_pkg.config.schema import RunConfig
from clip_pkg.models.clip_towers import build_text
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.text_encoder import (
    FrozenText,
    FrozenTextFeatures,
    LearnedPrompts,
)

CLASSES = ["ant", "bee", "cat"]
PROMPTS = [["an ant"], ["a bee", "a bee on a flower", "the bee"], ["a cat", "two cats"]]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TINY = "clip:ViT-S-32-alt:scratch"


def config(**changes: Any) -> RunConfig:
    return RunConfig(
        **{
            "image_encoder_name": "test_resnet:scratch",
            "text_encoder_name": "prompts",
            "embed_dim": 16,
            "img_size": 32,
        }
        | changes
    )


def build(seed: int = 0, **changes: Any) -> ImageTextModel:
    torch.manual_seed(seed)
    return build_model(config(**changes), CLASSES, PROMPTS)


@pytest.fixture(scope="module")
def clip_model() -> ImageTextModel:
    """A model with a real text tower; tests must leave its weights alone."""
    return build(text_encoder_name=TINY)


def test_features_are_unit_vectors_in_float32(clip_model: ImageTextModel) -> None:
    images = clip_model.image_features(IMAGES)
    texts = clip_model.class_features(torch.tensor([0, 3, 4]))
    means = clip_model.mean_class_features()
    assert images.shape == (4, 16)
    assert texts.shape == means.shape == (3, 16)
    for features in (images, texts, means):
        assert features.dtype == torch.float32
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)))


def test_under_autocast_the_towers_are_half_and_the_features_are_not(
    clip_model: ImageTextModel,
) -> None:
    seen: list[torch.dtype] = []
    handle = clip_model.image_projection.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = clip_model.image_features(IMAGES)
        texts = clip_model.class_features(clip_model.first_rows)
        means = clip_model.mean_class_features()
    handle.remove()
    assert seen == [torch.bfloat16]
    for features in (images, texts, means):
        assert features.dtype == torch.float32
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-6)


def test_mean_features_average_all_prompts_of_each_class(clip_model: ImageTextModel) -> None:
    clip_model.eval()
    with torch.no_grad():
        every = clip_model.class_features(torch.arange(6))
        expected = [every[0:1], every[1:4], every[4:6]]
        for found, of_class in zip(clip_model.mean_class_features(), expected, strict=True):
            mean = of_class.mean(dim=0)
            assert torch.allclose(found, mean / mean.norm(), atol=1e-6)
    clip_model.train()


def test_drawn_prompts_belong_to_their_classes_and_all_come_up() -> None:
    model = build(text_encoder_name="prompts")
    assert torch.equal(model.draw_prompts(), torch.arange(3))
    many = ImageTextModel(
        model.image_encoder, LearnedPrompts(6, 16), [1, 3, 2], embed_dim=16, temperature=0.07
    )
    generator = torch.Generator().manual_seed(5)
    draws = torch.stack([many.draw_prompts(generator) for _ in range(200)])
    assert draws[:, 0].unique().tolist() == [0]
    assert draws[:, 1].unique().tolist() == [1, 2, 3]
    assert draws[:, 2].unique().tolist() == [4, 5]
    again = torch.Generator().manual_seed(5)
    assert torch.equal(draws[0], many.draw_prompts(again))


def test_the_temperature_starts_as_configured_and_is_clamped() -> None:
    model = build(temperature=0.05)
    assert model.logit_scale().item() == pytest.approx(20, rel=1e-6)
    for value, expected in ((9.0, 100), (-9.0, 0.01), (1.0, math.e)):
        nn.init.constant_(model.log_logit_scale, value)
        model.clamp_logit_scale()
        assert model.logit_scale().item() == pytest.approx(expected, rel=1e-5)
    assert model.log_logit_scale.requires_grad


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_the_ends_of_the_configurable_range_survive_the_clamp(temperature: float) -> None:
    model = build(temperature=temperature)
    model.clamp_logit_scale()
    assert model.logit_scale().item() == pytest.approx(1 / temperature, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text_encoder_name": TINY},
        {"text_encoder_name": TINY, "freeze_text_encoder": True},
        {"freeze_image_encoder": True},
        {"image_encoder_name": "test_vit:scratch", "img_size": 160},
        {"image_encoder_name": TINY, "text_encoder_name": TINY},
        {"image_encoder_name": "clip:RN50:scratch"},
    ],
)
def test_every_trainable_parameter_is_in_one_group_and_gets_a_gradient(
    changes: dict[str, Any],
) -> None:
    model = build(**changes)
    groups = model.parameter_groups(1e-3, 0.1, image_lr_scale=0.5, text_lr_scale=0.25)
    listed = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(listed) == sorted(trainable)
    size = model_size(model)
    images = model.image_features(torch.randn(2, 3, size, size))
    (model.logit_scale() * images @ model.mean_class_features().T).square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    for group in groups:
        undecayed = group["name"].endswith("_undecayed")
        assert group["weight_decay"] == (0.0 if undecayed else 0.1)
        part = group["name"].removesuffix("_undecayed")
        assert group["lr"] == {"image_encoder": 5e-4, "text_encoder": 2.5e-4, "head": 1e-3}[part]
        for p in group["params"]:
            name = trainable[id(p)]
            assert name.startswith(part) or part == "head"
            if p.ndim < 2 or name.endswith(
                ("pos_embed", "cls_token", "tower.positional_embedding")
            ):
                assert undecayed, name
    torch.optim.AdamW(groups)


def model_size(model: ImageTextModel) -> int:
    """Image size that a test's encoder was built for."""
    return 160 if any("pos_embed" in name for name, _ in model.named_parameters()) else 32


def test_scratch_weights_follow_torchs_seed() -> None:
    first, second, third = (build(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["image_projection.weight"], third["image_projection.weight"])


def test_a_frozen_image_encoder_keeps_weights_and_statistics() -> None:
    model = build(freeze_image_encoder=True)
    before = {n: v.clone() for n, v in model.image_encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameter_groups(0.1, 0.1))
    for _ in range(2):
        assert model.train() is model
        assert model.training
        assert not any(module.training for module in model.image_encoder.modules())
        model.image_features(IMAGES).sum().backward()
        optimiser.step()
    after = model.image_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.image_projection.weight.grad is not None


def test_a_trained_image_encoder_follows_the_mode() -> None:
    model = build()
    before = {n: v.clone() for n, v in model.image_encoder.named_buffers()}
    model.train().image_features(IMAGES)
    changed = [n for n, v in model.image_encoder.named_buffers() if not torch.equal(before[n], v)]
    assert changed
    assert not any(module.training for module in model.eval().modules())


def test_a_frozen_text_encoder_is_run_once_and_leaves_only_its_features() -> None:
    model = build(text_encoder_name=TINY, freeze_text_encoder=True)
    assert isinstance(model.text_encoder, FrozenTextFeatures)
    assert model.text_encoder.features.shape == (6, 512 // 2)
    assert [n for n, _ in model.named_parameters() if n.startswith("text_encoder")] == []
    torch.manual_seed(0)  # `text_seed`, to begin with
    flat = [prompt for prompts in PROMPTS for prompt in prompts]
    tower = build_text(parse_text_encoder(TINY), flat, None).eval()
    with torch.no_grad():
        expected = tower(torch.arange(6))
    assert torch.allclose(model.text_encoder.features, expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_encoder_name": TINY, "freeze_text_encoder": True},
        {"text_encoder_name": f"prompts:{TINY}"},
        {"text_encoder_name": f"prompts:{TINY}", "prompts_per_class": 4},
        {"text_encoder_name": f"prompts:{TINY}", "freeze_text_encoder": True},
    ],
)
def test_who_knows_the_features_of_a_tower_gets_the_model_of_who_computes_them(
    changes: dict[str, Any],
) -> None:
    asked = []

    def known(text: FrozenText) -> Tensor:
        asked.append(text)
        return features

    features = FrozenText(
        parse_text_encoder(TINY), tuple(p for prompts in PROMPTS for p in prompts), None, 0
    ).features()
    computed = build(**changes).checkpoint_state()
    torch.manual_seed(0)
    found = build_model(config(**changes), CLASSES, PROMPTS, text_features=known)
    state = found.checkpoint_state()
    assert state.keys() == computed.keys()
    assert all(torch.equal(state[name], computed[name]) for name in computed)
    assert len(asked) == 1
    # What goes on from a checkpoint asks nobody.
    again = build_model(config(**changes), CLASSES, PROMPTS, state=state, text_features=known)
    assert torch.equal(again.mean_class_features(), found.mean_class_features())
    assert len(asked) == 1


def test_learned_prompts_follow_prompts_per_class() -> None:
    model = build(prompts_per_class=4)
    assert isinstance(model.text_encoder, LearnedPrompts)
    assert model.text_encoder.vectors.shape == (12, 16)
    assert model.first_rows.tolist() == [0, 4, 8]
    assert isinstance(model.text_projection, nn.Identity)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text_encoder_name": TINY},
        {"text_encoder_name": TINY, "freeze_text_encoder": True},
        {"freeze_image_encoder": True},
    ],
)
def test_a_checkpoint_gives_the_same_model_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = build(**changes).eval()
    torch.save(model.checkpoint_state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(9)
    again = build_model(config(**changes), CLASSES, PROMPTS, state=state).eval()
    with torch.no_grad():
        assert torch.equal(again.image_features(IMAGES), model.image_features(IMAGES))
        assert torch.equal(again.mean_class_features(), model.mean_class_features())
        assert torch.equal(again.logit_scale(), model.logit_scale())


def test_a_checkpoint_of_pretrained_encoders_needs_no_weights_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clip_pkg.models import hub

    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    model = build(text_encoder_name=TINY, freeze_text_encoder=True)
    settings = config(
        image_encoder_name="test_resnet",
        text_encoder_name="clip:ViT-B/32",
        freeze_text_encoder=True,
    )
    again = build_model(settings, CLASSES, PROMPTS, state=model.checkpoint_state())
    assert torch.equal(again.mean_class_features(), model.mean_class_features())


def test_another_models_checkpoint_is_refused() -> None:
    model = build()
    state = model.checkpoint_state()
    del state["log_logit_scale"]
    state["image_projection.weight"] = torch.zeros(2, 2)
    state["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        model.load_checkpoint_state(state, source="checkpoint_best.pth")
    for words in ("checkpoint_best.pth", "log_logit_scale", "extra", "[2, 2], expected [16,"):
        assert words in str(caught.value)


def test_a_checkpoint_of_other_texts_is_refused(clip_model: ImageTextModel) -> None:
    other = [["an owl"], ["a dog", "a dog on a flower", "the dog"], ["a fox", "two foxes"]]
    with pytest.raises(CheckpointError, match="other class texts"):
        build_model(
            config(text_encoder_name=TINY), CLASSES, other, state=clip_model.checkpoint_state()
        )


@pytest.mark.parametrize("embed_dim", [16, 24])
def test_both_towers_of_one_pretrained_clip_start_in_its_own_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed_dim: int
) -> None:
    import json

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    content = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "tiny-pair.json").write_text(json.dumps(content))
    open_clip.add_model_config(tmp_path / "tiny-pair.json")
    whole = open_clip.create_model("tiny-pair").eval()
    torch.save(whole.state_dict(), tmp_path / "tiny-pair.pt")
    spec = EncoderSpec("clip", "tiny-pair", "pretrained", None, "clip:tiny-pair")
    monkeypatch.setattr(RunConfig, "image_encoder", property(lambda _: spec))
    monkeypatch.setattr(RunConfig, "text_encoder", property(lambda _: spec))
    settings = config(weights_dir=str(tmp_path), embed_dim=embed_dim)
    model = build_model(settings, CLASSES, PROMPTS).eval()
    flat = [prompt for prompts in PROMPTS for prompt in prompts]
    with torch.no_grad():
        found = model.image_features(IMAGES) @ model.class_features(torch.arange(6)).T
        tokens = open_clip.get_tokenizer("tiny-pair")(flat)
        texts = whole.encode_text(tokens, normalize=True)
        expected = whole.encode_image(IMAGES, normalize=True) @ texts.T
    assert torch.allclose(found, expected, atol=1e-5)


def test_channels_last_gives_the_same_features() -> None:
    model = build().eval()
    with torch.no_grad():
        expected = model.image_features(IMAGES)
        model.to(memory_format=torch.channels_last)
        found = model.image_features(IMAGES.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-5)


class Pixels(nn.Module):
    """An image encoder without weights."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu() -> None:
    encoder = ImageEncoder(Pixels(), 3, (0.0,) * 3, (1.0,) * 3)  # type: ignore[arg-type]
    model = ImageTextModel(encoder, LearnedPrompts(6, 8), [1, 3, 2], embed_dim=8, temperature=0.07)
    model.cuda()
    images = IMAGES.cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        texts = model.class_features(model.draw_prompts(generator))
        (model.logit_scale() * model.image_features(images) @ texts.T).sum().backward()
        model.mean_class_features()
        model.clamp_logit_scale()
    finally:
        torch.cuda.set_sync_debug_mode("default")
