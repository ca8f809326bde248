"""The methods paragraph, generated from configs and folds, ready to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from clip_pkg.base.errors import some
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.keys import keys_without_effect
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.metrics.table import lower_is_better
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.comparison_records import Comparison, DataSetComparison

MAX_DESCRIBED = 4  # configs that get a sentence each; of more, the keys that differ are named
WEIGHTINGS: Mapping[str, str] = MappingProxyType(
    {
        "inverse_freq": "inversely to class frequency",
        "inverse_sqrt": "inversely to the square root of class frequency",
        "balanced": "inversely to class frequency",
        "effective_number": "by the effective number of samples (Cui et al. 2019, β = 0.9999)",
    }
)
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS"}
PRETRAINING_IMAGES = {
    "train_fold": "the training images of each fold",
    "all": "all images of the data set, including those of the validation folds",
}
# key in a summary's `environment` → name
SOFTWARE = {
    "clip_pkg": "clip_pkg",
    "torch": "PyTorch",
    "timm": "timm",
    "open_clip_torch": "OpenCLIP",
    "scikit-learn": "scikit-learn",
}


def methods_paragraph(outcomes: Sequence[ConfigOutcome], tests: str) -> str:
    """Describe data, splits, models, training, choice of the epoch and statistics.

    tests: a sentence on how configs were compared, or empty.
    """
    parts = [
        _data_and_splits(outcomes),
        _models(outcomes),
        _training(outcomes),
        _sampling(outcomes),
        _choice_and_test(outcomes),
        _statistics(outcomes[0]),
        tests,
    ]
    environment = outcomes[0].summary["environment"]
    versions = [
        f"{name} {environment[key]}"
        for key, name in SOFTWARE.items()
        if isinstance(environment.get(key), str)
    ]
    if versions:
        parts.append(f"Software: {', '.join(versions)}.")
    return " ".join(part for part in parts if part)


def _data_and_splits(outcomes: Sequence[ConfigOutcome]) -> str:
    first, info = outcomes[0], outcomes[0].folds_info
    counts = first.class_counts
    fewest, most = min(counts.values()), max(counts.values())
    per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    text = (
        f"The data set comprised {first.n_images} images in {len(counts)} classes ({per_class} "
        "images per class)"
    )
    if first.n_groups is not None:
        text += f" from {first.n_groups} group{'' if first.n_groups == 1 else 's'}"
        text += " (such as patients)"
    folds, method = info["folds"], str(info["method"])
    n_splits = len(folds) // first.n_repeats
    repeats = f"{first.n_repeats} repeats of " if first.n_repeats > 1 else ""
    seed = "" if info["random_state"] is None else f", seed {info['random_state']}"
    how = f"scikit-learn's {method}{seed}" if method.startswith("Stratified") else f"{method}{seed}"
    if method == "imported":
        text += f". Performance was estimated on {repeats}{n_splits} predefined folds"
    elif first.is_holdout:
        train, val = folds[0]["n_train"], folds[0]["n_val"]
        text += (
            f". Models were trained on {train} images and evaluated on a single stratified "
            f"hold-out set of {val} images ({100 * val / (train + val):.0f} %{seed})"
        )
    else:
        text += (
            f". Performance was estimated by {repeats}stratified {n_splits}-fold cross-validation "
            f"({how})"
        )
    if not first.is_holdout:
        times = "exactly once" if first.n_repeats == 1 else "exactly once per repeat"
        text += f"; every image was validated {times}, by a model that was not trained on it"
    kept = [] if first.n_groups is None else ["all images of a group"]
    if clusters := len(info["linked"]):
        plural = "s" if clusters > 1 else ""
        kept.append(f"duplicate and near-duplicate images ({clusters} cluster{plural})")
    if kept:
        text += f". {' and '.join(kept).capitalize()} were kept in the same fold"
    if first.n_groups is None:
        text += (
            ". Patients were not identified: several images of one patient may have been in "
            "different folds, so scores may be too high and intervals too narrow"
        )
    if len(outcomes) > 1 and len({one.summary["splits_hash"] for one in outcomes}) == 1:
        text += f". All {len(outcomes)} configurations were evaluated on identical splits"
    return text + "."


def _models(outcomes: Sequence[ConfigOutcome]) -> str:
    configs = [one.settings for one in outcomes]
    if len(configs) == 1:
        return _model(configs[0], "The model used")
    if len(configs) <= MAX_DESCRIBED:
        return " ".join(
            _model(one.settings, f"Configuration “{one.label}” used") for one in outcomes
        )
    values = [config.model_dump(mode="json") for config in configs]
    keys = [
        key
        for key in values[0]
        if key not in keys_without_effect() and any(one[key] != values[0][key] for one in values)
    ]
    differences = f"which differed in {', '.join(keys)}" if keys else "equal in all settings"
    first = _model(configs[0], f"The first of them, “{outcomes[0].label}”, used")
    text = f"{len(configs)} configurations were compared, {differences}. {first}"
    blocks = {one.label: one.settings.pretrain for one in outcomes[1:] if one.settings.pretrain}
    if blocks:
        names = some([f"“{label}”" for label in blocks], MAX_DESCRIBED)
        epochs = " or ".join(dict.fromkeys(str(block.epochs) for block in blocks.values()))
        losses = " or ".join(dict.fromkeys(block.loss.phrase() for block in blocks.values()))
        text += (
            f" The image encoders of {names} were pre-trained before, for {epochs} epochs, by "
            f"minimising {losses}."
        )
    return text


def _model(config: RunConfig, opening: str) -> str:
    pretrain, frozen = config.pretrain, " (kept frozen)"
    further = "" if pretrain is None else ", then pre-trained as described below"
    text = f"{opening} the image encoder {_encoder(config.image_encoder, further)}"
    text += frozen if config.freeze_image_encoder else ""
    family = config.text_encoder.family
    if config.needs_text and family == "prompts":
        text += " with learned class vectors instead of a text encoder"
    elif config.needs_text and family != "none":
        text += f" and the text encoder {_encoder(config.text_encoder)}"
        text += frozen if config.freeze_text_encoder else ""
    text += (
        f", with embeddings of {config.embed_dim} dimensions, and was trained by minimising "
        f"{loss_phrase(config)}."
    )
    return text if pretrain is None else f"{text} {_pretraining(pretrain)}"


def _encoder(spec: EncoderSpec, further: str = "") -> str:
    start = "random initial weights" if spec.weights == "scratch" else "pretrained weights"
    tag = f", {spec.tag}" if spec.tag is not None else ""
    return f"{spec.model} ({start}{tag}{further})"


def loss_phrase(config: RunConfig) -> str:
    """What was minimised, with class weights and auxiliary losses."""
    words = config.loss.phrase()
    weighting = config.loss.class_weight_method(config.weight_method)
    if weighting is not None:
        words += f", with classes weighted {WEIGHTINGS[weighting]}"
    for aux in config.aux_losses:
        words += f", plus {aux.weight:g} times {aux.phrase()}"
    if config.label_smoothing:
        words += f", with label smoothing of {config.label_smoothing:g}"
    return words


def _pretraining(pretrain: PretrainConfig) -> str:
    images = PRETRAINING_IMAGES.get(pretrain.images, "a separate set of images")
    queue = "" if pretrain.queue is None else f", a queue of {pretrain.queue.size} negatives"
    optimizer = pretrain.optimizer
    return (
        "Before this training, its image encoder was pre-trained "
        f"{'with' if pretrain.loss.uses_labels else 'without'} labels on {images}, for "
        f"{pretrain.epochs} epoch{'' if pretrain.epochs == 1 else 's'} with batches of "
        f"{pretrain.batch_size} images in two augmented views ({pretrain.augmentation}), by "
        f"minimising {pretrain.loss.phrase()}{queue} with {OPTIMIZERS[optimizer.type]} "
        f"(learning rate {optimizer.learning_rate:g}, weight decay "
        f"{optimizer.weight_decay:g})."
    )


def _values(outcomes: Sequence[ConfigOutcome], key: str) -> str:
    """A setting's value, or all different values among the configs."""
    values = dict.fromkeys(getattr(one.settings, key) for one in outcomes)
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _training(outcomes: Sequence[ConfigOutcome]) -> str:
    config = outcomes[0].settings
    sizes, epochs = _values(outcomes, "img_size"), _epochs(outcomes)
    squares = f"squares of {sizes} pixels" if " or " in sizes else f"{sizes} × {sizes} pixels"
    augmentations = dict.fromkeys(_augmentation(one.settings) for one in outcomes)
    text = (
        f"Images were resized to {squares} ({' or '.join(augmentations)}). Training ran for "
        f"{epochs} epoch{'' if epochs == '1' else 's'}"
    )
    if config.early_stopping_patience is not None:
        text += (
            f" at most, and stopped after {config.early_stopping_patience} epochs without "
            f"improvement in {_monitor(config)}"
        )
    text += (
        f", with AdamW (learning rate {_values(outcomes, 'learning_rate')}, weight decay "
        f"{_values(outcomes, 'weight_decay')}), a cosine schedule with linear warm-up, and batches "
        f"of {_values(outcomes, 'batch_size')} images"
    )
    if config.grad_clip_norm is not None:
        text += f"; gradients were clipped to a norm of {_values(outcomes, 'grad_clip_norm')}"
    return text + "."


def _epochs(outcomes: Sequence[ConfigOutcome]) -> str:
    """How long training ran, with the names of the configs where that differs."""
    labels: dict[int, list[str]] = {}
    for one in outcomes:
        labels.setdefault(one.settings.epochs, []).append(f"“{one.label}”")
    if len(labels) == 1:
        return _values(outcomes, "epochs")
    return " or ".join(
        f"{epochs} ({some(names, MAX_DESCRIBED)})" for epochs, names in labels.items()
    )


def _augmentation(config: RunConfig) -> str:
    is_standard = config.augmentation == "standard"
    words = {
        "random crops": is_standard,
        "horizontal flips": config.flips_horizontally,
        "vertical flips": config.vertical_flip,
        "changes of brightness and contrast by up to 20 %": is_standard,
        f"mixup (α = {config.mixup_alpha:g})": config.mixup_alpha,
        f"CutMix (α = {config.cutmix_alpha:g})": config.cutmix_alpha,
    }
    used = ", ".join(word for word, is_used in words.items() if is_used)
    return f"augmentation: {used}" if used else "no augmentation"


def _sampling(outcomes: Sequence[ConfigOutcome]) -> str:
    sampled = [one for one in outcomes if one.settings.use_weighted_sampling]
    if not sampled:
        return ""
    methods = dict.fromkeys(one.settings.weight_method for one in sampled)
    how = " or ".join(dict.fromkeys(WEIGHTINGS[method] for method in methods))
    if "balanced" not in methods and any(one.settings.weight_smooth_factor for one in sampled):
        how += f", smoothed by {_values(sampled, 'weight_smooth_factor')}"
    if len(sampled) < len(outcomes):
        names = ", ".join(f"“{one.label}”" for one in sampled)
        some = f"{len(sampled)} of the configurations"
        how += f" in {names if len(sampled) <= MAX_DESCRIBED else some}"
    return (
        f"Training images were drawn with replacement, classes weighted {how}; validation images "
        "were never resampled."
    )


def _monitor(config: RunConfig) -> str:
    name = config.early_stopping_monitor.removeprefix("val_").replace("_", " ")
    return f"validation {name}"


def _choice_and_test(outcomes: Sequence[ConfigOutcome]) -> str:
    config = outcomes[0].settings
    way = "lowest" if lower_is_better(config.early_stopping_monitor) else "highest"
    criterion = f"the epoch with the {way} {_monitor(config)}"
    if config.inner_val_fraction > 0:
        text = (
            f"For every fold, {criterion} was chosen on an inner validation set of "
            f"{100 * config.inner_val_fraction:g} % of its training images; the evaluated images "
            "did not influence the choice."
        )
    else:
        text = (
            f"Scores per fold are those of {criterion}. It was chosen on the evaluated images "
            "themselves, which makes these scores optimistic; scores of the last epoch, which do "
            "not depend on a choice, are given as well."
        )
    rules = {one.headline.rule for one in outcomes if one.headline is not None}
    if "bias corrected" in rules:
        text += (
            " In the headline, the optimism of that choice was removed by repeating it within a "
            "bootstrap of the out-of-fold predictions, whose left-out images gave the score "
            "(Tsamardinos et al. 2018)."
        )
    elif "last epoch" in rules:
        text += " The headline is the score at the last epoch."
    tested = {test["n"] for one in outcomes if (test := one.summary["test"]) is not None}
    if tested:
        text += (
            f" A separate test set of {' or '.join(map(str, sorted(tested)))} images was used "
            "neither for training nor for any choice; every fold's model was evaluated on it once, "
            "at the epoch chosen by validation."
        )
    return text


def _statistics(outcome: ConfigOutcome) -> str:
    averages = outcome.summary["average_results"]
    intervals = outcome.summary["confidence_intervals"]
    text = "Scores are given for the one evaluated set"
    if averages["n"] > 1:
        text = (
            f"Scores are given as mean ± sample standard deviation (ddof = {averages['ddof']}) "
            f"over n = {averages['n']} folds"
        )
        if outcome.n_repeats > 1:
            text += " of all repeats"
    if intervals is not None:
        text += (
            f", with {100 * intervals['level']:g} % confidence intervals of the pooled predictions "
            f"({intervals['method']}; over {intervals['drawn']}, models fixed)"
        )
    text += (
        "; balanced accuracy, F1, AUROC and average precision (mAP) are unweighted means over "
        "classes, each against the rest."
    )
    if averages["n"] > 1:
        text += (
            " AUROC and mAP with a standard deviation are means of the folds' values; all others "
            "rank the pooled predictions of all folds' models."
        )
    return text


def tests_sentence(comparison: Comparison, data_set: DataSetComparison) -> str:
    """How the configs of a data set were compared; empty if there was no test."""
    tests = [pair.test for pair in data_set.pairs if pair.test is not None]
    if not tests:
        return ""
    source = "Nadeau and Bengio 2003"
    if any(row.n_repeats > 1 for row in data_set.rows):
        source += "; Bouckaert and Frank 2004"
    text = (
        f"Differences in {comparison.metric_name} between configurations were tested with the "
        f"corrected resampled t-test over folds ({source}; two-sided, n = {tests[0].n_folds}, "
        f"test-to-training ratio {tests[0].test_to_train:.2f})"
    )
    level = significant = f"{1 - comparison.level:.2g}"
    if (count := data_set.n_tests) > 1:
        text += f", p-values were adjusted for {count} comparisons by the method of Holm (1979)"
        level += f"/{count}, the first step of that method"
    return (
        f"{text}, and p < {significant} was considered significant. Differences that a test finds "
        f"with 80 % power follow from the noncentral t distribution at the level {level}."
    )
