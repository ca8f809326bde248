"""Train and cross-validate image–text classifiers; `python train_clip.py --help` says how."""

import sys

from clip_pkg.cli import main

if __name__ == "__main__":
    sys.exit(main())
