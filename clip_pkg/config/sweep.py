"""Sweeps: `"sweep": {"key": [value, …], …}` stands for all combinations of its values.

One object in the file becomes many configs, each with a readable, unique name.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clip_pkg.config.diagnostics import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.nodes import known_key

MAX_MEMBERS = 10_000
MAX_LABEL = 80  # characters of a value in a name; if one is longer, all values are numbered

# Values of these keys need no prefix: `resnet18`, not `image_encoder_name-resnet18`.
_ENCODERS = ("image_encoder_name", "text_encoder_name")
_SELF_NAMING = (*_ENCODERS, "loss", "loss_func")


def expand(
    values: Mapping[str, Any], root: JsonPath, keys: Collection[str], findings: Findings
) -> tuple[Draft, ...]:
    """Draft every member of a config's sweep, or the config itself if it has none.

    keys: keys that may be swept. If the sweep itself is invalid, its problems are reported, and
        provisional drafts let the checks see each of its values once.
    """
    if "sweep" not in values:
        return (Draft(values, root),)
    sweep = values["sweep"]
    base = {key: value for key, value in values.items() if key != "sweep"}
    before = findings.problem_count
    _check(sweep, base, (*root, "sweep"), keys, findings)
    if findings.problem_count > before:
        lists = sweep.items() if isinstance(sweep, dict) else ()
        drafts = [
            Draft({**base, key: entry}, root, {(key,): (*root, "sweep", key, n)}, provisional=True)
            for key, entries in lists
            if key in keys and isinstance(entries, list)
            for n, entry in enumerate(entries)
        ]
        return tuple(drafts) or (Draft(base, root, provisional=True),)
    labels = [_labels(key, sweep[key], named=bool(base.get("name"))) for key in sweep]
    members = []
    for chosen in itertools.product(*(range(len(sweep[key])) for key in sweep)):
        picks = list(zip(sweep, chosen, strict=True))
        members.append(
            Draft(
                {**base, **{key: sweep[key][index] for key, index in picks}},
                root,
                {(key,): (*root, "sweep", key, index) for key, index in picks},
                "_".join(filter(None, (labels[n][index] for n, index in enumerate(chosen)))),
            )
        )
    return tuple(members)


def _check(
    sweep: object,
    base: Mapping[str, Any],
    path: JsonPath,
    keys: Collection[str],
    findings: Findings,
) -> None:
    if not isinstance(sweep, dict):
        findings.problem(path, f"expected an object of keys and lists of values, not {show(sweep)}")
        return
    if not sweep:
        findings.problem(path, "is empty; name at least one key and a list of its values")
    for key, entries in sweep.items():
        place = (*path, key)
        if key not in keys:
            findings.problem(place, f"is not a key that can be swept{known_key(key, keys)}")
        elif key in base:
            other = findings.source.where((*path[:-1], key))
            findings.problem(place, f"is also set outside the sweep, at {other}; keep one of them")
        if not isinstance(entries, list) or not entries:
            findings.problem(place, f"expected a list of at least one value, not {show(entries)}")
            continue
        first: dict[str, int] = {}
        for index, entry in enumerate(entries):
            earlier = first.setdefault(_identity(entry), index)
            if earlier != index:
                other = findings.source.where((*place, earlier))
                findings.problem((*place, index), f"is already in the list, at {other}")
    count = math.prod(len(entries) for entries in sweep.values() if isinstance(entries, list))
    if count > MAX_MEMBERS:
        findings.problem(path, f"expands to {count:,} configs; at most {MAX_MEMBERS:,} are allowed")


def _identity(value: Any) -> str:
    """Text that is equal for equal JSON values; 1 equals 1.0, but not true."""
    if isinstance(value, dict):
        members = (f"{json.dumps(key)}:{_identity(item)}" for key, item in sorted(value.items()))
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(_identity(item) for item in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _labels(key: str, entries: Sequence[Any], *, named: bool) -> list[str]:
    """Unique label of each value of a swept key; empty where the default name already differs."""
    if key in _ENCODERS and not named:
        return [""] * len(entries)
    if all(isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in entries):
        labels = [_block_label(entry, entries) for entry in entries]
    else:
        labels = [_value_label(entry) for entry in entries]
    different = len({label.casefold() for label in labels}) == len(labels)
    if not different or any(not 0 < len(label) <= MAX_LABEL for label in labels):
        return [f"{key}-{number}" for number in range(1, len(entries) + 1)]
    return labels if key in _SELF_NAMING else [f"{key}-{label}" for label in labels]


def _block_label(block: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> str:
    """Type of a loss block, and the parameters in which it differs from others of its type."""
    rivals = [_flat(other) for other in blocks if other["type"] == block["type"]]
    own = _flat(block)
    names = {name: None for rival in rivals for name in rival}
    differing = [n for n in names if len({_identity(rival.get(n)) for rival in rivals}) > 1]
    labels = [f"{name}-{_value_label(own[name])}" for name in differing if name in own]
    return "_".join([_value_label(block["type"]), *labels])


def _flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value_label(value: Any) -> str:
    """Write a value with characters that folder names allow."""
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")
