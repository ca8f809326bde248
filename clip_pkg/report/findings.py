"""Findings about one config, in sentences; each is a fact that a figure of the page shows."""

from __future__ import annotations

from clip_pkg.report.curves import over_epochs
from clip_pkg.report.results import ConfigOutcome

OVERFITTING_GAP = 10.0  # percentage points between training and validation accuracy
STILL_RISING = 0.8  # share of folds whose best epoch is the last
MISCALIBRATED = 0.05  # ECE
IMBALANCE = 3  # images of the largest class per image of the smallest


def config_findings(outcome: ConfigOutcome) -> list[str]:
    """Sentences about one config, the most important first."""
    found = [
        _against_majority(outcome),
        _hardest_class(outcome),
        _common_mistake(outcome),
        _calibration(outcome),
        _overfitting(outcome),
        _still_rising(outcome),
        _imbalance(outcome),
    ]
    return [sentence for sentence in found if sentence]


def _against_majority(outcome: ConfigOutcome) -> str:
    mine = outcome.summary["average_results"]["avg_val_acc"]
    majority = outcome.summary["baselines"]["majority_class"]["avg_val_acc"]
    if mine is None or majority is None:
        return ""
    gain = mine - majority
    than = f"always predicting the most frequent class ({majority:.1f} %)"
    if gain <= 0:
        return f"Accuracy is {mine:.1f} %, no better than {than}."
    return f"Accuracy is {mine:.1f} %, {gain:.1f} percentage points above {than}."


def _hardest_class(outcome: ConfigOutcome) -> str:
    hardest = outcome.hardest_class
    right, support = outcome.confusion[hardest, hardest], outcome.confusion[hardest].sum()
    if right == support:
        return "All out-of-fold predictions are correct."
    return (
        f"The hardest class is {outcome.classes[hardest]}: {right} of {support} images are "
        f"classified correctly (recall {right / support:.2f})."
    )


def _common_mistake(outcome: ConfigOutcome) -> str:
    mistake = outcome.commonest_mistake
    if mistake is None:
        return ""
    true, predicted = mistake
    count = outcome.confusion[true, predicted]
    total = outcome.confusion.sum() - outcome.confusion.trace()
    if count < 2:
        return f"No pair of classes is confused more than once among {total} wrong predictions."
    return (
        f"The most frequent mistake is {outcome.classes[true]} predicted as "
        f"{outcome.classes[predicted]}: {count} of {total} wrong predictions."
    )


def _calibration(outcome: ConfigOutcome) -> str:
    error, gap = outcome.summary["out_of_fold"]["ece"], outcome.confidence_gap
    if error < MISCALIBRATED:
        return f"Probabilities are well calibrated (ECE {error:.3f})."
    how, where = ("too low", "below") if gap > 0 else ("too high", "above")
    return (
        f"Probabilities are {how}: the mean confidence is {abs(100 * gap):.1f} percentage points "
        f"{where} the accuracy (ECE {error:.3f})."
    )


def _overfitting(outcome: ConfigOutcome) -> str:
    histories = outcome.histories
    train, val = over_epochs(histories, "train_acc"), over_epochs(histories, "val_acc")
    if train is None or val is None:
        return ""
    gap = float(train.mean[-1] - val.mean[-1])
    if not gap > OVERFITTING_GAP:
        return ""
    return (
        f"At the last epoch training accuracy is {gap:.1f} percentage points above validation "
        "accuracy: the model overfits. Stronger augmentation or weight decay may help."
    )


def _still_rising(outcome: ConfigOutcome) -> str:
    epochs = [len(history["val_loss"]) for history in outcome.histories]
    at_end = sum(best == last for best, last in zip(outcome.best_epochs, epochs, strict=True))
    if outcome.config.epochs < 2 or at_end < STILL_RISING * len(epochs):
        return ""
    return (
        f"In {at_end} of {len(epochs)} folds the best epoch is the last one: more epochs may "
        "improve the scores."
    )


def _imbalance(outcome: ConfigOutcome) -> str:
    counts = outcome.class_counts.values()
    ratio = max(counts) / min(counts)
    if ratio < IMBALANCE or outcome.config.use_weighted_sampling:
        return ""
    return (
        f"The largest class has {ratio:.1f} times as many images as the smallest, and "
        "use_weighted_sampling was off."
    )
