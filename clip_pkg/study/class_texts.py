"""Class texts: the prompts of each class, from a file or a template."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from clip_pkg.base.errors import ConfigErrors, DataError, DataErrors, UserError, shown, some
from clip_pkg.base.files import check_output_folder, temporary_path, write_json
from clip_pkg.base.program import program
from clip_pkg.base.reading import read_bounded
from clip_pkg.config.jsonc import parse
from clip_pkg.study.identity import digest
from clip_pkg.study.image_folder import find_beside, label_of

FOLDER = "class_texts"
MAX_BYTES = 1 << 28  # of a file; 20,000 classes with a hundred prompts each
CHECKOUT = Path(__file__).resolve().parents[2]
SCHEMA_VERSION = 1


class StoredTexts(TypedDict):
    """The content of `class_texts.json`: class → prompts, and where they come from."""

    schema_version: int
    source: str
    notices: list[str]
    texts: dict[str, list[str]]


@dataclass(frozen=True)
class ClassTexts:
    """Prompts of C classes.

    Args:
        classes: C names in the manifest's order.
        prompts: C tuples of at least one prompt each, aligned with `classes`.
        source: The file, or a description of how the texts were made.
        notices: One sentence each.
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    source: str
    notices: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest (hex) of the prompts."""
        return digest([list(prompts) for prompts in self.prompts])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; `from_json` reads them."""
        texts = zip(self.classes, self.prompts, strict=True)
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "notices": list(self.notices),
            "texts": {name: list(prompts) for name, prompts in texts},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassTexts:
        """Read the output of `to_json`. Raises DataError for anything else."""
        try:
            if value["schema_version"] != SCHEMA_VERSION:
                raise DataError(
                    f"these class texts have schema_version {value['schema_version']!r}; this "
                    f"program reads {SCHEMA_VERSION}"
                )
            texts: Mapping[str, Sequence[str]] = value["texts"]
            return cls(
                classes=tuple(texts),
                prompts=tuple(tuple(prompts) for prompts in texts.values()),
                source=value["source"],
                notices=tuple(value["notices"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"these class texts are damaged ({error!r})") from None


def resolve_class_texts(
    classes: Sequence[str],
    *,
    class_texts_file: str | None,
    text_template: str | None,
    prompts_per_class: int | None,
    search_dirs: Sequence[Path],
) -> ClassTexts:
    """Find the prompts of each class.

    Args:
        classes: Names in the manifest's order.
        class_texts_file: JSON, comments allowed: class → text, or class → list of prompts.
            A relative path is searched in `search_dirs`, in their folders `class_texts`, and in
            `class_texts` of the checkout.
        text_template: Text of classes that the file lacks, or of all without a file; `{}` stands
            for the class name, whose underscores and hyphens become spaces.
        prompts_per_class: Number of prompts of each class to use, the first ones; None for all.
        search_dirs: The config file's folder and the working directory.

    Raises:
        DataError: No such file. As DataErrors with all problems: errors in the file, classes
            without text, classes with the same texts.
    """
    if class_texts_file is None:
        made = [_from_template(name, text_template) for name in classes]
        source, notice = "class names", "no class_texts_file: the class names are the texts"
        if text_template is not None:
            source = f"text_template {text_template!r}"
            notice = f"no class_texts_file: all texts come from {source}"
        return _class_texts(classes, made, source, [notice], prompts_per_class)
    folders = [*search_dirs, *(folder / FOLDER for folder in search_dirs), CHECKOUT / FOLDER]
    file = find_beside("class_texts_file", class_texts_file, folders, file=True)
    texts, problems = _read(file)
    missing = [name for name in classes if name not in texts]
    known = set(classes)
    unused = [key for key in texts if key not in known]
    notices = []
    if unused:
        notices.append(f"{shown(file)}: no images of {some(unused)}; their texts are not used")
    if missing and text_template is not None:
        notices.append(
            f"{shown(file)}: has no {some(missing)}; their texts come from {text_template!r}"
        )
    elif missing:
        by_letters = {key.casefold(): key for key in unused}
        alone = []
        for name in missing:
            near = difflib.get_close_matches(name.casefold(), by_letters, n=1)
            if near:
                has = shown(by_letters[near[0]])
                problems.append(f"class '{shown(name)}' has no text; the file has '{has}'")
            else:
                alone.append(name)
        if alone:
            problems.append(
                f"no text for {some(alone)}; `{program()} class-texts` writes a file to fill in"
            )
    if problems:
        raise DataErrors(file, problems)
    found = [texts.get(name) or _from_template(name, text_template) for name in classes]
    return _class_texts(classes, found, str(file), notices, prompts_per_class)


def read_class_texts(file: Path) -> ClassTexts:
    """Read all classes of a file, in its order, each with all its prompts.

    Raises:
        DataError: No such file, or fewer than two classes. As DataErrors with all problems, see
            `resolve_class_texts`.
    """
    texts, problems = _read(file)
    if not problems and len(texts) < 2:
        problems = [f"has {len(texts)} class(es); at least two are needed"]
    if problems:
        raise DataErrors(file, problems)
    return _class_texts(tuple(texts), tuple(texts.values()), str(file), (), None)


def write_template(classes: Sequence[str], path: Path, template: str) -> None:
    """Write a class-texts file to edit: each class with its text from `template`.

    Raises:
        DataError: The file exists, cannot be written, or `template` lacks its `{}`.
    """
    if template.count("{}") != 1:
        raise DataError(f"the template {template!r} needs {{}} once, where the class name goes")
    try:
        if path.exists() or path.is_symlink():
            raise DataError(f"{shown(path)}: already exists; choose another name, or move it")
        check_output_folder(path.parent, temporary_path(path).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {name: list(_from_template(name, template)) for name in classes})
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written: {error.strerror}") from None


def _from_template(name: str, template: str | None) -> tuple[str, ...]:
    words = " ".join(name.replace("_", " ").replace("-", " ").split()) or name
    return (words if template is None else template.replace("{}", words),)


def _class_texts(
    classes: Sequence[str],
    prompts: Sequence[tuple[str, ...]],
    source: str,
    notices: Sequence[str],
    limit: int | None,
) -> ClassTexts:
    used = tuple(texts if limit is None else texts[:limit] for texts in prompts)
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, texts in zip(classes, used, strict=True):
        same[tuple(sorted(" ".join(text.casefold().split()) for text in texts))].append(name)
    problems = [
        f"classes {some(names)} have the same text '{shown(texts[0])}' and cannot be distinguished"
        for texts, names in same.items()
        if len(names) > 1
    ]
    if problems:
        raise DataErrors(f"class texts ({source})", problems)
    return ClassTexts(tuple(classes), used, source, tuple(notices))


def _read(file: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Read (prompts by class, problems)."""
    try:
        document = parse(read_bounded(file, MAX_BYTES).decode("utf-8-sig"), file)
    except ConfigErrors as error:
        raise DataErrors(file, [str(problem) for problem in error.problems]) from None
    except UnicodeDecodeError:
        raise DataError(f"{shown(file)}: is not UTF-8") from None
    except UserError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read: {error.strerror}") from None
    if not isinstance(document.value, dict):
        raise DataError(f"{shown(file)}: must be an object: class → text or list of texts")
    texts: dict[str, tuple[str, ...]] = {}
    problems = [str(problem) for problem in document.problems]
    for key, value in document.value.items():
        name, place = label_of(key), document.places.get((key,))
        where = f"line {place.line}: " if place else ""
        if name in texts:
            problems.append(f"{where}class '{shown(name)}' occurs in two spellings")
        prompts = [value] if isinstance(value, str) else value
        if not isinstance(prompts, list) or not all(isinstance(one, str) for one in prompts):
            problems.append(f"{where}class '{shown(name)}' needs a text or a list of texts")
            prompts = []
        elif not prompts or not all(one.strip() for one in prompts):
            problems.append(f"{where}class '{shown(name)}' has an empty text or list")
        texts[name] = tuple(" ".join(one.split()) for one in prompts)
    return texts, problems
