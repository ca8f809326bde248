"""The next-item example's tensors, losses and ranks, against slow and plain ones."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from examples.next_item.batches import Questions, TrainingBatches
from examples.next_item.interactions import Interactions, Unseen, read_interactions, spans
from examples.next_item.model import NextItemModel
from examples.next_item.objective import NextItemObjective
from examples.next_item.ranking import evaluate, popularity
from examples.next_item.settings import Settings, settings_of, training_parser
from examples.next_item.trained_model import build


def settings(*words: str) -> Settings:
    parser = training_parser()
    small = ["--hidden_units", "8", "--maxlen", "6", "--batch_size", "7"]
    return settings_of(parser.parse_args([*small, *words]), parser)


def logs() -> st.SearchStrategy[Interactions]:
    """Histories of 1 to 7 of 8 items, repetitions among them."""
    histories = st.lists(
        st.lists(st.integers(1, 8), min_size=1, max_size=7), min_size=1, max_size=5
    )
    return histories.map(log_of)


def log_of(histories: list[list[int]]) -> Interactions:
    lengths = np.array([len(history) for history in histories])
    return Interactions(
        np.arange(len(histories)),
        np.arange(1, 9),
        np.concatenate([np.array(history) for history in histories]),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


@given(logs(), st.integers(0, 2))
def test_unseen_items_are_all_others_alike(found: Interactions, held_out: int) -> None:
    ends = found.ends(held_out)
    unseen = Unseen(found, ends)
    for user, (start, end) in enumerate(zip(found.starts, ends, strict=False)):
        others = sorted(set(range(1, 9)) - set(found.rows[start:end].tolist()))
        assert unseen.free[user] == len(others)
        middles = (np.arange(len(others)) + 0.5) / max(1, len(others))
        assert unseen.draw(np.full(len(others), user), middles).tolist() == others


def test_reading_keeps_each_users_order(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("9 70\n3 50\n9 50\r\n3 80\n\t9 20 \n9 70")
    found = read_interactions(path)
    assert found.users.tolist() == [3, 9]
    assert found.items.tolist() == [20, 50, 70, 80]
    assert found.rows.tolist() == [2, 4, 3, 2, 1, 3]
    assert found.starts.tolist() == [0, 2, 6]
    assert found.ends(2).tolist() == [2, 4]  # the first has too few to hold any out


@given(logs(), st.integers(1, 6), st.integers(0, 3))
def test_an_epoch_has_every_training_position_once(
    found: Interactions, maxlen: int, seed: int
) -> None:
    batches = TrainingBatches(found, batch_size=2, maxlen=maxlen, seed=seed)
    wanted = []
    for start, end in zip(found.starts, found.ends(2), strict=False):
        taken = found.rows[start:end].tolist()[-maxlen - 1 :]
        wanted += list(itertools.pairwise(taken))
    pairs, rounds = [], list(batches.epoch(1))
    assert len(rounds) == len(batches)
    for batch in rounds:
        inputs = torch.cat([group[group > 0] for group in batch.groups])
        assert len(inputs) == len(batch.positives) == len(batch.negatives)
        pairs += list(zip(inputs.tolist(), batch.positives.tolist(), strict=True))
    assert sorted(pairs) == sorted(wanted)


def test_negatives_and_order_belong_to_seed_and_epoch() -> None:
    found = log_of([[1, 2, 3, 4, 5], [3, 4, 5, 6], [5, 6, 7, 8, 1]] * 20)

    def epoch(number: int, seed: int = 1) -> tuple[list[int], list[int]]:
        rounds = list(TrainingBatches(found, batch_size=7, maxlen=6, seed=seed).epoch(number))
        drawn = torch.cat([batch.negatives for batch in rounds])
        return torch.cat([batch.positives for batch in rounds]).tolist(), drawn.tolist()

    assert epoch(2) == epoch(2)
    for other in (epoch(3), epoch(2, seed=5)):
        assert all(a != b for a, b in zip(epoch(2), other, strict=True))


@pytest.mark.parametrize("words", [[], ["--norm_first"]])
def test_padding_changes_nothing(words: list[str]) -> None:
    """Values and gradients of trimmed sequences are those of sequences padded to any length.

    Both are exact up to the rounding of sums in another order: a millionth of a millionth here.
    """
    torch.manual_seed(0)
    model = NextItemModel(settings(*words, "--dropout_rate", "0"), 8, {}).double()
    short, long = torch.tensor([[3, 5]]), torch.tensor([[1, 2, 3, 4]])

    def gradients(groups: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        states = model.hidden_states(groups)
        states.square().sum().backward()
        return states, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    trimmed, wanted = gradients([short, long])
    together = torch.cat([F.pad(short, (0, 4)), F.pad(long, (0, 2))])
    padded, found = gradients([together])
    torch.testing.assert_close(padded, trimmed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    # What stands behind a position has no influence at all.
    other = together.clone()
    other[0, 2:] = 7
    assert torch.equal(model(other)[0, :2], model(together)[0, :2])


def test_losses_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 8)
    positives, negatives = torch.tensor([1, 2, 3]), torch.tensor([4, 1, 4])
    for words in (["--use_infonce", "--infonce_temperature", "0.5"], []):
        given = settings(*words, "--l2_emb", "0.25")
        model, objective = NextItemModel(given, 8, {}), NextItemObjective(given)
        output = objective(model, hidden, positives, negatives)
        table = model.items.weight.detach()
        scores = objective.scores(hidden, table)
        right = scores.gather(1, positives[:, None])
        if words:
            cosines = F.cosine_similarity(hidden[:, None], table[None], dim=-1)
            torch.testing.assert_close(scores[:, 1:], cosines[:, 1:])
            others = scores[:, negatives].masked_fill(negatives == positives[:, None], -math.inf)
            logits = torch.cat([right, others], dim=1) / 0.5
            loss = F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))
            wrong = (others / 0.5)[others.isfinite()]
            right = right / 0.5
        else:
            wrong = scores.gather(1, negatives[:, None])
            bce = F.binary_cross_entropy_with_logits
            loss = bce(right, torch.ones_like(right)) + bce(wrong, torch.zeros_like(wrong))
        torch.testing.assert_close(output.terms[given.loss], loss)
        torch.testing.assert_close(output.total, loss + 0.25 * table.norm())
        told = output.statistics
        torch.testing.assert_close(told["positive_mean"], right.mean())
        torch.testing.assert_close(told["negative_mean"], wrong.mean())
        torch.testing.assert_close(told["positive_std"], right.std(correction=0))
        torch.testing.assert_close(told["negative_std"], wrong.std(correction=0))


def naive(own: float, others: list[float]) -> dict[str, float]:
    """Mean of the metrics over all orders of equal scores, one by one."""
    higher, equal = sum(s > own for s in others), sum(s == own for s in others)
    ranks = [higher + 1 + k for k in range(equal + 1)]
    gains = {
        "hr@10": [float(rank <= 10) for rank in ranks],
        "ndcg@10": [1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks],
        "mrr": [1 / rank for rank in ranks],
    }
    return {name: sum(values) / len(values) for name, values in gains.items()}


@given(st.integers(0, 99), st.integers(1, 9))
def test_ranks_are_those_of_a_loop(seed: int, levels: int) -> None:
    found = log_of([[1, 2, 3, 4, 5], [2, 2, 6], [7], [8, 1, 8, 8]])
    questions = Questions(found, held_out=1, maxlen=6)
    scores = torch.randint(levels, (len(found.users), 9), generator=torch.manual_seed(seed))
    metrics = evaluate(lambda q: scores[q.users].float(), questions, lambda done, of: None)
    wanted: dict[str, list[float]] = {}
    for question in questions:
        for at, user in enumerate(question.users):
            history = found.rows[found.starts[user] : found.starts[user + 1]].tolist()
            *seen, target = history
            row = scores[user].tolist()
            others = [row[item] for item in range(1, 9) if item != target and item not in seen]
            assert question.targets is not None
            assert question.candidates is not None
            assert question.targets[at] == target
            drawn = question.candidates[at].tolist()
            assert len(drawn) == 100
            assert not set(drawn) & set(history)
            for prefix, rivals in (("", others), ("sampled_", [row[item] for item in drawn])):
                for name, value in naive(row[target], rivals).items():
                    wanted.setdefault(prefix + name, []).append(value)
    assert metrics.keys() == wanted.keys()
    for name, values in wanted.items():
        assert metrics[name] == pytest.approx(np.mean(values), abs=1e-12), name


def test_what_is_no_number_is_never_first() -> None:
    found = log_of([[1, 2, 3], [4, 5, 6]])
    questions = Questions(found, held_out=1, maxlen=6)
    for bad in (
        torch.full((2, 9), math.nan),
        torch.zeros(2, 9).index_fill(1, torch.tensor([3, 6]), math.nan),
    ):
        metrics = evaluate(lambda q, s=bad: s, questions, lambda done, of: None)
        assert metrics["mrr"] <= 1 / 6  # six items are left to be ranked
        assert metrics["sampled_hr@10"] == 0.0


def test_popularity_knows_the_training_part_only() -> None:
    found = log_of([[1, 2, 3, 4], [1, 2, 7, 8], [5, 6]])
    questions = Questions(found, held_out=1, maxlen=6)
    (question,) = questions
    counts = popularity(found)(question)
    assert counts[0].tolist() == [0, 2, 2, 0, 0, 1, 1, 0, 0]
    assert counts.shape == (2, 9)


def test_long_histories_are_cut_at_their_beginning() -> None:
    found = log_of([[1, 2, 3, 4, 5, 6, 7]])
    given = settings("--maxlen", "3")
    (question,) = Questions(found, held_out=1, maxlen=3)
    assert question.inputs.tolist() == [[4, 5, 6]]
    assert sorted(question.seen[1].tolist()) == [1, 2, 3, 4, 5, 6]
    trained = build(given, found, {})
    trained.model.eval()
    assert torch.equal(trained.hidden(question), trained.model(torch.tensor([[4, 5, 6]]))[:, -1])


def test_spans() -> None:
    assert spans(np.array([3, 5, 0]), np.array([5, 5, 2])).tolist() == [3, 4, 0, 1]
