"""Trained folds as classifiers: images in, class probabilities out."""
