"""Damaged and crafted files of a run: training mends them, and every other command names them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.results.summary import without_times
from clip_pkg.scheduling.ledger import Ledger, read_ledger
from support.damage import DAMAGES, Answer, ask, command, copy_run, crafted, load, put
from support.outcomes import EVERYTHING
from support.tiny import TINY, make_folder, paint

CONFIG_FILES = ("config", "identity", "folds_info", "class_texts", "preflight", "cv_summary")
JSON_FILES = ("result", "task", "history", "progress", "failure")
FOLD_FILES = (
    *(f"{name}.json" for name in JSON_FILES),
    *("predictions.csv", "predictions_last.csv", "test_predictions.csv", "sampler_exposure.csv"),
    *("predictions_epochs.npz", "checkpoint_best.pth", "checkpoint_latest.pth"),
)
REFIT_FILES = ("refit_summary.json", "result.json", "task.json")
PRETRAINING_FILES = ("encoder.pth", "result.json", "task.json", "history.json")
# What no number and no model of a finished run depends on.
NEEDLESS = {"task.json", "progress.json", "failure.json", "checkpoint_latest.pth"}
SECONDS = 30  # of a command on a busy machine; a hang takes forever


@dataclass(frozen=True)
class Run:
    """A finished run of two configs; `a` has a pre-training, test images and a refit."""

    root: Path
    words: tuple[str, ...]  # of the training command, without the output folder

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def files(self) -> list[str]:
        pretraining = next((self.output / "pretraining").iterdir()).name
        return [
            *(f"a/{name}.json" for name in CONFIG_FILES),
            *(f"a/fold_1/{name}" for name in FOLD_FILES),
            *(f"a/refit/{name}" for name in REFIT_FILES),
            *(f"pretraining/{pretraining}/{name}" for name in PRETRAINING_FILES),
            "ledger.jsonl",
        ]

    def train(self, output: Path) -> Answer:
        return ask(lambda: command(*self.words, "--output-dir", output, "--executor", "inline"))

    def readers(self) -> dict[str, Callable[[Path], int]]:
        """Commands that train nothing, by name; cheap ones."""
        images = self.root / "images"
        return {
            "status": lambda run: command("status", run),
            "summarize": lambda run: command("summarize", run),
            "suspects": lambda run: command("suspects", run),
            "load_run": load,
            "plan": lambda run: command("plan", *self.words, "--output-dir", run),
            "predict": lambda run: command(
                "predict", run / "a", "--images", images / "red", "--calibrate"
            ),
            "compare": lambda run: command("compare", run),
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("damaged")
    images = make_folder(root / "images", {"red": 8, "grün": 6, "blue sky": 6})
    tests = root / "test"
    for label, name in enumerate(("red", "grün", "blue sky")):
        for number in range(2):
            paint(tests / name / f"{number}.png", label, 100 + number)
    pretrain = {"loss": {"type": "nt_xent"}, "epochs": 1, "images": "all"}
    configs = [{**TINY, "name": "a", "test_dir": str(tests), "pretrain": pretrain}]
    configs += [{**TINY, "name": "b"}]
    file = root / "configs.json"
    file.write_text(json.dumps(configs), encoding="utf-8")
    words = ("--data-dir", str(images), "--config-file", str(file), "--multi-config")
    run = Run(root, words)
    with contextlib.chdir(root):
        trained = run.train(run.output)
        assert trained.code == 0, trained.text
        words = ("refit", str(run.output / "a"), "--executor", "inline", "--epochs", "1")
        assert ask(lambda: command(*words)).code == 0
    return run


@pytest.fixture
def place(finished: Run, tmp_path: Path) -> Iterator[Path]:
    with contextlib.chdir(tmp_path):
        yield tmp_path / "run"


def damage(run: Path, file: str, how: str) -> None:
    if file.endswith("failure.json"):
        put(run / file, b"x")
        (run / "a/fold_1/result.json").unlink()
    DAMAGES[how](run / file)


def problem(answer: Answer, file: str) -> str:
    """What is wrong with how a command reacted to a file; empty if nothing is."""
    if answer.code not in (0, 1, 2):
        return answer.text[-300:]
    if answer.seconds > SECONDS:
        return f"took {answer.seconds:.0f} s"
    name = Path(file).name
    # A fold without a result is unfinished, whatever the reason.
    is_named = name in answer.text.replace("\n", "") or "missing" in answer.text
    return "" if answer.code == 0 or is_named else f"{name} is not named: {answer.text[-300:]}"


# --- damaged run files


def test_commands_that_only_read_name_damaged_files(finished: Run, place: Path) -> None:
    readers = list(finished.readers().items())[:-1]
    failures, cases = [], 0
    for number, file in enumerate(finished.files):
        for position, how in enumerate(DAMAGES):
            if (number // 2 + position) % 2 and not EVERYTHING:
                continue
            run = copy_run(finished.output, place)
            damage(run, file, how)
            name, read = readers[(number + position) % len(readers)]
            cases += 1
            answer = ask(partial(read, run))
            if wrong := problem(answer, file):
                failures.append(f"{name}, {file}, {how}: {wrong}")
            shutil.rmtree(run)
    assert not failures, "\n".join(failures)
    assert cases >= (158 if EVERYTHING else 79)


@pytest.mark.parametrize("name", ["status", "summarize", "suspects", "load_run", "plan", "compare"])
def test_a_config_with_a_damaged_fold_is_left_out_and_others_are_shown(
    finished: Run, place: Path, name: str
) -> None:
    run = copy_run(finished.output, place)
    damage(run, "a/fold_1/predictions.csv", "one byte")
    answer = ask(lambda: finished.readers()[name](run))
    assert answer.code == 1, answer.text
    assert "predictions.csv" in answer.text.replace("\n", "")
    if name == "summarize":
        summary = json.loads((run / "a/cv_summary.json").read_text(encoding="utf-8"))
        assert summary["status"] == {"fold_1": "failed", "fold_2": "done"}
        assert summary["average_results"]["n"] == 1
    shutil.rmtree(run / "b")
    if name in ("suspects", "load_run", "compare"):
        assert ask(lambda: finished.readers()[name](run)).code == 2  # nothing is left


def test_training_mends_what_is_damaged(finished: Run, place: Path) -> None:
    """Each file in one or two ways; all folds are done afterwards, with the same numbers."""
    ways = [how for how in DAMAGES if how not in ("huge", "loop")]
    before = _numbers(finished.output)
    failures = []
    for number, file in enumerate(finished.files):
        how = ways[number % len(ways)]
        run = Path(shutil.copytree(finished.output, place))
        damage(run, file, how)
        answer = finished.train(run)
        notices = answer.text.count("is trained again")
        if answer.code != 0 or _numbers(run) != before or notices > 1:
            failures.append(f"{file}, {how}: {answer.code} {notices} {answer.text[-300:]}")
        shutil.rmtree(run)
    assert not failures, "\n".join(failures)


def _numbers(run: Path) -> dict[str, object]:
    """All that a run computed, to the bit, without times."""
    found: dict[str, object] = {}
    for config in ("a", "b"):
        summary = json.loads((run / config / "cv_summary.json").read_text(encoding="utf-8"))
        # A lost record of a pre-training, which no fold starts from any more, is only noted.
        left_out = ("pretraining", "notices")
        found[config] = {k: v for k, v in without_times(summary).items() if k not in left_out}
        for fold in sorted((run / config).glob("fold_*")):
            for name in ("predictions.csv", "predictions_last.csv", "sampler_exposure.csv"):
                found[f"{config}/{fold.name}/{name}"] = (fold / name).read_bytes()
            history = json.loads((fold / "history.json").read_text(encoding="utf-8"))
            found[f"{config}/{fold.name}"] = {
                column: values for column, values in history.items() if "second" not in column
            }
    return found


@pytest.mark.parametrize("file", ["predictions.csv", "checkpoint_best.pth", "history.json"])
def test_a_damaged_fold_is_retrained_alone_and_unfinished_ones_go_on(
    finished: Run, place: Path, file: str
) -> None:
    run = Path(shutil.copytree(finished.output, place))
    damage(run, f"a/fold_1/{file}", "one byte")
    shutil.rmtree(run / "b/fold_2")
    kept = [run / "a/fold_2/result.json", run / "b/fold_1/result.json"]
    before = [path.read_bytes() for path in kept]
    answer = finished.train(run)
    assert answer.code == 0, answer.text
    assert answer.text.replace("\n", "").count(f"{file} is damaged") == 1
    assert [path.read_bytes() for path in kept] == before
    assert (run / "b/fold_2/result.json").exists()
    assert _numbers(run) == _numbers(finished.output)
    again = finished.train(run)
    assert again.code == 0
    assert "is trained again" not in again.text


def test_deleted_models_cost_no_number(finished: Run, place: Path) -> None:
    run = copy_run(finished.output, place)
    for checkpoint in run.glob("*/fold_*/*.pth"):
        checkpoint.unlink()
    for words in (("summarize", run), ("compare", run)):
        answer = ask(partial(command, *words))
        assert answer.code == 0, answer.text
    assert _numbers(run) == _numbers(finished.output)


# --- crafted JSON × commands


def test_crafted_json_is_content_or_a_named_file(finished: Run, place: Path) -> None:
    readers = list(finished.readers().items())
    files = [file for file in finished.files if file.endswith(".json")]
    failures, cases = [], 0
    for file in files:
        path = finished.output / file
        content = {
            "identity": json.loads((finished.output / "a/identity.json").read_bytes()),
            "fold": 1,
            "kind": "error",
            "reason": "x",
        }
        if path.exists():
            content = json.loads(path.read_bytes())
        changed = list(crafted(content))
        for number, (what, value) in enumerate(
            changed[:: max(1, len(changed) // (16 if EVERYTHING else 6))]
        ):
            run = copy_run(finished.output, place)
            for result in run.glob("a/fold_*/result.json"):  # as of an earlier revision
                old = json.loads(result.read_bytes())
                put(result, json.dumps({**old, "files": {}}).encode())
            if not path.exists():
                (run / "a/fold_1/result.json").unlink()
            put(run / file, json.dumps(value).encode())
            name, read = readers[number % (len(readers) - (number % 3 > 0))]
            cases += 1
            if wrong := problem(ask(partial(read, run)), ""):  # another file may contradict it
                failures.append(f"{name}, {file}, {what}: {wrong}")
            shutil.rmtree(run)
    assert not failures, "\n".join(failures)
    assert cases >= (216 if EVERYTHING else 80)


# --- ledger lines

EVENTS = [
    {"event": "launched", "time": 1.0, "host": "x", "pid": 1, "devices": ["cpu"]},
    {"event": "set aside", "time": 1.0, "device": "0", "reason": "x"},
    {"event": "failed", "time": 2.0, "config": "a", "fold": 1, "attempt": 1, "retry": True},
    {"event": "done", "time": 2.0, "config": "a", "fold": 1, "seconds": 1.0},
]


def test_ledger_lines_of_any_shape_are_skipped(tmp_path: Path) -> None:
    path, cases = tmp_path / "ledger.jsonl", 0
    for event in EVENTS:
        for _, line in crafted(event):
            path.write_text(json.dumps(line) + "\n", encoding="utf-8")
            Ledger(path).append("done", config="b", fold=2)
            assert read_ledger(path).tasks[("b", 2)].state == "done"
            cases += 1
    for damage_file in DAMAGES.values():
        path.write_text('{"event": "x", "time": 1}\n', encoding="utf-8")
        damage_file(path)
        read_ledger(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert cases >= 12


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(sorted({key for event in EVENTS for key in event}))


@settings(max_examples=100)
@given(st.lists(st.dictionaries(KEYS, JSON), max_size=3), st.binary(max_size=50))
def test_any_ledger_is_read(events: list[dict[str, object]], damaged: bytes) -> None:
    lines = [*(json.dumps(event).encode() for event in events), damaged]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        path.write_bytes(b"\n".join([*lines, json.dumps(EVENTS[3]).encode()]))
        assert read_ledger(path).tasks[("a", 1)].state == "done"
