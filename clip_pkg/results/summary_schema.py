"""Schema of `cv_summary.json`: every block and key, with unit and meaning.

`CvSummary` validates a summary, and is the source of its JSON Schema and of docs/cv_summary.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, create_model, model_validator

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.program import program
from clip_pkg.base.reading import parse_json, read_bytes
from clip_pkg.config.loss_blocks import StrictModel
from clip_pkg.config.nodes import Node, allowed, options
from clip_pkg.metrics.table import METRICS, Metric

SCHEMA_VERSION = 3
OLDEST_VERSION = 2  # that is read; it has no headline

Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Percent: TypeAlias = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
FromOne: TypeAlias = Annotated[int, Field(ge=1)]
LowHigh: TypeAlias = Annotated[list[Number], Field(min_length=2, max_length=2)]
Status: TypeAlias = Literal["done", "diverged", "failed", "missing"]


class Units(StrictModel):
    """Units of scores."""

    percent: list[str] = Field(description="Scores in percent, with and without `val_`.")
    others: str = Field(alias="all other scores", description="The unit of all others.")


class FoldColumns(StrictModel):
    """A list per column with an entry per fold, in their order; null for unfinished folds.

    Of a repeated cross-validation, the folds of one repeat after those of another.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Number | None]]


class FoldResults(FoldColumns):
    """Each fold at its best epoch; further columns are `fold_val_<score>` and losses."""

    fold: list[FromOne] = Field(description="Numbers of the folds, from 1.")
    fold_best_epoch: list[FromOne | None] = Field(description="Epoch that was chosen, from 1.")
    fold_n_train: list[Count | None] = Field(description="Images trained on.")
    fold_n_val: list[Count | None] = Field(description="Images reported on.")
    fold_stopped_early: list[bool | None] = Field(description="Whether early stopping ended it.")


class Averages(StrictModel):
    """Mean and deviation over the folds with a result: `avg_<column>`, `std_<column>`.

    If a score is undefined in some of these folds, `n_<column>` is the number of the others.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | None]
    n: Count = Field(description="Folds with a result, of all repeats.")
    ddof: Literal[1] = Field(description="Of the sample standard deviation.")


def _score_field(metric: Metric) -> tuple[Any, Any]:
    low, high = (None if bound is None else metric.factor * bound for bound in metric.bounds)
    number = Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]
    kind = number if metric.always_defined else number | None
    return kind, Field(description=metric.description)


_OUT_OF_FOLD: dict[str, Any] = {
    **{name: _score_field(metric) for name, metric in METRICS.items()},
    "n": (
        Count,
        Field(description="Out-of-fold predictions: one per image, with `n_repeats` that many."),
    ),
    "n_planned": (Count, Field(description="Predictions that all folds together make.")),
    "top_k_is": (Count, Field(description="k of `top_k`.")),
    "defined_classes": (
        dict[str, Count],
        Field(
            description="Over how many classes each mean was taken; the others are null in "
            "`per_class`."
        ),
    ),
}
OutOfFold = create_model(
    "OutOfFold",
    __base__=StrictModel,
    __doc__="Scores over all out-of-fold predictions at once, those of all repeats included.",
    **_OUT_OF_FOLD,
)


class EpochScores(StrictModel):
    """Scores at the best epoch, which `epoch_choice` describes, or at the last one."""

    fold_results: FoldColumns = Field(
        description="`fold_best_epoch` or `fold_last_epoch`, `fold_val_<score>` and losses."
    )
    average_results: Averages = Field(description="Their means over folds.")
    out_of_fold: OutOfFold | None = Field(description="The same epochs; null without a result.")


class RepeatColumns(StrictModel):
    """`repeat_<column>`: an entry per repeat, null while one of its folds is unfinished."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Number | None]]


class RepeatAverages(StrictModel):
    """Mean and deviation over the complete repeats: `avg_<column>`, `std_<column>`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | None]
    n: Count = Field(description="Complete repeats.")
    ddof: Literal[1] = Field(description="Of the sample standard deviation.")


class RepeatScores(StrictModel):
    """Scores of whole repeats at one epoch of each fold."""

    repeat_results: RepeatColumns = Field(description="Means over the folds of each repeat.")
    average_results: RepeatAverages = Field(
        description="Their mean and deviation: how much the division and the seeds change."
    )


class Repeats(StrictModel):
    """Repeated cross-validation, repeat by repeat."""

    n_repeats: FromOne = Field(description="Divisions of the images.")
    n_splits: FromOne = Field(description="Folds of each.")
    best_epoch: RepeatScores = Field(description="At the best epochs.")
    last_epoch: RepeatScores = Field(description="At the last epochs.")


class TestImages(StrictModel):
    """Scores on the config's test images: each fold's model was evaluated on all of them once."""

    n: Count = Field(description="Test images.")
    model: Literal["of the epoch that validation chose"]
    top_k_is: Count = Field(description="k of `top_k`.")
    fold_results: FoldColumns = Field(description="`fold_test_<score>` of each fold.")
    average_results: Averages = Field(
        description="Their means over folds; they vary with the training sets only, because all "
        "folds share the test images."
    )


class Baselines(StrictModel):
    """Scores without training, as means over folds."""

    majority_class: Averages = Field(
        description="Always predicting the most frequent class of the training fold."
    )
    untrained_model: Averages = Field(description="The model before its first step.")


class PerClass(StrictModel):
    """One class against the rest, over all out-of-fold predictions; null where undefined."""

    support: Count = Field(description="Predictions for images of the class, one per repeat.")
    predicted: Count = Field(description="Predictions of the class.")
    precision: Fraction | None = Field(
        description="TP / (TP + FP), 0 if the class is never predicted; null without images."
    )
    recall: Fraction | None = Field(description="TP / (TP + FN); null without images.")
    f1: Fraction | None = Field(description="2·TP / (2·TP + FP + FN); null without images.")
    specificity: Fraction | None = Field(
        description="TN / (TN + FP); null if all images are of the class."
    )
    average_precision: Fraction | None = Field(
        description="Σ (R_k − R_k−1)·P_k over distinct probabilities; null if the class has no "
        "images or all of them."
    )
    auroc: Fraction | None = Field(description="Area under the ROC curve; null as before.")


class ConfusionMatrix(StrictModel):
    """Counts of out-of-fold predictions: each image counts once, with `n_repeats` that often."""

    classes: list[str] = Field(description="Order of rows and columns.")
    rows: Literal["true class"]
    columns: Literal["predicted class"]
    counts: list[list[Count]] = Field(description="One list per true class.")


class ConfidenceIntervals(StrictModel):
    """Intervals of pooled scores: they cover other images, not other training runs."""

    method: str = Field(description="How they were computed; docs/comparing.md has the details.")
    level: Fraction = Field(description="Of each interval.")
    resamples: Count | None = Field(None, description="Of files of version 2.")
    seed: Count | None = Field(None, description="Of files of version 2.")
    drawn: str = Field(
        description="What varies independently: images, or groups of images that belong together "
        "(patients, copies). All predictions of an image belong together."
    )
    out_of_fold: dict[str, LowHigh | None] = Field(
        description="[low, high] by score, in the units of `out_of_fold`; null where the score is "
        "undefined, or not a mean over independent images (`ece`)."
    )
    per_class: dict[str, dict[str, LowHigh | None]] = Field(
        description="The same by class for precision, recall, f1, average_precision and auroc."
    )


class Headline(StrictModel):
    """Out-of-fold scores that no choice on the reported images has flattered."""

    rule: Literal["inner split", "last epoch", "bias corrected"] = Field(
        description="`inner split`: the epoch was chosen on other images. `last epoch`: no epoch "
        "was chosen. `bias corrected`: the best epochs, less the optimism of their choice."
    )
    epoch: Literal["best", "last"] = Field(description="Whose predictions the scores are of.")
    means: str = Field(description="The rule in words.")
    level: Fraction = Field(description="Of each interval.")
    scores: dict[str, Number | None] = Field(description="By score, in its unit.")
    intervals: dict[str, LowHigh | None] = Field(description="[low, high] by score.")
    optimism_removed: dict[str, Number] | None = Field(
        description="By score, what was subtracted; null unless `bias corrected`."
    )


class ProbeScores(StrictModel):
    """Accuracy that the features of an encoder allow, mean over runs; null: unknown."""

    knn_acc: Percent | None = Field(description="Accuracy of nearest neighbours, percent.")
    probe_acc: Percent | None = Field(description="Accuracy of a linear classifier, percent.")


class FeatureQuality(ProbeScores):
    """Quality of the features of a pre-trained encoder, mean over runs; null: unknown."""

    alignment: Number | None = Field(
        description="Mean squared distance of two views of an image on the sphere; 0 is perfect."
    )
    uniformity: Number | None = Field(
        description="Log of the mean Gaussian kernel over pairs of images; lower is more uniform."
    )
    effective_rank: Number | None = Field(
        description="Dimensions that the features use; 1 if all features are equal."
    )
    feature_std: Number | None = Field(
        description="Standard deviation of a dimension on the sphere; 0 after a collapse."
    )


class PretrainingSummary(StrictModel):
    """Pre-training of the image encoder before the folds; only the loss `supcon` uses labels."""

    loss: str = Field(description="Its type.")
    settings: dict[str, Any] = Field(description="Parameters of the loss.")
    images: Literal["train_fold", "all", "folder"] = Field(
        description="`train_fold`: the fold's training images; `all`: pixels of validation images "
        "too; `folder`: other images."
    )
    epochs: FromOne = Field(description="Planned passes over the images.")
    shared_by_folds: bool = Field(description="Whether all folds start from the same run.")
    runs: list[str | None] = Field(
        description="Folders relative to this file's, one per fold, or one for all."
    )
    seconds: Number | None = Field(description="Sum over all runs.")
    train_images_per_second: Number | None = Field(
        description="Median over epochs, mean over runs."
    )
    last: FeatureQuality = Field(description="After the last epoch.")
    untrained: ProbeScores = Field(description="Before the first step.")
    collapsed: bool = Field(
        description="Whether the features of a run are nearly equal: effective rank below 2, or a "
        "notice of the run about it."
    )
    notices: list[str] = Field(
        description="Remarks for the reader; also in the notices of the file."
    )


class Failure(StrictModel):
    """Why a fold has no result."""

    kind: str = Field(description="`diverged`, `out of memory`, `crash`, …")
    reason: str = Field(description="In words.")


class Digests(StrictModel):
    """SHA-256 digests of everything that the numbers follow from; equal for equal runs."""

    config: str = Field(description="Settings that affect the numbers.")
    data: str = Field(
        description="Path, label, group and content of every image; with `test_dir`, of the test "
        "images too."
    )
    splits: str = Field(description="Which image is in which fold.")
    class_texts: str = Field(description="The prompts of all classes.")
    code: str = Field(
        description="The package's sources that trained the folds; provenance, never compared."
    )
    numerics: int | None = Field(
        None,
        description="Version of the numerics: results of other versions are neither resumed nor "
        "compared. Missing in summaries of earlier revisions.",
    )


class Timing(StrictModel):
    """Durations; equal runs differ only in this block, and in the speed of `pretraining`."""

    fold_seconds: list[Number | None] = Field(
        description="Whole fold, seconds, summed over its attempts as far as they were recorded."
    )
    fold_train_seconds: list[Number | None] = Field(
        description="Training steps only, seconds, summed in the same way."
    )
    written: str = Field(description="When this file was written, UTC, ISO 8601.")


class CvSummary(StrictModel):
    """`cv_summary.json`."""

    schema_version: int = Field(
        ge=OLDEST_VERSION, le=SCHEMA_VERSION, description="Of this schema; 2 has no `headline`."
    )
    config: dict[str, Any] = Field(description="The canonical config; see docs/config.md.")
    n_folds: FromOne = Field(
        description="Number of planned folds, of all repeats; 1 for a hold-out."
    )
    status: dict[str, Status] = Field(description="`fold_<k>` → how it ended.")
    complete: bool = Field(description="Whether all folds are done.")
    headline: Headline | None = Field(
        None, description="The scores to report; null while a fold is missing."
    )
    units: Units = Field(description="Of all scores.")
    epoch_choice: str = Field(description="How the best epoch was chosen, in words.")
    fold_results: FoldResults = Field(description="Every fold's scores at its best epoch.")
    average_results: Averages = Field(description="Their means over folds.")
    best_epoch: EpochScores = Field(description="The same scores, in the layout of `last_epoch`.")
    last_epoch: EpochScores = Field(description="At the last epoch, which involves no choice.")
    repeats: Repeats | None = Field(None, description="By repeat; null if `n_repeats` is 1.")
    test: TestImages | None = Field(
        None, description="On the images of `test_dir`; null without it, or without a result."
    )
    baselines: Baselines = Field(description="Scores to compare with.")
    out_of_fold: OutOfFold | None = Field(description="At the best epochs; null without a result.")
    per_class: dict[str, PerClass] | None = Field(description="By class, out of fold.")
    confusion_matrix: ConfusionMatrix | None = Field(description="Out of fold.")
    confidence_intervals: ConfidenceIntervals | None = Field(
        description="At the best epochs; null while a fold is missing, and for more than 10 "
        "million images × classes."
    )
    pretraining: PretrainingSummary | None = Field(
        None, description="Self-supervised training before the folds; null without."
    )
    failures: dict[str, Failure] = Field(description="`fold_<k>` → why it failed.")
    identity: Digests = Field(description="Digests of everything that the numbers follow from.")
    data_fingerprint: str = Field(
        description="Of the images of the folds, as in `folds_info.json`."
    )
    splits_hash: str = Field(
        description="The same as `identity.splits`; the key of `folds_info.json`."
    )
    environment: dict[str, str | list[str]] = Field(
        description="Versions, device, precision, git revision; a list where folds differ."
    )
    timing: Timing = Field(description="Seconds; `without_times` leaves this block out.")
    notices: list[str] = Field(description="Remarks on the training for the reader.")

    @model_validator(mode="after")
    def _check_consistency(self) -> CvSummary:
        """Lists have an entry per fold, and nulls agree with the folds' status."""
        done = [state == "done" for state in self.status.values()]
        for block in (
            self.fold_results,
            self.best_epoch.fold_results,
            self.last_epoch.fold_results,
            *([] if self.test is None else [self.test.fold_results]),
            self.timing,
        ):
            lists = {name: value for name, value in block if isinstance(value, list)}
            for name, values in {**lists, **(block.__pydantic_extra__ or {})}.items():
                if len(values) != self.n_folds:
                    raise ValueError(f"{name} has {len(values)} entries for {self.n_folds} folds")
        epochs = self.fold_results.fold_best_epoch
        if [epoch is not None for epoch in epochs] != done or self.complete != all(done):
            raise ValueError("status, complete and fold_results contradict each other")
        if self.average_results.n != sum(done) or (self.out_of_fold is None) == any(done):
            raise ValueError("averages or out_of_fold are not over the folds that are done")
        best = self.best_epoch
        if (best.average_results, best.out_of_fold) != (self.average_results, self.out_of_fold):
            raise ValueError("best_epoch differs from average_results and out_of_fold")
        return self


def read_summary(path: Path) -> dict[str, Any]:
    """Read a `cv_summary.json` as it was written.

    Raises RunFolderError when there is none, or it is damaged or of another version.
    """
    remedy = f"`{program()} summarize {path.parent}` rewrites it"
    try:
        content = read_bytes(path, remedy)
    except FileNotFoundError:
        raise RunFolderError(f"{path.parent} has no {path.name}; {remedy}") from None
    parse_json(content, CvSummary, path, remedy)
    summary: dict[str, Any] = json.loads(content)
    return summary


def summary_reference_markdown() -> str:
    """A table for the file, then one per block by name."""
    schema = CvSummary.model_json_schema(by_alias=True)
    blocks = (
        f"### {name}\n\n{block['description']}\n\n{_table(block)}"
        for name, block in schema["$defs"].items()
    )
    return "\n".join([_table(schema), *blocks])


def _table(block: Node) -> str:
    rows = ["| key | value | meaning |", "| --- | --- | --- |"]
    for key, node in block["properties"].items():
        meaning = str(node.get("description", "")).replace("|", "\\|")
        rows.append(f"| `{key}` | {_words(node)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _words(node: Node) -> str:
    """What a node of the schema allows, with links to blocks."""
    words = []
    for option in options(node):
        if "$ref" in option:
            name = option["$ref"].removeprefix("#/$defs/")
            words.append(f"[{name}](#{name.lower()})")
        elif option.get("type") == "array":
            items = option["items"]
            words.append(f"list of ({_words(items)})" if items else "list")
        elif isinstance(option.get("additionalProperties"), dict):
            words.append(f"object: name → {_words(option['additionalProperties'])}")
        elif isinstance(option.get("const"), int):
            words.append(str(option["const"]))
        else:
            words.append(allowed(option))
    return ", or ".join(words)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    before, _, rest = page.read_text("utf-8").partition("<!-- tables: begin -->")
    after = rest.partition("<!-- tables: end -->")[2]
    tables = f"<!-- tables: begin -->\n\n{summary_reference_markdown()}\n<!-- tables: end -->"
    page.write_text(f"{before}{tables}{after}", "utf-8")
