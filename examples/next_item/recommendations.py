"""The top items of every user, as a CSV file: `user,rank,item,score`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from clip_pkg.base.files import write_text
from clip_pkg.launch.terminal import Terminal
from examples.next_item.batches import Questions
from examples.next_item.ranking import answerable, evaluate, table_lines
from examples.next_item.trained_model import TrainedModel, device_here, load

Row = tuple[int, int, int, float]


def recommend(checkpoint: Path, output: Path, top_k: int, held_out: int) -> int:
    """Rank for every user, without the last `held_out` items of each; returns 0."""
    terminal = Terminal()
    trained, content = load(checkpoint, device_here())
    settings = trained.settings
    terminal.line(f"{checkpoint}: {settings.loss}, epoch {content['epoch']}")
    questions = Questions(trained.interactions, held_out=held_out, maxlen=settings.maxlen)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("user", "rank", "item", "score"))
    with terminal.counting("Ranking") as show:
        for done, rows in enumerate(_top(trained, questions, top_k), start=1):
            writer.writerows(rows)
            show(done, len(questions))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, stream.getvalue())
    terminal.line(f"Wrote {output}.", "green")
    if held_out:
        with terminal.counting("Evaluation") as show:
            metrics = evaluate(trained.scores, questions, show)
        for line in table_lines({settings.loss: metrics}):
            terminal.line(line)
    return 0


@torch.inference_mode()
def _top(trained: TrainedModel, questions: Questions, top_k: int) -> Iterator[list[Row]]:
    """Rows of the file, one list per question."""
    users, items = trained.interactions.users, trained.interactions.items
    for question in questions:
        scores = answerable(trained.scores(question), question)
        best, places = scores.topk(min(top_k, len(items)), dim=1)
        yield [
            (int(users[user]), rank, int(items[row - 1]), score)
            for user, values, rows in zip(
                question.users, best.tolist(), places.tolist(), strict=True
            )
            for rank, (row, score) in enumerate(zip(rows, values, strict=True), start=1)
            if score > -math.inf
        ]
