"""Result folders as training leaves them, with predictions that are drawn instead of learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.results.summary import summarize
from clip_pkg.study.folds_info import splits_to_json
from clip_pkg.study.identity import Identity, digest
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.splits import make_splits
from clip_pkg.study.tasks import FoldResult, write_record

CLASSES = ("cat", "dog", "owl")


def image_list(per_class: int = 40, data: str = "x", groups_of: int = 0) -> Manifest:
    """Images that exist on paper only; `data` makes their contents differ."""
    count = per_class * len(CLASSES)
    return Manifest(
        data_dir=Path("images"),
        classes=CLASSES,
        paths=tuple(f"{CLASSES[i // per_class]}/{i:04d}.png" for i in range(count)),
        labels=np.repeat(np.arange(len(CLASSES)), per_class).astype(np.int64),
        groups=tuple(f"patient {i // groups_of}" for i in range(count)) if groups_of else None,
        digests=tuple(digest([data, i]) for i in range(count)),
    )


def drawn_answers(images: Manifest, skill: float, seed: int) -> np.ndarray:
    """Probabilities [N, C] that are the better the larger `skill` is, 0 for guessing."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(images), len(CLASSES)))
    logits[np.arange(len(images)), images.labels] += skill
    scores = np.exp(logits)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def write_result(
    root: Path,
    name: str,
    images: Manifest,
    answers: np.ndarray,
    *,
    last: np.ndarray | None = None,
    n_splits: int = 5,
    n_repeats: int = 1,
    seed: int = 42,
    use_cv: bool = True,
    missing: Sequence[int] = (),
    **settings: object,
) -> Path:
    """Write what a finished config leaves, but for the folds that are `missing`; returns it.

    settings: of the config.
    """
    paths = ConfigPaths(root / name)
    splits = make_splits(
        images,
        use_cv=use_cv,
        n_splits=n_splits,
        n_repeats=n_repeats,
        random_state=seed,
        val_fraction=0.25,
    )
    identity = Identity(digest(name), images.fingerprint, splits.hash, "texts", "code")
    paths.root.mkdir(parents=True, exist_ok=True)
    write_json(paths.identity, asdict(identity))
    config = {**dump_canonical(RunConfig(name=name)), **settings}
    write_json(paths.config, config)
    write_json(paths.folds_info, splits_to_json(splits, images))
    untrained: dict[str, float | None] = {f"val_{key}": 33.3 for key in ("acc", "balanced_acc")}
    for fold in splits.folds:
        if fold.number in missing:
            continue
        files, scores = paths.fold(fold.number), []
        for said, file in (
            (answers, files.predictions),
            (answers if last is None else last, files.predictions_last),
        ):
            mine, labels = said[fold.val], images.labels[fold.val]
            Predictions(CLASSES, tuple(images.paths[i] for i in fold.val), labels, mine).write(file)
            found = history_scores(classification_metrics(mine, labels))
            scores.append({f"val_{key}": value for key, value in found.items()})
        result = FoldResult(
            identity=identity,
            fold=fold.number,
            n_train=len(fold.train),
            n_val=len(fold.val),
            best_epoch=3,
            last_epoch=5,
            stopped_early=False,
            best=scores[0],
            last=scores[1],
            untrained=untrained,
            chosen_on="reported fold",
            device="cpu",
            environment={"device": "cpu"},
            seconds=1.0,
            train_seconds=0.5,
            peak_memory_bytes=None,
            notices=[],
        )
        write_record(files.result, result)
        columns = {name: [value] * 5 for name, value in scores[1].items()}
        write_json(files.history, {"train_loss": [1.0] * 5, **columns})
    summarize(paths)
    return paths.root
