"""Folds that fail on purpose: code that runs in every worker before it trains."""

from __future__ import annotations

import textwrap
from pathlib import Path

# Python runs a module of this name at its start, in the workers too.
MODULE = "sitecustomize.py"
SITE = """
import importlib.abc, importlib.util, os, pathlib, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "clip_pkg.training.build":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_disturb(module):
            execute(module)
            build = module.build

            def build_disturbed(task, *rest):
{code}
                return build(task, *rest)

            module.build = build_disturbed

        spec.loader.exec_module = execute_and_disturb
        return spec

sys.meta_path.insert(0, Finder())
"""


def write_disturbance(folder: Path, code: str) -> Path:
    """Write a folder for `PYTHONPATH` with which `code`, which knows `task`, precedes each fold."""
    folder.mkdir()
    text = SITE.format(code=textwrap.indent(textwrap.dedent(code).strip(), " " * 16))
    (folder / MODULE).write_text(text, encoding="utf-8")
    return folder
