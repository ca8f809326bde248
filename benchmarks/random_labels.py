"""What the program reports where there is nothing to learn: noise images with random labels.

    bash benchmarks/run.sh random_labels --write

Every seed draws images of its own, which are cross-validated with 5 folds and 10 epochs. The true
accuracy of any classifier is 50 %. One config each chooses its epoch by `val_loss` and by
`val_acc`; then the best of 10 configs is chosen, which differ in their learning rate only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from benchmarks.results import measured_on, write_section
from clip_pkg.cli import main as clip_pkg
from clip_pkg.results.comparison import compare

IMAGES, SIDE, TRUE = 400, 24, 50.0
CONFIG: dict[str, Any] = {
    "image_encoder_name": "test_resnet:scratch",
    "text_encoder_name": "prompts",
    "img_size": 32,
    "embed_dim": 16,
    "batch_size": 32,
    "epochs": 10,
    "learning_rate": 1e-3,
    "n_splits": 5,
    "augmentation": "minimal",
    "num_workers": 0,
}
MONITORS = ("val_loss", "val_acc")
RATES = np.geomspace(3e-4, 3e-3, 10).tolist()
CLAIMS = ("is significantly better than", "percentage points above always predicting")


@dataclass
class Found:
    """Accuracies in percent, one per seed; own: at the best epochs, as they are."""

    own: list[float] = field(default_factory=list)
    headline: list[float] = field(default_factory=list)
    missed: int = 0
    claims: int = 0

    def add(self, own: float, headline: float, interval: Sequence[float], said: str) -> None:
        self.own.append(own)
        self.headline.append(headline)
        self.missed += not interval[0] <= TRUE <= interval[1]
        self.claims += sum(said.count(claim) for claim in CLAIMS)


def write_noise(folder: Path, seed: int) -> None:
    """Write images of noise, half of them in each of two classes."""
    random = np.random.default_rng(seed)
    for number in range(IMAGES):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(path)


def run(root: Path, seed: int, configs: Sequence[dict[str, Any]], name: str) -> tuple[Path, str]:
    """Train the configs and compare them; of one config, write the report.

    Returns their folder, and what was said.
    """
    file, output = root / f"{name}.json", root / name
    file.write_text(json.dumps([{**CONFIG, "random_state": seed, **one} for one in configs]))
    words = ["--data-dir", root / "images", "--output-dir", output, "--log-dir", root / "logs"]
    words += ["--config-file", file, "--multi-config", "--executor", "inline"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert clip_pkg([str(word) for word in words]) == 0, said.getvalue()
        said.truncate(0)
        assert clip_pkg(["compare", str(output)]) == 0, said.getvalue()
        if len(configs) > 1:
            return output, said.getvalue()
        assert clip_pkg(["report", str(output), "--no-images"]) == 0, said.getvalue()
    return output, said.getvalue() + (output / "report/index.html").read_text(encoding="utf-8")


def measure(seeds: int, winners: int) -> dict[str, Found]:
    """Run all seeds; the best of ten configs for the first `winners` of them."""
    found = {name: Found() for name in (*MONITORS, "best of 10 configs")}
    for seed in track(range(seeds), "Seeds"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_noise(root / "images", seed)
            for monitor in MONITORS:
                one = {"name": monitor, "early_stopping_monitor": monitor}
                output, said = run(root, seed, [one], monitor)
                summary = json.loads((output / monitor / "cv_summary.json").read_text("utf-8"))
                block = summary["headline"]
                found[monitor].add(
                    summary["out_of_fold"]["acc"],
                    block["scores"]["acc"],
                    block["intervals"]["acc"],
                    said,
                )
            if seed < winners:
                configs = [{"name": f"c{n}", "learning_rate": rate} for n, rate in enumerate(RATES)]
                monitor = {"early_stopping_monitor": "val_acc", "freeze_image_encoder": True}
                monitor |= {"augmentation": "none"}  # features are computed once
                output, said = run(root, seed, [{**one, **monitor} for one in configs], "many")
                best = compare([output], metric="acc").data_sets[0]
                assert best.winner is not None
                value, interval = best.winner.value, best.winner.interval
                assert value is not None
                assert interval is not None
                own = best.rows[0].pooled["acc"].value
                assert own is not None
                limits = (interval.low, interval.high)
                found["best of 10 configs"].add(own, value, limits, said)
    return found


def report(seeds: int, winners: int) -> str:
    """The section of RESULTS.md."""
    lines = [
        "## Random labels",
        "",
        measured_on(torch.device("cpu"), ["numpy", "timm"]),
        "",
        f"{IMAGES} images of noise in 2 classes, 5 folds, 10 epochs: the true accuracy is 50 %. "
        "Own: at the best epochs, of the best config. Headline: with the choice of the epoch, and "
        "of the config, repeated in the bootstrap. Claims: sentences of `compare` and the report "
        "that call something better than something else.",
        "",
        "| epoch or config chosen by | seeds | own, mean % | headline, mean % | SD | intervals "
        "without 50 | claims |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in measure(seeds, winners).items():
        numbers = f"{np.mean(one.own):.1f} | **{np.mean(one.headline):.1f}**"
        lines.append(
            f"| {name} | {len(one.own)} | {numbers} | {np.std(one.headline, ddof=1):.1f} | "
            f"{one.missed} | {one.claims} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--winners", type=int, default=20, help="seeds with ten configs each")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.seeds, parsed.winners)
    if parsed.write:
        write_section("random-labels", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
