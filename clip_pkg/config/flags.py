"""One command-line flag per config key, generated from the schema.

The values go through the same checks as those of a file; a message then begins with the flag.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from clip_pkg.base.errors import ConfigErrors, ConfigProblem
from clip_pkg.config.describe import ConfigKey, config_keys
from clip_pkg.config.diagnostics import Source
from clip_pkg.config.encoders import encoders_of_model
from clip_pkg.config.jsonc import JsonPath, parse, path_text, show
from clip_pkg.config.load import LoadedConfigs, configs_from_mapping
from clip_pkg.config.nodes import NUMBER, allowed
from clip_pkg.config.synonyms import SYNONYMS

# The guides leave `_name` out on the command line; both spellings work.
_SHORT_NAMES = {"image_encoder_name": "image-encoder", "text_encoder_name": "text-encoder"}
# A flag of the guides without a key: a model's name, which stands for one encoder or for both.
_MODEL = "model"
_MODEL_HELP = (
    "Another way to name --image-encoder; `_clip_prompts` after the name, as in "
    "efficientvim_m1_clip_prompts, also chooses --text-encoder prompts."
)
_METAVARS = {"integer": "N", "number": "X", "object": "JSON", "array": "VALUE"}


class _Switch(argparse.Action):
    """A flag without a value: `--use-amp` stores True, `--no-amp` stores False."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store which of the two spellings was used."""
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def add_config_flags(parser: argparse.ArgumentParser, *, exclude: Collection[str] = ()) -> None:
    """Add a flag for each config key, in groups; unset ones stay out of the namespace.

    Values stay text in the namespace, under the name of the key, until `config_from_flags`.
    `exclude` names keys that the parser defines itself, under the same name.
    """
    groups: dict[str, Any] = {}
    for key in config_keys():
        if key.key in exclude:
            continue
        if key.section not in groups:
            groups[key.section] = parser.add_argument_group(key.section)
        shown, hidden = _spellings(key)
        for spellings, text in ((shown, _help(key)), (hidden, argparse.SUPPRESS)):
            if not spellings:
                continue
            options: dict[str, Any] = {"dest": key.key, "default": argparse.SUPPRESS, "help": text}
            if key.kinds == {"boolean"}:
                options |= {"action": _Switch, "nargs": 0}
            else:
                kinds = [_METAVARS[kind] for kind in sorted(key.kinds) if kind in _METAVARS]
                options["metavar"] = kinds[0] if len(key.kinds) == 1 and kinds else "TEXT"
                if key.kinds == {"array"}:
                    options["nargs"] = "+"
            groups[key.section].add_argument(*spellings, **options)
        if key.key == "image_encoder_name":
            model = {"metavar": "NAME", "default": argparse.SUPPRESS, "help": _MODEL_HELP}
            groups[key.section].add_argument(flag_name(_MODEL), dest=_MODEL, **model)


def given_flags(namespace: argparse.Namespace) -> tuple[str, ...]:
    """List the config flags that were set, as `--help` spells them."""
    names = (_MODEL, *(key.key for key in config_keys()))
    return tuple(flag_name(name) for name in names if hasattr(namespace, name))


def config_from_flags(namespace: argparse.Namespace) -> LoadedConfigs:
    """Make one config from the flags of `add_config_flags`; unset keys have their defaults.

    Raises ConfigErrors with every problem, each beginning with its flag.
    """
    values: dict[str, Any] = {}
    problems: list[ConfigProblem] = []
    for key in config_keys():
        if not hasattr(namespace, key.key):
            continue
        given = getattr(namespace, key.key)
        try:
            values[key.key] = _read(given, key) if isinstance(given, str | list) else given
        except ConfigErrors as errors:
            flag = flag_name(key.key)
            problems += [ConfigProblem(problem.message, flag) for problem in errors.problems]
    named: Mapping[str, str] = {}
    if hasattr(namespace, _MODEL):
        named = encoders_of_model(getattr(namespace, _MODEL))
        for encoder, name in named.items():
            other = values.get(encoder, name)
            # prompts that start from a text encoder are learned prompts too
            if other != name and not (name == "prompts" and other.startswith("prompts:")):
                message = f'stands for "{name}", and {flag_name(encoder)} is "{other}"'
                problems.append(ConfigProblem(f"{message}; keep one of the two", flag_name(_MODEL)))
    source = Source(name=partial(_name, by_model=named.keys() - values.keys()))
    return configs_from_mapping([{**named, **values}], source, problems)


def flag_name(key: str) -> str:
    """Spell the flag of a config key as `--help` does."""
    return f"--{_SHORT_NAMES.get(key, key.replace('_', '-'))}"


def _spellings(key: ConfigKey) -> tuple[list[str], list[str]]:
    """Spell a key's flag: what `--help` shows, and what works as well."""
    shown = [flag_name(key.key)]
    every = [shown[0], f"--{key.key.replace('_', '-')}"]
    if key.kinds == {"boolean"}:
        shown.append(f"--no-{key.key.replace('_', '-').removeprefix('use-')}")
        every += [shown[1], f"--no-{key.key.replace('_', '-')}"]
    every += [f"--{name.replace('_', '-')}" for name, one in SYNONYMS.items() if one == key.key]
    return shown, [flag for flag in dict.fromkeys(every) if flag not in shown]


def _help(key: ConfigKey) -> str:
    parts = [key.description]
    if key.kinds not in ({"boolean"}, {"string"}) or key.has_choices:
        values = allowed(key.node).replace("null", "none").replace('"', "")
        parts.append(f"{values[0].upper()}{values[1:]}.")
    if key.default != "":
        shown = key.default if isinstance(key.default, str) else show(key.default, 200)
        parts.append(f"Default: {'none' if key.default is None else shown}.")
    return " ".join(parts).replace("%", "%%")


def _read(value: str | list[str], key: ConfigKey) -> Any:
    """Turn the text of a flag into the JSON value that a file would hold."""
    if isinstance(value, list):
        if len(value) == 1 and value[0].startswith("["):
            return parse(value[0]).value
        return [parse(one).value if one.startswith("{") else _number(one) for one in value]
    if key.nullable and value.lower() in ("none", "null"):
        return None
    if "object" in key.kinds:
        return parse(value).value
    if "boolean" in key.kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return _number(value) if key.kinds & {"integer", "number"} else value


def _number(text: str) -> Any:
    """The number that a text spells, or the text itself, which the checks then report."""
    if not NUMBER.fullmatch(text):
        return text
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,4000}", text) else float(text)


def _name(path: JsonPath, by_model: Collection[str]) -> str:
    """Write the JSON path of the one config as its flag: `--loss.focal.gamma`.

    by_model: keys that were set by `--model`.
    """
    if len(path) < 2:
        return "the flags"
    flag = flag_name(_MODEL if path[1] in by_model else str(path[1]))
    inner = path_text(path[2:])
    return flag + (f".{inner}" if inner and inner[0] != "[" else inner)
