"""Train a next-item model; `python main.py --help` says how."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works in a checkout, not installed

from environment.enter import enter

if __name__ == "__main__":
    enter()

from clip_pkg.base.exit_codes import exit_code
from examples.next_item.settings import RESULTS, settings_of, training_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def command() -> int:
        parser = training_parser()
        parsed = parser.parse_args(arguments)
        settings = settings_of(parsed, parser)
        output = parsed.output_dir or RESULTS / settings.loss
        from examples.next_item.interactions import read_interactions  # noqa: PLC0415
        from examples.next_item.item_features import read_features  # noqa: PLC0415

        interactions = read_interactions(parsed.data)
        features = read_features(parsed.mm_emb_id, parsed.mm_emb_dir, interactions)
        from examples.next_item.training import train  # noqa: PLC0415

        return train(settings, interactions, features, output)

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
