"""What two checkouts left behind, read and compared: the half of `equivalence.py` that judges.

Every file becomes values by place, such as `losses/out/clip/cv_summary.json: average_results.n`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Regular expressions that are searched in places of values.
# What had to move: (pattern, tolerance relative to values above 1 and at most 1e-6, reason).
TOLERANCES: Sequence[tuple[str, float, str]] = ()
# What was meant to change: (pattern, reason).
EXPECTED: Sequence[tuple[str, str]] = (
    (r"[ .](compile|cuda_graphs)(\.items)?(\.default)?$", "compile, cuda_graphs: false by default"),
    (r"options\.--[a-z-]*(compile|cuda-graphs)\.default", "compile, cuda_graphs: false by default"),
    (r"identity(\.json:)?[ .]numerics$", "identity is a declared version, not a digest of sources"),
    (r"(flat_keys|pretraining)/.*: text without 0\.\d$", "minutes that a pre-training took"),
    (
        r"pretraining/.*(checkpoint_latest\.pth: (metrics|best)\.|encoder\.pth: fold$)",
        "a pre-training's checkpoint has the fields of a fold's",
    ),
    (r"refit_summary\.json: epochs_are$", "plainer words for where the length comes from"),
    (r"text without --cache-limit/--cache_limit$", "an error names a flag by its first spelling"),
    (r"losses/commands/01\.txt: text without /.*/out$", "plan names the output folder as given"),
)
# What says nothing about the numbers of a study.
IGNORED = re.compile(
    r"/\.cache/|/\.launcher|/\.key$|\.lock$|/(task|progress)\.json|\.killed|/__pycache__/"
    r"|\.(svg|pdf|py|onnx|html)$"  # pictures and pages; the numbers behind them are CSV files
    r"|seconds|per_second|_time|timing|written|peak_memory|log_file"
    r"|environment|identity(\.json:)?[ .]code"  # where numbers come from
)
STAMP = r"[_-]\d{8}[_-]\d{6}(_\d+)?"  # in names of logs and of folders that were replaced
PASSING = re.compile(  # what differs between two runs: speed, durations, memory, times, digests
    r"\b[\d.,]+ ?(s/it|(it|images|img|sequences)/s)|\b[\d.,]+ ?(s|ms|min|h|d|[kMG]i?B)\b"
    r"|\d{4}-\d\d-\d\dT?\S*|\d+:\d\d(:\d\d)?|process \d+|-[0-9a-f]{24}\b|" + STAMP
)
WORD = re.compile(r"[^\s,;()'\"`…“”│┃|*=]+")
QUOTED = re.compile(r"['\"`]([\w./-]+)['\"`]")
FACT = re.compile(r"\d|_|/\w|^--\w|\w\.\w\w")
CODE_MARK = re.compile(r"(?<=seed)(\d+(?:_fold\d+)?)_[0-9a-f]{8}")  # in names of pre-trainings
ABSENT = "(absent)"
WORDS_OF_A_SENTENCE = 4  # a string of a JSON file that has as many is prose


@dataclass(frozen=True)
class Text:
    """Prose: its facts (flags, keys, file names, numbers, what is quoted), and all of its words."""

    facts: frozenset[str]
    words: frozenset[str]

    @staticmethod
    def of(text: str) -> Text:
        text = PASSING.sub("", text.replace("−", "-"))
        words = frozenset(word.strip(".:[]{}<>%\\") for word in WORD.findall(text))
        facts = {word for word in words if FACT.search(word)}
        return Text(frozenset(facts.union(QUOTED.findall(text)) & words), words)

    def lost_in(self, new: Text) -> list[str]:
        """Facts that the new text does not mention."""
        return sorted(self.facts - new.words)


def options(text: str) -> dict[str, Any]:
    """What a `--help` offers: spellings, choices and default of every option.

    A default that is described in several words is no value.
    """
    found = {}
    for entry in re.split(r"\n(?= {2,4}(?:-|\w+ {2,}))", text)[1:]:
        head, _, said = " ".join(entry.split("\n\n")[0].split("\n")).strip().partition("  ")
        names = sorted({name.replace("_", "-") for name in re.findall(r"--?[A-Za-z][\w-]*", head)})
        defaults = re.findall(r"[Dd]efault: (.*?)(?:\)|\.$|\.  |$)", " ".join(said.split()))
        found[names[0] if names else head.split()[0]] = {
            "spellings": names,
            "choices": sorted(re.findall(r"[\w-]+", "".join(re.findall(r"\{.*?\}", head)[:1]))),
            "default": [one for one in defaults if " " not in one or one.startswith(("{", "["))],
        }
    return found


def without_words(node: Any, root: Any, within: tuple[str, ...] = ()) -> Any:
    """A JSON Schema without titles and descriptions; references are replaced by their targets.

    Lists become mappings by content, because their order says nothing.
    """
    if isinstance(node, list):
        items = [without_words(item, root, within) for item in node]
        kinds = [_kind(item) for item in items]
        return {f"{kind}{'+' * kinds[:n].count(kind)}": items[n] for n, kind in enumerate(kinds)}
    if not isinstance(node, dict):
        return node
    if (reference := node.get("$ref")) and reference not in within:
        target = root
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        return without_words({**target, **node, "$ref": None}, root, (*within, reference))
    words = () if within[-1:] == ("properties",) else ("title", "description", "$defs", "$ref")
    kept = {key: value for key, value in node.items() if key not in words}
    return {key: without_words(value, root, (*within, key)) for key, value in kept.items()}


def _kind(node: Any) -> str:
    """What tells the entries of a list apart: the kind of a block, a type, or a plain value."""
    if not isinstance(node, dict):
        return str(node)
    block = node.get("properties", {}).get("type", {})
    return str(block.get("const") or node.get("type") or next(iter(node), ""))


def read_command(path: Path) -> Any:
    command, code, text = path.read_text(encoding="utf-8").split("\n", 2)
    found = {"command": command, "exit code": code, "traceback": "Traceback" in text}
    if command.endswith("--help"):
        return {**found, "options": options(text)}
    if command == "schema":
        schema = json.loads(text)
        return {**found, "schema": without_words(schema, schema)}
    return {**found, "text": Text.of(text)}


def read_log(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if re.search("(Train|Val|Test) Loss: ", line)]
    return {"epochs": [PASSING.sub("", line) for line in lines], "text": Text.of(text)}


def read_scalars(path: Path) -> Any:
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def read_ledger(path: Path) -> Any:
    """Which trainings were done, each as often as it was; their order follows from durations."""
    events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    done = (one for one in events if one.get("event") == "done")
    return Counter(f"{CODE_MARK.sub(chr(92) + '1', one['config'])} {one['fold']}" for one in done)


def read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if not IGNORED.search(row.get("column", ""))]


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": read_ledger,
    ".csv": read_csv,
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".npz": lambda path: dict(np.load(path)),
    ".png": lambda path: np.asarray(Image.open(path)),
    ".safetensors": load_file,
    ".log": read_log,
}


def read(path: Path) -> Any:
    if path.parent.name == "commands" and path.suffix == ".txt":
        return read_command(path)
    if "tfevents" in path.name:
        return read_scalars(path)
    reader = READERS.get(path.suffix)
    return reader(path) if reader else Text.of(path.read_text(encoding="utf-8"))


def files(root: Path) -> dict[str, list[Path]]:
    """Files by names without times, hosts and digests; oldest first where several share one."""
    found = defaultdict(list)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = CODE_MARK.sub(r"\1", f"{root.name}/{path.relative_to(root)}")
        name = re.sub(rf"{STAMP}|\.tfevents\..*", "", name)
        if not IGNORED.search(name):
            found[name].append(path)
    return found


def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Values of nested mappings and lists, each with its place."""
    if isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(inner, f"{place}.{key}")
    elif isinstance(value, str):
        value = CODE_MARK.sub(r"\1", value)
        yield place, Text.of(value) if value.count(" ") >= WORDS_OF_A_SENTENCE else value
    else:
        yield place, value


def deviation(old: Any, new: Any) -> float:
    """How far apart two values are, relative to values above 1; infinite if they are no numbers."""
    if isinstance(old, Text) and isinstance(new, Text):
        return math.inf if old.lost_in(new) else 0.0  # more facts than before are welcome
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if old.dtype != new.dtype or torch.equal(old, new):
            return math.inf if old.dtype != new.dtype else 0.0
        old, new = old.double().numpy(), new.double().numpy()
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        if old.dtype != new.dtype or old.shape != new.shape:
            return math.inf
        if np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            return 0.0
        if old.dtype.kind not in "fiu":
            return math.inf
        gap = float(np.max(np.abs(old - new) / np.maximum(1, np.abs(old))))
    elif type(old) is type(new) and old == new:
        return 0.0
    else:
        try:  # numbers of a CSV file may be spelled in two ways
            first, second = float(old), float(new)
        except (TypeError, ValueError):
            return math.inf
        if first == second or (math.isnan(first) and math.isnan(second)):
            return 0.0
        gap = abs(first - second) / max(1.0, abs(first))
    return math.inf if math.isnan(gap) else gap


class Comparison:
    """What of a study was compared, and how it came out."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.different: list[str] = []

    def add_file(self, name: str, old: Sequence[Path], new: Sequence[Path]) -> None:
        self.counts["files"] += 1
        if len(old) != len(new):
            self.add_value(name, f"{len(old)} file(s)", f"{len(new)} file(s)")
        else:
            for mine, theirs in zip(old, new, strict=True):
                before, after = dict(leaves(read(mine), ":")), dict(leaves(read(theirs), ":"))
                for place in {**before, **after}:
                    where = f"{name}: {place.lstrip(':.')}"
                    if not IGNORED.search(where):
                        self.add_value(where, before.get(place, ABSENT), after.get(place, ABSENT))

    def add_value(self, place: str, old: Any, new: Any) -> None:
        self.counts["tensors" if isinstance(old, torch.Tensor) else "values"] += 1
        gap = deviation(old, new)
        if gap and isinstance(old, Text) and isinstance(new, Text):
            for fact in old.lost_in(new):
                self._judge(f"{place} without {fact}", gap, "")
        elif gap:
            self._judge(place, gap, f": {shown(old)} → {shown(new)}, by {gap:.1e}")

    def _judge(self, place: str, gap: float, detail: str) -> None:
        for pattern, tolerance, reason in TOLERANCES:
            if gap <= min(tolerance, 1e-6) and re.search(pattern, place):
                self.excused[f"within {tolerance:g}: {reason}"] += 1
                return
        for pattern, reason in EXPECTED:
            if re.search(pattern, place):
                self.excused[f"expected: {reason}"] += 1
                return
        self.different.append(place + detail)

    @property
    def verdict(self) -> str:
        excuses = [f"{count} {reason}" for reason, count in self.excused.items()]
        if self.different:
            excuses.insert(0, f"DIFFERENT in {len(self.different)}, first: {self.different[0]}")
        return "; ".join(excuses) or "equal"


def shown(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def compare(old: Path, new: Path, inputs: Collection[str]) -> Comparison:
    """Compare two folders of one study, whose input files have these names."""
    found, mine, theirs = Comparison(), files(old), files(new)
    for name in {**mine, **theirs}:
        if name.removeprefix(f"{old.name}/") not in inputs:
            found.add_file(name, mine.get(name, []), theirs.get(name, []))
    return found
