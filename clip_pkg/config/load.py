"""From text or mappings to checked configs, with every problem of every config at once."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from clip_pkg.base.errors import ConfigErrors, ConfigProblem, UserError
from clip_pkg.base.paths import RunPaths
from clip_pkg.base.reading import read_bounded
from clip_pkg.config.assignments import parse_assignments
from clip_pkg.config.describe import key_names
from clip_pkg.config.diagnostics import Draft, Findings, Source
from clip_pkg.config.jsonc import JsonPath, parse, show
from clip_pkg.config.legacy import to_canonical
from clip_pkg.config.nodes import sentences
from clip_pkg.config.rules import notices
from clip_pkg.config.schema import RunConfig, default_name
from clip_pkg.config.sweep import expand
from clip_pkg.config.synonyms import SYNONYMS

MAX_BYTES = 1 << 24  # of a file; ten thousand configs with every key written out

Item: TypeAlias = tuple[JsonPath, Any]  # JSON path of a config, and its value

# Names in the output folder that the run itself uses; no config may write there.
_RUN = RunPaths(Path())
_RESERVED = frozenset({_RUN.replaced.name, _RUN.ledger.name, _RUN.pretraining.name})


@dataclass(frozen=True)
class LoadedConfigs:
    """Valid configs in the order of the file, each with a unique folder name.

    notices: sentences with file and line about settings without an effect or with one that is easy
        to overlook.
    """

    configs: tuple[RunConfig, ...]
    notices: tuple[str, ...]


def load_configs(path: Path) -> LoadedConfigs:
    """Read a JSON list of configs, or a single one; from a `.py` file, one as assignments.

    Raises ConfigErrors with every problem: unreadable file, syntax, keys, values, sweeps, and
    configs that would write into one folder.
    """
    read = parse_assignments if path.suffix == ".py" else parse
    document = read(_read(path), path)
    items: list[Item] = [((), document.value)]
    if isinstance(document.value, list):
        items = [((index,), item) for index, item in enumerate(document.value)]
    return _load(items, Source(path, document.places), document.problems)


def configs_from_mapping(
    configs: Sequence[Mapping[str, Any]],
    source: Source | None = None,
    problems: Sequence[ConfigProblem] = (),
) -> LoadedConfigs:
    """Check configs that do not come from a file, by the rules of `load_configs`.

    source: how messages name the values. problems: found earlier, raised together with the rest.
    """
    items: list[Item] = [((index,), dict(config)) for index, config in enumerate(configs)]
    return _load(items, source or Source(), problems)


def dump_canonical(config: RunConfig) -> dict[str, Any]:
    """Every key of a config as JSON values; loading them gives an equal config."""
    return config.model_dump(mode="json")


def _load(
    items: Sequence[Item], source: Source, problems: Sequence[ConfigProblem]
) -> LoadedConfigs:
    findings = Findings(source)
    swept_keys = [key for key in (*key_names(), *SYNONYMS) if key not in ("name", "sweep")]
    checked: list[tuple[Draft, RunConfig]] = []
    for root, item in items:
        if not isinstance(item, dict):
            findings.problem(root, f"expected a config in braces, not {show(item)}")
            continue
        for draft in expand(item, root, swept_keys, findings):
            before = findings.problem_count
            config = _check(to_canonical(draft, findings), findings)
            if config is not None and not draft.provisional and findings.problem_count == before:
                checked.append((draft, config))
    if not items:
        findings.problem((), "the list is empty; it needs at least one config")
    _check_folders(checked, findings)
    findings.raise_problems(problems)
    return LoadedConfigs(tuple(config for _, config in checked), findings.notices)


def _check(draft: Draft, findings: Findings) -> RunConfig | None:
    """Validate one config; None if it has problems."""
    values = dict(draft.values)
    if draft.label and isinstance(values.get("name", ""), str):
        values["name"] = f"{values.get('name') or default_name(values)}_{draft.label}"
        if "name" not in draft.values:
            draft = replace(draft, moved={**draft.moved, ("name",): (*draft.root, "sweep")})
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        found = sentences(error, RunConfig, key_names())
    else:
        for path, sentence in notices(config).items():
            findings.notice(draft.written(path), sentence)
        return config
    # Pydantic checks rules over several keys only when every key is valid. Validate once more
    # without the wrong keys: a problem that remains concerns the valid ones.
    wrong = {path[0] for path in found if path}
    remaining = {key: value for key, value in values.items() if key not in wrong}
    try:
        RunConfig.model_validate(remaining, context={"wrong_keys": wrong})
    except ValidationError as error:
        further = sentences(error, RunConfig, key_names())
        found |= {path: text for path, text in further.items() if path[:1] and path[0] in remaining}
    if "name" not in values and wrong & {"image_encoder_name", "text_encoder_name"}:
        found.pop(("name",), None)  # the name was derived from the wrong value
    for path, sentence in found.items():
        findings.problem(draft.written(path), sentence)
    return None


def _check_folders(checked: Sequence[tuple[Draft, RunConfig]], findings: Findings) -> None:
    """Report configs that would write into one folder, also where file systems ignore case."""
    first: dict[str, tuple[Draft, RunConfig]] = {}
    contents: dict[tuple[JsonPath, str], tuple[Draft, RunConfig]] = {}
    for draft, config in checked:
        folder = unicodedata.normalize("NFC", config.name).casefold()
        place = (*draft.root, "name") if "name" in draft.values else draft.root
        if folder in _RESERVED:
            findings.problem(
                place, f"the folder {config.name} is reserved for the run; set another name"
            )
        other_draft, other = first.setdefault(folder, (draft, config))
        if other is not config:
            where = findings.source.where(other_draft.root)
            if other == config:
                findings.problem(draft.root, f"is the same config as {where}; remove one of them")
            else:
                spelling = "" if other.name == config.name else f' as "{other.name}"'
                findings.problem(
                    place,
                    f'writes the folder "{config.name}", and so does {where}{spelling}; '
                    "set a different `name` in one of them, or make one config of both with "
                    "`sweep`, which names its members",
                )
        if draft.label:  # members of one sweep that differ only in their names
            nameless = config.model_copy(update={"name": ""}).model_dump_json()
            _, twin = contents.setdefault((draft.root, nameless), (draft, config))
            if twin is not config and other is config:
                findings.problem(
                    (*draft.root, "sweep"),
                    f'the members "{twin.name}" and "{config.name}" are the same config',
                )


def _read(path: Path) -> str:
    try:
        content = read_bounded(path, MAX_BYTES, pipe=True)
    except FileNotFoundError:
        raise ConfigErrors([ConfigProblem("no such file", file=path)]) from None
    except UserError as error:
        raise ConfigErrors([ConfigProblem(str(error))]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigErrors([ConfigProblem(f"cannot be read: {reason}", file=path)]) from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigErrors([ConfigProblem("is UTF-16; save it as UTF-8", file=path, line=1)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigErrors([ConfigProblem(message, file=path, line=line)]) from None
