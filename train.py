"""`python train.py --loss_func dhel` compares a contrastive loss; all else is as train_clip.py."""

import sys

from environment.enter import enter

if __name__ == "__main__":
    enter()

    from examples.contrastive.train import main

    sys.exit(main())
