"""Parses encoder names without importing timm, open_clip or torch.

The known names are read from the source files of the installed packages: importing the packages
would load torch, which takes too long for `--help` or to reject a config.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

Tower: TypeAlias = Literal["image", "text"]
Weights: TypeAlias = Literal["pretrained", "scratch"]

# Spellings of the training guides that no general rule converts to a timm name.
IMAGE_ALIASES: Mapping[str, str] = {"vit": "vit_base_patch16_224"}
TEXT_ALIASES: Mapping[str, str] = {"bert-base-chinese": "hf:bert-base-chinese"}
LEARNED_PROMPTS = "_clip_prompts"  # suffix of a model name: an image encoder with `prompts`

_REGISTERED_MODEL = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_TAGGED_NAME = re.compile(r"""^\s+['"](\w+)\.([\w.]+)['"]\s*:""", re.MULTILINE)


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder of a config.

    family: key of `FAMILIES`; `none` for a model without a text encoder, `prompts` for learned
        class vectors instead of a text encoder.
    model: timm name (with `.tag` if given), open_clip name (`ViT-B-32`), or hub id or local folder
        for transformers; empty for `prompts`.
    tag: open_clip's name of the pretrained weights; None without weights and for other families.
    written: the text in the config.
    start: text encoder whose features of the class texts initialise learned prompts; None for
        random initialisation and for other families.
    """

    family: str
    model: str
    weights: Weights
    tag: str | None
    written: str
    start: EncoderSpec | None = None

    @property
    def untrained(self) -> EncoderSpec:
        """The same architecture without weights; the tag still determines the normalisation."""
        return replace(self, weights="scratch")


def encoders_of_model(text: str) -> Mapping[str, str]:
    """Config keys that a model name stands for.

    `resnet18` is an image encoder, `resnet18_clip_prompts` an image encoder with learned prompts;
    a suffix `:scratch` or `:pretrained` applies to the image encoder. Names are not checked.
    """
    name, weights = _split_weights(text)
    image = name.removesuffix(LEARNED_PROMPTS) + (f":{weights}" if weights else "")
    learned = {"text_encoder_name": "prompts"} if name.endswith(LEARNED_PROMPTS) else {}
    return {"image_encoder_name": image, **learned}


@dataclass(frozen=True)
class EncoderFamily:
    """A library of encoders. A config names them `<key in FAMILIES>:<name>`.

    usage: how its names are written, for messages and the table of config keys.
    towers: the towers it has.
    module: of `clip_pkg.models`, which builds its encoders: a `FamilyModule`.
    parse: (text in the config, name without prefix and weights, weights) → EncoderSpec; raises
        ValueError with the nearest known name. None where names are checked by building.
    """

    usage: str
    towers: tuple[Tower, ...]
    module: str
    parse: Callable[[str, str, Weights | None], EncoderSpec] | None = None


@lru_cache(maxsize=4096)
def parse_image_encoder(text: str) -> EncoderSpec:
    """Parse `image_encoder_name`. Raises ValueError with the nearest known name."""
    name, weights = _split_weights(text)
    prefix, colon, model = name.partition(":")
    family = FAMILIES.get(prefix) if colon else None
    if family is not None and "image" in family.towers:
        return _family_spec(prefix, text, model, weights)
    if family is not None or prefix in ("prompts", "none", *TEXT_ALIASES):
        raise ValueError(f"{_short(text)} is a text encoder; image encoders are {usage('image')}")
    return _timm_spec(text, name, weights)


@lru_cache(maxsize=4096)
def parse_text_encoder(text: str) -> EncoderSpec:
    """Parse `text_encoder_name`. Raises ValueError with the nearest known name."""
    name, weights = _split_weights(text)
    if name == "none":
        if weights:
            raise ValueError(f"`none` means no text encoder; remove `:{weights}`")
        return EncoderSpec("none", "", "scratch", None, text)
    if name == "prompts":
        if weights == "pretrained":
            raise ValueError("`prompts` have no pretrained weights; remove `:pretrained`")
        return EncoderSpec("prompts", "", "scratch", None, text)
    if name.startswith("prompts:"):
        return _started_prompts(text)
    name = TEXT_ALIASES.get(name, name)
    prefix, colon, model = name.partition(":")
    if colon and prefix in FAMILIES and "text" in FAMILIES[prefix].towers:
        return _family_spec(prefix, text, model, weights)
    near = _nearest(name, ["prompts", "none", *TEXT_ALIASES])
    near = near or [f"clip:{model}" for model in _nearest(_clip_name(name), open_clip_tags())]
    near = near or ([f"hf:{name}"] if "bert" in name.lower() or "/" in name else [])
    raise ValueError(
        f"unknown text encoder {_short(text)}{_suggest(near)}; text encoders are {usage('text')}, "
        "`bert-base-chinese`, `prompts`, `prompts:<text encoder>` and `none`"
    )


def usage(tower: Tower) -> str:
    """How the encoders of all families are written."""
    return ", ".join(row.usage for row in FAMILIES.values() if tower in row.towers)


@cache
def timm_names() -> frozenset[str]:
    """All models that the installed timm registers."""
    return frozenset(
        name for source in _timm_sources() for name in _REGISTERED_MODEL.findall(source)
    )


@cache
def timm_resnets() -> frozenset[str]:
    """The models of timm's `resnet.py`, which share their first layers."""
    source = (_package_folder("timm") / "models" / "resnet.py").read_text(encoding="utf-8")
    return frozenset(_REGISTERED_MODEL.findall(source))


@cache
def timm_tags() -> Mapping[str, frozenset[str]]:
    """Names of pretrained weights per timm model, as far as its sources list them literally."""
    tags: dict[str, set[str]] = {}
    for source in _timm_sources():
        for name, tag in _TAGGED_NAME.findall(source):
            tags.setdefault(name, set()).add(tag)
    return {name: frozenset(found) for name, found in tags.items()}


@cache
def open_clip_tags() -> Mapping[str, tuple[str, ...]]:
    """Every open_clip model with the tags of its pretrained weights, in open_clip's order."""
    folder = _package_folder("open_clip")
    models = sorted(file.stem for file in (folder / "model_configs").glob("*.json"))
    table = _pretrained_table((folder / "pretrained.py").read_text(encoding="utf-8"))
    return {model: table.get(model, ()) for model in models}


def _family_spec(prefix: str, text: str, name: str, weights: Weights | None) -> EncoderSpec:
    row = FAMILIES[prefix]
    if not name.strip():
        raise ValueError(f"{_short(text)} has no model name; write {row.usage}")
    if row.parse is not None:
        return row.parse(text, name, weights)
    return EncoderSpec(prefix, name, weights or "pretrained", None, text)


def _started_prompts(text: str) -> EncoderSpec:
    start = parse_text_encoder(text.removeprefix("prompts:"))
    if start.family in ("prompts", "none"):
        raise ValueError(
            f"{_short(text)}: learned prompts start from a text encoder, as in "
            "`prompts:clip:ViT-B/32`, or from random vectors (`prompts`)"
        )
    return EncoderSpec("prompts", "", "scratch", None, text, start)


def _timm_spec(text: str, name: str, weights: Weights | None) -> EncoderSpec:
    known = timm_names()
    candidate = IMAGE_ALIASES.get(name.lower(), name)
    for spelling in (candidate, candidate.lower().replace("-", "_")):
        base, _, tag = spelling.partition(".")
        if base in known:
            _check_timm_tag(text, base, tag, weights)
            return EncoderSpec("timm", spelling, weights or "pretrained", None, text)
    if re.match(r"vim(?:_|$)", name.lower()):
        raise ValueError(
            f"{_short(text)}: Vision Mamba is not in timm; its relatives there are "
            "`efficientvim_m1` to `efficientvim_m4` and `mambaout_femto` to `mambaout_base` "
            f"(`{LEARNED_PROMPTS}` stands for text_encoder_name `prompts`)"
        )
    if name.endswith(LEARNED_PROMPTS) and name.count(LEARNED_PROMPTS) == 1:
        image = encoders_of_model(text)["image_encoder_name"]
        parse_image_encoder(image)
        raise ValueError(
            f"{_short(text)} is an image encoder with learned prompts; write {_short(image)} here "
            "and `prompts` as text_encoder_name"
        )
    lower = candidate.lower().replace("-", "_").partition(".")[0]
    near = [f"clip:{model}" for model in open_clip_tags() if _clip_name(name) == model]
    near = near or _nearest(lower, known)
    raise ValueError(f"unknown image encoder {_short(text)}{_suggest(near)}")


def _clip_spec(text: str, name: str, weights: Weights | None) -> EncoderSpec:
    written_model, _, tag = name.partition(":")
    model = _clip_name(written_model)
    known = open_clip_tags()
    if model not in known:
        near = [f"clip:{found}" for found in _nearest(model, known)]
        raise ValueError(f"unknown CLIP model {_short(text)}{_suggest(near)}")
    if weights == "scratch":
        if tag:
            raise ValueError(
                f"{_short(text)} names the weights {_short(tag)} and `:scratch`; remove one of them"
            )
        return EncoderSpec("clip", model, "scratch", None, text)
    tags = known[model]
    if not tags:
        raise ValueError(f"{model} has no pretrained weights; write `clip:{model}:scratch`")
    if not tag:
        default = "openai" if "openai" in tags else tags[0]
        return EncoderSpec("clip", model, "pretrained", default, text)
    clean = tag.lower().replace("-", "_")  # open_clip reads its tags this way
    if clean not in tags:
        raise ValueError(
            f"unknown weights {_short(tag)} for {model}{_suggest(_nearest(clean, tags))}; "
            f"there are {', '.join(tags)}"
        )
    return EncoderSpec("clip", model, "pretrained", clean, text)


FAMILIES: Mapping[str, EncoderFamily] = {
    # Its names need no prefix.
    "timm": EncoderFamily("`<timm name>`", ("image",), "timm_images", _timm_spec),
    "clip": EncoderFamily(
        "`clip:<open_clip model>[:<tag>]`", ("image", "text"), "clip_towers", _clip_spec
    ),
    "hf": EncoderFamily("`hf:<hub id or local folder>`", ("text",), "hf_text"),
}


def _clip_name(name: str) -> str:
    """OpenAI's spelling of a CLIP model in open_clip's: `ViT-L/14@336px` is `ViT-L-14-336`."""
    return re.sub(r"@(\d+)px$", r"-\1", name).replace("/", "-")


def _check_timm_tag(text: str, base: str, tag: str, weights: Weights | None) -> None:
    if not tag:
        return
    if weights == "scratch":
        raise ValueError(
            f"{_short(text)} names the weights {_short(tag)} and `:scratch`; remove one of them"
        )
    tags = timm_tags().get(base)
    if tags and tag not in tags:
        near = [f"{base}.{found}" for found in _nearest(tag, tags)]
        raise ValueError(
            f"unknown weights {_short(tag)} for {base}{_suggest(near)}; "
            f"there are {', '.join(sorted(tags))}"
        )


def _split_weights(text: str) -> tuple[str, Weights | None]:
    """Remove `:pretrained` or `:scratch` from the end."""
    name, _, suffix = text.rpartition(":")
    if name and suffix == "pretrained":
        return name, "pretrained"
    if name and suffix == "scratch":
        return name, "scratch"
    return text, None


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    return [by_lower[found] for found in get_close_matches(name.lower()[:200], by_lower, n=3)]


def _suggest(near: list[str]) -> str:
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _package_folder(package: str) -> Path:
    """Folder of an installed package, found without running its code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} is not installed; run the set-up again")
    return Path(spec.submodule_search_locations[0])


@cache
def _timm_sources() -> tuple[str, ...]:
    files = sorted((_package_folder("timm") / "models").glob("*.py"))
    return tuple(file.read_text(encoding="utf-8") for file in files)


def _pretrained_table(source: str) -> dict[str, tuple[str, ...]]:
    """Read open_clip's `_PRETRAINED`, a table of `dict(tag=_pcfg(…), …)` per model.

    open_clip adds `<model>-quickgelu` with the tags whose entry says `quick_gelu=True`.
    """
    named: dict[str, ast.expr] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named.setdefault(node.targets[0].id, node.value)
    table: dict[str, tuple[str, ...]] = {}
    pretrained = named.get("_PRETRAINED")
    if not isinstance(pretrained, ast.Dict):
        return table
    for key, value in zip(pretrained.keys, pretrained.values, strict=True):
        entries = named.get(value.id) if isinstance(value, ast.Name) else value
        if isinstance(key, ast.Constant) and isinstance(entries, ast.Call):
            model = str(key.value)
            table[model] = tuple(entry.arg for entry in entries.keywords if entry.arg)
            quick = tuple(entry.arg for entry in entries.keywords if entry.arg and _is_quick(entry))
            if quick:
                table[f"{model}-quickgelu"] = quick
    return table


def _is_quick(entry: ast.keyword) -> bool:
    return isinstance(entry.value, ast.Call) and any(
        option.arg == "quick_gelu"
        and isinstance(option.value, ast.Constant)
        and option.value.value is True
        for option in entry.value.keywords
    )
