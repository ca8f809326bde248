"""What a model is and how it is trained, and the flags that say so; no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clip_pkg.cli.parser import Parser

RESULTS = Path("results")  # where trainings go, one folder per loss, unless --output_dir says
# Settings that say for how long a model is trained: an interrupted or short training may go on.
DURATION = ("num_epochs", "patience")


@dataclass(frozen=True)
class Settings:
    """As the flags of `training_parser` explain them."""

    use_infonce: bool
    infonce_temperature: float
    batch_size: int
    lr: float
    num_epochs: int
    patience: int | None
    dropout_rate: float
    hidden_units: int
    num_blocks: int
    num_heads: int
    norm_first: bool
    maxlen: int
    l2_emb: float
    seed: int

    @property
    def loss(self) -> str:
        """`infonce` or `bce`."""
        return "infonce" if self.use_infonce else "bce"

    def identity(self) -> dict[str, Any]:
        """Everything that an epoch's numbers follow from, except for the data."""
        return {name: value for name, value in asdict(self).items() if name not in DURATION}


def training_parser() -> Parser:
    """Flags of `main.py`; the defaults are the guide's command."""
    parser = Parser(
        prog="main.py",
        description="Train a causal transformer that ranks the next item of each user.",
        epilog="The same command goes on where an interrupted training stopped.",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--data",
        type=Path,
        default=Path("interactions.txt"),
        metavar="FILE",
        help="one `user item` pair of whole numbers per line, each user's in time order "
        "(default: %(default)s)",
    )
    files.add_argument(
        "--output_dir",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help=f"default: {RESULTS}/infonce or {RESULTS}/bce",
    )
    files.add_argument(
        "--mm_emb_id",
        nargs="+",
        default=[],
        metavar="ID",
        help="item features: NAME=FILE.npz, or NAME for the file NAME.npz in --mm_emb_dir",
    )
    files.add_argument(
        "--mm_emb_dir", type=Path, default=Path("mm_emb"), metavar="DIR", help="%(default)s"
    )
    loss = parser.add_argument_group("loss")
    loss.add_argument(
        "--use_infonce",
        action="store_true",
        help="softmax of cosines against all sampled items of the batch; without it binary "
        "cross-entropy of dot products, each against one sampled item",
    )
    _number(loss, "infonce_temperature", 0.2, (0.001, 100.0), "divides the cosines")
    _number(loss, "l2_emb", 1e-6, (0.0, 1.0), "weight of the norm of the item embeddings")
    model = parser.add_argument_group("model")
    _number(model, "hidden_units", 64, (1, 4096), "size of item vectors and hidden states")
    _number(model, "num_blocks", 2, (1, 64), "transformer blocks")
    _number(model, "num_heads", 2, (1, 64), "attention heads; they divide hidden_units")
    _number(model, "dropout_rate", 0.2, (0.0, 0.9), "of embeddings and in blocks")
    _number(model, "maxlen", 101, (1, 10_000), "latest items of a user that are looked at")
    model.add_argument("--norm_first", action="store_true", help="normalise before each sub-layer")
    training = parser.add_argument_group("training")
    _number(training, "batch_size", 256, (1, 100_000), "users per step")
    _number(training, "lr", 0.0007, (1e-8, 1.0), "Adam's, constant")
    _number(training, "num_epochs", 4, (1, 100_000), "passes over all users")
    _number(training, "patience", None, (1, 100_000), "epochs without a gain before it stops")
    _number(training, "seed", 42, (0, 2**32 - 1), "of weights, order, negatives and dropout")
    return parser


def settings_of(parsed: argparse.Namespace, parser: Parser) -> Settings:
    """Take the settings out of the flags. Raises UserError where two do not fit together."""
    if parsed.hidden_units % parsed.num_heads:
        parser.error(
            f"--num_heads {parsed.num_heads} does not divide --hidden_units {parsed.hidden_units}"
        )
    return Settings(**{field.name: getattr(parsed, field.name) for field in fields(Settings)})


def _number(group: Any, name: str, default: Any, limits: tuple[Any, Any], what: str) -> None:
    kind = type(limits[0])
    group.add_argument(
        f"--{name}",
        type=within(kind, *limits),
        default=default,
        metavar="N" if kind is int else "X",
        help=what if default is None else f"{what} (default: %(default)s)",
    )


def within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    """Reader of a number from `low` to `high`."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {noun} from {low} to {high}")
        return value

    return read
