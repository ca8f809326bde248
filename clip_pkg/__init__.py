"""Cross-validated CLIP and SuperCLIP classifiers from folders of images."""

__version__ = "0.1.0"
