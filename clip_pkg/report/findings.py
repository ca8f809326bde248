"""Findings about one config, in sentences; each is a fact that a figure of the page shows."""

from __future__ import annotations

from clip_pkg.report.curves import over_epochs
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.sentences import estimate

OVERFITTING_GAP = 10.0  # percentage points between training and validation accuracy
STILL_RISING = 0.8  # share of folds whose best epoch is the last
MISCALIBRATED = 0.05  # ECE
IMBALANCE = 3  # images of the largest class per image of the smallest


def config_findings(outcome: ConfigOutcome) -> list[str]:
    """Sentences about one config, the most important first."""
    return [*_about_scores(outcome), *_about_training(outcome)]


def _about_scores(outcome: ConfigOutcome) -> list[str]:
    found = []
    summary, counts = outcome.summary, outcome.confusion
    headline = None if outcome.headline is None else outcome.headline.scores["acc"]
    majority = summary["baselines"]["majority_class"]["avg_val_acc"]
    if headline is not None and headline.value is not None and headline.interval is not None:
        gain = headline.value - majority
        if headline.interval.low > majority:
            above = f"{gain:.1f} percentage points above"
        else:
            above = "not significantly above" if gain > 0 else "no better than"
        assert outcome.headline is not None
        found.append(
            f"Accuracy is {estimate(headline.value, headline.interval, 'acc')}, {above} always "
            f"predicting the most frequent class ({majority:.1f} %). Headline by the rule "
            f"“{outcome.headline.rule}”: {outcome.headline.means}."
        )
    hardest = outcome.hardest_class
    right, support = counts[hardest, hardest], counts[hardest].sum()
    if right == support:
        found.append("All out-of-fold predictions are correct.")
    else:
        found.append(
            f"The hardest class is {outcome.classes[hardest]}: {right} of {support} "
            f"{outcome.counted} are correct (recall {right / support:.2f})."
        )
    if outcome.commonest_mistake is not None:
        true, predicted = outcome.commonest_mistake
        count, total = counts[true, predicted], counts.sum() - counts.trace()
        found.append(
            f"No pair of classes is confused more than once among {total} wrong predictions."
            if count < 2
            else f"The most frequent mistake is {outcome.classes[true]} predicted as "
            f"{outcome.classes[predicted]}: {count} of {total} wrong predictions."
        )
    error, gap = summary["out_of_fold"]["ece"], outcome.confidence_gap
    if error < MISCALIBRATED:
        found.append(f"Probabilities are well calibrated (ECE {error:.3f}).")
    else:
        how, where = ("too low", "below") if gap > 0 else ("too high", "above")
        found.append(
            f"Probabilities are {how}: the mean confidence is {abs(100 * gap):.1f} percentage "
            f"points {where} the accuracy (ECE {error:.3f})."
        )
    return found


def _about_training(outcome: ConfigOutcome) -> list[str]:
    found, histories = [], outcome.histories
    train, val = over_epochs(histories, "train_acc"), over_epochs(histories, "val_acc")
    if train is not None and val is not None:
        gap = float(train.mean[-1] - val.mean[-1])
        if gap > OVERFITTING_GAP:
            found.append(
                f"At the last epoch training accuracy is {gap:.1f} percentage points above "
                "validation accuracy: the model overfits. Stronger augmentation or weight decay "
                "may help."
            )
    epochs = [len(history["val_loss"]) for history in histories]
    at_end = sum(best == last for best, last in zip(outcome.best_epochs, epochs, strict=True))
    if outcome.settings.epochs > 1 and at_end >= STILL_RISING * len(epochs):
        found.append(
            f"In {at_end} of {len(epochs)} folds the best epoch is the last one: more epochs may "
            "improve the scores."
        )
    counts = outcome.class_counts.values()
    ratio = max(counts) / min(counts)
    if ratio >= IMBALANCE and not outcome.settings.use_weighted_sampling:
        found.append(
            f"The largest class has {ratio:.1f} times as many images as the smallest, and "
            "use_weighted_sampling was off."
        )
    return found
