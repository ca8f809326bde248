"""A small log of interactions, and the example's programs as they are started."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from examples.next_item.eval import infer
from examples.next_item.main import main
from support.small_training import SMALL

ITEMS = 40
Run = Callable[..., str]


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 users whose next item is three further on; some have too few to be evaluated."""
    random_numbers = random.Random(1)
    lines = []
    for user in range(80):
        first = random_numbers.randrange(ITEMS)
        for step in range(random_numbers.choice([1, 2, 3, 4, 5, 8, 14])):
            lines.append((step, user, (first + 3 * step) % ITEMS))
    path = tmp_path_factory.mktemp("log") / "log.txt"
    # In time order, so that users are mixed; ids that are no indices.
    path.write_text("".join(f"{10 + user} {7 * item}\n" for _, user, item in sorted(lines)))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Numbers are the same to the last bit for one number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Train on the small log; returns what was printed."""

    def run(*arguments: str, output: str = "out", data: Path = log, check: int = 0) -> str:
        where = ["--data", str(data), "--output_dir", str(tmp_path / output)]
        code = main([*where, *SMALL, *arguments])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        return shown.out + shown.err

    return run


@pytest.fixture
def recommend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run `eval/infer.py` in the folder of the test."""

    def run(*arguments: str | Path, check: int = 0) -> str:
        monkeypatch.chdir(tmp_path)
        code = infer.main([str(word) for word in arguments])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        return shown.out + shown.err

    return run
