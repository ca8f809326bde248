"""Every functional loss against its formula written as loops over samples, in float64.

Nothing here shares code with the package: dot products are taken one pair at a time, so that value
and gradient have an independent reference wherever the tests run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clip_pkg.losses import functional

B, C, D = 6, 4, 5
LABELS = torch.tensor([0, 2, 0, 1, 2, 2])  # class 3 is absent, class 1 has one sample
INDICES = range(B)


def randn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cos(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum() / ((u * u).sum().sqrt() * (v * v).sum().sqrt())


def norm(u: Tensor) -> Tensor:
    return (u * u).sum().sqrt()


def unit(u: Tensor) -> Tensor:
    return u / norm(u)


def total(values: Any) -> Tensor:
    return sum(values, start=scalar(0.0))


def mean(values: Any) -> Tensor:
    listed = list(values)
    return total(listed) / len(listed)


def lse(values: Any) -> Tensor:
    return torch.log(total(torch.exp(v) for v in values))


def ce(logits: list[Tensor], target: int) -> Tensor:
    return lse(logits) - logits[target]


def others(i: int) -> list[int]:
    return [j for j in INDICES if j != i]


def positives(i: int) -> list[int]:
    return [j for j in others(i) if LABELS[j] == LABELS[i]]


def negatives(i: int) -> list[int]:
    return [j for j in INDICES if LABELS[j] != LABELS[i]]


# One naive function per loss, with the arguments of the real one.


def clip(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    z = [[logit_scale * cos(i, t) for t in text] for i in image]
    rows = mean(ce(z[i], i) for i in INDICES)
    return 0.5 * (rows + mean(ce([z[j][i] for j in INDICES], i) for i in INDICES))


def multi_positive_clip(image: Tensor, text: Tensor, labels: Tensor, logit_scale: Tensor) -> Tensor:
    def one_way(queries: Tensor, keys: Tensor) -> Tensor:
        losses = []
        for i in INDICES:
            z = [logit_scale * cos(queries[i], k) for k in keys]
            losses.append(lse(z) - mean(z[j] for j in INDICES if labels[j] == labels[i]))
        return mean(losses)

    return 0.5 * (one_way(image, text) + one_way(text, image))


def siglip(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    terms = []
    for i in INDICES:
        for j in INDICES:
            sign = 1 if i == j else -1
            z = sign * (logit_scale * cos(image[i], text[j]) + logit_bias)
            terms.append(torch.log(1 + torch.exp(-z)))
    return total(terms) / B


def superclip(
    logits: Tensor,
    labels: Tensor,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    cap_fq_in: Tensor,
    num_samples_in: Tensor,
) -> Tensor:
    texts = [set(row.tolist()) for row in labels]
    frequency = [
        float(cap_fq_in[0, v]) + sum(v in t for t in texts) / B for v in range(logits.shape[1])
    ]
    n = float(num_samples_in) + 1
    weight = [math.log((n + 1 / B) / (f + 1 / B)) for f in frequency]
    losses = []
    for i in INDICES:
        norm_of_target = sum(weight[v] for v in texts[i])
        losses.append(total(weight[v] / norm_of_target * ce(list(logits[i]), v) for v in texts[i]))
    return mean(losses) + clip(image, text, logit_scale)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    even, hard = label_smoothing / C, 1 - label_smoothing
    return mean(
        hard * ce(list(z), int(y)) + total(even * ce(list(z), c) for c in range(C))
        for z, y in zip(logits, labels, strict=True)
    )


def weighted_cross_entropy(
    logits: Tensor, labels: Tensor, class_counts: Tensor, smooth: float, reduction: str
) -> Tensor:
    w = [float(class_counts.sum()) / (C * (float(n) + smooth)) for n in class_counts]
    losses = total(w[int(y)] * ce(list(z), int(y)) for z, y in zip(logits, labels, strict=True))
    return losses / (B if reduction == "sum_over_batch_size" else sum(w[int(y)] for y in labels))


def proxy_anchor(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, alpha: float, margin: float
) -> Tensor:
    pull, push = [], []
    for c in range(C):
        similarities = [cos(x, proxies[c]) for x in embeddings]
        own = [s for s, y in zip(similarities, labels, strict=True) if y == c]
        rest = [s for s, y in zip(similarities, labels, strict=True) if y != c]
        if own:
            pull.append(torch.log(1 + total(torch.exp(-alpha * (s - margin)) for s in own)))
        push.append(torch.log(1 + total(torch.exp(alpha * (s + margin)) for s in rest)))
    return mean(pull) + mean(push)


def arcface(
    embeddings: Tensor, weight: Tensor, labels: Tensor, margin_radians: float, scale: float
) -> Tensor:
    losses = []
    for x, y in zip(embeddings, labels.tolist(), strict=True):
        logits = [cos(x, w) for w in weight]
        angle = torch.acos(logits[y])
        beyond = angle.item() > math.pi - margin_radians
        moved = torch.cos(angle + margin_radians)
        linear = logits[y] - margin_radians * math.sin(margin_radians)
        logits[y] = linear if beyond else moved
        losses.append(ce([scale * z for z in logits], y))
    return mean(losses)


def cosface(
    embeddings: Tensor, weight: Tensor, labels: Tensor, margin: float, scale: float
) -> Tensor:
    losses = []
    for x, y in zip(embeddings, labels.tolist(), strict=True):
        logits = [scale * (cos(x, w) - (margin if c == y else 0)) for c, w in enumerate(weight)]
        losses.append(ce(logits, y))
    return mean(losses)


def triplet(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 0.2,
    mining: str = "batch_all",
    power: float = 1,
    reduction: str = "mean_over_nonzero",
    swap: bool = False,
    soft_margin: bool = False,
    normalize_inputs: bool = True,
) -> Tensor:
    x = [unit(e) for e in embeddings] if normalize_inputs else list(embeddings)
    n = len(x)
    d = [[norm(u - v) ** power if u is not v else scalar(0.0) for v in x] for u in x]
    found = [
        (a, p, k)
        for a in range(n)
        for p in range(n)
        for k in range(n)
        if a != p and labels[a] == labels[p] and labels[a] != labels[k]
    ]
    if mining == "batch_hard":
        hardest = {}
        for a, p, k in found:
            best = hardest.get(a, (a, p, k))
            far = p if d[a][p] > d[a][best[1]] else best[1]
            near = k if d[a][k] < d[a][best[2]] else best[2]
            hardest[a] = (a, far, near)
        found = list(hardest.values())
    losses = []
    for a, p, k in found:
        to_negative = torch.minimum(d[a][k], d[p][k]) if swap else d[a][k]
        v = d[a][p] - to_negative + margin
        losses.append(torch.log(1 + torch.exp(v)) if soft_margin else torch.clamp(v, min=0))
    counted = losses if reduction == "mean_over_all" else [v for v in losses if v > 0]
    return mean(counted) if counted else scalar(0.0) * embeddings.sum()


def triplet_explicit(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, swap: bool
) -> Tensor:
    losses = []
    for a, p, n in zip(anchor, positive, negative, strict=True):
        to_negative = norm(a - n + 1e-6)
        if swap:
            to_negative = torch.minimum(to_negative, norm(p - n + 1e-6))
        losses.append(torch.clamp(norm(a - p + 1e-6) - to_negative + margin, min=0))
    return mean(losses)


def center_mean(embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    return mean(((x - centers[int(y)]) ** 2).sum() for x, y in zip(embeddings, labels, strict=True))


def center_half(embeddings: Tensor, centers: Tensor, labels: Tensor, reduction: str) -> Tensor:
    return center_mean(embeddings, centers, labels) * (B / 2 if reduction == "sum" else 0.5)


def info_nce(query: Tensor, positive: Tensor, temperature: float) -> Tensor:
    return mean(ce([cos(query[i], p) / temperature for p in positive], i) for i in INDICES)


def nt_xent(out0: Tensor, out1: Tensor, temperature: float) -> Tensor:
    views = [*out0, *out1]
    losses = []
    for i in range(2 * B):
        rest = [j for j in range(2 * B) if j != i]
        z = [cos(views[i], views[j]) / temperature for j in rest]
        losses.append(ce(z, rest.index((i + B) % (2 * B))))
    return mean(losses)


def decoupled(
    out0: Tensor, out1: Tensor, temperature: float, sigma: float | None = None, detach: bool = True
) -> Tensor:
    positive = [cos(out0[i], out1[i]) for i in INDICES]
    losses = []
    for i in INDICES:
        weight = scalar(1.0)
        if sigma is not None:
            share = torch.exp(positive[i] / sigma) / total(torch.exp(p / sigma) for p in positive)
            weight = 2 - B * (share.detach() if detach else share)
        views = [out0[j] for j in others(i)] + [out1[j] for j in others(i)]
        spread = lse(cos(out0[i], v) / temperature for v in views)
        losses.append(spread - weight * positive[i] / temperature)
    return mean(losses)


def symmetric(out0: Tensor, out1: Tensor, **settings: Any) -> Tensor:
    return 0.5 * (decoupled(out0, out1, **settings) + decoupled(out1, out0, **settings))


def dhel(anchor: Tensor, positive: Tensor, tau: float, include_augs: bool) -> Tensor:
    losses = []
    for i in INDICES:
        value = lse(cos(anchor[i], anchor[j]) / tau for j in others(i))
        if include_augs:
            value = value + lse(cos(positive[i], positive[j]) / tau for j in others(i))
        losses.append(value - cos(anchor[i], positive[i]) / tau)
    return mean(losses)


def kcl_gaussian(anchor: Tensor, positive: Tensor, t: float, gamma: float) -> Tensor:
    a, p = [unit(x) for x in anchor], [unit(x) for x in positive]

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return torch.exp(-t * ((u - v) ** 2).sum())

    pairs = [(i, j) for i in INDICES for j in INDICES if i < j]
    spread = mean(kernel(a[i], a[j]) for i, j in pairs) + mean(kernel(p[i], p[j]) for i, j in pairs)
    return -2 * mean(kernel(u, v) for u, v in zip(a, p, strict=True)) + gamma * spread


def vicreg(z_a: Tensor, z_b: Tensor, lambda_: float, mu: float, nu: float, eps: float) -> Tensor:
    batch, dim = z_a.shape

    def spread(z: Tensor) -> tuple[Tensor, Tensor]:
        centered = z - z.mean(dim=0)
        cov = [
            [(centered[:, d] * centered[:, e]).sum() / (batch - 1) for e in range(dim)]
            for d in range(dim)
        ]
        variance = mean(torch.clamp(1 - torch.sqrt(cov[d][d] + eps), min=0) for d in range(dim))
        apart = total(cov[d][e] ** 2 for d in range(dim) for e in range(dim) if d != e) / dim
        return variance, apart

    (var_a, cov_a), (var_b, cov_b) = spread(z_a), spread(z_b)
    alike = ((z_a - z_b) ** 2).sum() / (batch * dim)
    return lambda_ * alike + mu * 0.5 * (var_a + var_b) + nu * (cov_a + cov_b)


def supcon_losses(embeddings: Tensor, temperature: float) -> list[Tensor]:
    losses = []
    for i in INDICES:
        z = {j: cos(embeddings[i], embeddings[j]) / temperature for j in others(i)}
        if positives(i):
            losses.append(-mean(z[p] - lse(z.values()) for p in positives(i)))
    return losses


def supcon(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return mean(supcon_losses(embeddings, temperature))


def supcon_mean_over_batch(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return total(supcon_losses(embeddings, temperature)) / B


def nt_xent_labels(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    losses = []
    for i in INDICES:
        for p in positives(i):
            compared = [p, *negatives(i)]
            losses.append(
                ce([cos(embeddings[i], embeddings[j]) / temperature for j in compared], 0)
            )
    return mean(losses)


def info_nce_sampled_negatives(
    anchors: Tensor, positives: Tensor, negatives: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    losses = []
    for index in mask.nonzero().tolist():
        a = anchors[tuple(index)]
        z = [cos(a, v) / temperature for v in (positives[tuple(index)], *negatives)]
        losses.append(ce(z, 0))
    return mean(losses)


def sampled_softmax_collision_masked(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    mask: Tensor,
    pos_ids: Tensor,
    neg_ids: Tensor,
    temperature: float,
) -> Tensor:
    losses = []
    for i, j in mask.nonzero().tolist():
        kept = negatives[neg_ids != pos_ids[i, j]]  # exp(−5e4) is 0
        z = [cos(anchors[i, j], v) / temperature for v in (positives[i, j], *kept)]
        losses.append(ce(z, 0))
    return mean(losses)


def bce_pos_neg(pos_logits: Tensor, neg_logits: Tensor, mask: Tensor, combine: str) -> Tensor:
    yes = mean(torch.log(1 + torch.exp(-z)) for z in pos_logits[mask])
    no = mean(torch.log(1 + torch.exp(z)) for z in neg_logits[mask])
    return (yes + no) * (1 if combine == "sum_of_means" else 0.5)


def class_text_clip(class_logits: Tensor, targets: Tensor) -> Tensor:
    z = [[class_logits[i, y] for y in targets] for i in INDICES]
    rows = mean(ce(z[i], i) for i in INDICES)
    return 0.5 * (rows + mean(ce([z[j][i] for j in INDICES], i) for i in INDICES))


def class_text_siglip(class_logits: Tensor, targets: Tensor) -> Tensor:
    terms = []
    for i in INDICES:
        for j in INDICES:
            sign = 1 if targets[i] == targets[j] else -1
            terms.append(torch.log(1 + torch.exp(-sign * class_logits[i, targets[j]])))
    return total(terms) / B


def class_text_info_nce(class_logits: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    losses = []
    for i, y in enumerate(targets.tolist()):
        drawn = [c for c in range(C) for _ in range(int(negatives[c])) if c != y]
        losses.append(ce([class_logits[i, y], *(class_logits[i, c] for c in drawn)], 0))
    return mean(losses)


def class_text_bce(class_logits: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    yes = mean(torch.log(1 + torch.exp(-class_logits[i, y])) for i, y in enumerate(targets))
    no = [
        torch.log(1 + torch.exp(class_logits[i, c]))
        for i, y in enumerate(targets.tolist())
        for c in range(C)
        for _ in range(int(negatives[c]))
        if c != y
    ]
    return yes + mean(no)


def focal(
    logits: Tensor, labels: Tensor, class_weights: Tensor, gamma: float, alpha: float
) -> Tensor:
    shares = labels if labels.ndim == 2 else torch.eye(C, dtype=torch.float64)[labels]
    losses, norm_of_weights = [], 0.0
    for z, q in zip(logits, shares, strict=True):
        for c in range(C):
            p = torch.exp(-ce(list(z), c))
            losses.append(class_weights[c] * q[c] * alpha * (1 - p) ** gamma * -torch.log(p))
            norm_of_weights += float(class_weights[c] * q[c])
    return total(losses) / norm_of_weights


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    weights = torch.ones(C, dtype=torch.float64) if class_weights is None else class_weights
    return focal(logits, labels, weights, gamma=0.0, alpha=1.0)


def focal_proxy_anchor(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    alpha: float,
    margin: float,
    gamma_pos: float,
    gamma_neg: float,
) -> Tensor:
    pull, push = [], []
    for c in range(C):
        own, rest = [], []
        for x, y in zip(embeddings, labels, strict=True):
            s = cos(x, proxies[c])
            z = alpha * (s - margin if y == c else s + margin)
            right = 1 / (1 + torch.exp(-z)) if y == c else 1 / (1 + torch.exp(z))
            factor = (1 - right) ** (gamma_pos if y == c else gamma_neg)
            (own if y == c else rest).append(factor * torch.exp(-z if y == c else z))
        if own:
            pull.append(torch.log(1 + total(own)))
        push.append(torch.log(1 + total(rest)))
    return mean(pull) + mean(push)


def pair(first: str, second: str) -> dict[str, Tensor]:
    return {first: randn(B, D, seed=1), second: randn(B, D, seed=2)}


LABELLED = {"embeddings": randn(B, D, seed=3), "labels": LABELS}
CLASSES = randn(C, D, seed=4)
LOGITS = {"logits": 3 * randn(B, C, seed=5), "labels": LABELS}
IMAGE_TEXT = {**pair("image", "text"), "logit_scale": scalar(7.0)}
TOKENS = {
    "logits": randn(B, 9, seed=6),
    "labels": torch.randint(0, 9, (B, 4), generator=torch.Generator().manual_seed(7)),
    **IMAGE_TEXT,
    "cap_fq_in": randn(1, 9, seed=8).sigmoid(),
    "num_samples_in": torch.ones(1, 1, dtype=torch.float64),
}
MASK = torch.tensor([[True, False, True], [True, True, False]])
DRAWN = {
    "anchors": randn(2, 3, D, seed=9),
    "positives": randn(2, 3, D, seed=10),
    "negatives": randn(4, D, seed=11),
    "mask": MASK,
}
IDS = {
    "pos_ids": torch.tensor([[5, 6, 7], [8, 5, 9]]),
    "neg_ids": torch.tensor([5, 8, 1, 5]),
}
ANSWERS = {
    "pos_logits": 4 * randn(2, 3, seed=12),
    "neg_logits": 4 * randn(2, 3, seed=13),
    "mask": MASK,
}
COUNTS = {**LOGITS, "class_counts": torch.tensor([9, 4, 17, 2])}
AGAINST_TEXTS = {"class_logits": 3 * randn(B, C, seed=5), "targets": LABELS}
DRAWN_TEXTS = {**AGAINST_TEXTS, "negatives": torch.tensor([2, 0, 1, 3])}
SHARES = {"logits": 3 * randn(B, C, seed=5), "labels": randn(B, C, seed=17).softmax(dim=1)}
WEIGHTS = {"class_weights": torch.tensor([0.4, 2.0, 0.7, 1.1], dtype=torch.float64)}
POLES = {**LABELLED, "weight": CLASSES.clone()}
POLES["weight"][0] = -unit(LABELLED["embeddings"][0]) + 0.05  # θ_0 beyond π − m

Naive = Callable[..., Tensor]
Case = tuple[str, Naive, dict[str, Tensor], dict[str, Any]]


def case(naive: Naive, inputs: dict[str, Tensor], name: str = "", **settings: Any) -> Case:
    return name or naive.__name__, naive, inputs, settings


def undetached(**settings: Any) -> Tensor:
    return decoupled(**settings, detach=False)


WITH_PROXIES = {**LABELLED, "proxies": CLASSES}
WITH_CENTERS = {**LABELLED, "centers": CLASSES}
GIVEN_TRIPLETS = {**pair("anchor", "positive"), "negative": randn(B, D, seed=14)}
VIEWS = pair("out0", "out1")
FEW = {"z_a": randn(3, D, seed=15), "z_b": randn(3, D, seed=16)}  # fewer samples than dimensions
CASES: list[Case] = [
    case(clip, IMAGE_TEXT),
    case(multi_positive_clip, {**IMAGE_TEXT, "labels": LABELS}),
    case(siglip, {**IMAGE_TEXT, "logit_bias": scalar(-2.0)}),
    case(superclip, TOKENS),
    case(cross_entropy, LOGITS),
    case(cross_entropy, LOGITS, label_smoothing=0.1),
    *(
        case(weighted_cross_entropy, COUNTS, smooth=s, reduction=r)
        for s in (0, 1)
        for r in ("weighted_mean", "sum_over_batch_size")
    ),
    *(case(proxy_anchor, WITH_PROXIES, alpha=a, margin=0.1) for a in (32.0, 100.0)),
    *(
        case(arcface, POLES, margin_radians=m, scale=s)
        for m, s in ((0.5, 30.0), (0.0, 1.0), (1.2, 64.0))
    ),
    case(cosface, POLES, margin=0.35, scale=64.0),
    case(triplet, LABELLED),
    case(triplet, LABELLED, reduction="mean_over_all"),
    case(triplet, LABELLED, normalize_inputs=False, margin=1.0),
    case(triplet, LABELLED, normalize_inputs=False, power=2, reduction="mean_over_all"),
    case(triplet, LABELLED, mining="batch_hard", reduction="mean_over_all"),
    case(triplet, LABELLED, mining="batch_hard", swap=True),
    case(triplet, LABELLED, swap=True),
    case(triplet, LABELLED, soft_margin=True, margin=0.0, reduction="mean_over_all"),
    *(case(triplet_explicit, GIVEN_TRIPLETS, margin=1.0, swap=swap) for swap in (False, True)),
    case(center_mean, WITH_CENTERS),
    *(case(center_half, WITH_CENTERS, reduction=reduction) for reduction in ("mean", "sum")),
    *(case(info_nce, pair("query", "positive"), temperature=t) for t in (0.01, 0.5)),
    *(case(nt_xent, VIEWS, temperature=t) for t in (0.01, 0.5)),
    case(decoupled, VIEWS, "dcl_oneway", temperature=0.1),
    case(symmetric, VIEWS, "dcl_symmetric", temperature=0.1),
    case(decoupled, VIEWS, "dclw_oneway", temperature=0.1, sigma=0.5),
    case(symmetric, VIEWS, "dclw_symmetric", temperature=0.01, sigma=0.5),
    case(undetached, VIEWS, "dclw_oneway_undetached", temperature=0.01, sigma=0.5),
    case(dhel, pair("anchor", "positive"), tau=0.3, include_augs=False),
    case(dhel, pair("anchor", "positive"), tau=0.01, include_augs=True),
    case(kcl_gaussian, pair("anchor", "positive"), t=2.0, gamma=16.0),
    case(vicreg, pair("z_a", "z_b"), lambda_=25.0, mu=20.0, nu=2.0, eps=1e-4),
    case(vicreg, FEW, lambda_=1.0, mu=1.0, nu=1.0, eps=1e-4),
    case(supcon, LABELLED, temperature=0.07),
    case(supcon_mean_over_batch, LABELLED, temperature=0.01),
    case(nt_xent_labels, LABELLED, temperature=0.01),
    case(info_nce_sampled_negatives, DRAWN, temperature=0.05),
    case(sampled_softmax_collision_masked, {**DRAWN, **IDS}, temperature=0.05),
    *(case(bce_pos_neg, ANSWERS, combine=how) for how in ("sum_of_means", "mean_of_means")),
    case(class_text_clip, AGAINST_TEXTS),
    case(class_text_siglip, AGAINST_TEXTS),
    case(class_text_info_nce, DRAWN_TEXTS),
    case(class_text_bce, DRAWN_TEXTS),
    case(soft_cross_entropy, SHARES, "cross_entropy"),
    case(soft_cross_entropy, {**SHARES, **WEIGHTS}, "weighted_cross_entropy"),
    *(
        case(focal, {**labelled, **WEIGHTS}, gamma=g, alpha=0.25)
        for labelled in (LOGITS, SHARES)
        for g in (0.0, 0.5, 2.0)
    ),
    *(
        case(focal_proxy_anchor, WITH_PROXIES, alpha=20.0, margin=0.1, gamma_pos=p, gamma_neg=n)
        for p, n in ((2.0, 2.0), (0.0, 1.0), (0.5, 0.0))
    ),
]
CONSTANTS = ("cap_fq_in", "num_samples_in", "class_weights", "labels")  # state and data


def with_gradients(
    loss: Naive, inputs: dict[str, Tensor], settings: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in inputs.items()
        if value.is_floating_point() and name not in CONSTANTS
    }
    value = loss(**{**inputs, **leaves}, **settings)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "naive", "inputs", "settings"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES]
)
def test_equals_the_formula(
    name: str, naive: Naive, inputs: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    value, gradients = with_gradients(getattr(functional, name), inputs, settings)
    expected, expected_gradients = with_gradients(naive, inputs, settings)
    assert value.shape == ()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for argument, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected_gradients[argument], rtol=1e-10, atol=1e-10, msg=argument
        )


def test_every_loss_has_a_formula() -> None:
    not_losses = {name for name in functional.__all__ if name[0].isupper()}
    not_losses |= {"pair_statistics"}
    tested_as_parts = {"token_classification", "vicreg_terms"}
    in_test_long_tail = {"adjusted_cross_entropy", "ldam"}
    checked = {name for name, *_ in CASES} | tested_as_parts | in_test_long_tail
    assert checked | not_losses == set(functional.__all__)
