"""Cross-validated CLIP and SuperCLIP classifiers from folders of images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_pkg.api.estimator import ImageTextClassifier
    from clip_pkg.api.run import Run, load_run

__version__ = "0.1.0"
__all__ = ["ImageTextClassifier", "Run", "__version__", "load_run"]

# Imported on first use: workers and `--help` need neither pandas nor scikit-learn.
_MODULES = {
    "ImageTextClassifier": "clip_pkg.api.estimator",
    "Run": "clip_pkg.api.run",
    "load_run": "clip_pkg.api.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
