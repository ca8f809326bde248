"""Trains one task: a fold, a refit or a pre-training."""
