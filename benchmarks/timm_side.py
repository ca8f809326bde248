"""timm as a trainer of image classifiers, made of the parts that its package brings.

    python -m benchmarks.timm_side --data DIR --output DIR      DIR has train/ and val/

Its wheel has no training program. This is the order of calls that its documentation shows, with
its own dataset, loader (prefetching, with the transforms it has by default), classification task,
AdamW, cosine schedule, average meters, evaluator, checkpoint saver and summary file; the loss is
fetched from the device where the log shows it, every 50 steps. Prints seconds of its epochs as
JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationEvaluator, ClassificationTask
from timm.utils import AverageMeter, CheckpointSaver, update_summary
from torch import nn

from benchmarks.formats import NAMES, Format, fastest

LOG_INTERVAL = 50
logger = logging.getLogger("timm_side")


class TimmTraining:
    """What one training needs: model, task, loaders, optimiser, schedule."""

    def __init__(self, chosen: argparse.Namespace, form: Format) -> None:
        self.device, self.form = torch.device(chosen.device), form
        self.output = chosen.output
        classes = len(list((chosen.data / "train").iterdir()))
        model = build(chosen, classes).to(self.device, memory_format=form.layout)
        self.model = model
        config = resolve_data_config(
            {"input_size": (3, chosen.img_size, chosen.img_size)}, model=model
        )
        self.train_loader, self.val_loader = (
            create_loader(
                create_dataset(
                    "", root=str(chosen.data / split), is_training=training, search_split=False
                ),
                input_size=config["input_size"],
                batch_size=chosen.batch_size,
                is_training=training,
                interpolation=config["interpolation"],
                mean=config["mean"],
                std=config["std"],
                num_workers=chosen.workers,
                crop_pct=config["crop_pct"],
                pin_memory=self.device.type == "cuda",
                device=self.device,
            )
            for split, training in (("train", True), ("val", False))
        )
        self.task = ClassificationTask(model, nn.CrossEntropyLoss(), device=self.device)
        self.optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.01)
        self.updates = len(self.train_loader)
        self.schedule, _ = create_scheduler_v2(
            self.optimizer, num_epochs=chosen.epochs, updates_per_epoch=self.updates
        )
        self.saver = CheckpointSaver(
            model, self.optimizer, checkpoint_dir=str(self.output), recovery_dir=str(self.output)
        )

    def train_epoch(self, epoch: int) -> float:
        """Mean loss, as far as it was fetched."""
        self.model.train()
        losses = AverageMeter()
        for number, (images, targets) in enumerate(self.train_loader):
            inputs = images.contiguous(memory_format=self.form.layout)
            with self.form.autocast(self.device):
                result = self.task(inputs, targets)
            result["loss"].backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if number % LOG_INTERVAL == 0 or number == self.updates - 1:
                losses.update(result["loss"].item(), len(images))
                logger.info("Train: %d [%d/%d] Loss: %.3g", epoch, number, self.updates, losses.avg)
            self.schedule.step_update(num_updates=epoch * self.updates + number + 1)
        return float(losses.avg)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss and accuracies of the validation images."""
        self.model.eval()
        evaluator = ClassificationEvaluator(self.device)
        for images, targets in self.val_loader:
            inputs = images.contiguous(memory_format=self.form.layout)
            with self.form.autocast(self.device):
                output = self.model(inputs)
            evaluator.update(output, targets)
        return dict(evaluator.compute())

    def close_epoch(self, epoch: int, loss: float, scores: dict[str, float]) -> None:
        """Write what belongs to an epoch and set the learning rate of the next one."""
        summary = str(self.output / "summary.csv")
        update_summary(epoch, {"loss": loss}, scores, filename=summary, write_header=epoch == 0)
        self.saver.save_checkpoint(epoch, metric=scores["top1"])
        self.schedule.step(epoch + 1, scores["top1"])


def build(chosen: argparse.Namespace, classes: int) -> nn.Module:
    """The model from random weights."""
    fixed = timm.models.get_pretrained_cfg(chosen.image_encoder).fixed_input_size
    size = {"img_size": chosen.img_size} if fixed else {}
    model: nn.Module = timm.create_model(chosen.image_encoder, num_classes=classes, **size)
    return model


def fastest_format(chosen: argparse.Namespace) -> Format:
    """Format in which the device trains this model fastest."""
    device = torch.device(chosen.device)

    def make_step(form: Format) -> Callable[[], None]:
        model = build(chosen, classes=10).to(device, memory_format=form.layout)
        task = ClassificationTask(model, nn.CrossEntropyLoss(), device=device)
        shape = (chosen.batch_size, 3, chosen.img_size, chosen.img_size)
        images = torch.randn(shape, device=device).contiguous(memory_format=form.layout)
        targets = torch.zeros(chosen.batch_size, dtype=torch.int64, device=device)

        def step() -> None:
            model.zero_grad()
            with form.autocast(device):
                loss = task(images, targets)["loss"]
            loss.backward()

        return step

    return fastest(make_step, device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or only find the fastest format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--image-encoder", default="resnet18")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=list(NAMES), help="left out: find the fastest and end")
    chosen = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    if chosen.format is None:
        print(json.dumps({"format": str(fastest_format(chosen))}), flush=True)
        return
    started = time.perf_counter()
    torch.manual_seed(42)
    chosen.output.mkdir(parents=True, exist_ok=True)
    training = TimmTraining(chosen, NAMES[chosen.format])
    epoch_seconds, scores = [], {"top1": 0.0}
    for epoch in range(chosen.epochs):
        begun = time.perf_counter()
        loss = training.train_epoch(epoch)
        scores = training.validate()
        epoch_seconds.append(time.perf_counter() - begun)
        training.close_epoch(epoch, loss, scores)
    told = {"epoch_seconds": epoch_seconds, "seconds": time.perf_counter() - started}
    print(json.dumps({**told, "val_acc": scores["top1"]}), flush=True)


if __name__ == "__main__":
    main()
