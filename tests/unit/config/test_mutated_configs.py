"""Mutated configs of every dialect: configs or problems with a place, nothing else."""

from __future__ import annotations

import copy
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import ConfigErrors
from clip_pkg.config.jsonc import parse
from clip_pkg.config.load import load_configs
from support import guide_examples as printed
from support.tiny import TINY

CASES = 1500
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 10**30, 1e308, -0.0, math.nan, math.inf, "", "x" * 10**4, "\0"),
    *("\x1b[2J", "../../etc", "{}", [], {}, [[]], {"type": "clip"}, [1, "a"], {"": None}),
]
KEYS = ["", "loss", "name", "sweep", "lr", "\u202e", "type", "gpu_id", "epochs ", "pretrain"]


def originals() -> list[Any]:
    texts = [printed.SUPERCLIP_CONFIG, printed.SUPERCLIP_CONFIG_IN_FULL]
    swept = {**TINY, "sweep": {"epochs": [1, 2], "loss": [{"type": "clip"}, {"type": "siglip"}]}}
    pretrained = {**TINY, "pretrain": {"loss": {"type": "dhel"}, "epochs": 3}, "n_repeats": 2}
    flat = {"loss_type": "combined", "proxy_alpha": 3.0, "aux_losses": ["center"]}
    return [*(parse(text).value for text in texts), [swept, pretrained], [flat]]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def mutated(value: Any, chance: random.Random) -> str:
    """A config list with one to three changes, and sometimes one in its text, as text."""
    holder = [copy.deepcopy(value)]
    for _ in range(chance.randint(1, 3)):
        container, key = chance.choice(places(holder))
        kind = chance.randrange(5)
        if kind == 0 and container is not holder:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[chance.choice([*KEYS, *printed_keys()])] = chance.choice(VALUES)
        elif kind == 2 and isinstance(container, list) and container is not holder:
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = chance.choice(VALUES)
    text = json.dumps(
        holder[0], ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2])
    )
    if chance.random() < 0.4 and text:
        at = chance.randrange(len(text))
        some = chance.choice(
            ["", "\0", "\x1b", '"', "}", "[" * 3000, "//", "\ufeff", "\r", "é", ","]
        )
        text = text[:at] + some + text[at + chance.randint(0, 2) :]
    return text


def printed_keys() -> list[str]:
    return ["use_superclip_loss", "main_loss_type", "use_infonce", "loss_func", "aux_weights"]


def test_each_is_configs_or_problems_with_a_place(tmp_path: Path) -> None:
    chance, path = random.Random(11), tmp_path / "configs.json"
    failures, refused = [], 0
    starts = originals()
    for number in range(CASES):
        content = mutated(chance.choice(starts), chance)
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        started = time.monotonic()
        try:
            assert load_configs(path).configs
        except ConfigErrors as errors:
            refused += 1
            if not all(one.file == path and one.line for one in errors.problems):
                failures.append(f"{number}: no place: {errors}")
        except Exception as error:  # what this test is about
            failures.append(f"{number}: {error!r:.200} for {content[:300]!r}")
        if time.monotonic() - started > 5:
            failures.append(f"{number}: slow for {content[:300]!r}")
    assert failures == []
    assert refused > CASES / 2
