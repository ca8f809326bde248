"""Encoders, the image–text model, the classifier built on it, precision and checkpoints."""
