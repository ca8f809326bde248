"""Time and peak memory of the losses, beside those of other packages.

    bash benchmarks/run.sh losses                               every loss, three batch sizes
    bash benchmarks/run.sh losses --losses supcon --sizes 256   some
    bash benchmarks/run.sh losses --write                       into RESULTS.md

A step is forward and backward of one loss in float32; measurement.py says how it is measured.
Before that, values and gradients of the two sides are compared, in float64 on a small batch and in
float32 on the batch that is measured; if they differ by more than rounding, the benchmark stops.
Where a convention makes them differ on batches with repeated classes, they are compared on one
without, and a note says why.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from benchmarks.loss_batch import IMAGES_PER_LABEL, Batch, make_batch
from benchmarks.loss_pairs import PAIRS, WITHOUT_PEER, Pair
from benchmarks.loss_sides import Side
from benchmarks.measurement import Spread, interleaved, peak_bytes, spread
from benchmarks.results import measured_on, write_section

DIM = 512
CLASSES = 100
SECONDS_PER_PAIR = 4.0
COPIES = 8  # of its largest tensor that a peer may need at once
# Largest relative difference of values, and of gradients as vectors.
IN_DOUBLE = (1e-12, 1e-11)
IN_SINGLE = (1e-4, 1e-3)


class DisagreementError(Exception):
    """The two sides of a pair compute different things, so their times say nothing."""


@dataclass(frozen=True)
class Cost:
    """Seconds per step, one entry per round, and bytes at the peak."""

    seconds: tuple[float, ...]
    peak: int


@dataclass(frozen=True)
class Row:
    """What was measured of a pair at one batch size; the peer's is None where it was not run."""

    pair: Pair
    ours: Cost
    peer: Cost | None

    @property
    def ratio(self) -> Spread | None:
        """Seconds of ours divided by the peer's, within rounds."""
        if self.peer is None:
            return None
        times = zip(self.ours.seconds, self.peer.seconds, strict=True)
        return spread([ours / peer for ours, peer in times])


def relative_difference(ours: Tensor, peer: Tensor) -> float:
    """‖ours − peer‖ / ‖peer‖; a peer may hold class vectors as columns."""
    same = peer if peer.shape == ours.shape else peer.T
    return float((ours - same).norm() / same.norm().clamp(min=torch.finfo(same.dtype).tiny))


@dataclass(frozen=True)
class Step:
    """What one step of a side gives, and bytes at its peak."""

    value: Tensor
    gradients: tuple[Tensor, ...]
    peak: int


def taken(side: Side, device: torch.device) -> Step:
    """Take a step that finds no gradients and leaves none."""
    side.forget()
    values: list[Tensor] = []
    peak = peak_bytes(lambda: values.append(side.step()), device)
    gradients = [leaf.grad for leaf in side.leaves if leaf.grad is not None]
    assert len(gradients) == len(side.leaves), "every leaf gets a gradient"
    side.forget()
    return Step(values[0], tuple(gradients), peak)


def require_agreement(pair: Pair, ours: Step, peer: Step, bounds: tuple[float, float]) -> None:
    """Compare values and gradients of the two sides, or raise DisagreementError."""
    value = relative_difference(ours.value, peer.value)
    gradient = max(map(relative_difference, ours.gradients, peer.gradients))
    if not (value <= bounds[0] and gradient <= bounds[1]):  # NaN is no agreement
        raise DisagreementError(
            f"{pair.ours} and {pair.package} {pair.peer} differ: value {value:.1e}, "
            f"gradient {gradient:.1e}"
        )


def check_in_double(pair: Pair, device: torch.device) -> None:
    """Compare the two sides where rounding hides nothing."""
    distinct = bool(pair.differs)
    batch = make_batch(48, 32, 60, device, torch.float64, distinct=distinct)
    ours, peer = (taken(side, device) for side in pair.make(batch))
    require_agreement(pair, ours, peer, IN_DOUBLE)


def free_bytes(device: torch.device) -> int:
    """Memory that a step may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def fits(pair: Pair, batch: Batch) -> bool:
    """Whether there is memory for the peer."""
    if pair.peer_numbers is None:
        return True
    largest = pair.peer_numbers(batch.size) * batch.images.element_size()
    return COPIES * largest <= free_bytes(batch.images.device)


def measure(pair: Pair, batch: Batch, rounds: int) -> Row:
    """Cost of both sides, or of ours alone where the peer does not fit into memory."""
    device = batch.images.device
    sides = pair.make(batch)
    measured = sides if fits(pair, batch) else sides[:1]
    steps = [taken(side, device) for side in measured]
    if len(steps) == 2 and not pair.differs:
        require_agreement(pair, *steps, IN_SINGLE)
    seen = interleaved(
        [side.step for side in measured], device, rounds=rounds, seconds=SECONDS_PER_PAIR
    )
    ours, *others = (
        Cost(tuple(seconds), step.peak) for seconds, step in zip(seen, steps, strict=True)
    )
    return Row(pair, ours, others[0] if others else None)


HEAD = """\
| ours | peer | ours, ms | peer, ms | ours / peer | ours, MiB | peer, MiB | n |
|---|---|--:|--:|--:|--:|--:|--:|"""


def line(row: Row) -> str:
    """One line of a table."""
    cells = [f"`{row.pair.ours}`", f"{row.pair.package} `{row.pair.peer}`", in_ms(row.ours)]
    if row.peer is None or row.ratio is None:
        cells += ["not run", "", in_mib(row.ours), "", ""]
    else:
        ratio = row.ratio
        cells += [in_ms(row.peer), f"**{ratio.median:.2f}** ({ratio.low:.2f}–{ratio.high:.2f})"]
        cells += [in_mib(row.ours), in_mib(row.peer), str(len(row.ours.seconds))]
    return "| " + " | ".join(cells) + " |"


def in_ms(cost: Cost) -> str:
    """Median in milliseconds, three digits."""
    value = 1e3 * spread(cost.seconds).median
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def in_mib(cost: Cost) -> str:
    """Peak in MiB."""
    return f"{cost.peak / 2**20:.1f}"


def report(by_size: Mapping[int, Sequence[Row]], device: torch.device) -> str:
    """The section of RESULTS.md."""
    rows = [row for rows in by_size.values() for row in rows]
    lines = [
        f"## Losses on {device.type}",
        "",
        measured_on(device, sorted({row.pair.package for row in rows})),
        "",
        f"Forward and backward in float32, D = {DIM}, C = {CLASSES} classes, "
        f"{IMAGES_PER_LABEL} images per label. Median of n interleaved rounds after a warm-up; "
        "the ratio is below 1 where ours is faster, in brackets its quartiles over rounds. MiB: "
        "peak of what torch allocates in a step.",
        "Before it was timed, each pair agreed in values and gradients, up to rounding.",
        "",
        summary(rows),
    ]
    for size, rows_of_size in by_size.items():
        lines += ["", f"### B = {size}", "", HEAD, *map(line, rows_of_size)]
    lines += ["", *notes(by_size)]
    lines += [f"- None of the packages has {', '.join(f'`{name}`' for name in WITHOUT_PEER)}."]
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """How often which side is faster."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    faster = sum(ratio.high < 1 for ratio in ratios)
    slower = sum(ratio.low > 1 for ratio in ratios)
    return (
        f"Of {len(ratios)} comparisons ours is faster in {faster} (upper quartile below 1) and "
        f"slower in {slower} (lower quartile above 1)."
    )


def notes(by_size: Mapping[int, Sequence[Row]]) -> list[str]:
    """Why pairs differ, what else is to be known of them, and why peers were not run."""
    found = {}
    for size, rows in by_size.items():
        for row in rows:
            name = f"`{row.pair.ours}` and `{row.pair.peer}`"
            if row.pair.differs:
                found[name] = f"- {name} agree where all classes differ; else {row.pair.differs}."
            if row.pair.remark:
                found[name] = f"- {name}: {row.pair.remark}."
            if row.peer is None and row.pair.peer_numbers is not None:
                gib = 4 * row.pair.peer_numbers(size) / 2**30
                found[f"{name} {size}"] = (
                    f"- `{row.pair.peer}` was not run at B = {size}: one of its tensors alone has "
                    f"{gib:.0f} GiB."
                )
    return list(found.values())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="losses", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = sorted({pair.name for pair in PAIRS})
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096], metavar="B")
    parser.add_argument("--losses", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15, help="of each pair; fewer if it is slow")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if two sides of a pair disagree."""
    chosen = parse(arguments)
    warnings.filterwarnings("ignore", module="lightly")
    device = torch.device(chosen.device)
    pairs = [pair for pair in PAIRS if pair.name in chosen.losses]
    by_size: dict[int, list[Row]] = {}
    try:
        for pair in pairs:
            check_in_double(pair, device)
        for size in chosen.sizes:
            batch = make_batch(size, DIM, CLASSES, device, torch.float32)
            by_size[size] = []
            for pair in pairs:
                row = measure(pair, batch, chosen.rounds)
                by_size[size].append(row)
                print(f"B = {size} {line(row)}", file=sys.stderr, flush=True)
    except DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    section = report(by_size, device)
    if chosen.write:
        write_section(f"losses-{device.type}", section)
    else:
        print(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
