"""The methods paragraph, generated from configs and folds, ready to paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.keys import keys_without_effect
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.metrics.table import lower_is_better
from clip_pkg.report.loss_words import WEIGHTINGS, loss_phrase
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.comparison_records import Comparison, DataSetComparison

MAX_DESCRIBED = 4  # configs that get a sentence each; of more, the keys that differ are named
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS"}
PRETRAINING_IMAGES = {
    "train_fold": "the training images of each fold",
    "all": "all images of the data set, including those of the validation folds",
}


def methods_paragraph(outcomes: Sequence[ConfigOutcome], tests: str) -> str:
    """Describe data, splits, models, training, choice of the epoch and statistics.

    tests: a sentence on how configs were compared, or empty.
    """
    first = outcomes[0]
    parts = [
        _data(first),
        _splits(outcomes),
        *_models(outcomes),
        _training(outcomes),
        *_sampling(outcomes),
        _epochs(outcomes),
        *_test_images(outcomes),
        _statistics(first),
        tests,
        _software(first),
    ]
    return " ".join(part for part in parts if part)


def _data(outcome: ConfigOutcome) -> str:
    counts = outcome.class_counts
    fewest, most = min(counts.values()), max(counts.values())
    per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    text = (
        f"The data set comprised {outcome.n_images} images in {len(counts)} classes ({per_class} "
        "images per class)"
    )
    if outcome.n_groups is not None:
        plural = "" if outcome.n_groups == 1 else "s"
        text += f" from {outcome.n_groups} group{plural} (such as patients)"
    return text + "."


def _splits(outcomes: Sequence[ConfigOutcome]) -> str:
    info = outcomes[0].folds_info
    folds, method = info["folds"], str(info["method"])
    seed = "" if info["random_state"] is None else f", seed {info['random_state']}"
    how = f"scikit-learn's {method}{seed}" if method.startswith("Stratified") else f"{method}{seed}"
    if method == "imported":
        text = f"Performance was estimated on {len(folds)} predefined folds"
    elif len(folds) == 1:
        train, val = folds[0]["n_train"], folds[0]["n_val"]
        text = (
            f"Models were trained on {train} images and evaluated on a single stratified hold-out "
            f"set of {val} images ({100 * val / (train + val):.0f} %{seed})"
        )
    else:
        text = f"Performance was estimated by stratified {len(folds)}-fold cross-validation ({how})"
    if len(folds) > 1:
        text += "; every image was validated exactly once, by a model that was not trained on it"
    kept = []
    if outcomes[0].n_groups is not None:
        kept.append("all images of a group")
    if clusters := len(info["linked"]):
        plural = "s" if clusters > 1 else ""
        kept.append(f"duplicate and near-duplicate images ({clusters} cluster{plural})")
    if kept:
        text += f". {' and '.join(kept).capitalize()} were kept in the same fold"
    if len(outcomes) > 1 and len({one.summary["splits_hash"] for one in outcomes}) == 1:
        text += f". All {len(outcomes)} configurations were evaluated on identical splits"
    return text + "."


def _models(outcomes: Sequence[ConfigOutcome]) -> list[str]:
    if len(outcomes) == 1:
        return [_model(outcomes[0].config, "The model used")]
    if len(outcomes) <= MAX_DESCRIBED:
        return [_model(one.config, f"Configuration “{one.name}” used") for one in outcomes]
    keys = differing_keys([one.config for one in outcomes])
    return [
        f"{len(outcomes)} configurations were compared"
        + (f", which differed in {', '.join(keys)}." if keys else ", equal in all settings."),
        _model(outcomes[0].config, f"The first of them, “{outcomes[0].name}”, used"),
    ]


def differing_keys(configs: Sequence[RunConfig]) -> list[str]:
    """Keys whose values differ among the configs and that affect results."""
    values = [config.model_dump(mode="json") for config in configs]
    without_effect = keys_without_effect()
    return [
        key
        for key in values[0]
        if key not in without_effect and any(one[key] != values[0][key] for one in values)
    ]


def _model(config: RunConfig, opening: str) -> str:
    frozen = " (kept frozen)"
    text = f"{opening} the image encoder {_encoder(config.image_encoder, config.pretrain)}"
    text += frozen if config.freeze_image_encoder else ""
    family = config.text_encoder.family
    if config.needs_text and family == "prompts":
        text += " with learned class vectors in place of a text encoder"
    elif config.needs_text and family != "none":
        text += f" and the text encoder {_encoder(config.text_encoder)}"
        text += frozen if config.freeze_text_encoder else ""
    text += (
        f", with embeddings of {config.embed_dim} dimensions, and was trained by minimising "
        f"{loss_phrase(config)}"
    )
    return f"{text}.{_pretraining(config.pretrain)}"


def _encoder(spec: EncoderSpec, pretrain: PretrainConfig | None = None) -> str:
    start = "random initial weights" if spec.weights == "scratch" else "pretrained weights"
    tag = f", {spec.tag}" if spec.tag is not None else ""
    further = "" if pretrain is None else ", then pre-trained as described below"
    return f"{spec.model} ({start}{tag}{further})"


def _pretraining(pretrain: PretrainConfig | None) -> str:
    """A sentence with a leading space; empty without a pre-training."""
    if pretrain is None:
        return ""
    loss = pretrain.loss
    settings = ", ".join(
        f"{name} {f'{value:g}' if isinstance(value, float) else value}"
        for name, value in loss.settings().items()
    )
    queue = "" if pretrain.queue is None else f", a queue of {pretrain.queue.size} negatives"
    images = PRETRAINING_IMAGES.get(pretrain.images, "a separate set of images")
    return (
        " Before this training, its image encoder was pre-trained "
        f"{'with' if loss.uses_labels else 'without'} labels on {images}, for {pretrain.epochs} "
        f"epoch{'' if pretrain.epochs == 1 else 's'} with batches of {pretrain.batch_size} images "
        f"in two augmented views ({pretrain.augmentation}), by minimising the loss {loss.type}"
        f"{f' ({settings})' if settings else ''}{queue} with {OPTIMIZERS[pretrain.optimizer.type]} "
        f"(learning rate {pretrain.optimizer.learning_rate:g}, weight decay "
        f"{pretrain.optimizer.weight_decay:g})."
    )


def _shared(outcomes: Sequence[ConfigOutcome], key: str, unit: str = "") -> str:
    """A setting's value, or all different values among the configs."""
    values: list[Any] = []
    for one in outcomes:
        value = getattr(one.config, key)
        if value not in values:
            values.append(value)
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return f"{' or '.join(texts)}{unit}"


def _training(outcomes: Sequence[ConfigOutcome]) -> str:
    sizes = _shared(outcomes, "img_size")
    config = outcomes[0].config
    text = (
        f"Images were resized to {sizes} × {sizes} pixels"
        if " or " not in sizes
        else f"Images were resized to squares of {sizes} pixels"
    )
    text += f" ({_augmentation(outcomes)}). Training ran for {_epoch_count(outcomes)}"
    if config.early_stopping_patience is not None:
        text += (
            f" at most, and stopped after {config.early_stopping_patience} epochs without "
            f"improvement in {_monitor(config)}"
        )
    text += (
        f", with AdamW (learning rate {_shared(outcomes, 'learning_rate')}, weight decay "
        f"{_shared(outcomes, 'weight_decay')}), a cosine schedule with linear warm-up, and batches "
        f"of {_shared(outcomes, 'batch_size')} images"
    )
    if config.grad_clip_norm is not None:
        text += f"; gradients were clipped to a norm of {_shared(outcomes, 'grad_clip_norm')}"
    return text + "."


def _epoch_count(outcomes: Sequence[ConfigOutcome]) -> str:
    text = _shared(outcomes, "epochs")
    return f"{text} epoch{'' if text == '1' else 's'}"


def _augmentation(outcomes: Sequence[ConfigOutcome]) -> str:
    return " or ".join(dict.fromkeys(_augmentations(one.config) for one in outcomes))


def _augmentations(config: RunConfig) -> str:
    words = ["random crops"] if config.augmentation == "standard" else []
    words += ["horizontal flips"] if config.flips_horizontally else []
    words += ["vertical flips"] if config.vertical_flip else []
    if config.augmentation == "standard":
        words.append("changes of brightness and contrast by up to 20 %")
    if config.mixup_alpha:
        words.append(f"mixup (α = {config.mixup_alpha:g})")
    if config.cutmix_alpha:
        words.append(f"CutMix (α = {config.cutmix_alpha:g})")
    return f"augmentation: {', '.join(words)}" if words else "no augmentation"


def _sampling(outcomes: Sequence[ConfigOutcome]) -> list[str]:
    sampled = [one for one in outcomes if one.config.use_weighted_sampling]
    if not sampled:
        return []
    methods = dict.fromkeys(one.config.weight_method for one in sampled)
    whose = (
        ""
        if len(sampled) == len(outcomes)
        else (
            " in " + ", ".join(f"“{one.name}”" for one in sampled)
            if len(sampled) <= MAX_DESCRIBED
            else f" in {len(sampled)} of the configurations"
        )
    )
    how = " or ".join(dict.fromkeys(WEIGHTINGS[method] for method in methods))
    smooth = ""
    if "balanced" not in methods and any(one.config.weight_smooth_factor for one in sampled):
        smooth = f", smoothed by {_shared(sampled, 'weight_smooth_factor')}"
    return [
        f"Training images were drawn with replacement, classes weighted {how}{smooth}{whose}; "
        "validation images were never resampled."
    ]


def _monitor(config: RunConfig) -> str:
    name = config.early_stopping_monitor.removeprefix("val_").replace("_", " ")
    return f"validation {name}"


def _epochs(outcomes: Sequence[ConfigOutcome]) -> str:
    config = outcomes[0].config
    way = "lowest" if lower_is_better(config.early_stopping_monitor) else "highest"
    criterion = f"the epoch with the {way} {_monitor(config)}"
    if config.inner_val_fraction > 0:
        return (
            f"For every fold, {criterion} was chosen on an inner validation set of "
            f"{100 * config.inner_val_fraction:g} % of its training images; the evaluated images "
            "did not influence the choice."
        )
    return (
        f"Scores are those of {criterion}. It was chosen on the evaluated images themselves, which "
        "makes the scores optimistic; scores of the last epoch, which do not depend on a choice, "
        "are given as well."
    )


def _test_images(outcomes: Sequence[ConfigOutcome]) -> list[str]:
    tested = [test["n"] for one in outcomes if (test := one.summary["test"]) is not None]
    if not tested:
        return []
    counts = " or ".join(str(count) for count in sorted(set(tested)))
    return [
        f"A separate test set of {counts} images was used neither for training nor for any choice; "
        "every fold's model was evaluated on it once, at the epoch chosen by validation."
    ]


def _statistics(outcome: ConfigOutcome) -> str:
    averages, intervals = (
        outcome.summary["average_results"],
        outcome.summary["confidence_intervals"],
    )
    n = averages["n"]
    text = "Scores are given "
    if n > 1:
        text += (
            f"as mean ± sample standard deviation (ddof = {averages['ddof']}) over n = {n} folds"
        )
    else:
        text += "for the one evaluated set"
    if intervals is not None:
        text += (
            f", with {100 * intervals['level']:g} % confidence intervals of the pooled predictions "
            f"({intervals['method']}, {intervals['resamples']} resamples of {intervals['drawn']})"
        )
    return text + (
        "; balanced accuracy, F1, AUROC and average precision (mAP) are unweighted means over "
        "classes, each against the rest."
    )


def _software(outcome: ConfigOutcome) -> str:
    environment = outcome.summary["environment"]
    names = (
        ("clip_pkg", "clip_pkg"),
        ("torch", "PyTorch"),
        ("timm", "timm"),
        ("open_clip_torch", "OpenCLIP"),
        ("scikit-learn", "scikit-learn"),
    )
    used = [
        f"{title} {environment[key]}"
        for key, title in names
        if isinstance(environment.get(key), str)
    ]
    return f"Software: {', '.join(used)}." if used else ""


def tests_sentence(comparison: Comparison, data_set: DataSetComparison) -> str:
    """How the configs of a data set were compared; empty if there was no test."""
    tests = [pair.test for pair in data_set.pairs if pair.test is not None]
    if not tests:
        return ""
    text = (
        f"Differences in {comparison.metric_name} between configurations were tested with the "
        "corrected resampled t-test over folds (Nadeau and Bengio 2003; two-sided, n = "
        f"{tests[0].n_folds}, "
        f"test-to-training ratio {tests[0].test_to_train:.2f})"
    )
    if len(tests) > 1:
        text += (
            f", p-values were adjusted for {len(tests)} comparisons by the method of Holm (1979)"
        )
    return text + f", and p < {1 - comparison.level:.2g} was considered significant."
