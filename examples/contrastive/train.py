"""`python train.py --loss_func dhel`: one loss of the comparison, from pre-training to the test.

Without other flags: a ResNet-18 with random weights learns for 200 epochs without labels from all
training images of CIFAR-100, is fine-tuned for 200 epochs on 90 % of them, and the epoch that is
best on the other 10 % is evaluated once on the test images. Any flag of train_clip.py changes that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clip_pkg.base.exit_codes import exit_code
from clip_pkg.cli import main as train
from clip_pkg.launch.terminal import Terminal
from examples.contrastive.cifar import SETS, make_folders

# The first config of gpu_config.json.
DEFAULTS = (
    "--image-encoder=resnet18:scratch",
    "--stem=cifar",
    "--text-encoder=none",
    "--img-size=32",
    '--pretrain={"images": "all", "epochs": 200, "batch_size": 256}',
    '--loss={"type": "ce", "classifier": "linear"}',
    "--augmentation=standard",
    "--batch-size=256",
    "--epochs=200",
    "--learning-rate=1e-3",
    "--no-cv",
    "--val-fraction=0.1",
    "--early-stopping-monitor=val_acc",
    "--output-dir=checkpoints/contrastive",
)


def completed(words: list[str], terminal: Terminal) -> list[str]:
    """The command line with the defaults of the experiment, if `--loss_func` asks for it.

    The folders of `--data-dir cifar10` or `cifar100` are made where they are missing;
    `./cifar100` is a folder like any other.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("loss-func", "data-dir", "data-path", "data", "config-file", "test-dir", "help"):
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        parser.add_argument(*spellings, nargs="?", const="")
    given = parser.parse_known_args(words)[0]
    if given.loss_func is None or given.config_file is not None or given.help is not None:
        return words
    name = given.data_dir or given.data_path or given.data or "cifar100"
    # argparse keeps the last value of a flag.
    words = [*DEFAULTS, f"--name=resnet18_{given.loss_func}", *words]
    if name in SETS:
        make_folders(name, Path(name), terminal)
        words.append(f"--data-dir={name}/train")
        if given.test_dir is None:
            words.append(f"--test-dir={name}/test")
    return words


def main() -> int:
    """Train as the command line says; returns the exit code."""

    def run() -> int:
        sys.argv[1:] = completed(sys.argv[1:], Terminal())
        return train()

    return exit_code(run)
