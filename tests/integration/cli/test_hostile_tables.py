"""Tables, class texts, splits and flags of every broken kind: used, or refused with a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from clip_pkg.cli.main import COMMANDS, main, parser_of
from clip_pkg.launch import probe

SECONDS = 15  # of a command on a busy machine; a hang takes forever
HUGE = "9" * 5000


@pytest.fixture(autouse=True)
def without_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of encoders has tests of its own and takes seconds."""
    monkeypatch.setattr(probe, "start_child_probe", lambda configs: probe.NoProbe())


def problem(words: Sequence[str | Path], named: str = "") -> str:
    """What is wrong with how a command ends, or an empty text. named: in every refusal."""
    shown = io.StringIO()
    started = time.monotonic()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:  # argparse's own way out, for --help
            code = int(left.code or 0)
        except BaseException as error:
            return f"{error!r:.300}"
    text = shown.getvalue()
    if code not in (0, 1, 2) or "Traceback" in text:
        return f"exit code {code}: {text[-300:]}"
    if code == 2 and ("error: " not in text or named not in text):
        return f"not named: {text[-300:]}"
    return "slow" if time.monotonic() - started > SECONDS else ""


def validate(images: Path, *more: str | Path) -> list[str | Path]:
    return ["validate", "--data-dir", images, "--n-splits", "2", *more]


def test_tables(images: Path, tmp_path: Path) -> None:
    names = sorted(path for path in images.rglob("*.png"))
    rows = "".join(f"{path},{path.parent.name}\n" for path in names)
    table = f"path,label\n{rows}"
    grouped = "path,label,group\n" + "".join(
        f"{path},{path.parent.name},{n // 2}\n" for n, path in enumerate(names)
    )
    first = rows.splitlines()[0]
    contents: list[bytes | str] = [
        *(table.encode(name) for name in ("utf-16", "utf-32", "utf-8-sig", "utf-16-be")),
        *(table.replace("\n", end) for end in ("\r\n", "\r", "\n\n", "\n \n")),
        *(table.replace(",", mark) for mark in (";", "\t", "|", ":", " ", ",,")),
        *("", "\n", "\0", "path", "path,label", "path,label\n", "label,path\n" + rows),
        *("path,path,label\n" + rows, "Path , LABEL\n" + rows, "file,class\n" + rows, rows),
        *(table + line for line in (first, "nowhere.png,red", "../../etc/passwd,red", "~,red")),
        *(table + line for line in (f"{images},red", "/dev/zero,red", ",red", f"{names[0]},")),
        *(table + line for line in ('"open', 'a"b",c', "a,b,c,d,e", "\x1b[2J,red", "a\0b,red")),
        *(table + f"{'x' * size},red\n" for size in (300, 10**6)),
        *(table + f"{names[0].parent / 'new.png'},{label}\n" for label in ("x" * 10**6, "..", "")),
        *(
            table.replace("red", label)
            for label in ("1", "nan", "= 1+1", "a/b", "\u202e", "é" * 200)
        ),
        *(grouped, grouped.replace(",0\n", ",\n"), grouped.replace(",1\n", "\n")),
        *(table.encode()[:at] + b"\xff" + table.encode()[at:] for at in (0, 5, 40)),
        *(table[:at] for at in range(0, 400, 13)),
    ]
    failures = []
    for number, content in enumerate(contents):
        path = tmp_path / f"table{number}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if wrong := problem(validate(path), path.name):
            failures.append(f"{number}, {content[:80]!r}: {wrong}")
    assert failures == []
    assert len(contents) >= 80


SHAPES: list[object] = [
    *(None, True, 3, -1.5, "text", [], {}, [[]], [{}], {"": ""}, {"a": None}, {"a": {"b": "c"}}),
    *({"red": "x"}, {"red": ["x"], "grün": [], "blue sky": 3}, {"red": 10**400}),
    *({"red": "", "grün": " ", "blue sky": "x"}, {"red": "\0", "grün": "\x1b[2J", "blue sky": "y"}),
    *({name: ["x"] * 300 for name in ("red", "grün", "blue sky")}, {"texts": {"red": "x"}}),
]
TEXTS = ["", "{", "[" * 10**5, '{"red": "\\ud800"}', "\ufeff{}", "nul", '{"a": 1, "a": 2}', "\0"]


def test_class_texts(images: Path, tmp_path: Path) -> None:
    contents = [*(json.dumps(shape) for shape in SHAPES), *TEXTS]
    failures = []
    for number, content in enumerate(contents):
        path = tmp_path / f"texts{number}.json"
        path.write_text(content, encoding="utf-8")
        words = validate(images, "--class-texts-file", path)
        if wrong := problem(words, path.name):
            failures.append(f"{content[:80]!r}: {wrong}")
    assert failures == []
    assert len(contents) >= 25


def test_splits(images: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    half, rest = names[::2], names[1::2]
    whole = {"folds": [{"fold": 1, "val": half}, {"fold": 2, "val": rest}]}
    values: list[object] = [None, 3, -1, 10**400, "1", "", [], {}, [[]], True, 1.5, {"a": 1}]
    shapes: list[object] = [
        whole,
        *SHAPES,
        *({"folds": value} for value in values),
        *({"folds": [value, value]} for value in values),
        *({**whole, key: value} for key in ("linked", "splits_hash", "groups") for value in values),
        *(
            {"folds": [{"fold": 1, "val": half, key: value}, {"fold": 2, "val": rest}]}
            for key in ("fold", "repeat", "train", "val")
            for value in values
        ),
        {"folds": [{"val": names}, {"val": names}]},
        {"folds": [{"val": [*half, half[0]]}, {"val": rest}]},
        {"folds": [{"val": [*half, "nowhere.png", "../x", "\x1b"]}, {"val": rest}]},
        {"folds": [{"val": []}, {"val": names}]},
    ]
    contents = [*(json.dumps(shape) for shape in shapes), *TEXTS]
    failures = []
    for number, content in enumerate(contents):
        path = tmp_path / f"folds{number}.json"
        path.write_text(content, encoding="utf-8")
        if wrong := problem(validate(images, "--splits-file", path), path.name):
            failures.append(f"{content[:100]!r}: {wrong}")
    assert failures == []
    assert len(contents) >= 120


def test_flags(images: Path, tmp_path: Path) -> None:
    values = ["", "nan", "-1", HUGE, "[", "{", "é\u202e", "\x1b[2J", "a,b"]
    failures, cases = [], 0
    for command in ("validate", *COMMANDS):
        flags = [action for action in parser_of(command)._actions if action.nargs != 0]
        for number, action in enumerate(one for one in flags if one.option_strings):
            # Two values of each flag, with what a command needs besides; nothing is trained.
            for value in (values[number % len(values)], values[(number + 4) % len(values)]):
                words: list[str | Path] = [command, f"{action.option_strings[0]}={value}"]
                if command in ("validate", "plan"):
                    words += ["--data-dir", images, "--n-splits", "2"]
                cases += 1
                if wrong := problem(words):
                    failures.append(f"{words}: {wrong}")
    assert failures == []
    assert cases >= 200
    assert list(tmp_path.iterdir()) == []
