"""What people train CLIP classifiers with before they have this package: one script, plain PyTorch.

    python -m benchmarks.user_script --data DIR --output DIR      DIR has train/ and val/

It is written the way such scripts are, and nothing in it is slow on purpose: worker processes
decode and augment every image anew in each epoch; every image of a batch comes with its text,
padded to 77 tokens and encoded in every step; the loss is CLIP's over the B×B pairs of a batch. For
the training accuracy the images are encoded once more, and the texts of all classes with them; the
validation encodes these in every batch. Prints seconds of its epochs as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import open_clip
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision import transforms
from tqdm import tqdm

TEMPLATE = "an X-ray that shows {}"


class ImageTextDataset(Dataset):
    """Images of class folders, each with the text of its class."""

    def __init__(self, folder: Path, transform: transforms.Compose) -> None:
        self.classes = sorted(path.name for path in folder.iterdir())
        self.samples = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
        ]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, str, int]:
        path, label = self.samples[index]
        image = self.transform(Image.open(path).convert("RGB"))
        return image, TEMPLATE.format(self.classes[label]), label


class ClipClassifier(nn.Module):
    """An image encoder and a CLIP text tower with projections into one space."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        fixed = timm.models.get_pretrained_cfg(args.image_encoder).fixed_input_size
        size = {"img_size": args.img_size} if fixed else {}
        self.visual = timm.create_model(args.image_encoder, num_classes=0, **size)
        clip = open_clip.create_model(args.text_encoder)
        self.text = getattr(clip, "text", clip)
        if self.text is clip:
            del clip.visual
        width = open_clip.get_model_config(args.text_encoder)["embed_dim"]
        self.image_projection = nn.Linear(self.visual.num_features, args.embed_dim)
        self.text_projection = nn.Linear(width, args.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.freeze_text = args.freeze_text
        if self.freeze_text:
            self.text.requires_grad_(False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → unit vectors [B, D]."""
        return F.normalize(self.image_projection(self.visual(images)), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens [B, 77] → unit vectors [B, D]."""
        encode = self.text.encode_text if hasattr(self.text, "encode_text") else self.text
        with torch.no_grad() if self.freeze_text else nullcontext():
            features = encode(tokens)
        return F.normalize(self.text_projection(features), dim=-1)


def clip_loss(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Tensor:
    """Each image against the texts of the batch, and each text against its images."""
    logits = scale * image_features @ text_features.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Weighted training batches, and validation batches."""
    size = args.img_size
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    augment = transforms.Compose(
        [
            transforms.Resize((round(size * 8 / 7), round(size * 8 / 7))),
            transforms.RandomCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.ToTensor(),
            normalize,
        ]
    )
    plain = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalize])
    train = ImageTextDataset(args.data / "train", augment)
    val = ImageTextDataset(args.data / "val", plain)
    labels = torch.tensor([label for _, label in train.samples])
    weights = 1 / torch.bincount(labels).double()
    sampler = WeightedRandomSampler(weights[labels], len(labels))
    shared = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    shared["pin_memory"] = args.device == "cuda"
    return DataLoader(train, sampler=sampler, drop_last=True, **shared), DataLoader(val, **shared)


def moved(batch, tokenizer, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, tokens of their texts, labels; on the device."""
    images, texts, labels = batch
    return images.to(device), tokenizer(list(texts)).to(device), labels.to(device)


def train_epoch(model, loader, optimizer, tokenizer, class_tokens, args) -> None:
    """One epoch with a progress bar."""
    model.train()
    correct = seen = 0
    total_loss = 0.0
    bar = tqdm(loader, desc="Train", file=sys.stderr)
    for batch in bar:
        images, tokens, labels = moved(batch, tokenizer, args.device)
        with torch.autocast(args.device, enabled=args.device == "cuda"):
            image_features = model.encode_image(images)
            text_features = model.encode_text(tokens)
        loss = clip_loss(image_features.float(), text_features.float(), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad(), torch.autocast(args.device, enabled=args.device == "cuda"):
            logits = model.encode_image(images) @ model.encode_text(class_tokens).T
        correct += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
        total_loss += loss.item()
        bar.set_postfix(loss=f"{loss.item():.4f}", acc=f"{100 * correct / seen:.2f}%")


@torch.no_grad()
def validate(model, loader, tokenizer, class_tokens, args) -> float:
    """Accuracy in percent."""
    model.eval()
    correct = seen = 0
    total_loss = 0.0
    for batch in tqdm(loader, desc="Val", file=sys.stderr):
        images, tokens, labels = moved(batch, tokenizer, args.device)
        with torch.autocast(args.device, enabled=args.device == "cuda"):
            image_features = model.encode_image(images)
            text_features = model.encode_text(tokens)
            class_features = model.encode_text(class_tokens)
        loss = clip_loss(image_features.float(), text_features.float(), model.logit_scale.exp())
        total_loss += loss.item()
        logits = image_features @ class_features.T
        correct += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    return 100 * correct / seen


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and validate; keep the best and the latest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--image-encoder", default="resnet18")
    parser.add_argument("--text-encoder", default="ViT-B-32", help="open_clip's name")
    parser.add_argument("--freeze-text", action="store_true")
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--num-workers", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    torch.manual_seed(42)
    args.output.mkdir(parents=True, exist_ok=True)
    train_loader, val_loader = loaders(args)
    tokenizer = open_clip.get_tokenizer(args.text_encoder)
    texts = [TEMPLATE.format(name) for name in train_loader.dataset.classes]
    class_tokens = tokenizer(texts).to(args.device)
    model = ClipClassifier(args).to(args.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    best, accuracies, epoch_seconds = -1.0, [], []
    for epoch in range(1, args.epochs + 1):
        begun = time.perf_counter()
        train_epoch(model, train_loader, optimizer, tokenizer, class_tokens, args)
        accuracy = validate(model, val_loader, tokenizer, class_tokens, args)
        scheduler.step()
        epoch_seconds.append(time.perf_counter() - begun)
        accuracies.append(accuracy)
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, args.output / "checkpoint_latest.pth")
        if accuracy > best:
            best = accuracy
            torch.save(state, args.output / "checkpoint_best.pth")
    seconds = time.perf_counter() - started
    told = {"seconds": seconds, "epoch_seconds": epoch_seconds, "val_acc": accuracies[-1]}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
