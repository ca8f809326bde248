"""What a comparison of pre-training losses came to: `examples/contrastive/run.sh` measured it.

    DATA_DIR=… TEST_DIR=… bash examples/contrastive/run.sh
    bash benchmarks/run.sh contrastive --results examples/contrastive/results --write

Reads the results that are there, trains nothing, and writes the table with its conditions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import measured_on, write_section
from clip_pkg.base.paths import RunPaths
from clip_pkg.results.comparison import compare
from clip_pkg.results.comparison_records import Comparison
from clip_pkg.results.comparison_tables import pretraining_table


def minutes(run: RunPaths) -> float:
    """Minutes that the launchers worked on a run, from the first event to the last of each."""
    lines = run.ledger.read_text(encoding="utf-8").splitlines()
    begun = total = last = 0.0
    for event in map(json.loads, lines):
        if event["event"] == "launched":
            total += last - begun
            begun = event["time"]
        last = event["time"]
    return (total + last - begun) / 60


def conditions(config: Mapping[str, Any], images: Mapping[str, Any], took: float) -> str:
    """What was trained on what, in a sentence or two."""
    block, optimizer = config["pretrain"], config["pretrain"]["optimizer"]
    tested = f"{images['test']['n']:,} test images" if images["test"] else "held-out images"
    probe = "a linear probe" if config["freeze_image_encoder"] else "fine-tuning"
    return (
        f"`{config['image_encoder_name']}`, stem `{config['stem']}`, {config['img_size']} pixels, "
        f"pre-trained for {block['epochs']} epochs in batches of {block['batch_size']} by "
        f"{optimizer['type']} at {optimizer['learning_rate']:g}, on `images: {block['images']}` of "
        f"{images['n']:,} images without labels; then {probe} of {config['epochs']} epochs, and "
        f"scores on {tested}. All of it, checks and tables included, took {took:.0f} minutes."
    )


def report(results: Path, device: str, found: Comparison) -> str:
    """The section of RESULTS.md."""
    (one,) = (data_set for data_set in found.data_sets if data_set.pretraining)
    run = RunPaths(results.resolve())
    names = [name for row in one.pretraining if row.runs for name in row.configs]
    summary = json.loads(run.config(names[0]).summary.read_text(encoding="utf-8"))
    sides = summary["fold_results"]
    images = {
        "n": sides["fold_n_train"][0] + sides["fold_n_val"][0],
        "test": summary["test"],
    }
    table = pretraining_table(one)
    ruler = [":--", *["--:"] * (len(table.columns) - 2), ":--"]  # notes are words
    rows = [table.columns, ruler, *table.rows]
    return "\n".join(
        [
            f"## Losses that pre-train without labels, on {device}",
            "",
            measured_on(torch.device(device), ["timm"]),
            "",
            conditions(summary["config"], images, minutes(run)),
            "Mean ± sample SD over n seeds. Gain: points of Top-1 above the encoder that has "
            "learned nothing. Eff. rank: dimensions that the features use, 1 where they have "
            "collapsed.",
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(
        prog="contrastive", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="output folder of the run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the run")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    chosen = parser.parse_args(arguments)
    found = compare([chosen.results], metric="acc", epoch="best")
    section = report(chosen.results, chosen.device, found)
    if chosen.write:
        write_section(f"contrastive-{chosen.device}", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
