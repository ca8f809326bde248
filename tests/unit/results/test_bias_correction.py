"""The optimism of choosing an epoch or a config is removed, and no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from clip_pkg.results.bias_correction import ConfigChoices, FoldChoices, _chosen_epochs, optimism
from clip_pkg.training.early_stopping import BestEpoch

FOLDS, IMAGES, EPOCHS = 4, 60, 8


def config_of(
    random: np.random.Generator, skill: float = 0.0, monitor: str = "val_acc", epochs: int = EPOCHS
) -> ConfigChoices:
    """Two classes; every epoch answers with the same skill and other mistakes."""
    folds = []
    for fold in range(FOLDS):
        targets = np.arange(IMAGES) % 2
        logits = random.normal(size=(epochs, IMAGES, 2)) + skill * np.eye(2)[targets]
        table = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        accuracy = (table.argmax(axis=2) == targets).mean(axis=1)
        loss = -np.log(table[:, np.arange(IMAGES), targets]).mean(axis=1)
        reported = int(accuracy.argmax() if monitor == "val_acc" else loss.argmin())
        units = np.arange(IMAGES) + fold * IMAGES
        folds.append(FoldChoices(table, reported, targets, units))
    return ConfigChoices(folds, monitor, BestEpoch(-1 if monitor == "val_loss" else 1, None, 0.0))


def accuracy(config: ConfigChoices) -> float:
    right = [
        (fold.probabilities[fold.reported].argmax(axis=1) == fold.targets).mean()
        for fold in config.folds
    ]
    return float(np.mean(right))


@pytest.mark.parametrize("monitor", ["val_acc", "val_loss"])
def test_the_best_epoch_of_guesses_is_a_guess(monitor: str) -> None:
    random = np.random.default_rng(0)
    own, corrected = [], []
    for _ in range(12):
        config = config_of(random, monitor=monitor)
        own.append(accuracy(config))
        corrected.append(own[-1] - optimism([config], resamples=60).scores["acc"])
    assert np.mean(own) > 0.53
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.015)


def test_epochs_that_predict_one_class_are_guesses_too() -> None:
    """Of all images of a fold half are right; resamples with other class sizes would differ."""
    random = np.random.default_rng(5)
    own, corrected = [], []
    for _ in range(20):
        config = config_of(random)
        for fold in config.folds:
            leaning = np.array([1.0, -1.0]) * random.normal(size=(EPOCHS, 1, 1)) * 2
            odds = fold.probabilities * np.exp(leaning)
            fold.probabilities[:] = odds / odds.sum(axis=2, keepdims=True)
        folds = []
        for fold in config.folds:
            right = (fold.probabilities.argmax(axis=2) == fold.targets).mean(axis=1)
            best = int(right.argmax())
            folds.append(FoldChoices(fold.probabilities, best, fold.targets, fold.units))
        config = ConfigChoices(folds, "val_acc", config.rule)
        own.append(accuracy(config))
        corrected.append(own[-1] - optimism([config], resamples=60).scores["acc"])
    assert np.mean(own) > 0.53
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.015)


def test_the_best_config_of_guesses_is_a_guess() -> None:
    random = np.random.default_rng(1)
    own, corrected = [], []
    for _ in range(12):
        configs = [config_of(random, epochs=1) for _ in range(10)]
        scores = [accuracy(config) for config in configs]
        winner = int(np.argmax(scores))
        removed = optimism(configs, winner, "acc", resamples=60)
        own.append(scores[winner])
        corrected.append(scores[winner] - removed.scores["acc"])
    assert np.mean(own) > 0.53
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.02)


def test_where_nothing_was_chosen_nothing_is_removed() -> None:
    removed = optimism([config_of(np.random.default_rng(2), epochs=1)], resamples=20)
    assert set(removed.scores.values()) == {0.0}
    assert all(not values.any() for values in removed.by_class.values())


def test_a_clear_choice_costs_little() -> None:
    """One epoch is far better than all others, so every resample chooses it."""
    config = config_of(np.random.default_rng(3))
    for fold in config.folds:
        fold.probabilities[5] = np.eye(2)[fold.targets] * 0.8 + 0.1
    clear = [FoldChoices(f.probabilities, 5, f.targets, f.units) for f in config.folds]
    removed = optimism([ConfigChoices(clear, "val_acc", config.rule)], resamples=60)
    assert removed.scores["acc"] == pytest.approx(0.0, abs=1e-12)


def test_images_of_a_unit_are_drawn_together() -> None:
    config = config_of(np.random.default_rng(4))
    copies = [
        FoldChoices(
            np.repeat(fold.probabilities, 2, axis=1),
            fold.reported,
            np.repeat(fold.targets, 2),
            np.repeat(fold.units, 2),
        )
        for fold in config.folds
    ]
    once = optimism([config], resamples=60).scores["acc"]
    twice = optimism([ConfigChoices(copies, "val_acc", config.rule)], resamples=60).scores["acc"]
    assert twice == pytest.approx(once, abs=1e-9)


def test_epochs_are_chosen_as_in_training() -> None:
    """Patience ends the search in the resample as it ended the training."""
    table = np.full((5, 4, 2), 0.5)
    targets = np.array([0, 1, 0, 1])
    for epoch, right in enumerate((2, 3, 1, 1, 4)):
        for image in range(4):
            wrong = int(image >= right)
            table[epoch, image, targets[image] ^ wrong] = 0.9
            table[epoch, image, 1 - (targets[image] ^ wrong)] = 0.1
    fold = FoldChoices(table, 1, targets, np.arange(4))
    once = np.ones((4, 1))
    for patience, chosen in ((None, 4), (2, 1)):
        config = ConfigChoices([fold], "val_acc", BestEpoch(1, patience, 0.0))
        assert _chosen_epochs(config, fold, once).tolist() == [chosen]
