"""`python -m clip_pkg`: the same program as train_clip.py and `clip-pkg`."""

import sys

from clip_pkg.cli import main

if __name__ == "__main__":
    sys.exit(main())
