"""Next-item recommendation with the package's losses, checkpoints, history and curves."""
