"""Write the top items of every user, from a checkpoint alone; `--help` says how."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # works in a checkout, not installed

from environment.enter import enter

if __name__ == "__main__":
    enter()

from clip_pkg.base.errors import CheckpointError
from clip_pkg.base.exit_codes import exit_code
from clip_pkg.base.files import check_output_file
from clip_pkg.cli.parser import Parser
from examples.next_item.settings import RESULTS, within

HELD_OUT = {"none": 0, "test": 1, "val": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def command() -> int:
        parsed = _parser().parse_args(arguments)
        checkpoint = parsed.checkpoint or _only_checkpoint()
        check_output_file(parsed.output, [checkpoint], [".csv"])
        from examples.next_item.recommendations import recommend  # noqa: PLC0415

        return recommend(checkpoint, parsed.output, parsed.top_k, HELD_OUT[parsed.held_out])

    return exit_code(command)


def _parser() -> Parser:
    parser = Parser(prog="eval/infer.py", description="Rank items for every user of a checkpoint.")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help=f"default: the only checkpoint_best.pth in {RESULTS}/",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("recommendations.csv"),
        metavar="FILE.csv",
        help="%(default)s",
    )
    parser.add_argument(
        "--top_k", type=within(int, 1, 10_000), default=10, metavar="N", help="%(default)s"
    )
    parser.add_argument(
        "--held_out",
        choices=list(HELD_OUT),
        default="none",
        help="none: what comes after all that is known; test, val: what came before the last or "
        "second-to-last item, with the metrics of the training (default: %(default)s)",
    )
    return parser


def _only_checkpoint() -> Path:
    found = sorted(RESULTS.glob("*/checkpoint_best.pth"))
    if len(found) != 1:
        many = f"{RESULTS}/ has several: {', '.join(map(str, found))}"
        raise CheckpointError(
            f"{many if found else f'there is none in {RESULTS}/'}; name one with --checkpoint"
        )
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
