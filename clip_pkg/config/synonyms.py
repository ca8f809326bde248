"""Names that other programs use: those that mean one of our keys, and answers to the others."""

from __future__ import annotations

from collections.abc import Mapping

_OF_KEY: Mapping[str, tuple[str, ...]] = {
    "image_encoder_name": ("backbone", "arch", "model_name", "image_encoder", "encoder"),
    "text_encoder_name": ("text_encoder", "text_model"),
    "embed_dim": ("embedding_dim", "emb_dim"),
    "img_size": ("image_size", "input_size", "imgsz"),
    "augmentation": ("aug", "augment"),
    "mixup_alpha": ("mixup",),
    "cutmix_alpha": ("cutmix",),
    "label_smoothing": ("smoothing",),
    "num_workers": ("workers", "n_workers"),
    "batch_size": ("bs", "batch", "train_batch_size"),
    "epochs": ("num_epochs", "n_epochs", "max_epochs"),
    "learning_rate": ("lr", "base_lr"),
    "weight_decay": ("wd",),
    "warmup_epochs": ("warmup",),
    "grad_clip_norm": ("clip_grad", "grad_clip", "max_grad_norm"),
    "use_amp": ("amp",),
    "use_weighted_sampling": ("weighted_sampling", "weighted_sampler"),
    "use_cv": ("cv", "cross_validation"),
    "n_splits": ("folds", "n_folds", "num_folds", "k_folds", "kfold"),
    "val_fraction": ("val_split", "val_size", "val_ratio"),
    "random_state": ("seed", "random_seed"),
    "early_stopping_patience": ("patience",),
    "early_stopping_min_delta": ("min_delta",),
    "early_stopping_monitor": ("monitor",),
}
# Another name of a key → the key.
SYNONYMS: Mapping[str, str] = {name: key for key, names in _OF_KEY.items() for name in names}

_OPTIMIZER = "every training uses AdamW; set learning_rate and weight_decay"
_SCHEDULE = "every training has a cosine schedule; set learning_rate and warmup_epochs"
_DEVICE = "devices are chosen by --gpus 0,1, or by gpu_id in a config"
_WEIGHTS = "write :pretrained or :scratch after the encoder's name"
_CLASSES = "the classes are the folders of images"
_LOSS = 'write "loss": {"type": …}, or --main-loss-type'
_RESUME = "an interrupted run resumes without a flag; --resume-from PATH resumes one from elsewhere"
# A name without a key → what to do instead.
ANSWERS: Mapping[str, str] = {
    **dict.fromkeys(("optimizer", "optim", "opt", "momentum", "betas"), _OPTIMIZER),
    **dict.fromkeys(("scheduler", "lr_scheduler", "sched", "lr_schedule", "min_lr"), _SCHEDULE),
    **dict.fromkeys(("device", "devices", "gpu", "cuda", "gpu_ids", "n_gpus"), _DEVICE),
    **dict.fromkeys(("pretrained", "weights", "init_weights"), _WEIGHTS),
    **dict.fromkeys(("num_classes", "n_classes", "classes", "class_names"), _CLASSES),
    **dict.fromkeys(("criterion", "loss_fn", "loss_function", "loss_name"), _LOSS),
    **dict.fromkeys(("resume", "checkpoint", "ckpt", "load_from"), _RESUME),
    **dict.fromkeys(("precision", "fp16", "bf16", "half"), "set use_amp and amp_dtype"),
    **dict.fromkeys(
        ("data_dir", "data", "data_path", "dataset", "train_dir"), "images are given by --data-dir"
    ),
    **dict.fromkeys(
        ("output_dir", "out", "output", "save_dir", "results_dir"), "results go to --output-dir"
    ),
    **dict.fromkeys(("log_dir", "logs", "logdir"), "logs go to --log-dir"),
    **dict.fromkeys(("val_dir", "validation_dir"), "validation images are folds of the images"),
    **dict.fromkeys(
        ("accum", "grad_accum", "accumulate", "accumulation_steps", "accum_freq"),
        "micro_batch_size splits a batch that does not fit into memory",
    ),
}
