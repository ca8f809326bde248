"""Another name of train_clip.py, for commands that use it."""

import sys

from environment.enter import enter

if __name__ == "__main__":
    enter()

    from clip_pkg.cli import main

    sys.exit(main())
