"""Self-supervised training of image encoders, before the folds."""
