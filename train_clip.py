"""Train and cross-validate image–text classifiers; `python train_clip.py --help` says how."""

import sys

from environment.enter import enter

if __name__ == "__main__":
    enter()

    from clip_pkg.cli import main

    sys.exit(main())
