"""Images whose label is probably wrong, ranked, from the files that training wrote.

An image is a suspect for up to three reasons, see `REASONS`. Nothing is changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.program import program
from clip_pkg.results.confident_learning import (
    NO_CLASS,
    Floats,
    Indices,
    confident_joint,
    label_issues,
    relative_self_confidence,
)
from clip_pkg.results.folders import ConfigFiles, read_configs
from clip_pkg.study.predictions import Predictions

Reason: TypeAlias = Literal["confident", "copy", "misclassified"]
REASONS: Mapping[Reason, str] = {
    "confident": "confident learning finds another class",
    "copy": "a near copy has another label",
    "misclassified": "every config predicts another class",
}
CAVEAT = "A hard image is not necessarily mislabelled: check each one. Nothing was changed."
MANY = 0.2  # share of all images; benchmarks change 5 to 10 % of the labels


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    p_label, p_suggested: mean out-of-fold probabilities. score: p_label ÷ its mean over the images
    with this label, the lower the more suspicious. configs_wrong: configs that predict another
    class. copy_of: a near copy with another label.
    """

    path: str
    label: str
    suggested_label: str
    p_label: float
    p_suggested: float
    score: float
    reasons: tuple[Reason, ...]
    configs_wrong: int
    copy_of: str | None


CSV_COLUMNS = (*(field.name for field in fields(Suspect)), "corrected_label")


@dataclass(frozen=True)
class Suspects:
    """The suspects among the images of one or more configs, the most suspicious first.

    confusions: label, suggested label and number of the suspects of confident learning, the most
    frequent pair first. configs: names of those whose probabilities were averaged. n_images: with a
    prediction. data_dir: where the images were in training; None if the run does not record it.
    notices: what was left out and why, a sentence each. damaged: whether for damaged files.
    """

    ranked: tuple[Suspect, ...]
    confusions: tuple[tuple[str, str, int], ...]
    configs: tuple[str, ...]
    n_images: int
    data_dir: Path | None
    notices: tuple[str, ...]
    damaged: bool = False

    def csv_rows(self, limit: int | None = None) -> list[dict[str, object]]:
        """A row of a CSV file per suspect, with an empty column `corrected_label` to fill in."""
        return [
            {**asdict(one), "reasons": "; ".join(one.reasons), "corrected_label": None}
            for one in self.ranked[:limit]
        ]


def suspects_in(directory: Path) -> Suspects:
    """Find the suspects of a config's result folder, or of a folder with several.

    Raises RunFolderError if there are no results, or if none can be used.
    """
    found, refused = read_configs([directory], ConfigFiles)
    return find_suspects(
        found, [f"{shown(folder.name)} is not used: {reason}" for folder, reason in refused]
    )


def find_suspects(configs: Sequence[ConfigFiles], refused: Sequence[str] = ()) -> Suspects:
    """Average the out-of-fold probabilities of configs with the same images and classes.

    If the configs have several sets of images, the set with the most configs is used.

    Args:
        configs: their best epochs are used.
        refused: sentences about configs that could not be read.

    Raises:
        RunFolderError: No config can be used, and why.
    """
    notices = list(refused)
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[ConfigFiles, Predictions]]] = {}
    for files in configs:
        predictions = files.pooled()
        if predictions is None:
            notices.append(
                f"{shown(files.name)} is not used: no fold is finished. Run the training command "
                "again to resume."
            )
            continue
        key = (files.folds_info["data_fingerprint"], predictions.classes)
        groups.setdefault(key, []).append((files, averaged(predictions)))
    if not groups:
        raise RunFolderError("\n  ".join(["no label can be judged:", *notices]))
    used = max(groups.values(), key=len)
    first = used[0][0]
    for files, _ in (one for group in groups.values() if group is not used for one in group):
        folder = shlex.quote(shown(files.paths.root))
        notices.append(
            f"{shown(files.name)} is not used: its images or classes differ from those of "
            f"{shown(first.name)}. For its own: {program()} suspects {folder}"
        )
    fold = first.folds_info["folds"][0]
    pool = _pooled([predictions for _, predictions in used])
    if unseen := fold["n_train"] + fold["n_val"] - len(pool.paths):
        notices.append(
            f"{unseen} of {unseen + len(pool.paths)} images have no out-of-fold prediction, "
            "because of unfinished folds or a hold-out split, and are not judged."
        )
    issues = label_issues(pool.probabilities, pool.labels)
    joint = confident_joint(pool.labels, issues, len(pool.classes))
    pairs = sorted(np.argwhere(joint).tolist(), key=lambda pair: (-joint[*pair], pair))
    data_dir = first.preflight.get("data_dir")
    ranked = _ranked(pool, issues, _copies(first, pool))
    if len(ranked) > MANY * len(pool.paths):
        notices.append(
            f"{len(ranked)} of {len(pool.paths)} labels are suspect. Far fewer are wrong in most "
            "image sets: these models make too many errors to judge labels, so look at the first "
            "ones only"
        )
    return Suspects(
        ranked=ranked,
        confusions=tuple(
            (pool.classes[label], pool.classes[other], int(joint[label, other]))
            for label, other in pairs
        ),
        configs=tuple(files.name for files, _ in used),
        n_images=len(pool.paths),
        data_dir=None if data_dir is None else Path(data_dir),
        notices=tuple(notices),
        damaged=bool(refused),
    )


def averaged(predictions: Predictions) -> Predictions:
    """One row per image, sorted by path: the mean of its rows in repeated cross-validation."""
    paths = np.array(predictions.paths, dtype=object)
    unique, first, place = np.unique(paths, return_index=True, return_inverse=True)
    sums = np.zeros((len(unique), len(predictions.classes)))
    np.add.at(sums, place, predictions.probabilities)
    return Predictions(
        classes=predictions.classes,
        paths=tuple(unique.tolist()),
        targets=predictions.targets[first],
        probabilities=sums / np.bincount(place)[:, None],
    )


@dataclass(frozen=True, eq=False)
class _Pool:
    """N images sorted by path; probabilities [N, C] are means over the configs that predict them.

    wrong: [N] configs that predict another class than the label. judged: [N] those that predict it.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Indices
    probabilities: Floats
    wrong: Indices
    judged: Indices


def _pooled(configs: Sequence[Predictions]) -> _Pool:
    paths = sorted({path for one in configs for path in one.paths})
    place = {path: row for row, path in enumerate(paths)}
    labels, wrong, judged = (np.zeros(len(paths), dtype=np.int64) for _ in range(3))
    sums = np.zeros((len(paths), len(configs[0].classes)))
    for one in configs:
        rows = np.array([place[path] for path in one.paths], dtype=np.int64)
        labels[rows] = one.targets
        sums[rows] += one.probabilities
        judged[rows] += 1
        wrong[rows] += one.probabilities.argmax(axis=1) != one.targets
    return _Pool(configs[0].classes, tuple(paths), labels, sums / judged[:, None], wrong, judged)


def _copies(files: ConfigFiles, pool: _Pool) -> dict[int, int]:
    """For each image with a near copy of another label, the first such copy."""
    place = {path: row for row, path in enumerate(pool.paths)}
    found = {}
    for cluster in files.folds_info.get("linked", ()):
        rows = sorted(place[path] for path in cluster if path in place)
        for row in rows:
            others = (other for other in rows if pool.labels[other] != pool.labels[row])
            if (other := next(others, None)) is not None:
                found[row] = other
    return found


def _ranked(pool: _Pool, issues: Indices, copies: Mapping[int, int]) -> tuple[Suspect, ...]:
    """Near copies first, side by side, because one of their labels is wrong as a rule; by score."""
    scores = relative_self_confidence(pool.probabilities, pool.labels)
    others = pool.probabilities.copy()
    others[np.arange(len(others)), pool.labels] = -np.inf
    suggested = np.where(issues != NO_CLASS, issues, others.argmax(axis=1))
    reasons: dict[int, list[Reason]] = {}
    for row in np.flatnonzero(issues != NO_CLASS).tolist():
        reasons.setdefault(row, []).append("confident")
    for row, other in copies.items():
        reasons.setdefault(row, []).append("copy")
        if issues[row] == NO_CLASS:
            suggested[row] = pool.labels[other]
    for row in np.flatnonzero(pool.wrong == pool.judged).tolist():
        reasons.setdefault(row, []).append("misclassified")

    def place(row: int) -> tuple[bool, float, float, str]:
        pair = min(scores[row], scores[copies.get(row, row)])
        return row not in copies, pair, scores[row], pool.paths[row]

    return tuple(
        Suspect(
            path=pool.paths[row],
            label=pool.classes[pool.labels[row]],
            suggested_label=pool.classes[suggested[row]],
            p_label=float(pool.probabilities[row, pool.labels[row]]),
            p_suggested=float(pool.probabilities[row, suggested[row]]),
            score=float(scores[row]),
            reasons=tuple(reasons[row]),
            configs_wrong=int(pool.wrong[row]),
            copy_of=pool.paths[copies[row]] if row in copies else None,
        )
        for row in sorted(reasons, key=place)
    )
