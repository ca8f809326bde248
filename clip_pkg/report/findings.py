"""What a config's numbers say, in sentences; each is a fact that a figure of the page shows."""

from __future__ import annotations

from clip_pkg.report.curves import over_epochs
from clip_pkg.report.results import ConfigOutcome

OVERFITTING_GAP = 10.0  # percentage points between training and validation accuracy
STILL_RISING = 0.8  # share of the folds whose best epoch is the last
MISCALIBRATED = 0.05  # ECE


def config_findings(outcome: ConfigOutcome) -> list[str]:
    """Sentences about one config, the most important first."""
    found = [
        _against_majority(outcome),
        _hardest_class(outcome),
        _common_mistake(outcome),
        _calibration(outcome),
        _overfitting(outcome),
        _still_rising(outcome),
        _rare_classes(outcome),
    ]
    return [sentence for sentence in found if sentence]


def _against_majority(outcome: ConfigOutcome) -> str:
    mine = outcome.summary["average_results"]["avg_val_acc"]
    majority = outcome.summary["baselines"]["majority_class"]["avg_val_acc"]
    if mine is None or majority is None:
        return ""
    gain = mine - majority
    if gain <= 0:
        return (
            f"Accuracy is {mine:.1f} %, no better than always answering the most frequent class "
            f"({majority:.1f} %)."
        )
    return (
        f"Accuracy is {mine:.1f} %, {gain:.1f} percentage points above always answering the most "
        f"frequent class ({majority:.1f} %)."
    )


def _hardest_class(outcome: ConfigOutcome) -> str:
    hardest = outcome.hardest_class
    right, support = outcome.confusion[hardest, hardest], outcome.confusion[hardest].sum()
    if right == support:
        return "Every out-of-fold image of every class is answered correctly."
    return (
        f"The hardest class is {outcome.classes[hardest]}: {right} of {support} images are "
        f"recognised (recall {right / support:.2f})."
    )


def _common_mistake(outcome: ConfigOutcome) -> str:
    mistake = outcome.commonest_mistake
    if mistake is None:
        return ""
    true, answer = mistake
    count = outcome.confusion[true, answer]
    total = outcome.confusion.sum() - outcome.confusion.trace()
    if count < 2:
        return f"No mistake was made twice among {total} wrong answers."
    return (
        f"The most frequent mistake is {outcome.classes[true]} answered as "
        f"{outcome.classes[answer]}: {count} of {total} wrong answers."
    )


def _calibration(outcome: ConfigOutcome) -> str:
    error, gap = outcome.summary["out_of_fold"]["ece"], outcome.confidence_gap
    if error < MISCALIBRATED:
        return f"Probabilities are well calibrated (ECE {error:.3f})."
    way, side = ("too low", "below") if gap > 0 else ("too high", "above")
    return (
        f"Probabilities are {way}: the mean confidence is {abs(100 * gap):.1f} percentage points "
        f"{side} the accuracy (ECE {error:.3f})."
    )


def _overfitting(outcome: ConfigOutcome) -> str:
    histories = [fold.history for fold in outcome.folds]
    train, val = over_epochs(histories, "train_acc"), over_epochs(histories, "val_acc")
    if train is None or val is None:
        return ""
    gap = float(train.mean[-1] - val.mean[-1])
    if not gap > OVERFITTING_GAP:
        return ""
    return (
        f"At the last epoch training accuracy is {gap:.1f} percentage points above validation "
        "accuracy: the model overfits; stronger augmentation or weight decay may help."
    )


def _still_rising(outcome: ConfigOutcome) -> str:
    at_the_end = [fold.best_epoch == len(fold.history["val_loss"]) for fold in outcome.folds]
    epochs = outcome.config.epochs
    if epochs < 2 or sum(at_the_end) < STILL_RISING * len(at_the_end):
        return ""
    return (
        f"In {sum(at_the_end)} of {len(at_the_end)} folds the best epoch is the last one: more "
        "epochs may still improve the scores."
    )


def _rare_classes(outcome: ConfigOutcome) -> str:
    counts = outcome.class_counts
    rarest = min(counts, key=lambda name: counts[name])
    ratio = max(counts.values()) / counts[rarest]
    if ratio < 3 or outcome.config.use_weighted_sampling:
        return ""
    return (
        f"There are {ratio:.1f} images of the largest class for one of the smallest; "
        "use_weighted_sampling or class weights were not used."
    )
