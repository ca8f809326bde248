"""The studies that `equivalence.py` runs with two checkouts, and the images that they are about.

To add a study, add a row to `STUDIES`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Config = Mapping[str, Any]

TINY = {
    "image_encoder_name": "test_resnet:scratch",
    "text_encoder_name": "prompts",
    "img_size": 32,
    "embed_dim": 16,
    "batch_size": 8,
    "epochs": 2,
    "learning_rate": 1e-3,
    "n_splits": 2,
    "augmentation": "minimal",
    "num_workers": 0,
}
DATA = "--data-dir ../../data/images"
TEST = "--images ../../data/test"


def train(
    data: str = "images",
    configs: str = "configs",
    output: str = "out",
    flags: str = " --executor inline",
) -> str:
    """The command that trains all configs of a file, in its own process."""
    places = f"--data-dir ../../data/{data} --output-dir {output} --log-dir logs"
    return f"{places} --config-file {configs}.json --multi-config{flags}"


TRAIN = train()
TOWER = {"text_encoder_name": "clip:ViT-S-32-alt:scratch"}
MAIN = (  # noqa: SIM905 - one name per line would be long
    "clip superclip superclip_tokens siglip supcon ce focal ce_infonce proxy combined infonce bce"
).split()
AUXILIARY = ["center", "triplet", "arcface", "cosface", "cosine_sim"]
TWO_VIEWS = ["info_nce", "nt_xent", "dcl", "dcl_symmetric", "dclw", "dhel", "kcl", "vicreg"]
COMMANDS = (  # noqa: SIM905
    "validate prefetch class-texts schema plan status summarize compare report predict explain "
    "embed refit export"
).split()
CHANGED = train(configs="other")
CE, LINEAR = {"type": "ce"}, {"type": "ce", "classifier": "linear"}
HOLD_OUT = {"use_cv": False}
ALL_PIXELS = {"images": "all", "epochs": 2, "batch_size": 8, "probe_every": 1}
PRETRAIN = {"pretrain": {**ALL_PIXELS, "loss": {"type": "nt_xent"}}}


def named(rows: Mapping[str, Config], **shared: Any) -> list[Config]:
    """Configs by name, each with what all of them share."""
    return [{"name": name, **shared, **row} for name, row in rows.items()]


def with_two_auxiliaries(number: int, kind: str) -> Config:
    pair = (AUXILIARY[number % 5], AUXILIARY[(number + 1 + number // 5) % 5])
    aux = [{"type": name, "weight": 0.2} for name in pair]
    return {"loss": {"type": kind}, "aux_losses": aux, **(TOWER if "tokens" in kind else {})}


LOSSES = {kind: with_two_auxiliaries(number, kind) for number, kind in enumerate(MAIN)}
SETTINGS: Mapping[str, Config] = {
    "mixup": {"loss": CE, "mixup_alpha": 0.4},
    "cutmix": {"loss": LINEAR, "cutmix_alpha": 1.0, "label_smoothing": 0.1},
    "mixed": {"loss": {"type": "superclip"}, "mixup_alpha": 0.4, "cutmix_alpha": 0.4},
    "standard": {"augmentation": "standard", "vertical_flip": True, "horizontal_flip": False},
    "plain": {"augmentation": "none", "loss": {"type": "superclip", "focal": {"gamma": 1.5}}},
    **{
        method: {
            "use_weighted_sampling": True,
            "weight_method": method,
            "weight_smooth_factor": 0.5,
            "loss": {**CE, "class_weighting": "auto"},
        }
        for method in ("inverse_freq", "inverse_sqrt", "balanced", "effective_number")
    },
    "micro": {"micro_batch_size": 4, "loss": {"type": "superclip"}},
    "recomputed": {"activation_checkpointing": True},
    "patient": {"epochs": 6, "early_stopping_patience": 1, "early_stopping_monitor": "val_mAP"},
    "no_best": {"save_best": False},
    "bfloat16": {"amp_dtype": "bfloat16"},
    "no_amp": {"use_amp": False, "grad_clip_norm": None, "weight_decay": 0.2, "random_state": 7},
    "rates": {"image_lr_scale": 0.1, "text_lr_scale": 9.0, "warmup_epochs": 0, "temperature": 0.2},
    "frozen_images": {"freeze_image_encoder": True, "loss": LINEAR},
    "cifar": {"stem": "cifar", "image_encoder_name": "resnet10t:scratch"},
    "vit": {"image_encoder_name": "test_vit:scratch", "aux_losses": ["arcface"]},
    "focal_proxies": {"loss": {"type": "proxy", "proxy_type": "FocalStyleProxyAnchorLoss"}},
    "negatives": {"loss": {"type": "infonce", "num_negatives": 5}},
    "mined": {"aux_losses": [{"type": "triplet", "mining": "batch_all"}]},
}
TEXTS: Mapping[str, Config] = {
    "learned": TOWER,
    "frozen": {**TOWER, "freeze_text_encoder": True, "class_texts_file": "texts.json"},
    "none": {"text_encoder_name": "none", "loss": LINEAR},
    "started": {"text_encoder_name": f"prompts:{TOWER['text_encoder_name']}"},
    "prompts": {"prompts_per_class": 3},
    "template": {**TOWER, "text_template": "a photo of {}", "loss": {"type": "siglip"}},
}
SPLITS: Mapping[str, Config] = {
    "groups": {"group_pattern": r"^(p\d+)_", "n_splits": 3},
    "hold_out": {**HOLD_OUT, "val_fraction": 0.3},
    "inner": {"inner_val_fraction": 0.3, "n_splits": 3, "random_state": 3},
    "inner_groups": {"inner_val_fraction": 0.3, "group_pattern": r"^(p\d+)_"},
    "tested": {"test_dir": "../../data/test", "epochs": 3},
    "inner_tested": {**HOLD_OUT, "inner_val_fraction": 0.3, "test_dir": "../../data/test"},
}
PRETRAININGS: Mapping[str, Config] = {
    **{kind: {"loss": {"type": kind}} for kind in TWO_VIEWS},
    "supcon": {"loss": {"type": "supcon"}, "images": "train_fold"},
    "queue": {"loss": {"type": "info_nce"}, "queue": {"size": 32, "momentum": 0.9}},
    "sgd": {"optimizer": {"type": "sgd"}, "augmentation": "standard", "grad_clip_norm": 1.0},
    "lars": {"optimizer": {"type": "lars"}, "micro_batch_size": 4, "smallest_crop": 0.5},
    "per_fold": {"images": "train_fold"},
    "folder": {"images": "../../data/archive", "projection": {"layers": 3, "dim": 16}},
}
MODELS: Mapping[str, Config] = {
    "a": {"loss": {"type": "superclip"}, "n_splits": 3},
    "b": {**TOWER, **HOLD_OUT},
    "c": {"inner_val_fraction": 0.3, "early_stopping_patience": 1, "epochs": 4},
}
FLAT_KEYS: Mapping[str, Config] = {
    "a": {"use_superclip_loss": True, "class_loss_weight": 0.5, "contrastive_loss_weight": 2.0},
    "b": {
        "main_loss_type": "ce_infonce",
        "contrast_weight": 0.7,
        "infonce_temp": 0.1,
        "aux_losses": ["center", "arcface"],
        "aux_weights": [0.1, 0.2],
    },
    "c": {"loss_type": "combined", "proxy_alpha": 16.0, "proxy_delta": 0.2, "lambda_combined": 0.7},
    "d": {"loss_type": "proxy", "proxy_type": "FocalStyleProxyAnchorLoss"},
    "e": {"use_infonce": True, "infonce_temperature": 0.3, "num_negatives": 4},
    "f": {"use_infonce": False, "sweep": {"weight_decay": [0, 0.1], "temperature": [0.1, 0.2]}},
    "g": {"loss_func": "dhel", "pretrain": {"epochs": 1, "batch_size": 8, "images": "all"}},
}
GUIDE_FLAGS = (
    "--model resnet10t:scratch_clip_prompts --img_size 32 --embed_dim 16 --batch-size 8 --epochs 2 "
    "--n_splits 2 --main-loss-type ce_infonce --contrast-weight 0.5 --infonce_temp 0.07 "
    "--aux-losses center arcface --aux-weights 0.1 0.2 --prompts-per-class 5 --no-amp "
    "--data-path ../../data/images --output_dir flags --log_dir logs --num-workers 0 "
    "--executor inline"
)
BAD_CONFIGS = {
    "typos.json": '[{"name": "x", "learning_rat": 1, "epochs": 0, "loss": {"type": "clp"}}]',
    "several.json": """[
  {"name": "x", "batch_size": "8", "loss": {"type": "ce", "temperature": 0.1}, "n_splits": 1},
  {"name": "x", "augmentation": "much", "aux_losses": ["centre"], "img_size": 4},
  {"use_superclip_loss": true, "loss_type": "proxy", "early_stopping_monitor": "val_los"},
  {"name": "../up", "mixup_alpha": 0.2, "loss": {"type": "clip"}, "text_encoder_name": "none"}
]""",
    "syntax.json": '[{"name": "x", "epochs": 3, "epochs": 4}, {"name": y}]',
    "empty.json": "[]",
    "pretrain.json": '[{"pretrain": {"loss": {"type": "dhel", "t": 1}, "queue": {}, "epoch": 2}}]',
    "sweep.json": '[{"sweep": {"learning_rate": [], "nam": [1]}}]',
    "folds.json": json.dumps([{**TINY, "n_splits": 9}]),
    "texts.json": json.dumps([{**TINY, "class_texts_file": "none.json"}]),
    "groups.json": json.dumps([{**TINY, "group_pattern": r"^(patient\d+)_"}]),
    "weights.json": json.dumps([{**TINY, "image_encoder_name": "resnet18"}]),
    "test_dir.json": json.dumps([{**TINY, "test_dir": "../../data/images"}]),
    "good.json": json.dumps([{**TINY, "name": "good"}]),
    "two.json": json.dumps(named({"a": {}, "b": {}}, **TINY)),
}
BAD_COMMANDS = (
    *("trian", f"--data-dirr x {DATA}", f"{DATA} --output-dir o --epochs -3", "--output-dir o"),
    f"{DATA} --output-dir o --config-file two.json",
    f"{DATA} --output-dir o --config-file good.json --epochs 3",
    f"{DATA} --output-dir o --config-file absent.json",
    f"{DATA} --output-dir o --config-file good.json --executor cloud",
    f"{DATA} --output-dir o --config-file good.json --cache-limit much",
    f"{DATA} --output-dir o --config-file good.json --folds-at-once 2 --jobs-per-gpu 2",
    f"{DATA} --output-dir o --config-file good.json --resume-from absent",
    f"{DATA} --output-dir o --config-file good.json --splits-file good.json",
    *("summarize ../../data/images", "status absent", "compare absent", "report absent"),
    *("predict absent --images ../../data/images", "predict .", "refit .", "embed good.json"),
    "export absent --output model --format torch",
    "explain absent --images ../../data/images --output good.json",
    f"plan {DATA} --output-dir o --config-file good.json --simulate GPUS=none",
)
WILD = {"learning_rate": 10.0, "image_lr_scale": 100.0, "grad_clip_norm": None, "epochs": 40}
CLASS_TEXTS = {"red": ["a red thing", "something red"], "grün": "green", "blue sky": ["the sky"]}
NEXT_ITEM = (
    "examples/next_item/main.py --data ../../data/log.txt --hidden_units 16 --batch_size 16 "
    "--maxlen 9 --lr 0.01"
)
PYTHON = f"""
import sys
from clip_pkg import ImageTextClassifier, load_run

if sys.argv[1:] == ["fit"]:
    settings = {{**{TINY!r}, "use_cv": False, "loss": {CE!r}}}
    model = ImageTextClassifier(**settings, output_dir="fitted", executor="inline", device="cpu")
    model.fit("../../data/images")
    print(model.classes_, model.predict_proba("../../data/test").tolist())
else:
    run = load_run("out")
    for name in "configs folds histories predictions predictions_last summaries per_class".split():
        getattr(run, name).to_csv(f"{{name}}.csv", index=False)
    print(run.unfinished, *(run.confusion_matrix(name) for name in run.cv_summaries))
"""


@dataclass(frozen=True)
class Study:
    """Configs, and commands that run one after another in the study's own folder.

    A command is a command line of `train_clip.py`, or begins with a script. `kill N after FILE: …`
    sends signal N to the command and its children once FILE is there, a pattern.
    begin: commands that only the old checkout runs; both continue in what they leave behind.
    kept: of what they leave behind, patterns of files that the commands must not write again.
    """

    name: str
    configs: Sequence[Config] = ()
    commands: Sequence[str] = (TRAIN,)
    files: Mapping[str, str] = field(default_factory=dict)
    begin: Sequence[str] = ()
    kept: Sequence[str] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """Names and contents of the files in the study's folder before its first command."""
        configs = [{**TINY, **config} for config in self.configs]
        return {"configs.json": json.dumps(configs), **self.files}


STUDIES = (
    Study("help", commands=["--help", *(f"{name} --help" for name in COMMANDS), "schema"]),
    Study(
        "mistakes",
        commands=[
            *BAD_COMMANDS,
            *(train(configs=name.removesuffix(".json")) for name in BAD_CONFIGS),
            *(train(name, "good", "o") for name in ("absent", "broken", "clash", "loose")),
            f"validate {DATA} --multi-config --config-file weights.json",
            f"validate {DATA} --multi-config --config-file two.json",
            "validate --data-dir ../../data/broken --config-file good.json --skip-unreadable",
        ],
        files=BAD_CONFIGS,
    ),
    Study(
        "losses",
        named(LOSSES),
        [
            f"plan {DATA} --output-dir out --config-file configs.json --multi-config",
            *(TRAIN, TRAIN, "status out", "summarize out"),
            "compare out --output compare.json compare.csv compare.md compare.tex",
            "compare out --epoch last --metric mcc --output last.json",
            "report out/combined --no-images",
            *(f"predict out/{kind} {TEST} --output {kind}.csv" for kind in MAIN),
        ],
    ),
    Study("settings", named(SETTINGS, **HOLD_OUT)),
    Study("texts", named(TEXTS, **HOLD_OUT), files={"texts.json": json.dumps(CLASS_TEXTS)}),
    Study(
        "splits",
        named(SPLITS),
        [
            train("patients"),
            "compare out --output compare.json",
            "report out/tested --no-images",
            train("table.csv", "one", "csv"),
            f"{train('patients', 'again', 'again')} --splits-file out/groups/folds_info.json",
        ],
        {
            "one.json": json.dumps([{**TINY, "name": "one"}]),
            "again.json": json.dumps(named({"again": SPLITS["groups"]}, **TINY)),
        },
    ),
    Study(
        "flat_keys",
        named(FLAT_KEYS, **HOLD_OUT),
        [TRAIN, GUIDE_FLAGS, "compare out --output compare.json"],
    ),
    Study(
        "streamed",
        named({"alone": {}, "workers": {"num_workers": 2, "augmentation": "standard"}}),
        [f"{TRAIN} --cache-limit 1kB", train(output="stored")],
    ),
    Study(
        "pretraining",
        [
            {"name": "none", "epochs": 1},
            *(
                {"name": name, "epochs": 1, "random_state": 42 + number, **HOLD_OUT}
                | {"pretrain": {**ALL_PIXELS, **row}}
                for number, (name, row) in enumerate(PRETRAININGS.items())
            ),
            {"name": "folds", "random_state": 1, "pretrain": {**ALL_PIXELS}},
            {"name": "fold_by_fold", "pretrain": {**ALL_PIXELS, "images": "train_fold"}},
        ],
        [
            TRAIN,
            "compare out --output compare.json compare.csv",
            "report out/queue --no-images",
            "refit out/folds --executor inline",
        ],
    ),
    Study(
        "models",
        named(MODELS),
        [
            TRAIN,
            *("refit out/a --executor inline", "refit out/c --epochs 3 --executor inline"),
            "refit out/c --epochs 2 --executor inline",
            "refit out/c --epochs 2 --executor inline --overwrite",
            f"predict out/a {TEST}",
            "predict out/a --images ../../data/images ../../data/test --output all.csv",
            f"predict out/a {TEST} --calibrate --output calibrated.json",
            "predict out/a --images ../../data/images --out-of-fold --output out_of_fold.csv",
            "predict out/a/fold_2 --images ../../data/images --output fold.csv",
            f"predict out/a/refit {TEST} --output refit.csv",
            f"predict out/b {TEST} --class-texts texts.json --output texts.csv",
            f"predict out/b {TEST} --class-texts swapped.json --output s.csv",
            f"predict out/b/fold_1/checkpoint_latest.pth {TEST} --output p.csv",
            f"embed out/a/fold_1 {TEST} --output features.npz",
            "embed out/a --images ../../data/images --out-of-fold --output features_oof.npz",
            f"explain out/a {TEST} --output maps",
            "explain out/b --images ../../data/test/red --class grün --output maps_of_one",
            "export out/a --output model --format safetensors",
            "export out/c/refit --output onnx_model",
            f"predict model {TEST} --output exported.csv",
            *("tables.py load", "tables.py fit", "class-texts --data-dir out/a --output new.json"),
            f"class-texts {DATA} --output new.json",
        ],
        {
            "texts.json": json.dumps(CLASS_TEXTS),
            "swapped.json": json.dumps(
                {"red": "grün", "grün": ["red", "blue sky"], "blue sky": "red"}
            ),
            "tables.py": PYTHON,
        },
    ),
    Study("failing", named({"wild": WILD, "tame": {}}, **HOLD_OUT), [TRAIN, TRAIN, "status out"]),
    Study(
        "replaced",
        named({"a": {}, "b": {}}),
        [TRAIN, CHANGED, f"{CHANGED} --overwrite"],
        {"other.json": json.dumps([{**TINY, "name": "a", "temperature": 0.2}])},
    ),
    Study(
        "killed",
        named({"a": {"epochs": 20}, "b": {"pretrain": {**ALL_PIXELS, "epochs": 9}}}),
        [
            f"kill 15 after out/pretraining/*/history.json: {TRAIN}",
            f"kill 9 after out/a/fold_1/history.json: {TRAIN}",
            f"kill 9 after out/a/fold_2/history.json: {train(flags='')}",
            *(train(flags=""), "status out"),
        ],
    ),
    Study(
        "old_folder",
        named({"done": PRETRAIN, "half": {"epochs": 20, **PRETRAIN}, "waiting": {}}),
        [
            *(TRAIN, "summarize out", "compare out --output compare.json", "report out/done"),
            f"predict out/half {TEST} --output half.csv",
            "predict out/half --images ../../data/images --out-of-fold --output out_of_fold.csv",
            "refit out/done --executor inline",
        ],
        {"first.json": json.dumps(named({"done": PRETRAIN}, **TINY))},
        begin=[
            train(configs="first"),
            f"kill 9 after out/half/fold_2/history.json: {TRAIN}",
        ],
        kept=["out/done/fold_*/*.*", "out/half/fold_1/*.*", "out/pretraining/*/*.*"],
    ),
    Study(
        "next_item",
        commands=[
            f"{NEXT_ITEM} --num_epochs 1 --use_infonce --norm_first --output_dir infonce",
            f"{NEXT_ITEM} --num_epochs 3 --use_infonce --norm_first --output_dir infonce",
            f"{NEXT_ITEM} --num_epochs 2 --output_dir bce",
            f"{NEXT_ITEM} --num_epochs 2 --use_infonce --output_dir bce",
            "examples/next_item/eval/infer.py --checkpoint bce/checkpoint_best.pth --held_out test",
            "examples/next_item/main.py --help",
        ],
    ),
)


def paint(path: Path, label: int, seed: int) -> None:
    """Write a picture whose stripes tell its class; no two pictures are alike."""
    pixels = np.random.default_rng((label, seed)).integers(0, 80, (24, 24, 3))
    pixels[:, :: label + 2] += 120
    pixels[..., label % 3] += 50
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_data(root: Path) -> None:
    """Make the image sets, and the interactions of the next-item example."""
    counts = {"red": 14, "grün": 10, "blue sky": 6}
    rows = ["path,label,group"]
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            paint(root / "images" / name / f"{number:03d}.png", label, number)
            paint(root / "patients" / name / f"p{number // 2}_{number}.png", label, number)
            rows.append(f"images/{name}/{number:03d}.png,{name},{name}{number // 3}")
        for number in range(4):
            paint(root / "test" / name / f"t{number}.png", label, 1000 + number)
            paint(root / "archive" / "2024" / f"{name}{number}.png", label, 2000 + number)
            paint(root / "broken" / name / f"{number}.png", label, number)
            paint(root / "clash" / name / f"{number}.png", 0, number)
            paint(root / "loose" / f"{name}{number}.png", label, number)
    for name in ("cut.png", "empty.jpg"):
        source = (root / "images" / "red" / "000.png").read_bytes()
        (root / "broken" / "red" / name).write_bytes(source[:200] if name == "cut.png" else b"")
    (root / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    draw, lines = random.Random(1), []
    for user in range(80):
        first = draw.randrange(40)
        for step in range(draw.choice([1, 2, 3, 4, 5, 8, 14])):
            lines.append((step, user, (first + 3 * step) % 40))
    log = "".join(f"{10 + user} {7 * item}\n" for _, user, item in sorted(lines))
    (root / "log.txt").write_text(log, encoding="utf-8")
