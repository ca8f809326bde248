"""Maps of evidence: against the equations by hand, over which layers, and as a folder."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from integration.inference.conftest import read_table
from PIL import Image
from torch import Tensor, nn

from clip_pkg.base.errors import UserError
from clip_pkg.inference.explain import Explainer, mean_maps
from clip_pkg.inference.explanation_folder import Explained, write_index, write_picture
from clip_pkg.inference.fold_classifier import FoldClassifier

CPU = torch.device("cpu")


def load(folder: Path) -> FoldClassifier:
    return FoldClassifier.load(folder / "fold_1/checkpoint_best.pth", CPU)


def squares(fold: FoldClassifier, count: int = 3) -> np.ndarray:
    side = fold.store_size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def by_hand(
    fold: FoldClassifier, values: Tensor, target: int, logits: Tensor, *, centred: bool = False
) -> np.ndarray:
    """Equations 1 and 2 of Grad-CAM for an activation [1, K, g, g] and the log-odds of a class."""
    probability = logits[0].double().softmax(dim=0)[target]
    (gradient,) = torch.autograd.grad(torch.log(probability / (1 - probability)), values)
    weights = gradient[0].mean(dim=(1, 2))
    evidence = torch.zeros(values.shape[2:])
    for weight, channel in zip(weights, values[0], strict=True):
        evidence += weight * channel
    if centred:
        evidence -= evidence.mean()
    evidence = evidence.clamp(min=0).detach()
    size = fold.augmentation.img_size
    large = F.interpolate(evidence[None, None], (size, size), mode="bilinear")[0, 0]
    return (large / large.max()).numpy() if large.max() > 0 else large.numpy()


def logits_of(fold: FoldClassifier, features: Tensor) -> Tensor:
    model = fold.classifier.model
    embedding = F.normalize(features @ model.image_projection.weight.T, dim=-1)
    return embedding @ fold.classifier.class_features.T * model.log_logit_scale.exp()


def test_maps_of_a_convolutional_encoder_are_grad_cam(run: Path) -> None:
    fold = load(run / "clip")
    encoder = fold.classifier.model.image_encoder.model
    pixels = squares(fold)
    start = (fold.store_size - 32) // 2
    for target in range(3):
        found = Explainer.of(fold).maps(pixels, np.full(3, target))
        for number in range(3):
            x = fold.images(pixels[number : number + 1]).requires_grad_()
            x = encoder.maxpool(encoder.act1(encoder.bn1(encoder.conv1(x))))
            late = encoder.layer3(encoder.layer2(encoder.layer1(x)))
            features = encoder.global_pool(encoder.layer4(late))
            wanted = by_hand(fold, late, target, logits_of(fold, features))
            inner = found[number, start : start + 32, start : start + 32]
            np.testing.assert_allclose(inner, wanted, atol=1e-4)
    assert found.shape == (3, fold.store_size, fold.store_size)
    outside = np.ones_like(found, dtype=bool)
    outside[:, start : start + 32, start : start + 32] = False
    assert not found[outside].any()


def test_maps_of_a_transformer_are_of_what_its_last_attention_looks_at(explained: Path) -> None:
    fold = load(explained / "vit")
    explainer = Explainer.of(fold)
    encoder = fold.classifier.model.image_encoder.model
    assert explainer.layer.module is encoder.blocks[-1].norm1
    pixels = squares(fold, 1)
    x = encoder.patch_embed(fold.images(pixels).requires_grad_())
    x = encoder.norm_pre(encoder.patch_drop(encoder._pos_embed(x)))
    for block in encoder.blocks[:-1]:
        x = block(x)
    tokens = encoder.blocks[-1].norm1(x)
    values = tokens[:, 1:].transpose(1, 2).reshape(1, -1, 2, 2)
    block = encoder.blocks[-1]
    seen = torch.cat([tokens[:, :1], values.flatten(2).transpose(1, 2)], dim=1)
    x = x + block.ls1(block.attn(seen))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    features = encoder.forward_head(encoder.norm(x))
    wanted = by_hand(fold, values, 1, logits_of(fold, features), centred=True)
    np.testing.assert_allclose(explainer.maps(pixels, np.array([1]))[0], wanted, atol=1e-3)


class Colours(nn.Module):
    """Mean over 4×4 places of how red, how green they are, and of something that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        red, green, _ = F.avg_pool2d(images, 8).unbind(dim=1)
        features = [F.relu(red - green), F.relu(green - red), torch.ones_like(red)]
        return self.places(torch.stack(features, dim=1)).mean(dim=(2, 3))


def test_evidence_lies_where_it_is_although_the_model_is_sure(run: Path) -> None:
    fold = load(run / "clip")
    model = fold.classifier.model
    model.image_encoder.model = Colours()
    model.image_projection = nn.Identity()
    start = (fold.store_size - 32) // 2
    pixels = np.full((1, fold.store_size, fold.store_size, 3), 128, dtype=np.uint8)
    pixels[:, start + 8 : start + 16, start + 16 : start + 24, 0] = 255
    red = model.image_features(fold.images(pixels))  # the class is just what is in this image
    classes = torch.cat([red, red[:, [1, 0, 2]], -red])
    classifier = replace(fold.classifier, class_features=classes)
    (found,) = Explainer.of(replace(fold, classifier=classifier)).maps(pixels, np.array([0]))
    inner = found[start : start + 32, start : start + 32]
    row, column = np.unravel_index(inner.argmax(), inner.shape)
    assert 8 <= row < 16
    assert 16 <= column < 24
    assert inner[8:16, 16:24].mean() > 0.5
    assert not inner[24:].any()
    assert not inner[:, :8].any()


@pytest.mark.parametrize("name", ["vit", "clip_vit"])
def test_every_kind_of_encoder_gives_maps(name: str, explained: Path) -> None:
    fold = load(explained / name)
    pixels = squares(fold)
    explainer = Explainer.of(fold)
    maps = explainer.maps(pixels)
    assert maps.dtype == np.float32
    assert maps.shape == pixels.shape[:3]
    assert np.isin(maps.max(axis=(1, 2)), (0, 1)).all()
    assert maps.min() >= 0
    assert maps.any()
    assert np.array_equal(maps, explainer.maps(pixels, fold.probabilities(pixels).argmax(axis=1)))
    assert len({explainer.maps(pixels, np.full(3, one)).tobytes() for one in range(3)}) == 3


def test_a_stem_for_small_images_leaves_finer_maps(run: Path) -> None:
    grids = [Explainer.of(load(run / name)).layer.grid.width for name in ("cifar_stem", "clip")]
    assert grids[0] > grids[1]
    fold = load(run / "cifar_stem")
    assert Explainer.of(fold).maps(squares(fold)).any()


def test_explaining_changes_no_answer(run: Path) -> None:
    fold = load(run / "clip")
    pixels = squares(fold)
    before = fold.probabilities(pixels)
    Explainer.of(fold).maps(pixels)
    assert np.array_equal(fold.probabilities(pixels), before)


@pytest.mark.parametrize(
    ("encoder", "layer", "layout"),
    [
        ("test_convnext", "stages.3.downsample.0", "channels first"),
        ("test_efficientnet", "blocks.4.0.bn1", "channels first"),
        ("test_vit2", "norm", "tokens"),
        ("test_mambaout", "stages.3.downsample.norm", "channels last"),
    ],
)
def test_the_layer_is_the_last_one_in_which_evidence_has_a_place(
    encoder: str, layer: str, layout: str, run: Path
) -> None:
    fold = load(run / "clip")
    model = timm.create_model(encoder, num_classes=0).eval().requires_grad_(False)
    fold.classifier.model.image_encoder.model = model
    fold.classifier.model.image_projection = nn.LazyLinear(16)
    explainer = Explainer.of(fold)
    (name,) = (name for name, module in model.named_modules() if module is explainer.layer.module)
    assert (name, explainer.layer.grid.layout) == (layer, layout)
    assert explainer.layer.grid.width >= 2
    assert np.isfinite(explainer.maps(squares(fold))).all()


def test_an_encoder_without_places_is_told(run: Path) -> None:
    fold = load(run / "clip")
    features = fold.classifier.model.image_encoder.num_features
    fold.classifier.model.image_encoder.model = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, features)
    )
    with pytest.raises(UserError, match="no layer of the image encoder"):
        Explainer.of(fold)


def test_the_map_of_several_folds_is_their_mean(run: Path) -> None:
    folds = [
        FoldClassifier.load(run / f"folds/fold_{number}/checkpoint_best.pth", CPU)
        for number in (1, 2, 3)
    ]
    pixels, classes = squares(folds[0]), np.array([0, 1, 2])
    explainers = [Explainer.of(fold) for fold in folds]
    mean = np.mean([explainer.maps(pixels, classes) for explainer in explainers], axis=0)
    strongest = mean.max(axis=(1, 2), keepdims=True)
    wanted = mean / np.where(strongest > 0, strongest, 1)
    np.testing.assert_allclose(mean_maps(explainers, pixels, classes), wanted, atol=1e-6)
    assert mean_maps(explainers, pixels[:0], classes[:0]).shape == (0, *pixels.shape[1:3])


def read_index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("part", ["folds", "folds/fold_1"])
def test_a_folder_of_pictures_with_an_index(
    part: str, run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    maps, answers = tmp_path / "maps", tmp_path / "answers.csv"
    data = images / "grün"
    shown = use("explain", run / part, "--images", data, "--output", maps)
    assert f"Open {maps / 'index.html'} in a browser" in shown
    use("predict", run / part, "--images", data, "--output", answers)
    table = read_table(answers)
    rows = read_index(maps)
    assert [row["path"] for row in rows] == table.paths
    assert [row["explained"] for row in rows] == [row["prediction"] for row in rows]
    assert [row["prediction"] for row in rows] == table.predictions
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, table.probabilities.max(axis=1), atol=2e-6)
    for row in rows:
        with Image.open(maps / row["picture"]) as picture:
            assert picture.size == (24, 24)
    page = (maps / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 10
    assert {path.name for path in maps.iterdir()} == {
        "index.csv",
        "index.html",
        *(row["picture"] for row in rows),
    }


def test_a_chosen_class(run: Path, images: Path, use: Callable[..., str], tmp_path: Path) -> None:
    model, maps = run / "clip", tmp_path / "maps"
    use("explain", model, "--images", images / "red", "--output", maps, "--class", "blue sky")
    assert {row["explained"] for row in read_index(maps)} == {"blue sky"}
    words = ["--images", images, "--output", tmp_path / "other"]
    shown = use("explain", model, *words, "--class", "blue", check=2)
    assert "no class 'blue'; choose from blue sky, grün, red" in shown
    assert "is not empty" in use("explain", model, "--images", images, "--output", maps, check=2)
    file = tmp_path / "file"
    file.touch()
    assert "not a folder" in use("explain", model, "--images", images, "--output", file, check=2)
    assert not (tmp_path / "other").exists()


def test_unreadable_images_are_left_out_on_request(
    run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(images / "red", tmp_path / "data"))
    (data / "000.png").write_bytes(b"")
    words = ["--images", data, "--output", tmp_path / "maps"]
    assert "1 of 14 image(s) cannot be read" in use("explain", run / "clip", *words, check=2)
    assert not (tmp_path / "maps").exists()
    shown = use("explain", run / "clip", *words, "--skip-unreadable")
    assert "1 image(s) cannot be read and are left out" in shown
    assert len(read_index(tmp_path / "maps")) == 13


def test_a_picture_is_the_image_where_there_is_no_evidence(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    small = image[:100, :50]
    evidence = np.zeros((10, 10), dtype=np.float32)
    write_picture(tmp_path / "a.png", small, evidence)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), small)
    evidence[:, :5] = 1
    write_picture(tmp_path / "a.png", small, evidence)
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(drawn[:, -10:], small[:, -10:])
    assert not np.isclose(drawn[:, :10], small[:, :10]).all(axis=2).any()
    write_picture(tmp_path / "a.png", image, evidence)
    assert Image.open(tmp_path / "a.png").size == (256, 512)


def test_names_are_no_markup(tmp_path: Path) -> None:
    row = Explained("<i>.png", "00001.png", "<b>", 0.5, "a & b")
    write_index(tmp_path, "<u>", [row])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page
    assert "a &amp; b" in page
    assert not {"<i>", "<u>"} & set(page.split())
    assert read_index(tmp_path)[0]["path"] == "<i>.png"
