"""Losses between two views: the rows of the table, and reference values through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clip_pkg.config.pretraining import QueueConfig
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES, InfoNceViewsConfig
from clip_pkg.losses.functional import info_nce
from clip_pkg.losses.registry import build_two_view_loss
from clip_pkg.losses.two_views import QueuedInfoNce
from support import loss_vectors
from support.loss_vectors import ABSENT, check, inputs_of

# Key of the reference → kind of the row, and the reference's names of its settings.
KINDS = {
    "info_nce": "info_nce",
    "nt_xent": "nt_xent",
    "dcl_oneway": "dcl",
    "dcl_symmetric": "dcl_symmetric",
    "dclw_symmetric": "dclw",
    "dhel": "dhel",
    "kcl_gaussian": "kcl",
    "vicreg": "vicreg",
    "supcon": "supcon",
}
NAMES = {
    "tau": "temperature",
    "lambda": "invariance_weight",
    "mu": "variance_weight",
    "nu": "covariance_weight",
}
VIEWS = (("query", "positive"), ("out0", "out1"), ("anchor", "positive"), ("z_a", "z_b"))


def is_of_two_views(record: dict[str, Any]) -> bool:
    """Whether its samples can be two views of the same images: classes have even numbers."""
    labels = record["inputs"].get("labels", {"data": []})["data"]
    return all(labels.count(label) % 2 == 0 for label in labels)


RECORDS = [r for r in loss_vectors.RECORDS if r["loss"] in KINDS and is_of_two_views(r)]


def block_of(record: dict[str, Any]) -> Any:
    kind = TWO_VIEW_LOSSES[KINDS[record["loss"]]]
    given = {NAMES.get(name, name): value for name, value in record["params"].items()}
    known = {name: value for name, value in given.items() if name in kind.model_fields}
    return kind.model_validate(
        {name: float(v) if type(v) is int else v for name, v in known.items()}
    )


@pytest.mark.parametrize("kind", TWO_VIEW_LOSSES)
def test_what_a_row_says_of_its_loss_is_true(kind: str) -> None:
    row = TWO_VIEW_LOSSES[kind]
    loss = build_two_view_loss(row(), dim=5)
    first, second = torch.randn(2, 6, 5, requires_grad=True)
    output = loss(first, second, torch.tensor([0, 1, 0, 1, 2, 2]))
    assert list(output.terms) == [term.name for term in row.terms]
    assert dict(output.weights) == loss.term_weights
    total = sum(output.weights[name] * part for name, part in output.terms.items())
    torch.testing.assert_close(output.total, total)
    assert output.total.shape == ()


def test_every_kind_has_reference_values() -> None:
    assert set(KINDS.values()) == set(TWO_VIEW_LOSSES)


@pytest.mark.parametrize("record", RECORDS or [ABSENT], ids=lambda r: r["id"] if r else "absent")
def test_value_and_gradient(record: dict[str, Any]) -> None:
    inputs = inputs_of(record)
    labels = inputs.get("labels")
    if labels is not None:
        pairs = labels.argsort(stable=True)
        first, second = (inputs["embeddings"][pairs[start::2]] for start in (0, 1))
        labels = labels[pairs[::2]]
    else:
        first, second = (
            inputs[name] for pair in VIEWS if set(pair) <= set(inputs) for name in pair
        )
    value = build_two_view_loss(block_of(record), dim=first.shape[1])(first, second, labels).total
    check(record, value, inputs)


def test_supcon_of_two_views_is_that_of_all_views_with_their_labels() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)
    labels = [0, 1, 0, 2]
    loss = build_two_view_loss(TWO_VIEW_LOSSES["supcon"](), dim=3)
    value = loss(first, second, torch.tensor(labels)).total
    x = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    z, of = x @ x.T / 0.1, labels * 2
    losses = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        log_norm = torch.logsumexp(z[i, others], dim=0)
        losses.append(log_norm - torch.stack([z[i, j] for j in others if of[j] == of[i]]).mean())
    torch.testing.assert_close(value, torch.stack(losses).mean())


def a_queue(size: int) -> QueuedInfoNce:
    loss = build_two_view_loss(InfoNceViewsConfig(), queue=QueueConfig(size=size), dim=4)
    assert isinstance(loss, QueuedInfoNce)
    return loss


def test_a_queue_gives_the_last_second_views_as_negatives() -> None:
    torch.manual_seed(0)
    loss, batches = a_queue(7), torch.randn(5, 2, 3, 4)
    for number, (first, second) in enumerate(batches):
        earlier = batches[:number, 1].reshape(-1, 4)[-7:]
        mine = loss(first, second).total
        torch.testing.assert_close(mine, info_nce(first, second, earlier))


def test_in_evaluation_the_queue_stays_as_it_is() -> None:
    loss = a_queue(8).eval()
    before = loss(*torch.randn(2, 3, 4)).total
    assert int(loss.seen) == 0
    assert torch.isfinite(before)


def test_a_queue_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    one, other, batches = a_queue(7), a_queue(7), torch.randn(6, 2, 3, 4)
    for first, second in batches[:4]:
        one(first, second)
    other.load_state_dict(one.state_dict())
    for first, second in batches[4:]:
        assert torch.equal(one(first, second).total, other(first, second).total)


def test_negatives_get_no_gradient_from_where_they_were_made() -> None:
    loss = a_queue(8)
    earlier = torch.randn(3, 4, requires_grad=True)
    loss(torch.randn(3, 4), earlier)
    now = torch.randn(3, 4, requires_grad=True)
    loss(now, torch.randn(3, 4)).total.backward()
    assert earlier.grad is None
    assert now.grad is not None
