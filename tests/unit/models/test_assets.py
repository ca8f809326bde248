from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from clip_pkg.config.encoders import parse_image_encoder, parse_text_encoder
from clip_pkg.models.assets import Snapshot, WeightsFile
from clip_pkg.models.families import assets

RESNET = "timm/resnet18.a1_in1k"
CLIP = "timm/vit_base_patch32_clip_224.openai"


def image_asset(name: str) -> WeightsFile:
    (asset,) = assets(parse_image_encoder(name), "image")
    assert isinstance(asset, WeightsFile)
    return asset


def text_snapshot(name: str) -> Snapshot:
    (asset,) = (a for a in assets(parse_text_encoder(name), "text") if isinstance(a, Snapshot))
    return asset


def touch(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def cache(hub: Path, repo: str, *filenames: str) -> Path:
    """Lay files out as the hub's cache does."""
    root = hub / f"models--{repo.replace('/', '--')}"
    touch(root / "refs" / "main", "0" * 40)
    for filename in filenames:
        touch(root / "snapshots" / ("0" * 40) / filename)
    return root / "snapshots" / ("0" * 40)


@pytest.mark.usefixtures("empty_caches")
@pytest.mark.parametrize(
    ("encoder", "place"),
    [
        ("resnet18", "resnet18.safetensors"),
        ("resnet18", "resnet18.pth"),
        ("resnet18", "resnet18.a1_in1k.bin"),
        ("resnet18.fb_swsl_ig1b_ft_in1k", "resnet18.pt"),
        ("resnet18", "resnet18/model.safetensors"),
        ("resnet18", "resnet18.a1_in1k/only_one.pth"),
        ("resnet18", "timm/resnet18.a1_in1k/pytorch_model.bin"),
        ("resnet18", "timm--resnet18.a1_in1k/model.safetensors"),
        ("clip:ViT-B/32", "ViT-B-32.pt"),
        ("clip:ViT-B/32", "ViT-B-32-openai.safetensors"),
        ("clip:ViT-L/14@336px", "ViT-L-14-336px.pt"),
        ("clip:ViT-B/32", "ViT-B-32/open_clip_model.safetensors"),
    ],
)
def test_names_that_a_weights_dir_may_use(tmp_path: Path, encoder: str, place: str) -> None:
    asset = image_asset(encoder)
    assert asset.find(tmp_path) is None
    expected = touch(tmp_path / place)
    assert asset.find(tmp_path) == expected


@pytest.mark.usefixtures("empty_caches")
def test_a_file_serves_as_it_is(tmp_path: Path) -> None:
    file = touch(tmp_path / "anything.pt")
    assert image_asset("resnet18").find(file) == file
    assert image_asset("clip:ViT-B/32").find(file) == file


@pytest.mark.usefixtures("empty_caches")
def test_other_models_and_ambiguous_folders_are_not_taken(tmp_path: Path) -> None:
    touch(tmp_path / "resnet34.safetensors")
    touch(tmp_path / "resnet18" / "a.pt")
    touch(tmp_path / "resnet18" / "b.pt")
    assert image_asset("resnet18").find(tmp_path) is None
    assert image_asset("resnet18").find(tmp_path / "absent") is None


@pytest.mark.usefixtures("empty_caches")
def test_a_snapshot_is_taken_by_its_own_model_only(tmp_path: Path) -> None:
    weights = touch(tmp_path / "model.safetensors")
    touch(tmp_path / "config.json", json.dumps({"architecture": "resnet18"}))
    assert image_asset("resnet18").find(tmp_path) == weights
    assert image_asset("resnet34").find(tmp_path) is None
    assert image_asset("clip:ViT-B/32").find(tmp_path) is None
    touch(tmp_path / "open_clip_config.json")
    assert image_asset("clip:ViT-B/32").find(tmp_path) == weights


@pytest.mark.parametrize(("encoder", "repo"), [("resnet18", RESNET), ("clip:ViT-B/32", CLIP)])
def test_the_hubs_cache_is_used_here_and_as_a_copy(
    tmp_path: Path, empty_caches: Path, encoder: str, repo: str
) -> None:
    asset = image_asset(encoder)
    assert asset.repo == repo
    assert asset.find(None) is None
    copied = cache(tmp_path / "copy" / "hub", repo, asset.filenames[1])
    assert asset.find(tmp_path / "copy") == copied / asset.filenames[1]
    here = cache(Path(constants.HF_HUB_CACHE), repo, *asset.filenames)
    assert asset.find(None) == here / asset.filenames[0]


def test_files_of_openais_clip_and_of_torch_hub_are_used(empty_caches: Path) -> None:
    clip = touch(empty_caches / ".cache" / "clip" / "ViT-B-32.pt")
    assert image_asset("clip:ViT-B/32").find(None) == clip
    hub = touch(empty_caches / "torch" / "hub" / "checkpoints" / "resnet18_a1_0-d63eafa0.pth")
    assert image_asset("resnet18").find(None) == hub


def test_scratch_and_prompts_need_nothing_from_outside() -> None:
    assert assets(parse_image_encoder("resnet18:scratch"), "image") == ()
    assert assets(parse_image_encoder("clip:ViT-B/32:scratch"), "image") == ()
    assert assets(parse_text_encoder("clip:ViT-B/32:scratch"), "text") == ()
    assert assets(parse_text_encoder("prompts"), "text") == ()


def test_only_the_text_side_of_a_clip_model_needs_a_tokenizer() -> None:
    name = "clip:ViT-B-16-SigLIP:scratch"
    assert assets(parse_image_encoder(name), "image") == ()
    assert text_snapshot(name).components == ("tokenizer",)
    both = assets(parse_text_encoder("clip:xlm-roberta-base-ViT-B-32:scratch"), "text")
    assert [asset.what for asset in both] == [
        "the configuration of xlm-roberta-base",
        "the tokenizer xlm-roberta-base",
    ]


@pytest.mark.usefixtures("empty_caches")
def test_a_transformers_folder_needs_all_its_parts(tmp_path: Path) -> None:
    asset = text_snapshot(f"hf:{tmp_path}")
    assert asset.is_folder
    touch(tmp_path / "config.json")
    assert asset.lacks(tmp_path) == ("weights", "tokenizer")
    assert asset.ways(None) == (
        "add model.safetensors or pytorch_model.bin and tokenizer.json or vocab.txt or vocab.json "
        f"or tokenizer.model or spiece.model or sentencepiece.bpe.model to {tmp_path}",
    )
    touch(tmp_path / "vocab.txt")
    touch(tmp_path / "model.safetensors")
    assert asset.find(None) == tmp_path
    absent = text_snapshot(f"hf:{tmp_path}/absent")
    assert absent.find(None) is None
    assert absent.ways(None) == (f"correct the path {tmp_path}/absent, which is not a folder",)


@pytest.mark.usefixtures("empty_caches")
def test_shards_count_when_all_are_there(tmp_path: Path) -> None:
    asset = text_snapshot(f"hf:{tmp_path}")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    touch(tmp_path / "model.safetensors.index.json", json.dumps({"weight_map": shards}))
    touch(tmp_path / shards["a"])
    assert "weights" in asset.lacks(tmp_path)
    touch(tmp_path / shards["b"])
    assert "weights" not in asset.lacks(tmp_path)


@pytest.mark.parametrize("place", ["bert-base-chinese", ".", "copy"])
def test_a_hub_model_is_found_in_a_weights_dir(
    tmp_path: Path, empty_caches: Path, place: str
) -> None:
    asset = text_snapshot("bert-base-chinese")
    files = ("config.json", "pytorch_model.bin", "vocab.txt")
    if place == "copy":
        folder = cache(tmp_path, "bert-base-chinese", *files)
    else:
        folder = tmp_path / place
        for file in files:
            touch(folder / file)
    assert asset.find(tmp_path) == folder
    assert asset.find(None) is None
    here = cache(Path(constants.HF_HUB_CACHE), "bert-base-chinese", *files)
    assert asset.find(None) == here
