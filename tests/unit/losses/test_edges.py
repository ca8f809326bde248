"""Where losses usually break: certainty, coincidence, singletons, absent classes, empty masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip_pkg.losses import functional
from clip_pkg.losses.functional import triplets as distances
from clip_pkg.losses.functional.numerics import full_precision, unit

Pairwise = Callable[[Tensor, Tensor], Tensor]


def labels_of(batch: int) -> Tensor:
    return torch.arange(batch) // 2  # every label twice: rows 2i and 2i + 1


@full_precision  # as the objectives make theirs
def class_logits(a: Tensor, b: Tensor) -> Tensor:
    return 100.0 * unit(a) @ unit(b[::2]).T


def joined(loss: Callable[..., Tensor], **settings: float) -> Pairwise:
    """A loss of one labelled batch, on both views at once."""
    return lambda a, b: loss(torch.cat([a, b]), labels_of(len(a)).repeat(2), **settings)


def to_classes(loss: Callable[..., Tensor], **settings: float) -> Pairwise:
    """A loss of images and one vector per class."""
    return lambda a, b: loss(a, b[::2], labels_of(len(a)), **settings)


F = functional
TWO_VIEWS: dict[str, Pairwise] = {
    "clip": lambda a, b: F.clip(a, b, 100.0),
    "siglip": lambda a, b: F.siglip(a, b, 100.0, -10.0),
    "multi_positive_clip": lambda a, b: F.multi_positive_clip(a, b, labels_of(len(a)), 100.0),
    **{
        loss.__name__: partial(loss, temperature=0.01)
        for loss in (
            *(F.info_nce, F.nt_xent, F.dcl_oneway, F.dcl_symmetric),
            *(F.dclw_oneway, F.dclw_symmetric, F.dclw_oneway_undetached),
        )
    },
    "dhel": partial(F.dhel, tau=0.01, include_augs=True),
    "kcl_gaussian": partial(F.kcl_gaussian, t=50.0),
    "vicreg": F.vicreg,
    "info_nce_sampled_negatives": lambda a, b: F.info_nce_sampled_negatives(
        a, b, b.detach().flip(0), temperature=0.01
    ),
    "supcon": joined(F.supcon, temperature=0.01),
    "supcon_mean_over_batch": joined(F.supcon_mean_over_batch, temperature=0.01),
    "nt_xent_labels": joined(F.nt_xent_labels, temperature=0.01),
    "triplet": joined(F.triplet),
    "proxy_anchor": to_classes(F.proxy_anchor, alpha=100.0),
    "focal_proxy_anchor": to_classes(F.focal_proxy_anchor, alpha=100.0, gamma_pos=0.5),
    "arcface": to_classes(F.arcface, scale=100.0),
    "cosface": to_classes(F.cosface, scale=100.0),
    "class_text_clip": lambda a, b: F.class_text_clip(class_logits(a, b), labels_of(len(a))),
    "class_text_siglip": lambda a, b: F.class_text_siglip(
        class_logits(a, b) - 10.0, labels_of(len(a))
    ),
    "class_text_info_nce": lambda a, b: F.class_text_info_nce(
        class_logits(a, b), labels_of(len(a)), torch.ones(len(b[::2]))
    ),
    "class_text_bce": lambda a, b: F.class_text_bce(
        class_logits(a, b), labels_of(len(a)), torch.ones(len(b[::2]))
    ),
}


def assert_finite(loss: Pairwise, first: Tensor, second: Tensor) -> None:
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    value = loss(a, b)
    assert torch.isfinite(value), value
    value.backward()
    for leaf in (a, b):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", TWO_VIEWS)
class TestTwoViews:
    @pytest.mark.parametrize("batch", [2, 64])
    def test_aligned_pairs_in_single_precision(self, name: str, batch: int) -> None:
        x = torch.randn(batch, 512, generator=torch.Generator().manual_seed(0))
        assert_finite(TWO_VIEWS[name], x, x)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_all_points_coincide(self, name: str, dtype: torch.dtype) -> None:
        x = torch.ones(6, 4, dtype=dtype)
        assert_finite(TWO_VIEWS[name], x, x)

    def test_opposite_views(self, name: str) -> None:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        assert_finite(TWO_VIEWS[name], x, -x)

    def test_zero_vectors(self, name: str) -> None:
        assert_finite(TWO_VIEWS[name], torch.zeros(4, 3), torch.zeros(4, 3))

    def test_half_precision_and_autocast_are_computed_in_single(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 8, 16, generator=generator).bfloat16()
        expected = TWO_VIEWS[name](a.float(), b.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = TWO_VIEWS[name](a, b)
            from_single = TWO_VIEWS[name](a.float(), b.float())
        assert value.dtype == from_single.dtype == torch.float32
        assert torch.equal(value, expected)
        assert torch.equal(from_single, expected)


ONE_BATCH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "supcon": functional.supcon,
    "supcon_mean_over_batch": functional.supcon_mean_over_batch,
    "nt_xent_labels": functional.nt_xent_labels,
    "triplet": functional.triplet,
    "triplet_hard": lambda x, y: functional.triplet(x, y, mining="batch_hard"),
    "triplet_soft": lambda x, y: functional.triplet(x, y, soft_margin=True),
    "proxy_anchor": lambda x, y: functional.proxy_anchor(x, torch.eye(9, 4, dtype=x.dtype), y),
}
NOTHING_TO_LEARN = {"proxy_anchor"}  # always has its proxies


@pytest.mark.parametrize("name", ONE_BATCH)
@pytest.mark.parametrize(
    "labels", [[3], [1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 1, 2, 2, 2, 7]], ids=str
)
def test_singletons_and_one_class(name: str, labels: list[int]) -> None:
    x = torch.randn(len(labels), 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(labels)
    value = ONE_BATCH[name](x, y)
    assert torch.isfinite(value)
    value.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    without_pairs = len(set(labels)) == len(labels)
    one_class = len(set(labels)) == 1 and name != "supcon_mean_over_batch"
    if name not in NOTHING_TO_LEARN and (without_pairs or one_class):
        assert value.item() == 0.0
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_arcface_gradient_on_the_class_weight_itself(sign: float) -> None:
    weight = torch.eye(3, dtype=torch.float64)
    x = (sign * weight).clone().requires_grad_()
    value = functional.arcface(x, weight, torch.arange(3), margin_degrees=28.6, scale=64.0)
    value.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    angle = (
        math.cos(math.radians(28.6))
        if sign > 0
        else -1 - math.radians(28.6) * math.sin(math.radians(28.6))
    )
    expected = math.log(1 + 2 * math.exp(-64 * angle)) if sign > 0 else -64 * angle + math.log(2)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_two_forms_of_a_margin_must_agree() -> None:
    x, y = torch.eye(3), torch.arange(3)
    both = functional.arcface(x, x, y, margin_degrees=30, margin_radians=math.pi / 6)
    assert both == functional.arcface(x, x, y, margin_radians=math.pi / 6)
    assert functional.arcface(x, x, y) == functional.arcface(x, x, y, margin_radians=0.5)
    with pytest.raises(ValueError, match="margin_degrees"):
        functional.arcface(x, x, y, margin_degrees=30, margin_radians=0.5)


@st.composite
def labelled_points(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Points on a coarse grid, so that some coincide, with few labels."""
    n = draw(st.integers(1, 9))
    grid = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    points = draw(st.lists(grid, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return torch.tensor(points, dtype=torch.float64) + 0.25, torch.tensor(labels)


def naive_triplet(x: Tensor, y: Tensor, margin: float, over_nonzero: bool) -> Tensor:
    losses = []
    for a, p, n in torch.cartesian_prod(*[torch.arange(len(x))] * 3).tolist():
        if a != p and y[a] == y[p] and y[a] != y[n]:
            d_ap = torch.linalg.vector_norm(x[a] - x[p])
            d_an = torch.linalg.vector_norm(x[a] - x[n])
            losses.append(torch.relu(d_ap - d_an + margin))
    counted = [v for v in losses if v > 0 or not over_nonzero]
    return torch.stack(counted).mean() if counted else 0.0 * x.sum()


@settings(max_examples=60, deadline=None)
@given(labelled_points(), st.sampled_from([0.15, 1.05]), st.booleans(), st.booleans())
def test_all_triplets_without_listing_them(
    case: tuple[Tensor, Tensor], margin: float, over_nonzero: bool, through_gram: bool
) -> None:
    points, labels = case
    reduction: Any = "mean_over_nonzero" if over_nonzero else "mean_over_all"
    x, again = points.clone().requires_grad_(), points.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "EXACT_UP_TO", -1 if through_gram else 2**20)
        ours = functional.triplet(
            x, labels, margin=margin, reduction=reduction, normalize_inputs=False
        )
    theirs = naive_triplet(again, labels, margin, over_nonzero)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("through_gram", [False, True])
def test_distance_zero_has_gradient_zero(
    dtype: torch.dtype, through_gram: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if through_gram:
        monkeypatch.setattr(distances, "EXACT_UP_TO", -1)
    x = torch.randn(5, 64, dtype=dtype).repeat(2, 1).requires_grad_()
    d = distances.pairwise_distances(x)
    twins = d.diagonal(5)
    assert torch.equal(twins, torch.zeros_like(twins))
    (gradient,) = torch.autograd.grad(twins.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_both_ways_of_measuring_distances_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(20, 20, dtype=torch.float64)
    exact = distances.pairwise_distances(x)
    monkeypatch.setattr(distances, "EXACT_UP_TO", -1)
    gram = distances.pairwise_distances(x)
    torch.testing.assert_close(gram, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(gram, x, upstream)[0],
        torch.autograd.grad(exact, x, upstream)[0],
        rtol=1e-10,
        atol=1e-10,
    )


def sampled(anchors: Tensor, positives: Tensor, mask: Tensor) -> Tensor:
    negatives = torch.eye(3, 4, dtype=anchors.dtype)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    plain = functional.info_nce_sampled_negatives(anchors, positives, negatives, mask)
    collision = functional.sampled_softmax_collision_masked(
        anchors, positives, negatives, mask, pos_ids=ids, neg_ids=torch.tensor([0, 1, 2])
    )
    bce = functional.bce_pos_neg(anchors[..., 0], positives[..., 0], mask)
    return plain + collision + bce


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_masked_positions_get_gradient_zero_whatever_they_hold(garbage: float) -> None:
    mask = torch.tensor([[True, False], [False, True]])
    anchors, positives = torch.randn(2, 2, 2, 4, dtype=torch.float64)
    anchors[0, 1] = positives[1, 0] = garbage
    anchors, positives = anchors.requires_grad_(), positives.requires_grad_()
    value = sampled(anchors, positives, mask)
    chosen = sampled(anchors[mask], positives[mask], torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(value, chosen)
    for gradient in torch.autograd.grad(value, (anchors, positives)):
        assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
        assert torch.isfinite(gradient).all()


def test_nothing_counts() -> None:
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    value = sampled(x, x, torch.zeros(2, 2, dtype=torch.bool))
    assert value.item() == 0.0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_no_mask_means_all_positions() -> None:
    a, p, n = torch.randn(3, 5, 4, dtype=torch.float64)
    everything = torch.ones(5, dtype=torch.bool)
    assert torch.equal(
        functional.info_nce_sampled_negatives(a, p, n),
        functional.info_nce_sampled_negatives(a, p, n, everything),
    )
    torch.testing.assert_close(
        functional.bce_pos_neg(a, p), functional.bce_pos_neg(a, p, torch.ones_like(a).bool())
    )


def test_token_frequencies_accumulate_outside_the_gradient() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    frequency, count = torch.zeros(1, 4).double(), torch.zeros(1, 1).double()
    first = functional.token_classification(
        logits, torch.tensor([[1, 1, 2], [1, 3, 3]]), cap_fq_in=frequency, num_samples_in=count
    )
    assert first.cap_fq_out.tolist() == [[0.0, 1.0, 0.5, 0.5]]
    assert first.num_samples_out.item() == 1
    assert frequency.sum() == count.sum() == 0  # the given state is unchanged
    second = functional.token_classification(
        logits,
        torch.tensor([[1, 1, 1], [1, 1, 1]]),
        cap_fq_in=first.cap_fq_out,
        num_samples_in=first.num_samples_out,
    )
    assert second.cap_fq_out.tolist() == [[0.0, 2.0, 0.5, 0.5]]
    # Token 1 was in every text so far and weighs log 1 = 0: nothing is left to classify.
    assert second.class_loss.item() == 0.0
    assert not second.cap_fq_out.requires_grad


def test_vicreg_takes_lambda_by_its_name() -> None:
    a, b = torch.randn(2, 4, 3)
    by_name = functional.vicreg(a, b, **{"lambda": 2.0})
    assert torch.equal(by_name, functional.vicreg(a, b, lambda_=2.0))
    with pytest.raises(TypeError, match="kappa"):
        functional.vicreg(a, b, kappa=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: functional.dcl_oneway(x[:1], x[:1]), "at least 2"),
        (lambda x: functional.dhel(x[:1], x[:1]), "at least 2"),
        (lambda x: functional.kcl_gaussian(x[:1], x[:1]), "at least 2"),
        (lambda x: functional.vicreg(x[:1], x[:1]), "B ≥ 2"),
        (lambda x: functional.nt_xent(x, x[:2]), "same shape"),
        (lambda x: functional.info_nce(x[0], x[0]), "same shape"),
        (lambda x: functional.triplet(x, x[:, 0], mining="easy"), "mining"),
        (lambda x: functional.triplet(x, x[:, 0], reduction="sum"), "reduction"),
        (lambda x: functional.center_half(x, x, x[:, 0].long(), reduction="max"), "reduction"),
        (lambda x: functional.bce_pos_neg(x, x, combine="sum"), "combine"),
        (lambda x: functional.cross_entropy(x, x, reduction="mean"), "reduction"),
        (lambda x: functional.weighted_cross_entropy(x, x), "class_weights or class_counts"),
    ],
)
def test_misuse_is_named(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 3))
