"""How a config differs from the results that lie in its folder, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import DamagedFile, some
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.base.reading import read_json
from clip_pkg.config.keys import defaults_added_later, keys_without_effect
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.identity import Identity
from clip_pkg.study.preflight import PreparedConfig


def differences(prepared: PreparedConfig, paths: ConfigPaths, found: Identity) -> list[str]:
    """What changed since the results in `paths`, whose identity is `found`; `key: old → new`.

    Empty if the results are those of `prepared`. Values are read from the files that lie there;
    without them only the kind of difference is named.
    """
    changed = prepared.identity.differences(found)
    lines = []
    if "config" in changed:
        lines += _keys(prepared.config, _read(paths.config)) or [
            "settings: config.json does not say which"
        ]
    if "data" in changed:
        lines.append(_images(prepared, _read(paths.folds_info)))
    elif "splits" in changed and "config" not in changed:
        lines.append("folds: the same images are in other folds")
    if "class texts" in changed:
        lines.append(_texts(prepared, _read(paths.class_texts)))
    if "numerics version" in changed:
        mine = prepared.identity.numerics
        lines.append(f"numerics version: {found.numerics} → {mine}, see CHANGELOG.md")
    return lines


def _read(path: Path) -> Mapping[str, Any]:
    with suppress(DamagedFile, OSError):
        return read_json(path, dict[str, Any])
    return {}


def _keys(config: RunConfig, old: Mapping[str, Any]) -> list[str]:
    before = {**defaults_added_later(), **old}
    return [
        f"{name}: {_shown(was)} → {_shown(now)}"
        for key, value in dump_canonical(config).items()
        if old and key not in keys_without_effect()
        for name, was, now in _leaves(key, before.get(key), value)
    ]


def _leaves(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The differing values, in blocks of the same type each by itself."""
    if old == new:
        return
    alike = isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type")
    if not alike:
        yield name, old, new
        return
    for key in dict.fromkeys([*old, *new]):
        yield from _leaves(f"{name}.{key}", old.get(key), new.get(key))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _images(prepared: PreparedConfig, old: Mapping[str, Any]) -> str:
    with suppress(KeyError, IndexError, TypeError, ValueError):
        fold = old["folds"][0]
        was, now = int(fold["n_train"]) + int(fold["n_val"]), len(prepared.manifest)
        if was != now:
            return f"images: {was} → {now}"
    return "images: other files, labels or groups, or another test set"


def _texts(prepared: PreparedConfig, old: Mapping[str, Any]) -> str:
    before = old.get("texts")
    if not isinstance(before, dict):
        return "class texts"
    now = dict(zip(prepared.texts.classes, map(list, prepared.texts.prompts), strict=True))
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return f"class texts of {some(names)}" if names else "class texts"
