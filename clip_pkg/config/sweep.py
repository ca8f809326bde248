"""Sweeps: `"sweep": {"key": [value, …], …}` stands for the product of its values.

One object in the file becomes many configs, each with a readable name of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clip_pkg.config.diagnostics import Draft, Findings, nearest
from clip_pkg.config.jsonc import JsonPath, show

MAX_MEMBERS = 10_000
MAX_LABEL = 80  # characters of one value in a name; where one is longer, all are numbered

# These values say what they are: `resnet18`, not `image_encoder_name-resnet18`.
_ENCODERS = ("image_encoder_name", "text_encoder_name")
_SELF_NAMING = (*_ENCODERS, "loss", "loss_func")


def expand(
    values: Mapping[str, Any], root: JsonPath, keys: Collection[str], findings: Findings
) -> tuple[Draft, ...]:
    """Draft every member of a config's sweep, or the config itself where it has none.

    keys: what may be swept. If the sweep itself is wrong, the problems are noted and provisional
        drafts bring each of its values before the checks once.
    """
    if "sweep" not in values:
        return (Draft(values, root),)
    sweep = values["sweep"]
    base = {key: value for key, value in values.items() if key != "sweep"}
    before = findings.problem_count
    _check(sweep, base, (*root, "sweep"), keys, findings)
    if findings.problem_count > before:
        return _provisional(sweep, base, root, keys)
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


def _provisional(
    sweep: object, base: Mapping[str, Any], root: JsonPath, keys: Collection[str]
) -> tuple[Draft, ...]:
    lists = sweep.items() if isinstance(sweep, dict) else ()
    drafts = [
        Draft(
            {**base, key: entry},
            root,
            {(key,): (*root, "sweep", key, index)},
            provisional=True,
        )
        for key, entries in lists
        if key in keys and isinstance(entries, list)
        for index, entry in enumerate(entries)
    ]
    return tuple(drafts) or (Draft(base, root, provisional=True),)


def _check(
    sweep: object,
    base: Mapping[str, Any],
    path: JsonPath,
    keys: Collection[str],
    findings: Findings,
) -> None:
    if not isinstance(sweep, dict):
        findings.problem(path, f"expected an object of key and list of values, not {show(sweep)}")
        return
    if not sweep:
        findings.problem(path, "names no key to sweep over")
    for key, entries in sweep.items():
        place = (*path, key)
        if key not in keys:
            findings.problem(place, f"no key that can be swept{nearest(key, keys)}")
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
                findings.problem((*place, index), f"is in the list already, at {other}")
    count = math.prod(len(entries) for entries in sweep.values() if isinstance(entries, list))
    if count > MAX_MEMBERS:
        findings.problem(path, f"makes {count:,} configs; at most {MAX_MEMBERS:,} are allowed")


def _identity(value: Any) -> str:
    """Text that is equal for equal JSON values; 1 and 1.0 are one number, 1 and true are not."""
    if isinstance(value, dict):
        members = (f"{json.dumps(key)}:{_identity(item)}" for key, item in sorted(value.items()))
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(_identity(item) for item in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _labels(key: str, entries: Sequence[Any], *, named: bool) -> list[str]:
    """Name each entry of one swept key, all different; empty where the encoders name the config."""
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
    """Type of a loss block, with the parameters that differ from others of its type."""
    rivals = [_flat(other) for other in blocks if other["type"] == block["type"]]
    own = _flat(block)
    names = {name: None for rival in rivals for name in rival}
    differing = [n for n in names if len({_identity(rival.get(n)) for rival in rivals}) > 1]
    parts = [f"{name}-{_value_label(own[name])}" for name in differing if name in own]
    return "_".join([_value_label(block["type"]), *parts])


def _flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value_label(value: Any) -> str:
    """Write a value so that it can stand in a folder name."""
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")
