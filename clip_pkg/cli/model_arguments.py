"""The command lines of the commands that use trained models."""

from __future__ import annotations

from pathlib import Path

from clip_pkg.cli.parser import Parser
from clip_pkg.inference.export.publication import FORMATS

EVERY_FOLD = (
    "a config's result folder, for all its finished folds; the folder of a fold or refit; or a "
    "checkpoint, as .pth or as an export to safetensors"
)


def predict_parser() -> Parser:
    """Parser of `predict`."""
    parser = _parser(
        "predict",
        "Classify images with what was trained.",
        model=f"{EVERY_FOLD}. Several folds answer with the mean of their probabilities",
        needed=("--images",),
    )
    _add_images(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write path, prediction and the probability of every class to FILE.csv or FILE.json; "
        "a file that is there is replaced. Without it the first answers are shown",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="temperature scaling: make probabilities as bold as the folds were right about images "
        "that they did not see",
    )
    parser.add_argument(
        "--class-texts",
        "--class_texts",
        type=Path,
        metavar="FILE",
        help="classify by these texts (JSON: class to text, or to a list of texts) in place of the "
        "trained ones; for models that compare images with texts",
    )
    parser.add_argument(
        "--weights-dir",
        "--weights_dir",
        type=Path,
        metavar="DIR",
        help="with --class-texts: where the pretrained text encoder lies, if not where the config "
        "says",
    )
    _add_out_of_fold(parser, "answered")
    return parser


def explain_parser() -> Parser:
    """Parser of `explain`."""
    parser = _parser(
        "explain",
        "Show where in images the evidence for a class is (Grad-CAM), as pictures to look at.",
        model=f"{EVERY_FOLD}. Of several folds the mean of their maps is shown",
        needed=("--images", "--output"),
    )
    _add_images(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="new folder for one picture per image, index.html and index.csv",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="explain this class (default: the one that is predicted for each image)",
    )
    return parser


def embed_parser() -> Parser:
    """Parser of `embed`."""
    parser = _parser(
        "embed",
        "Write the features that a trained model computes of images.",
        model="the folder of a fold or refit, or a checkpoint; with --out-of-fold a config's "
        "result folder",
        needed=("--images", "--output"),
    )
    _add_images(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="FILE.npz or FILE.parquet; a file that is there is replaced",
    )
    _add_out_of_fold(parser, "embedded")
    return parser


def export_parser() -> Parser:
    """Parser of `export`."""
    parser = _parser(
        "export",
        "Write a trained model for other programs, with a model card, and compare what they make "
        "of it with what was trained.",
        model=EVERY_FOLD,
        needed=("--output",),
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx: one graph from pixels to probabilities, for onnxruntime; safetensors: weights "
        "and config.json; open_clip: a folder for open_clip, of models with both of its towers "
        "(default: onnx)",
    )
    parser.add_argument(
        "--push-to-hub",
        "--push_to_hub",
        metavar="OWNER/NAME",
        help="also upload the folder to this repository of the Hugging Face hub, private if new",
    )
    return parser


def _parser(command: str, description: str, *, model: str, needed: tuple[str, ...]) -> Parser:
    parser = Parser(prog=f"train_clip.py {command}", description=description, needed=needed)
    parser.add_argument("model", type=Path, metavar="MODEL", help=model)
    return parser


def _add_images(parser: Parser) -> None:
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="image files, folders (with all folders in them), or CSV files with a column `path`",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu or cuda:0 (default: the first GPU, if there is one)"
    )
    parser.add_argument(
        "--skip-unreadable",
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be read; each is named. Without it they are an error",
    )


def _add_out_of_fold(parser: Parser, done: str) -> None:
    parser.add_argument(
        "--out-of-fold",
        "--out_of_fold",
        action="store_true",
        help="--images is the data folder or CSV file of the training: each image of a config is "
        f"{done} by the one fold that was not trained on it",
    )
